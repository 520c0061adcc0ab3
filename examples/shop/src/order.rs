//! Orders: what was bought, and what became of it.

use factum::prelude::*;

use crate::cents::Cents;

/// Some pieces of a product, at the price that was agreed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) product: String,
    pub(crate) pieces: u32,
    pub(crate) price: Cents,
}

/// What these lines cost together.
pub(crate) fn total(lines: &[Line]) -> Cents {
    lines.iter().map(|line| line.price * line.pieces).sum()
}

/// What happened to an order.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "order")]
pub(crate) enum OrderEvent {
    Placed {
        customer: String,
        address: String,
        lines: Vec<Line>,
        pay_within_s: u64,
    },
    /// It is paid and on its way.
    Completed {
        customer: String,
        total: Cents,
    },
    /// Nothing comes of it: what was done for it is undone.
    Cancelled {
        customer: String,
        why: String,
    },
}

/// An order, as far as decisions must know it.
#[derive(Debug, Default)]
pub(crate) struct Order {
    customer: String,
    total: Cents,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Standing {
    #[default]
    Unknown,
    Open,
    Completed,
    Cancelled,
}

impl Aggregate for Order {
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed { customer, lines, .. } => {
                *self = Self { customer: customer.clone(), total: total(lines), standing: Standing::Open };
            }
            OrderEvent::Completed { .. } => self.standing = Standing::Completed,
            OrderEvent::Cancelled { .. } => self.standing = Standing::Cancelled,
        }
    }
}

/// Why an order does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderRefusal {
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("the order is completed")]
    Completed,
    #[error("the order is cancelled")]
    Cancelled,
}

/// The order has come to its good end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Complete;

impl Command<Order> for Complete {
    type Error = OrderRefusal;

    fn decide(&self, order: &Order) -> Result<Vec<OrderEvent>, OrderRefusal> {
        match order.standing {
            Standing::Unknown => Err(OrderRefusal::NoSuchOrder),
            Standing::Cancelled => Err(OrderRefusal::Cancelled),
            Standing::Completed => Ok(vec![]),
            Standing::Open => {
                Ok(vec![OrderEvent::Completed { customer: order.customer.clone(), total: order.total }])
            }
        }
    }
}

/// Nothing comes of the order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cancel {
    pub(crate) why: String,
}

impl Command<Order> for Cancel {
    type Error = OrderRefusal;

    fn decide(&self, order: &Order) -> Result<Vec<OrderEvent>, OrderRefusal> {
        match order.standing {
            Standing::Unknown => Err(OrderRefusal::NoSuchOrder),
            Standing::Completed => Err(OrderRefusal::Completed),
            Standing::Cancelled => Ok(vec![]),
            Standing::Open => {
                Ok(vec![OrderEvent::Cancelled { customer: order.customer.clone(), why: self.why.clone() }])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;

    #[test]
    fn an_order_comes_to_one_end() {
        let lines = vec![Line { product: "mug".into(), pieces: 3, price: Cents(250) }];
        let placed = || OrderEvent::Placed {
            customer: "ada".into(),
            address: "Aarhus".into(),
            lines: lines.clone(),
            pay_within_s: 60,
        };
        let completed = || OrderEvent::Completed { customer: "ada".into(), total: Cents(750) };
        let cancelled = || OrderEvent::Cancelled { customer: "ada".into(), why: "sold out".into() };
        let cancel = || Cancel { why: "sold out".into() };
        given([placed()]).when(Complete).then([completed()]);
        given([placed()]).when(cancel()).then([cancelled()]);
        given([placed(), completed()]).when(Complete).then_nothing();
        given([placed(), cancelled()]).when(cancel()).then_nothing();
        given([placed(), completed()]).when(cancel()).then_refused(OrderRefusal::Completed);
        given([placed(), cancelled()]).when(Complete).then_refused(OrderRefusal::Cancelled);
        given([]).when(Complete).then_refused(OrderRefusal::NoSuchOrder);
        given([]).when(cancel()).then_refused(OrderRefusal::NoSuchOrder);
    }
}
