//! What is written means the same wherever it is written.
#![deny(warnings)]
#![allow(dead_code)]

struct Vec;
struct String;
struct Option;
struct Result;
struct Box;
struct Event;
struct EventSet;
struct Query;
mod std {}
mod core {}
mod factum {}

#[derive(::factum::Event, ::serde::Serialize, ::serde::Deserialize)]
enum OrderEvent {
    Placed {
        #[tag]
        tags: ::std::string::String,
        #[tag]
        r#type: u8,
        #[tag("many")]
        each: [u16; 2],
    },
    Moved(u8, #[tag("to")] u8, u8),
    #[event(version = 2)]
    Cancelled,
    #[deprecated]
    Sent(#[tag("to")] u8),
    Returned {
        #[deprecated]
        #[tag]
        by: u8,
    },
}

#[deprecated]
#[derive(::factum::Event, ::serde::Serialize, ::serde::Deserialize)]
enum Old {
    Noise,
}

#[derive(::factum::Event, ::serde::Serialize, ::serde::Deserialize)]
enum Nothing {}

#[derive(::factum::EventSet)]
enum ShopEvent {
    #[deprecated]
    Order(OrderEvent),
    Nothing(Nothing),
}

#[derive(::factum::EventSet)]
enum One {
    Shop(ShopEvent),
}

fn main() {}
