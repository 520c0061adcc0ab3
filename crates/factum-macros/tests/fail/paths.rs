use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(evolution = "older_shapes")]
enum Quoted {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(happened_at = |event| None)]
enum Closure {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(evolution = older_shapes())]
enum Called {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(tags = Self::all_tags, tags = Self::all_tags)]
enum Twice {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(evolution = Self::evolution)]
enum Itself {
    Opened,
}

#[derive(Event, Serialize, Deserialize)]
#[event(happened_at = Named::happened_at)]
enum Named {
    Opened,
}

fn main() {}
