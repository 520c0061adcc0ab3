use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
enum AccountEvent {
    #[event(version = 0)]
    Zero,
    #[event(version = 1)]
    One,
    #[event(version = "2")]
    Quoted,
    #[event(version = -2)]
    Negative,
    #[event(version = 99999999999)]
    Huge,
    #[event(version)]
    Bare,
    #[event(version = 2, version = 3)]
    Twice,
    #[event(version = 2)]
    #[event(version = 2)]
    Again,
}

// What is said of the enum is not said again of everything that uses it.
#[derive(Default)]
struct Account;

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, _: &AccountEvent) {}
}

fn main() {}
