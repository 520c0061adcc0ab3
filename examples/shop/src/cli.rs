//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use factum::Aggregate;

use crate::{
    cart::{Cart, PIECES},
    cents::Cents,
    demo::{Demo, Life},
    exit::{EXIT_CODES, Exit},
    order::Order,
    provider::Faults,
    shop::Place,
    stock::Stock,
    verbs::{self, Item, Wanted},
};

/// Where a shop is, unless something else is said.
const DIRECTORY: &str = "shop-data";

/// A shop on factum: orders that come to an end, whatever fails on the way
#[derive(Debug, Parser)]
#[command(name = "shop", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run many orders with faults switched on, and print a ledger that balances
    Demo {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        orders: u64,
        /// What goes wrong: requests to the payment provider, and workers that are stopped or dropped
        #[arg(long, value_enum, default_value_t = Faults::Some)]
        faults: Faults,
        /// What customers want and how they pay, and what goes wrong, follows from this number
        #[arg(long, value_name = "N", default_value_t = 6)]
        seed: u64,
        /// Kill the whole program so many times in the middle of its work, spread over the orders, and begin it again
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
        kills: u32,
        /// Go on with this run, to be killed
        #[arg(long, hide = true, requires = "places")]
        run: Option<u64>,
        /// How many of its orders to place
        #[arg(long, hide = true, requires = "run")]
        places: Option<u64>,
    },
    /// Put pieces of a product on the shelf; begins a shop where there is none
    Receive {
        /// What, and how many: mug=10
        #[arg(value_parser = item)]
        product: Item,
        /// What a piece costs from now on, like 12.50; must be said of a new product
        #[arg(long)]
        price: Option<Cents>,
    },
    /// Put something into a customer's cart, and print what is in it
    Cart {
        /// Whose
        #[arg(value_parser = customer)]
        customer: String,
        /// What, and how many: mug or mug=2
        #[arg(value_parser = item)]
        product: Option<Item>,
    },
    /// Order what is in a customer's cart, and these products besides
    Order {
        /// Who
        #[arg(value_parser = customer)]
        customer: String,
        /// What, and how many: mug or mug=2
        #[arg(value_parser = item)]
        products: Vec<Item>,
        /// Where it is sent. Nobody goes to Atlantis
        #[arg(long, value_name = "CITY", default_value = "Aarhus")]
        to: String,
        /// The card to pay with. The one called `empty` is declined
        #[arg(long, default_value = "visa")]
        card: String,
        /// Do not pay now, but by `shop pay`
        #[arg(long, conflicts_with = "card")]
        pay_later: bool,
        /// How long there is time to pay
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        pay_within: u64,
    },
    /// Pay an order
    Pay {
        /// Which
        #[arg(value_parser = order)]
        order: String,
        /// The card to pay with. The one called `empty` is declined
        #[arg(long, default_value = "visa")]
        card: String,
    },
    /// Print all orders, and how far they are
    Orders {
        /// Only those that have not come to an end
        #[arg(long)]
        open: bool,
    },
    /// Print all products, and where their pieces are
    Stock,
    /// Print what a customer has to do with us
    Customer {
        /// Who
        #[arg(value_parser = customer)]
        name: String,
    },
    /// Keep the shop open until Ctrl-C, so that deadlines pass when they are due
    Run,
    /// Print what was set aside, or decide on it
    Parked {
        #[command(subcommand)]
        what: Option<Decision>,
    },
    /// Check that stock and money are where they must be
    Audit,
}

#[derive(Debug, Subcommand)]
enum Decision {
    /// Try all of it again
    Retry,
    /// Give up one event, and go on with what waits behind it
    Skip {
        /// Where the event is
        position: u64,
        /// Why; the log keeps it
        #[arg(long)]
        why: String,
    },
}

/// Where the shop is.
#[derive(Debug, Args)]
struct At {
    /// The directory of the shop [default: shop-data]
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "store")]
    data: Option<PathBuf>,
    /// The PostgreSQL database of the shop, instead of a directory: postgres://user:password@host:5432/database
    #[arg(long, value_name = "URL", global = true)]
    store: Option<String>,
    /// The schema of the database, if it holds more than one shop [default: factum]
    #[arg(long, value_name = "NAME", global = true)]
    schema: Option<String>,
}

impl At {
    fn place(self) -> Result<Place, Exit> {
        match (self.data, self.store) {
            (_, Some(url)) if !factum_postgres::is_url(&url) => Err(Exit::misused(
                "--store takes the URL of a PostgreSQL database, such as postgres://user:password@host:5432/database",
            )),
            (_, Some(url)) => {
                let schema = self.schema.unwrap_or_else(|| factum_postgres::Options::default().schema);
                Ok(Place::Postgres { url, schema })
            }
            (_, None) if self.schema.is_some() => {
                Err(Exit::misused("--schema goes with --store; a directory has no schemas"))
            }
            (Some(directory), None) if directory.to_str().is_some_and(factum_postgres::is_url) => {
                Err(Exit::misused("--data takes a directory; a shop in PostgreSQL is given by --store"))
            }
            (directory, None) => Ok(Place::Directory(directory.unwrap_or_else(|| DIRECTORY.into()))),
        }
    }
}

/// A name that a stream can be named after.
fn named<A: Aggregate>(text: &str) -> Result<String, String> {
    A::id(text).stream().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn customer(text: &str) -> Result<String, String> {
    named::<Cart>(text)
}

fn order(text: &str) -> Result<String, String> {
    named::<Order>(text)
}

fn item(text: &str) -> Result<Item, String> {
    let (product, pieces) = text.rsplit_once('=').unwrap_or((text, "1"));
    let pieces = pieces.parse().ok().filter(|pieces| (1..=PIECES).contains(pieces));
    let pieces = pieces.ok_or_else(|| format!("`{text}` must say 1 to {PIECES} pieces, as in mug=3"))?;
    Ok(Item { product: named::<Stock>(product)?, pieces })
}

impl Cli {
    /// Does what was asked; what there is to print comes to `out`.
    pub(crate) async fn run(self, out: &mut String) -> Result<(), Exit> {
        let place = self.at.place()?;
        match self.verb {
            Verb::Demo { orders, faults, seed, kills, run, places } => {
                let life = run.zip(places).map(|(run, places)| Life { run, places });
                Demo { place, orders, faults, seed, kills, life }.show(out).await
            }
            Verb::Receive { product, price } => verbs::receive(&place, product, price, out).await,
            Verb::Cart { customer, product } => verbs::cart(&place, &customer, product, out).await,
            Verb::Order { customer, products, to, card, pay_later, pay_within } => {
                let card = (!pay_later).then_some(card);
                let wanted =
                    Wanted { customer, items: products, address: to, card, pay_within_s: pay_within };
                verbs::order(&place, wanted, out).await
            }
            Verb::Pay { order, card } => verbs::pay(&place, &order, card, out).await,
            Verb::Orders { open } => verbs::orders(&place, open, out).await,
            Verb::Stock => verbs::stock(&place, out).await,
            Verb::Customer { name } => verbs::customer(&place, &name, out).await,
            Verb::Run => verbs::run(&place).await,
            Verb::Parked { what: None } => verbs::parked(&place, out).await,
            Verb::Parked { what: Some(Decision::Retry) } => verbs::retry(&place, out).await,
            Verb::Parked { what: Some(Decision::Skip { position, why }) } => {
                verbs::skip(&place, position, &why, out).await
            }
            Verb::Audit => verbs::check(&place, out).await,
        }
    }
}
