//! The audit: whether goods and money are where they must be. What orders, stock, shipments and payments say is compared with each
//! other, with the read models, and with the payment provider's books, charge by charge.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use factum::{Aggregate, EventSet, EventStoreExt, Read, Recorded};

use crate::{
    cents::Cents,
    exit::Exit,
    fulfilment::Happened,
    order::{Line, OrderEvent, total},
    payment::PaymentEvent,
    provider::Booked,
    shipment::ShipmentEvent,
    shop::{CONSUMERS, Shop, Views},
    shoppers::Run,
    show::count,
    stock::{Stock, StockEvent},
    views::Shelf,
};

/// What the provider has in its books, by receipt.
type Books = BTreeMap<String, Booked>;

/// All that is recorded, added up.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    orders: HashMap<String, Entry>,
    products: BTreeMap<String, Pieces>,
}

/// What is recorded of an order.
#[derive(Debug, Default)]
struct Entry {
    lines: Vec<Line>,
    end: Option<End>,
    authorised: bool,
    /// By receipt.
    charges: BTreeMap<String, Cents>,
    refunded: Cents,
    /// How often the carrier came.
    dispatched: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Completed,
    Cancelled(String),
}

/// Pieces of a product, as the events of its stock have them.
#[derive(Debug, Default)]
struct Pieces {
    received: i64,
    for_sale: i64,
    /// By order: reserved and neither released nor handed over, and what was handed over.
    kept: HashMap<String, i64>,
    shipped: HashMap<String, i64>,
}

/// Where the pieces of a product are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Shelved {
    left: i64,
    reserved: i64,
    shipped: i64,
}

impl fmt::Display for Shelved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { left, reserved, shipped } = self;
        write!(f, "{left} left, {reserved} reserved and {shipped} shipped")
    }
}

impl From<Shelf> for Shelved {
    fn from(shelf: Shelf) -> Self {
        let [left, reserved, shipped] =
            [shelf.available, shelf.reserved, shelf.shipped].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        Self { left, reserved, shipped }
    }
}

impl Ledger {
    /// Reads the whole log.
    async fn read(shop: &Shop) -> Result<Self, Exit> {
        let records = shop.factum.store().read_to_end(Read::query(Happened::query()?)).await?;
        let mut ledger = Self::default();
        for happened in Recorded::<Happened>::decode_all(records)? {
            ledger.enter(&happened);
        }
        Ok(ledger)
    }

    fn enter(&mut self, happened: &Recorded<Happened>) {
        let id = happened.record.stream.id();
        match &happened.event {
            Happened::Stock(event) => self.products.entry(id.to_owned()).or_default().enter(event),
            Happened::Order(event) => {
                let order = self.orders.entry(id.to_owned()).or_default();
                match event {
                    OrderEvent::Placed { lines, .. } => order.lines.clone_from(lines),
                    OrderEvent::Completed { .. } => order.end = Some(End::Completed),
                    OrderEvent::Cancelled { why, .. } => order.end = Some(End::Cancelled(why.clone())),
                }
            }
            Happened::Payment(event) => {
                let order = self.orders.entry(id.to_owned()).or_default();
                match event {
                    PaymentEvent::Authorised { .. } => order.authorised = true,
                    PaymentEvent::Charged { amount, receipt, .. } => {
                        *order.charges.entry(receipt.clone()).or_default() += *amount;
                    }
                    PaymentEvent::Refunded { amount, .. } => order.refunded += *amount,
                    PaymentEvent::Requested { .. } | PaymentEvent::Voided => {}
                }
            }
            Happened::Shipment(ShipmentEvent::Dispatched { .. }) => {
                self.orders.entry(id.to_owned()).or_default().dispatched += 1;
            }
        }
    }

    fn count(&self, which: impl Fn(&Entry) -> bool) -> u64 {
        self.orders.values().filter(|order| which(order)).map(|_| 1).sum()
    }

    fn sum(&self, which: impl Fn(&Entry) -> bool, what: impl Fn(&Entry) -> Cents) -> Cents {
        self.orders.values().filter(|order| which(order)).map(what).sum()
    }

    fn pieces(&self, what: impl Fn(&Pieces) -> i64) -> i64 {
        self.products.values().map(what).sum()
    }

    /// How many orders were cancelled for which kind of reason.
    fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for order in self.orders.values() {
            if let Some(End::Cancelled(why)) = &order.end {
                let kind = if why.contains("are wanted") { "there was not enough stock" } else { why };
                *reasons.entry(kind.to_owned()).or_default() += 1;
            }
        }
        reasons
    }

    /// Prints how many orders there are, and where the pieces are.
    fn tell(&self, out: &mut String) {
        let open = self.count(|order| order.end.is_none());
        let completed = self.count(|order| order.end == Some(End::Completed));
        let cancelled = self.count(|order| matches!(order.end, Some(End::Cancelled(_))));
        let mut line = |name: &str, text: String| *out += &format!("{name:<12} {text}\n");
        line(
            "orders",
            format!(
                "{} placed = {} completed + {} cancelled + {} open",
                count(completed + cancelled + open),
                count(completed),
                count(cancelled),
                count(open)
            ),
        );
        for (why, orders) in self.reasons() {
            line("", format!("{} cancelled: {why}", count(orders)));
        }

        let pieces = |what: fn(&Pieces) -> i64| count(self.pieces(what).unsigned_abs());
        line(
            "stock",
            format!(
                "{} pieces received = {} left + {} reserved + {} shipped",
                pieces(|p| p.received),
                pieces(|p| p.for_sale),
                pieces(|p| p.shelved().reserved),
                pieces(|p| p.shelved().shipped)
            ),
        );
        let dispatched: u64 = self.orders.values().map(|order| u64::from(order.dispatched)).sum();
        let on_the_way = self.count(|order| order.end.is_none() && order.dispatched > 0);
        line(
            "shipments",
            format!(
                "{} dispatched, for {} completed orders and {} open ones",
                count(dispatched),
                count(completed),
                count(on_the_way)
            ),
        );
    }

    /// Prints where the money is.
    fn tell_money(&self, books: &Books, out: &mut String) {
        let (value, held) = self.due();
        let charged = self.sum(|_| true, Entry::charged);
        let refunded = self.sum(|_| true, |order| order.refunded);
        let taken: Cents = books.values().map(|charge| charge.taken).sum();
        let given_back: Cents = books.values().map(|charge| charge.given_back).sum();
        *out += &format!(
            "{:<12} {charged} charged - {refunded} refunded = {value} for completed orders + {held} for open ones\n{:<12} {taken} charged - {given_back} refunded, by its own books: {} charges\n",
            "money",
            "provider",
            count(books.len() as u64)
        );
    }

    /// What the shop must have of its customers' money: for completed orders, and for open ones.
    fn due(&self) -> (Cents, Cents) {
        (
            self.sum(|order| order.end == Some(End::Completed), |order| total(&order.lines)),
            self.sum(|order| order.end.is_none(), |order| order.charged() - order.refunded),
        )
    }

    /// What is wrong with the money: all of it, and each charge that the provider has in its books.
    fn faults_of_money(&self, books: &Books) -> Vec<String> {
        let mut faults = Vec::new();
        let (value, held) = self.due();
        let has = self.sum(|_| true, |order| order.charged() - order.refunded);
        if has != value + held {
            faults.push(format!("the shop has {has} of its customers' money, and {} is due", value + held));
        }
        let mut charges_of = HashMap::<&str, u32>::new();
        for (receipt, Booked { order: id, taken, given_back }) in books {
            let charges = charges_of.entry(id).or_default();
            *charges += 1;
            if *charges == 2 {
                faults.push(format!("the provider has charged order {id} more than once"));
            }
            let Some(order) = self.orders.get(id) else {
                faults.push(format!("the provider has charged {taken} for order {id}, which nobody placed"));
                continue;
            };
            let (noted, refunded) = (order.charges.get(receipt).copied().unwrap_or_default(), order.refunded);
            // Of an open order, what the provider has done may not be noted yet.
            let under_way = order.end.is_none()
                && order.authorised
                && [(noted, *taken), (refunded, *given_back)]
                    .iter()
                    .all(|(noted, booked)| noted == booked || *noted == Cents::ZERO);
            if (noted, refunded) != (*taken, *given_back) && !under_way {
                faults.push(format!(
                    "the provider has taken {taken} and given back {given_back} for order {id}, and the shop has noted {noted} and {refunded}"
                ));
            }
        }
        for (id, order) in &self.orders {
            for (receipt, amount) in order.charges.iter().filter(|(receipt, _)| !books.contains_key(*receipt))
            {
                faults.push(format!(
                    "order {id} was charged {amount}, of which the provider has nothing in its books ({receipt})"
                ));
            }
        }
        faults
    }

    /// What is wrong with each order, for itself.
    fn faults_of_orders(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (id, order) in &self.orders {
            let (value, charged, refunded) = (total(&order.lines), order.charged(), order.refunded);
            let due = match order.end {
                Some(End::Completed) => charged == value && refunded == Cents::ZERO,
                Some(End::Cancelled(_)) => charged == refunded && charged <= value,
                None => charged <= value && refunded <= charged,
            };
            let end = &order.end;
            if !due {
                faults.push(format!(
                    "order {id} of {value} ({end:?}) was charged {charged} and refunded {refunded}"
                ));
            }
            let due = match order.end {
                Some(End::Completed) => order.dispatched == 1,
                Some(End::Cancelled(_)) => order.dispatched == 0,
                None => order.dispatched <= 1,
            };
            if !due {
                faults.push(format!("order {id} ({end:?}) was sent {} times", order.dispatched));
            }
            for line in &order.lines {
                let (kept, shipped) = self.pieces_of(id, &line.product);
                let wanted = i64::from(line.pieces);
                let due = match order.end {
                    Some(End::Completed) => (kept, shipped) == (0, wanted),
                    Some(End::Cancelled(_)) => (kept, shipped) == (0, 0),
                    None => (0..=wanted).contains(&(kept + shipped)),
                };
                if !due {
                    faults.push(format!(
                        "order {id} ({end:?}) has {kept} pieces of {} reserved and {shipped} shipped, of {wanted}",
                        line.product
                    ));
                }
            }
        }
        faults
    }

    /// How many pieces of a product are reserved for an order, and how many it was sent.
    fn pieces_of(&self, order: &str, product: &str) -> (i64, i64) {
        let of = |pieces: Option<&HashMap<String, i64>>| pieces.and_then(|p| p.get(order)).copied();
        let product = self.products.get(product);
        let (kept, shipped) = (of(product.map(|p| &p.kept)), of(product.map(|p| &p.shipped)));
        (kept.unwrap_or_default(), shipped.unwrap_or_default())
    }

    /// Where the pieces of each product must be, by what was received and by the orders: those that are completed have got what they
    /// want, those that are cancelled nothing, and open ones what their events say.
    fn by_orders(&self) -> BTreeMap<&str, Shelved> {
        let mut shelves: BTreeMap<&str, Shelved> = BTreeMap::new();
        for (product, pieces) in &self.products {
            shelves.insert(product, Shelved { left: pieces.received, ..Shelved::default() });
        }
        for (id, order) in &self.orders {
            for line in &order.lines {
                let (reserved, shipped) = match order.end {
                    Some(End::Completed) => (0, i64::from(line.pieces)),
                    Some(End::Cancelled(_)) => (0, 0),
                    None => self.pieces_of(id, &line.product),
                };
                let shelf = shelves.entry(&line.product).or_default();
                shelf.left -= reserved + shipped;
                shelf.reserved += reserved;
                shelf.shipped += shipped;
            }
        }
        shelves
    }

    /// What is wrong with the stock: where orders, the events of the stock, the read model and what is for sale do not agree.
    fn faults_of_stock(&self, view: &HashMap<String, Shelf>, for_sale: &HashMap<String, u64>) -> Vec<String> {
        let mut faults = Vec::new();
        for (product, by_orders) in self.by_orders() {
            let by_events = self.products.get(product).map(Pieces::shelved).unwrap_or_default();
            let shelf = view.get(product).cloned().unwrap_or_default();
            let received = self.products.get(product).map_or(0, |pieces| pieces.received);
            let sold = for_sale.get(product).copied().unwrap_or_default();
            let agreed = by_events == by_orders
                && Shelved::from(shelf.clone()) == by_orders
                && i64::try_from(shelf.received) == Ok(received)
                && i64::try_from(sold) == Ok(by_orders.left);
            if !agreed {
                faults.push(format!(
                    "of {received} pieces of {product} that were received, by the orders {by_orders}; by its events {by_events}; by the read model {} of {}; and {sold} are for sale",
                    Shelved::from(shelf.clone()), shelf.received
                ));
            }
            if by_orders.left < 0 {
                faults.push(format!("of {product} there are {} pieces left", by_orders.left));
            }
        }
        for (product, pieces) in &self.products {
            let known = |order: &String| {
                let order = self.orders.get(order);
                order.is_some_and(|order| order.lines.iter().any(|line| line.product == *product))
            };
            let all = pieces.kept.iter().chain(&pieces.shipped);
            for (order, number) in all.filter(|(order, number)| **number != 0 && !known(order)) {
                faults.push(format!("{number} pieces of {product} went to order {order}, which wanted none"));
            }
        }
        faults
    }

    /// The orders of a demonstration that have not come to an end.
    fn faults_of_run(&self, run: &Run) -> Vec<String> {
        let told = |order: String| match self.orders.get(&order) {
            None => Some(format!("order {order} was never placed")),
            Some(Entry { end: None, .. }) => Some(format!("order {order} has not come to an end")),
            Some(_) => None,
        };
        (0..run.orders).filter_map(|n| told(run.order(n))).collect()
    }
}

impl Entry {
    fn charged(&self) -> Cents {
        self.charges.values().copied().sum()
    }
}

impl Pieces {
    fn enter(&mut self, event: &StockEvent) {
        match event {
            StockEvent::PriceSet { .. } => {}
            StockEvent::Received { pieces } => {
                self.received += i64::from(*pieces);
                self.for_sale += i64::from(*pieces);
            }
            StockEvent::Reserved { order, pieces } => {
                self.for_sale -= i64::from(*pieces);
                *self.kept.entry(order.clone()).or_default() += i64::from(*pieces);
            }
            StockEvent::Released { order, pieces } => {
                self.for_sale += i64::from(*pieces);
                *self.kept.entry(order.clone()).or_default() -= i64::from(*pieces);
            }
            StockEvent::HandedOver { order, pieces } => {
                *self.kept.entry(order.clone()).or_default() -= i64::from(*pieces);
                *self.shipped.entry(order.clone()).or_default() += i64::from(*pieces);
            }
        }
    }

    fn shelved(&self) -> Shelved {
        let (reserved, shipped) = (self.kept.values().sum(), self.shipped.values().sum());
        Shelved { left: self.for_sale, reserved, shipped }
    }
}

/// Prints the ledger, and fails if it does not balance, or if an order of this run has not come to an end. Nobody must be at work on it.
pub(crate) async fn audit(
    shop: &Shop,
    views: &Views,
    run: Option<&Run>,
    out: &mut String,
) -> Result<(), Exit> {
    shop.catch_up(views).await?;
    let (ledger, books) = (Ledger::read(shop).await?, shop.provider.books().await?);
    ledger.tell(out);
    ledger.tell_money(&books, out);
    let mut for_sale = HashMap::new();
    for product in ledger.products.keys() {
        let stock = shop.factum.load(&Stock::id(product)).await?.state;
        for_sale.insert(product.clone(), stock.available);
    }
    let view: HashMap<_, _> = views.inventory.all().await?.into_iter().collect();
    let mut faults = ledger.faults_of_orders();
    faults.extend(ledger.faults_of_stock(&view, &for_sale));
    faults.extend(ledger.faults_of_money(&books));
    faults.extend(run.map(|run| ledger.faults_of_run(run)).unwrap_or_default());

    let mut line = |name: &str, text: String| *out += &format!("{name:<12} {text}\n");
    let differences = views.orders.verify().await?.into_iter().chain(views.inventory.verify().await?);
    let differences: Vec<_> = differences.chain(views.customers.verify().await?).collect();
    line("read models", format!("{} rows differ from the log", differences.len()));
    faults.extend(differences.iter().map(|difference| format!("read model: {difference}")));
    let aside = set_aside(shop).await?;
    line("set aside", format!("{} events", aside.len()));
    if !aside.is_empty() {
        faults.push("events are set aside: `shop parked` shows them".to_owned());
    }
    tell(faults, out)
}

fn tell(faults: Vec<String>, out: &mut String) -> Result<(), Exit> {
    /// More than these say nothing new.
    const TOLD: usize = 20;
    if faults.is_empty() {
        out.push_str("It balances.\n");
        return Ok(());
    }
    let number = faults.len();
    for fault in faults.into_iter().take(TOLD) {
        *out += &format!("WRONG: {fault}\n");
    }
    Err(Exit::failed(format!("the ledger does not balance: {number} things are wrong")))
}

/// What was set aside, by consumer.
pub(crate) async fn set_aside(shop: &Shop) -> Result<Vec<(&'static str, factum::handler::DeadLetter)>, Exit> {
    let mut aside = Vec::new();
    for consumer in CONSUMERS {
        match shop.parked(consumer)?.list().await {
            Ok(letters) => aside.extend(letters.into_iter().map(|letter| (consumer, letter))),
            // Nobody has worked here yet.
            Err(factum::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with one order of three mugs at 2.50.
    fn ledger(end: Option<End>, charged: i64, refunded: i64, kept: i64, shipped: i64) -> Ledger {
        let lines = vec![Line { product: "mug".into(), pieces: 3, price: Cents(250) }];
        let dispatched = u32::from(end == Some(End::Completed));
        let charges = (charged > 0).then(|| ("r1".to_owned(), Cents(charged))).into_iter().collect();
        let order = Entry { lines, end, authorised: true, charges, refunded: Cents(refunded), dispatched };
        let by_order = |pieces| HashMap::from([("17".to_owned(), pieces)]);
        let for_sale = 10 - kept - shipped;
        let mugs = Pieces { received: 10, for_sale, kept: by_order(kept), shipped: by_order(shipped) };
        Ledger {
            orders: HashMap::from([("17".to_owned(), order)]),
            products: BTreeMap::from([("mug".to_owned(), mugs)]),
        }
    }

    fn cancelled() -> Option<End> {
        Some(End::Cancelled("sold out".into()))
    }

    fn completed() -> Ledger {
        ledger(Some(End::Completed), 750, 0, 0, 3)
    }

    #[test]
    fn what_is_wrong_with_an_order_is_found() {
        for sound in [completed(), ledger(cancelled(), 0, 0, 0, 0), ledger(cancelled(), 750, 750, 0, 0)] {
            assert_eq!(sound.faults_of_orders(), Vec::<String>::new());
        }
        for unsound in [
            ledger(Some(End::Completed), 1500, 0, 0, 3),
            ledger(Some(End::Completed), 0, 0, 0, 3),
            ledger(Some(End::Completed), 750, 0, 3, 0),
            ledger(Some(End::Completed), 750, 0, 0, 6),
            ledger(cancelled(), 750, 0, 0, 0),
            ledger(cancelled(), 0, 0, 3, 0),
            ledger(cancelled(), 750, 1500, 0, 0),
            ledger(cancelled(), 0, 0, 0, 3),
        ] {
            assert_eq!(unsound.faults_of_orders().len(), 1, "{unsound:?}");
        }
    }

    #[test]
    fn what_is_sent_is_sent_once() {
        for (ledger, dispatched) in [
            (completed(), 0),
            (completed(), 2),
            (ledger(cancelled(), 0, 0, 0, 0), 1),
            (ledger(None, 750, 0, 3, 0), 2),
        ] {
            let mut ledger = ledger;
            ledger.orders.get_mut("17").unwrap().dispatched = dispatched;
            let faults = ledger.faults_of_orders();
            assert!(
                faults.len() == 1 && faults[0].contains(&format!("sent {dispatched} times")),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn orders_stock_and_read_model_must_agree() {
        let shelf = |available, reserved, shipped| Shelf {
            received: 10,
            available,
            reserved,
            shipped,
            ..Shelf::default()
        };
        let faults = |ledger: &Ledger, shelf: Shelf, for_sale| {
            let (view, for_sale) =
                (HashMap::from([("mug".to_owned(), shelf)]), HashMap::from([("mug".to_owned(), for_sale)]));
            ledger.faults_of_stock(&view, &for_sale).len()
        };
        assert_eq!(faults(&completed(), shelf(7, 0, 3), 7), 0);
        assert_eq!(faults(&ledger(None, 0, 0, 3, 0), shelf(7, 3, 0), 7), 0);
        for (ledger, shelf, for_sale) in [
            // Too much is for sale; the read model is behind; what was never reserved has gone; what was cancelled is still reserved.
            (completed(), shelf(7, 0, 3), 8),
            (completed(), shelf(7, 3, 0), 7),
            (completed(), Shelf { received: 11, ..shelf(7, 0, 3) }, 7),
            (ledger(Some(End::Completed), 750, 0, 0, 2), shelf(8, 0, 2), 8),
            (ledger(cancelled(), 0, 0, 3, 0), shelf(7, 3, 0), 7),
        ] {
            assert_eq!(faults(&ledger, shelf, for_sale), 1, "{ledger:?}");
        }
    }

    #[test]
    fn books_are_compared_charge_by_charge() {
        let booked = |order: &str, taken, given_back| Booked {
            order: order.into(),
            taken: Cents(taken),
            given_back: Cents(given_back),
        };
        let books = |charges: &[(&str, Booked)]| -> Books {
            charges.iter().map(|(receipt, charge)| ((*receipt).to_owned(), charge.clone())).collect()
        };
        let sound = books(&[("r1", booked("17", 750, 0))]);
        assert_eq!(completed().faults_of_money(&sound), Vec::<String>::new());
        for (unsound, words) in [
            (books(&[]), "nothing in its books"),
            (books(&[("r1", booked("17", 700, 0))]), "taken 7.00 and given back 0.00"),
            (books(&[("r1", booked("17", 750, 750))]), "taken 7.50 and given back 7.50"),
            (books(&[("r1", booked("17", 750, 0)), ("r2", booked("17", 0, 0))]), "more than once"),
            (books(&[("r1", booked("17", 750, 0)), ("r2", booked("18", 1, 1))]), "which nobody placed"),
        ] {
            let faults = completed().faults_of_money(&unsound);
            assert!(faults.iter().any(|fault| fault.contains(words)), "{words}: {faults:?}");
        }
        // The totals agree, and two customers have each other's money.
        let mut two = completed();
        let other = completed().orders.remove("17").unwrap();
        two.orders
            .insert("18".to_owned(), Entry { charges: [("r2".to_owned(), Cents(750))].into(), ..other });
        let crossed = books(&[("r1", booked("17", 700, 0)), ("r2", booked("18", 800, 0))]);
        assert_eq!(two.faults_of_money(&crossed).len(), 2);
        // What the provider has done for an open order may not be noted yet; of one that is over it must be.
        let (open, over) = (ledger(None, 0, 0, 3, 0), ledger(cancelled(), 0, 0, 0, 0));
        assert_eq!(open.faults_of_money(&sound), Vec::<String>::new());
        assert_eq!(over.faults_of_money(&sound).len(), 1);
    }

    #[test]
    fn a_run_is_over_when_all_its_orders_are() {
        let run = Run { seed: 6, number: 1, orders: 2 };
        let mut ledger = Ledger::default();
        assert_eq!(ledger.faults_of_run(&run).len(), 2);
        ledger.orders.insert(run.order(0), Entry { end: cancelled(), ..Entry::default() });
        ledger.orders.insert(run.order(1), Entry::default());
        assert_eq!(ledger.faults_of_run(&run), ["order demo-6-1-1 has not come to an end"]);
        ledger.orders.insert(run.order(1), Entry { end: Some(End::Completed), ..Entry::default() });
        assert_eq!(ledger.faults_of_run(&run), Vec::<String>::new());
    }

    #[test]
    fn the_ledger_adds_up_what_happened() {
        let mut mugs = Pieces::default();
        for event in [
            StockEvent::Received { pieces: 10 },
            StockEvent::Reserved { order: "1".into(), pieces: 3 },
            StockEvent::Reserved { order: "2".into(), pieces: 4 },
            StockEvent::Released { order: "1".into(), pieces: 3 },
            StockEvent::HandedOver { order: "2".into(), pieces: 4 },
            StockEvent::Reserved { order: "3".into(), pieces: 1 },
        ] {
            mugs.enter(&event);
        }
        assert_eq!(mugs.shelved(), Shelved { left: 5, reserved: 1, shipped: 4 });
        let lines = [Line { product: "mug".into(), pieces: 3, price: Cents(250) }];
        assert_eq!(total(&lines), Cents(750));
    }
}
