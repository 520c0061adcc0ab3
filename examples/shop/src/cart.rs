//! Carts: what a customer is about to buy. Checking out empties the cart and places the order: one decision, and one append.

use std::collections::BTreeMap;

use factum::prelude::*;

use crate::{
    cents::Cents,
    order::{Line, Order, OrderEvent},
};

/// Pieces of one product in a cart, at most.
pub(crate) const PIECES: u32 = 1000;

/// What happened to the cart of a customer.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "cart")]
pub(crate) enum CartEvent {
    /// The customer wants so many more of this, at the price that was shown.
    ItemAdded { product: String, pieces: u32, price: Cents },
    /// What was in the cart is an order now.
    CheckedOut { order: String },
}

/// The cart of a customer, who is its id.
#[derive(Debug, Default)]
pub(crate) struct Cart {
    items: BTreeMap<String, (u32, Cents)>,
}

impl Aggregate for Cart {
    type Event = CartEvent;

    fn apply(&mut self, event: &CartEvent) {
        match event {
            CartEvent::ItemAdded { product, pieces, price } => {
                let item = self.items.entry(product.clone()).or_insert((0, *price));
                *item = (item.0 + pieces, *price);
            }
            CartEvent::CheckedOut { .. } => self.items.clear(),
        }
    }
}

impl Cart {
    /// What an order of all this would consist of.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |(product, (pieces, price)): (&String, &(u32, Cents))| Line {
            product: product.clone(),
            pieces: *pieces,
            price: *price,
        };
        self.items.iter().map(line).collect()
    }
}

/// Why a cart does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CartRefusal {
    #[error("a cart holds 1 to {PIECES} pieces of a product, and that would make {0}")]
    Pieces(u64),
    #[error("the cart is empty; put something into it first")]
    Empty,
    #[error("there is an order `{0}` already")]
    OrderedAlready(String),
}

/// Puts something into a cart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AddItem {
    pub(crate) product: String,
    pub(crate) pieces: u32,
    pub(crate) price: Cents,
}

impl Command<Cart> for AddItem {
    type Error = CartRefusal;

    fn decide(&self, cart: &Cart) -> Result<Vec<CartEvent>, CartRefusal> {
        let Self { product, pieces, price } = self.clone();
        let before = cart.items.get(&product).map_or(0, |item| item.0);
        let after = u64::from(before) + u64::from(pieces);
        refuse_if(pieces == 0 || after > u64::from(PIECES), CartRefusal::Pieces(after))?;
        Ok(vec![CartEvent::ItemAdded { product, pieces, price }])
    }
}

/// Makes an order of a cart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CheckOut {
    pub(crate) customer: String,
    pub(crate) order: String,
    pub(crate) address: String,
    /// How long the customer has to pay, in seconds.
    pub(crate) pay_within_s: u64,
}

impl Decide for CheckOut {
    type Models = (Entity<Cart>, Entity<Order>);
    type Error = CartRefusal;

    fn models(&self) -> Self::Models {
        (Entity::of(&Cart::id(&self.customer)), Entity::of(&Order::id(&self.order)))
    }

    fn decide(&self, (cart, order): &Self::Models) -> Result<Writes, CartRefusal> {
        refuse_if(order.revision.is_some(), CartRefusal::OrderedAlready(self.order.clone()))?;
        let lines = cart.state.lines();
        refuse_if(lines.is_empty(), CartRefusal::Empty)?;
        let placed = OrderEvent::Placed {
            customer: self.customer.clone(),
            address: self.address.clone(),
            lines,
            pay_within_s: self.pay_within_s,
        };
        Ok(Writes::to(&cart.id, [CartEvent::CheckedOut { order: self.order.clone() }])
            .and(&order.id, [placed]))
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;

    fn added(product: &str, pieces: u32) -> CartEvent {
        CartEvent::ItemAdded { product: product.into(), pieces, price: Cents(250) }
    }

    fn add(product: &str, pieces: u32) -> AddItem {
        AddItem { product: product.into(), pieces, price: Cents(250) }
    }

    #[test]
    fn a_cart_takes_a_sensible_number_of_pieces() {
        given([added("mug", 2)]).when(add("mug", 3)).then([added("mug", 3)]);
        given([]).when(add("mug", 0)).then_refused(CartRefusal::Pieces(0));
        given([added("mug", 999)]).when(add("mug", 2)).then_refused(CartRefusal::Pieces(1001));
        given([added("mug", 999)]).when(add("tea", 1000)).then([added("tea", 1000)]);
    }

    fn check_out() -> CheckOut {
        CheckOut { customer: "ada".into(), order: "17".into(), address: "Aarhus".into(), pay_within_s: 60 }
    }

    #[test]
    fn checking_out_empties_the_cart_and_places_the_order() {
        let cart = Cart::id("ada");
        let line = |product: &str, pieces| Line { product: product.into(), pieces, price: Cents(250) };
        let placed = OrderEvent::Placed {
            customer: "ada".into(),
            address: "Aarhus".into(),
            lines: vec![line("mug", 5), line("tea", 1)],
            pay_within_s: 60,
        };
        let writes = || {
            Writes::to(&cart, [CartEvent::CheckedOut { order: "17".into() }])
                .and(&Order::id("17"), [placed.clone()])
        };
        let filled = || Writes::to(&cart, [added("mug", 2), added("tea", 1), added("mug", 3)]);
        given(filled()).when(check_out()).then(writes());
        given(Writes::none()).when(check_out()).then_refused(CartRefusal::Empty);
        let twice = given(filled()).and(writes()).and(Writes::to(&cart, [added("mug", 1)]));
        twice.when(check_out()).then_refused(CartRefusal::OrderedAlready("17".into()));
    }
}
