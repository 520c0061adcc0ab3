use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
enum AccountEvent {
    #[event(version = 2)]
    Deposited { cents: u64 },
    #[serde(rename = "Deposited.v2")]
    Other { cents: u64 },
    #[serde(rename = "")]
    Nameless,
}

fn main() {}
