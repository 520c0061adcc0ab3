use factum::prelude::*;

#[derive(Event)]
enum AccountEvent {
    Opened { owner: String },
}

fn main() {}
