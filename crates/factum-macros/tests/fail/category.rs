use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(category = "bank-account")]
enum WithDash {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(category = "")]
enum Empty {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(category = "$$account")]
enum OfLives {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(category = account)]
enum Unquoted {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(category = "a", category = "b")]
enum Twice {
    Opened,
}

mod nameless {
    use serde::{Deserialize, Serialize};

    #[derive(factum::Event, Serialize, Deserialize)]
    enum Event {
        Opened,
    }
}

fn main() {}
