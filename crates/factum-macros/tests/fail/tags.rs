use factum::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[tag]
enum AccountEvent {
    #[tag("kind")]
    Opened {
        #[tag]
        #[tag("owner")]
        twice: String,
        #[tag = "owner"]
        equals: String,
        #[tag(owner)]
        unquoted: String,
        #[tag()]
        nothing: String,
        #[tag("")]
        empty: String,
        #[tag("account:owner")]
        colon: String,
        #[tag]
        #[serde(rename = "account:owner")]
        renamed: String,
    },
    Signed {
        #[tag]
        hash: [u8; 32],
        #[tag]
        key: Vec<u8>,
        #[tag]
        maybe: Option<std::vec::Vec<u8>>,
        #[tag]
        level: Option<u8>, // a number: that is all right
    },
    Moved(#[tag] String, #[tag("to")] String),
}

fn main() {}
