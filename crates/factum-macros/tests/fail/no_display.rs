use factum::prelude::*;

#[derive(Serialize, Deserialize)]
struct Owner(String);

#[derive(Event, Serialize, Deserialize)]
enum AccountEvent {
    Opened {
        #[tag]
        owner: Owner,
    },
    Moved(#[tag("to")] Owner),
}

fn main() {}
