use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
enum AccountEvent<T> {
    Opened { owner: T },
}

#[derive(EventSet)]
enum ShopEvent<'a> {
    Account(&'a str),
}

fn main() {}
