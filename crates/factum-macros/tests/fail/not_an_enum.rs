use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(category = "account")]
struct AccountOpened {
    owner: String,
}

#[derive(EventSet)]
struct ShopEvent(AccountOpened);

fn main() {}
