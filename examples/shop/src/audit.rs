//! The audit: whether stock and money are where they must be, by the log, the payment provider's books and the read models.

use std::collections::{BTreeMap, HashMap};

use factum::{Aggregate, EventSet, EventStoreExt, Read, Recorded};

use crate::{
    cents::Cents,
    exit::Exit,
    fulfilment::Happened,
    order::{Line, OrderEvent, total},
    payment::PaymentEvent,
    shop::{CONSUMERS, Shop, Views},
    show::count,
    stock::{Stock, StockEvent},
};

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
    charged: Cents,
    refunded: Cents,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Completed,
    Cancelled(String),
}

/// Pieces of a product.
#[derive(Debug, Default)]
struct Pieces {
    received: i64,
    /// By order: reserved and neither released nor handed over, and what was handed over.
    kept: HashMap<String, i64>,
    shipped: HashMap<String, i64>,
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
                    PaymentEvent::Charged { amount, .. } => order.charged += *amount,
                    PaymentEvent::Refunded { amount, .. } => order.refunded += *amount,
                    PaymentEvent::Requested { .. } | PaymentEvent::Voided => {}
                }
            }
            Happened::Shipment(_) => {}
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

        let [received, left, reserved, shipped] = [
            self.pieces(|p| p.received),
            self.pieces(Pieces::left),
            self.pieces(Pieces::reserved),
            self.pieces(Pieces::shipped),
        ];
        let pieces = |n: i64| count(n.unsigned_abs());
        line(
            "stock",
            format!(
                "{} pieces received = {} left + {} reserved + {} shipped",
                pieces(received),
                pieces(left),
                pieces(reserved),
                pieces(shipped)
            ),
        );
    }

    /// Prints where the money is, and says what is wrong with that.
    fn money(&self, (taken, given_back): (Cents, Cents), faults: &mut Vec<String>, out: &mut String) {
        let value = self.sum(|order| order.end == Some(End::Completed), |order| total(&order.lines));
        let held = self.sum(|order| order.end.is_none(), |order| order.charged - order.refunded);
        let (charged, refunded) =
            (self.sum(|_| true, |order| order.charged), self.sum(|_| true, |order| order.refunded));
        *out += &format!(
            "{:<12} {charged} charged - {refunded} refunded = {value} for completed orders + {held} for open ones\n{:<12} {taken} charged - {given_back} refunded, by its own books\n",
            "money", "provider"
        );
        if charged - refunded != value + held {
            faults.push(format!(
                "the shop has {} of its customers' money, and {} is due",
                charged - refunded,
                value + held
            ));
        }
        // Of an open order, what the provider has done may not be noted yet.
        let unnoted = self.sum(|order| order.end.is_none() && order.authorised, |order| total(&order.lines));
        let apart = |books: Cents, noted: Cents| books < noted || books - noted > unnoted;
        if apart(taken, charged) || apart(given_back, refunded) {
            faults.push("the provider's books and the shop's differ".to_owned());
        }
    }

    /// What is wrong with each order and product, for itself.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (id, order) in &self.orders {
            let value = total(&order.lines);
            let due = match order.end {
                Some(End::Completed) => order.charged == value && order.refunded == Cents::ZERO,
                Some(End::Cancelled(_)) => order.charged == order.refunded && order.charged <= value,
                None => order.charged <= value && order.refunded <= order.charged,
            };
            if !due {
                let Entry { charged, refunded, end, .. } = order;
                faults.push(format!(
                    "order {id} of {value} ({end:?}) was charged {charged} and refunded {refunded}"
                ));
            }
            for line in &order.lines {
                let product = self.products.get(&line.product);
                let of = |pieces: fn(&Pieces) -> &HashMap<String, i64>| {
                    product.and_then(|product| pieces(product).get(id)).copied().unwrap_or_default()
                };
                let (kept, shipped) = (of(|product| &product.kept), of(|product| &product.shipped));
                let wanted = i64::from(line.pieces);
                let due = match order.end {
                    Some(End::Completed) => (kept, shipped) == (0, wanted),
                    Some(End::Cancelled(_)) => (kept, shipped) == (0, 0),
                    None => (0..=wanted).contains(&(kept + shipped)),
                };
                if !due {
                    faults.push(format!(
                        "order {id} ({:?}) has {kept} pieces of {} reserved and {shipped} shipped, of {wanted}",
                        order.end, line.product
                    ));
                }
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
            if pieces.left() < 0 {
                faults.push(format!("of {product} there are {} pieces left", pieces.left()));
            }
        }
        faults
    }
}

impl Pieces {
    fn enter(&mut self, event: &StockEvent) {
        match event {
            StockEvent::PriceSet { .. } => {}
            StockEvent::Received { pieces } => self.received += i64::from(*pieces),
            StockEvent::Reserved { order, pieces } => {
                *self.kept.entry(order.clone()).or_default() += i64::from(*pieces);
            }
            StockEvent::Released { order, pieces } => {
                *self.kept.entry(order.clone()).or_default() -= i64::from(*pieces);
            }
            StockEvent::HandedOver { order, pieces } => {
                *self.kept.entry(order.clone()).or_default() -= i64::from(*pieces);
                *self.shipped.entry(order.clone()).or_default() += i64::from(*pieces);
            }
        }
    }

    fn reserved(&self) -> i64 {
        self.kept.values().sum()
    }

    fn shipped(&self) -> i64 {
        self.shipped.values().sum()
    }

    fn left(&self) -> i64 {
        self.received - self.reserved() - self.shipped()
    }
}

/// Prints the ledger, and fails if it does not balance. Nobody must be at work on it.
pub(crate) async fn audit(shop: &Shop, views: &Views, out: &mut String) -> Result<(), Exit> {
    shop.catch_up(views).await?;
    let ledger = Ledger::read(shop).await?;
    let mut faults = ledger.faults();
    ledger.tell(out);
    for (product, pieces) in &ledger.products {
        let available = shop.factum.load(&Stock::id(product)).await?.state.available;
        if i64::try_from(available) != Ok(pieces.left()) {
            faults.push(format!(
                "of {product}, {} pieces are left, and {available} are for sale",
                pieces.left()
            ));
        }
    }
    ledger.money(shop.provider.books().await?, &mut faults, out);

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
    fn ledger(end: End, charged: i64, refunded: i64, kept: i64, shipped: i64) -> Ledger {
        let lines = vec![Line { product: "mug".into(), pieces: 3, price: Cents(250) }];
        let order = Entry {
            lines,
            end: Some(end),
            authorised: true,
            charged: Cents(charged),
            refunded: Cents(refunded),
        };
        let by_order = |pieces| HashMap::from([("17".to_owned(), pieces)]);
        let mugs = Pieces { received: 10, kept: by_order(kept), shipped: by_order(shipped) };
        Ledger {
            orders: HashMap::from([("17".to_owned(), order)]),
            products: BTreeMap::from([("mug".to_owned(), mugs)]),
        }
    }

    #[test]
    fn what_is_wrong_with_an_order_is_found() {
        let cancelled = || End::Cancelled("sold out".into());
        for sound in [
            ledger(End::Completed, 750, 0, 0, 3),
            ledger(cancelled(), 0, 0, 0, 0),
            ledger(cancelled(), 750, 750, 0, 0),
        ] {
            assert_eq!(sound.faults(), Vec::<String>::new());
        }
        for unsound in [
            ledger(End::Completed, 1500, 0, 0, 3),
            ledger(End::Completed, 0, 0, 0, 3),
            ledger(End::Completed, 750, 0, 3, 0),
            ledger(End::Completed, 750, 0, 0, 6),
            ledger(cancelled(), 750, 0, 0, 0),
            ledger(cancelled(), 0, 0, 3, 0),
            ledger(cancelled(), 750, 1500, 0, 0),
            ledger(cancelled(), 0, 0, 0, 3),
        ] {
            assert_eq!(unsound.faults().len(), 1, "{unsound:?}");
        }
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
        assert_eq!((mugs.left(), mugs.reserved(), mugs.shipped()), (5, 1, 4));
        let lines = [Line { product: "mug".into(), pieces: 3, price: Cents(250) }];
        assert_eq!(total(&lines), Cents(750));
    }
}
