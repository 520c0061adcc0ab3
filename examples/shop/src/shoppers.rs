//! The customers of the demonstration: what they order, and whether and how they pay. All of it follows from the id of the order,
//! so that it is the same each time, in whatever process.

use std::collections::BTreeMap;

use factum::{EventHandler, Trouble, prelude::*};

use crate::{
    cart::{AddItem, Cart, CheckOut},
    cents::Cents,
    exit::Exit,
    payment::{Authorise, Payment, PaymentEvent},
    provider::NO_MONEY,
    shipment::NOWHERE,
    stock::{Receive, Stock},
};

/// What there is to buy.
const PRODUCTS: [&str; 24] = [
    "apron", "basket", "blanket", "bowl", "candle", "chair", "clock", "cup", "cushion", "jug", "kettle",
    "lamp", "mirror", "mug", "pan", "plate", "rug", "shelf", "spoon", "stool", "table", "teapot", "towel",
    "vase",
];
const CITIES: [&str; 6] = ["Aarhus", "Bergen", "Cork", "Delft", "Evora", "Faenza"];
const NAMES: [&str; 8] = ["ada", "ben", "cleo", "dora", "emil", "fritz", "greta", "hugo"];
/// How long customers have who pay, and who never do. The demonstration takes no day.
const A_DAY_S: u64 = 24 * 3600;
const NOT_LONG_S: u64 = 1;

/// A run of the demonstration: some orders, made up from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    pub(crate) orders: u64,
}

/// What somebody does.
#[derive(Clone, Debug, PartialEq)]
struct Shopper {
    customer: String,
    address: String,
    items: BTreeMap<&'static str, u32>,
    /// Nothing: who never pays.
    card: Option<&'static str>,
}

impl Shopper {
    fn new(seed: u64, run: u64, order: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ run.rotate_left(48) ^ order.rotate_left(24));
        let [paying, travelling] = [(); 2].map(|()| random.u32(0..100));
        let items =
            (0..random.usize(1..4)).map(|_| (PRODUCTS[random.usize(..PRODUCTS.len())], random.u32(1..5)));
        let items = items.collect();
        Self {
            // Everybody has a cart of their own: two who fill the same one would order for each other.
            customer: format!("{}-{order}", NAMES[random.usize(..NAMES.len())]),
            address: if travelling < 4 { NOWHERE } else { CITIES[random.usize(..CITIES.len())] }.to_owned(),
            items,
            card: match paying {
                0..5 => None,
                5..10 => Some(NO_MONEY),
                _ => Some("visa"),
            },
        }
    }

    /// Who has placed the order of this id, if it is one of the demonstration.
    fn of(order: &str) -> Option<Self> {
        let mut parts = order.strip_prefix("demo-")?.splitn(3, '-').map(|part| part.parse().ok());
        Some(Self::new(parts.next()??, parts.next()??, parts.next()??))
    }
}

fn price(product: usize) -> Cents {
    Cents(499 + 350 * i64::try_from(product).unwrap_or_default())
}

impl Run {
    /// What the ids of its orders begin with.
    fn prefix(&self) -> String {
        format!("demo-{}-{}", self.seed, self.number)
    }

    pub(crate) fn order(&self, n: u64) -> String {
        format!("{}-{n}", self.prefix())
    }

    /// Whether an order is one of this run.
    pub(crate) fn has(&self, order: &str) -> bool {
        order.rsplit_once('-').is_some_and(|(run, _)| run == self.prefix())
    }

    fn delivery(&self, product: &str) -> String {
        format!("{}-delivery-{product}", self.prefix())
    }

    /// The id of the command that a run begins with.
    pub(crate) fn first_delivery(&self) -> String {
        self.delivery(PRODUCTS[0])
    }

    /// Fills the shelves, once: of each third product there is too little.
    pub(crate) async fn deliver(&self, factum: &Factum) -> Result<(), Exit> {
        let mut wanted: BTreeMap<&str, u32> = BTreeMap::new();
        for n in 0..self.orders {
            for (product, pieces) in Shopper::new(self.seed, self.number, n).items {
                *wanted.entry(product).or_default() += pieces;
            }
        }
        for (n, product) in PRODUCTS.into_iter().enumerate() {
            let wanted = wanted.get(product).copied().unwrap_or_default();
            let pieces = if n % 3 == 0 { wanted / 10 * 8 } else { wanted };
            let receive = Receive { pieces, price: Some(price(n)) };
            let delivery = factum.identified(self.delivery(product));
            delivery.execute(&Stock::id(product), receive).await?;
        }
        Ok(())
    }

    /// Fills a cart and checks out. Whoever was interrupted at it does it again; nothing of it is done twice.
    pub(crate) async fn shop(&self, n: u64, factum: &Factum) -> Result<(), Exit> {
        let (order, shopper) = (self.order(n), Shopper::new(self.seed, self.number, n));
        let factum = factum.acting_as(&shopper.customer).correlated(&order);
        let cart = Cart::id(&shopper.customer);
        for (product, pieces) in shopper.items {
            let at = PRODUCTS.iter().position(|known| *known == product).unwrap_or_default();
            let add = AddItem { product: product.to_owned(), pieces, price: price(at) };
            factum.identified(format!("{order}-{product}")).execute(&cart, add).await?;
        }
        let Shopper { customer, address, card, .. } = shopper;
        let pay_within_s = if card.is_some() { A_DAY_S } else { NOT_LONG_S };
        let check_out = CheckOut { customer, order: order.clone(), address, pay_within_s };
        factum.identified(&order).decide(check_out).await?;
        Ok(())
    }
}

/// Customers at home: they pay when they are asked to, or do not.
#[derive(Clone, Debug)]
pub(crate) struct Payers {
    pub(crate) factum: Factum,
}

#[factum::async_trait]
impl EventHandler for Payers {
    const NAME: &'static str = "demo_payers";
    type Event = PaymentEvent;

    async fn handle(&self, event: &Recorded<PaymentEvent>) -> Result<(), Trouble> {
        let order = event.record.stream.id();
        let (PaymentEvent::Requested { .. }, Some(shopper)) = (&event.event, Shopper::of(order)) else {
            return Ok(());
        };
        let Some(card) = shopper.card else { return Ok(()) };
        // The event's id is the command's: who is told twice pays once.
        let factum = self.factum.acting_as(&shopper.customer).caused_by(&event.record);
        let payment = Payment::id(order);
        let factum = factum.identified(event.record.id);
        match factum.execute(&payment, Authorise { card: card.to_owned() }).await {
            Ok(_) | Err(Failure::Refused(_)) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_orders_is_known_from_the_order() {
        let run = Run { seed: 6, number: 2, orders: 100 };
        let shoppers: Vec<_> = (0..100).map(|n| Shopper::new(6, 2, n)).collect();
        for (n, shopper) in (0..).zip(&shoppers) {
            assert_eq!(Shopper::of(&run.order(n)).as_ref(), Some(shopper));
            assert!(run.has(&run.order(n)) && !Run { number: 22, ..run }.has(&run.order(n)));
        }
        let never = shoppers.iter().filter(|shopper| shopper.card.is_none()).count();
        let declined = shoppers.iter().filter(|shopper| shopper.card == Some(NO_MONEY)).count();
        let nowhere = shoppers.iter().filter(|shopper| shopper.address == NOWHERE).count();
        assert!(never > 0 && declined > 0 && nowhere > 0, "{never} {declined} {nowhere}");
        for other in ["17", "demo-6", "demo-6-2", "demo-x-2-1", "demo-6-2-", "memo-6-2-1"] {
            assert_eq!(Shopper::of(other), None, "{other}");
        }
    }
}
