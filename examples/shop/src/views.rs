//! The read models: orders, shelves and customers at a glance. Each is a row for a key, made of events from several streams.

use factum::prelude::*;

use crate::{
    cart::CartEvent,
    cents::Cents,
    order::{self, Line, OrderEvent},
    payment::PaymentEvent,
    shipment::ShipmentEvent,
    stock::StockEvent,
};

/// Every order, by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders;

/// What orders are made of, from the first to the last step.
#[derive(EventSet)]
pub(crate) enum OfAnOrder {
    Order(OrderEvent),
    Payment(PaymentEvent),
    Shipment(ShipmentEvent),
}

/// An order at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderSummary {
    pub(crate) customer: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) total: Cents,
    pub(crate) standing: Standing,
    /// What the customer has paid and not got back.
    pub(crate) paid: Cents,
    /// Why it was cancelled.
    pub(crate) why: Option<String>,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Placed,
    AwaitsPayment,
    Authorised,
    Paid,
    Refunded,
    Shipped,
    Completed,
    Cancelled,
}

impl Standing {
    pub(crate) fn is_the_end(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }

    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::AwaitsPayment => "awaits payment",
            Self::Authorised => "authorised",
            Self::Paid => "paid",
            Self::Refunded => "refunded",
            Self::Shipped => "shipped",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Projection for Orders {
    const NAME: &'static str = "orders";
    type Event = OfAnOrder;
    type Row = OrderSummary;

    fn evolve(&self, row: Option<OrderSummary>, happened: &Recorded<OfAnOrder>) -> Option<OrderSummary> {
        if let OfAnOrder::Order(OrderEvent::Placed { customer, lines, .. }) = &happened.event {
            return Some(OrderSummary {
                customer: customer.clone(),
                total: order::total(lines),
                lines: lines.clone(),
                standing: Standing::Placed,
                paid: Cents::ZERO,
                why: None,
            });
        }
        let mut row = row?;
        row.standing = match &happened.event {
            OfAnOrder::Order(OrderEvent::Placed { .. }) => row.standing,
            OfAnOrder::Order(OrderEvent::Completed { .. }) => Standing::Completed,
            OfAnOrder::Order(OrderEvent::Cancelled { why, .. }) => {
                row.why = Some(why.clone());
                Standing::Cancelled
            }
            OfAnOrder::Payment(PaymentEvent::Requested { .. }) => Standing::AwaitsPayment,
            OfAnOrder::Payment(PaymentEvent::Authorised { .. }) => Standing::Authorised,
            OfAnOrder::Payment(PaymentEvent::Charged { amount, .. }) => {
                row.paid += *amount;
                Standing::Paid
            }
            OfAnOrder::Payment(PaymentEvent::Refunded { amount, .. }) => {
                row.paid = row.paid - *amount;
                Standing::Refunded
            }
            OfAnOrder::Payment(PaymentEvent::Voided) => row.standing,
            OfAnOrder::Shipment(ShipmentEvent::Dispatched { .. }) => Standing::Shipped,
        };
        Some(row)
    }
}

/// Every product, by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inventory;

/// A product at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    pub(crate) price: Cents,
    pub(crate) received: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) shipped: u64,
}

impl Projection for Inventory {
    const NAME: &'static str = "inventory";
    type Event = StockEvent;
    type Row = Shelf;

    fn evolve(&self, row: Option<Shelf>, happened: &Recorded<StockEvent>) -> Option<Shelf> {
        let mut shelf = row.unwrap_or_default();
        // What cannot be is seen in the audit, and no reason to stop here.
        let moved = |from: &mut u64, to: &mut u64, pieces: u32| {
            *from = from.saturating_sub(u64::from(pieces));
            *to += u64::from(pieces);
        };
        match &happened.event {
            StockEvent::PriceSet { price } => shelf.price = *price,
            StockEvent::Received { pieces } => {
                shelf.received += u64::from(*pieces);
                shelf.available += u64::from(*pieces);
            }
            StockEvent::Reserved { pieces, .. } => moved(&mut shelf.available, &mut shelf.reserved, *pieces),
            StockEvent::Released { pieces, .. } => moved(&mut shelf.reserved, &mut shelf.available, *pieces),
            StockEvent::HandedOver { pieces, .. } => moved(&mut shelf.reserved, &mut shelf.shipped, *pieces),
        }
        Some(shelf)
    }
}

/// Every customer, by name, with what they have to do with us: gathered from carts, orders and payments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Customers;

/// What concerns customers.
#[derive(EventSet)]
pub(crate) enum OfACustomer {
    Cart(CartEvent),
    Order(OrderEvent),
    Payment(PaymentEvent),
}

/// A customer at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Customer {
    /// Pieces in the cart.
    pub(crate) in_cart: u64,
    pub(crate) orders: u64,
    pub(crate) completed: u64,
    pub(crate) cancelled: u64,
    pub(crate) paid: Cents,
    pub(crate) refunded: Cents,
}

impl Projection for Customers {
    const NAME: &'static str = "customers";
    type Event = OfACustomer;
    type Row = Customer;

    fn key(&self, happened: &Recorded<OfACustomer>) -> Option<String> {
        match &happened.event {
            OfACustomer::Cart(_) => Some(happened.record.stream.id().to_owned()),
            OfACustomer::Order(
                OrderEvent::Placed { customer, .. }
                | OrderEvent::Completed { customer, .. }
                | OrderEvent::Cancelled { customer, .. },
            )
            | OfACustomer::Payment(
                PaymentEvent::Charged { customer, .. } | PaymentEvent::Refunded { customer, .. },
            ) => Some(customer.clone()),
            OfACustomer::Payment(_) => None,
        }
    }

    fn evolve(&self, row: Option<Customer>, happened: &Recorded<OfACustomer>) -> Option<Customer> {
        let mut row = row.unwrap_or_default();
        match &happened.event {
            OfACustomer::Cart(CartEvent::ItemAdded { pieces, .. }) => row.in_cart += u64::from(*pieces),
            OfACustomer::Cart(CartEvent::CheckedOut { .. }) => row.in_cart = 0,
            OfACustomer::Order(OrderEvent::Placed { .. }) => row.orders += 1,
            OfACustomer::Order(OrderEvent::Completed { .. }) => row.completed += 1,
            OfACustomer::Order(OrderEvent::Cancelled { .. }) => row.cancelled += 1,
            OfACustomer::Payment(PaymentEvent::Charged { amount, .. }) => row.paid += *amount,
            OfACustomer::Payment(PaymentEvent::Refunded { amount, .. }) => row.refunded += *amount,
            OfACustomer::Payment(_) => {}
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;
    use crate::{order::Order, payment::Payment};

    #[test]
    fn a_customer_is_seen_across_carts_orders_and_payments() {
        let placed = |customer: &str| OrderEvent::Placed {
            customer: customer.into(),
            address: "Aarhus".into(),
            lines: vec![Line { product: "mug".into(), pieces: 3, price: Cents(250) }],
            pay_within_s: 60,
        };
        let charged =
            PaymentEvent::Charged { customer: "ada".into(), amount: Cents(750), receipt: "r1".into() };
        let refunded = PaymentEvent::Refunded { customer: "ada".into(), amount: Cents(750) };
        let cancelled = OrderEvent::Cancelled { customer: "ada".into(), why: "sold out".into() };
        let past = Writes::to(&Order::id("1"), [placed("ada")])
            .and(&Payment::id("1"), [charged, refunded])
            .and(&Order::id("2"), [placed("ben")]);
        let ada = Customer {
            orders: 1,
            cancelled: 1,
            paid: Cents(750),
            refunded: Cents(750),
            ..Customer::default()
        };
        given(past)
            .and(Writes::to(&Order::id("1"), [cancelled]))
            .project(Customers)
            .then_rows([("ada", ada), ("ben", Customer { orders: 1, ..Customer::default() })]);
    }
}
