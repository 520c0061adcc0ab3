//! factum under another name.

mod ours {
    pub mod events {
        pub use ::factum::*;
    }
}

#[derive(ours::events::Event, serde::Serialize, serde::Deserialize)]
#[event(category = "order", crate = ours::events)]
enum OrderEvent {
    Placed,
}

#[derive(ours::events::EventSet)]
#[event(crate = crate::ours::events)]
enum Set {
    Order(OrderEvent),
}

fn main() {
    let _ = (OrderEvent::Placed, Set::Order);
}
