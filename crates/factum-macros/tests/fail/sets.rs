use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
enum OrderEvent {
    Placed,
}

#[derive(EventSet)]
enum Empty {}

#[derive(EventSet)]
enum ShopEvent {
    Order(OrderEvent),
    Again(OrderEvent),
    Unit,
    None(),
    Two(OrderEvent, OrderEvent),
    Named { order: OrderEvent },
}

fn main() {}
