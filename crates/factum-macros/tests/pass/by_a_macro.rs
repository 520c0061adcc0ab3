//! An enum that another macro writes, with names from its caller.

use factum::prelude::*;

macro_rules! events {
    ($name:ident { $($variant:ident { $field:ident: $type:ty }),* }) => {
        #[derive(Event, Serialize, Deserialize)]
        enum $name { $($variant { #[tag] $field: $type }),* }
    };
}

events! { SeatEvent { SeatTaken { seat: u8 }, SeatFreed { seats: Vec<u16> }, SeatSold { r#type: u8 } } }

fn main() {
    assert_eq!(SeatEvent::SeatTaken { seat: 7 }.tags(), ["seat:7"]);
    assert_eq!(SeatEvent::SeatFreed { seats: vec![7, 8] }.tags(), ["seats:7", "seats:8"]);
    assert_eq!(SeatEvent::SeatSold { r#type: 1 }.tags(), ["type:1"]);
    assert_eq!(SeatEvent::CATEGORY, "seat");
}
