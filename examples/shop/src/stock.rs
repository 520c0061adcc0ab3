//! Inventory: one product, what it costs, and how many pieces of it are there, reserved or gone.

use std::collections::BTreeMap;

use factum::prelude::*;

use crate::cents::Cents;

/// What happened to a product.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "stock")]
pub(crate) enum StockEvent {
    PriceSet {
        price: Cents,
    },
    Received {
        pieces: u32,
    },
    /// So many pieces are kept for an order.
    Reserved {
        order: String,
        pieces: u32,
    },
    /// They are for anybody again.
    Released {
        order: String,
        pieces: u32,
    },
    /// They have left the house.
    HandedOver {
        order: String,
        pieces: u32,
    },
}

/// A product, as far as decisions must know it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stock {
    pub(crate) price: Option<Cents>,
    pub(crate) available: u64,
    reserved: BTreeMap<String, u32>,
}

impl Aggregate for Stock {
    type Event = StockEvent;

    fn apply(&mut self, event: &StockEvent) {
        match event {
            StockEvent::PriceSet { price } => self.price = Some(*price),
            StockEvent::Received { pieces } => self.available += u64::from(*pieces),
            StockEvent::Reserved { order, pieces } => {
                self.available = self.available.saturating_sub(u64::from(*pieces));
                self.reserved.insert(order.clone(), *pieces);
            }
            StockEvent::Released { order, pieces } => {
                self.available += u64::from(*pieces);
                self.reserved.remove(order);
            }
            StockEvent::HandedOver { order, .. } => drop(self.reserved.remove(order)),
        }
    }

    // A product that sells well has a long history.
    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(100))
    }
}

/// Why there is no stock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StockRefusal {
    #[error("there is no such product; `shop receive` puts one on the shelf")]
    NoSuchProduct,
    #[error("it has no price yet; say --price")]
    NoPrice,
    #[error("{wanted} pieces are wanted, and {available} are left")]
    SoldOut { wanted: u32, available: u64 },
    #[error("something is reserved for order {0} already")]
    ReservedAlready(String),
    #[error("nothing is reserved for order {0}")]
    NotReserved(String),
}

/// Puts pieces on the shelf, at a price.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Receive {
    pub(crate) pieces: u32,
    /// Nothing: as before.
    pub(crate) price: Option<Cents>,
}

impl Command<Stock> for Receive {
    type Error = StockRefusal;

    fn decide(&self, stock: &Stock) -> Result<Vec<StockEvent>, StockRefusal> {
        refuse_if(stock.price.or(self.price).is_none(), StockRefusal::NoPrice)?;
        let new_price = self.price.filter(|price| stock.price != Some(*price));
        let price = new_price.map(|price| StockEvent::PriceSet { price });
        Ok(price.into_iter().chain([StockEvent::Received { pieces: self.pieces }]).collect())
    }
}

/// Keeps pieces for an order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reserve {
    pub(crate) order: String,
    pub(crate) pieces: u32,
}

impl Command<Stock> for Reserve {
    type Error = StockRefusal;

    fn decide(&self, stock: &Stock) -> Result<Vec<StockEvent>, StockRefusal> {
        let Self { order, pieces } = self.clone();
        refuse_if(stock.price.is_none(), StockRefusal::NoSuchProduct)?;
        let sold_out = StockRefusal::SoldOut { wanted: pieces, available: stock.available };
        refuse_if(stock.reserved.contains_key(&order), StockRefusal::ReservedAlready(order.clone()))?;
        refuse_if(stock.available < u64::from(pieces), sold_out)?;
        Ok(vec![StockEvent::Reserved { order, pieces }])
    }
}

/// Gives back what was kept for an order, if something was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Release {
    pub(crate) order: String,
}

impl Command<Stock> for Release {
    type Error = StockRefusal;

    fn decide(&self, stock: &Stock) -> Result<Vec<StockEvent>, StockRefusal> {
        let kept = stock.reserved.get(&self.order);
        let released = kept.map(|pieces| StockEvent::Released { order: self.order.clone(), pieces: *pieces });
        Ok(released.into_iter().collect())
    }
}

/// Gives what was kept for an order to the carrier.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HandOver {
    pub(crate) order: String,
}

impl Command<Stock> for HandOver {
    type Error = StockRefusal;

    fn decide(&self, stock: &Stock) -> Result<Vec<StockEvent>, StockRefusal> {
        match stock.reserved.get(&self.order) {
            Some(pieces) => Ok(vec![StockEvent::HandedOver { order: self.order.clone(), pieces: *pieces }]),
            None => Err(StockRefusal::NotReserved(self.order.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::{Step, any_sequence, given};

    use super::*;

    fn on_the_shelf(pieces: u32) -> [StockEvent; 2] {
        [StockEvent::PriceSet { price: Cents(250) }, StockEvent::Received { pieces }]
    }

    fn reserved(pieces: u32) -> StockEvent {
        StockEvent::Reserved { order: "17".into(), pieces }
    }

    fn reserve(pieces: u32) -> Reserve {
        Reserve { order: "17".into(), pieces }
    }

    #[test]
    fn goods_come_with_a_price() {
        let receive = |price| Receive { pieces: 5, price };
        given([]).when(receive(Some(Cents(250)))).then(on_the_shelf(5));
        given([]).when(receive(None)).then_refused(StockRefusal::NoPrice);
        given(on_the_shelf(1)).when(receive(None)).then([StockEvent::Received { pieces: 5 }]);
        given(on_the_shelf(1)).when(receive(Some(Cents(250)))).then([StockEvent::Received { pieces: 5 }]);
    }

    #[test]
    fn what_is_there_can_be_reserved() {
        given(on_the_shelf(5)).when(reserve(5)).then([reserved(5)]);
        let sold_out = StockRefusal::SoldOut { wanted: 6, available: 5 };
        given(on_the_shelf(5)).when(reserve(6)).then_refused(sold_out);
        let (other, sold_out) =
            (Reserve { order: "18".into(), pieces: 3 }, StockRefusal::SoldOut { wanted: 3, available: 2 });
        given(on_the_shelf(5)).and([reserved(3)]).when(other).then_refused(sold_out);
        let already = StockRefusal::ReservedAlready("17".into());
        given(on_the_shelf(5)).and([reserved(3)]).when(reserve(1)).then_refused(already);
        given([]).when(reserve(1)).then_refused(StockRefusal::NoSuchProduct);
    }

    #[test]
    fn what_was_reserved_is_released_or_handed_over_once() {
        let past = || given(on_the_shelf(5)).and([reserved(3)]);
        let released = || StockEvent::Released { order: "17".into(), pieces: 3 };
        let handed_over = || StockEvent::HandedOver { order: "17".into(), pieces: 3 };
        let (release, hand_over) = (Release { order: "17".into() }, HandOver { order: "17".into() });
        past().when(release.clone()).then([released()]);
        past().and([released()]).when(release).then_nothing();
        past().when(hand_over.clone()).then([handed_over()]);
        let gone = StockRefusal::NotReserved("17".into());
        past().and([handed_over()]).when(hand_over.clone()).then_refused(gone.clone());
        past().and([released()]).when(hand_over).then_refused(gone);
        past().and([released()]).when(reserve(5)).then([reserved(5)]);
    }

    /// A stock beside what it must add up to.
    #[derive(Default)]
    struct Counted {
        stock: Stock,
        received: u64,
        gone: u64,
    }

    impl Aggregate for Counted {
        type Event = StockEvent;
        fn apply(&mut self, event: &StockEvent) {
            self.stock.apply(event);
            match event {
                StockEvent::Received { pieces } => self.received += u64::from(*pieces),
                StockEvent::HandedOver { pieces, .. } => self.gone += u64::from(*pieces),
                _ => {}
            }
        }
    }

    /// A command to a stock is one to what is counted.
    #[derive(Debug)]
    struct To<C>(C);
    impl<C: Command<Stock>> Command<Counted> for To<C> {
        type Error = C::Error;
        fn decide(&self, counted: &Counted) -> Result<Vec<StockEvent>, C::Error> {
            self.0.decide(&counted.stock)
        }
    }

    #[test]
    fn no_piece_is_lost_or_made_whatever_is_asked() {
        any_sequence(|random| {
            let (pieces, order) = (random.u32(0..20), random.u32(0..5).to_string());
            match random.u32(0..4) {
                0 => Step::command(To(Receive { pieces, price: Some(Cents(1)) })),
                1 => Step::command(To(Reserve { order, pieces })),
                2 => Step::command(To(Release { order })),
                _ => Step::command(To(HandOver { order })),
            }
        })
        .keeps(|counted: &Counted| {
            let reserved: u64 = counted.stock.reserved.values().map(|pieces| u64::from(*pieces)).sum();
            counted.received == counted.stock.available + reserved + counted.gone
        });
    }
}
