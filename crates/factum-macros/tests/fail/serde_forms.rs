use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
enum Tagged {
    Opened { owner: String },
}

#[derive(Event, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
enum Untagged {
    Opened { owner: String },
}

#[derive(Event, Serialize, Deserialize)]
enum PartlyUntagged {
    Opened { owner: String },
    #[serde(untagged)]
    Other(String),
}

#[derive(Event, Serialize, Deserialize)]
enum TwoNames {
    #[serde(rename(serialize = "Opened", deserialize = "AccountOpened"))]
    Opened { owner: String },
}

fn main() {}
