use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(categry = "account", version = 2)]
enum AccountEvent {
    #[event(category = "account")]
    Opened {
        #[event(tag)]
        owner: String,
    },
    #[event(rename = "AccountClosed")]
    Closed,
}

#[derive(Event, Serialize, Deserialize)]
#[event]
enum NoWords {
    Opened,
}

#[derive(EventSet)]
#[event(category = "shop")]
enum ShopEvent {
    Account(AccountEvent),
}

fn main() {}
