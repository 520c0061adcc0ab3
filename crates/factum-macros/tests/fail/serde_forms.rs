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

#[derive(Clone, Event, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
enum Converted {
    Opened { owner: String },
}

#[derive(Clone, Event, Serialize, Deserialize)]
#[serde(try_from = "String")]
enum Tried {
    Opened { owner: String },
}

#[derive(Event, Serialize, Deserialize)]
enum Others {
    Opened { owner: String },
    #[serde(other)]
    Unknown,
}

impl From<String> for Converted {
    fn from(owner: String) -> Self {
        Self::Opened { owner }
    }
}

impl From<Converted> for String {
    fn from(_: Converted) -> Self {
        Self::new()
    }
}

impl TryFrom<String> for Tried {
    type Error = std::fmt::Error;
    fn try_from(owner: String) -> Result<Self, Self::Error> {
        Ok(Self::Opened { owner })
    }
}

fn main() {}
