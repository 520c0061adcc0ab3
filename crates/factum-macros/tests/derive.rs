//! A derived enum and one written by hand are the same to everyone who asks.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

use std::{collections::BTreeSet, fmt};

use factum::{EventType, NewEvent, RecordedEvent, Tags, Timestamp, codec, prelude::*};

mod derived {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
    #[event(category = "account", evolution = Self::older, happened_at = Self::moment, tags = year)]
    #[serde(rename_all_fields = "camelCase")]
    pub(crate) enum AccountEvent {
        AccountOpened {
            #[tag]
            owner_id: Owner,
            #[tag("referrer")]
            referred_by: Option<String>,
        },
        #[event(version = 3)]
        #[serde(rename = "MoneyDeposited")]
        Deposited(u64, #[tag("from")] Option<Vec<String>>),
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        TransferSent {
            #[tag]
            to_account: String,
            #[tag("account")]
            from: String,
            #[tag("label")]
            labels: BTreeSet<String>,
            #[tag("{odd}")]
            tags: [u16; 2],
            at: Timestamp,
        },
        AccountClosed,
    }

    impl AccountEvent {
        fn older() -> Evolution<Self> {
            Evolution::new().drop("Noise")
        }

        fn moment(&self) -> Option<Timestamp> {
            moment(if let Self::TransferSent { at, .. } = self { Some(at) } else { None })
        }
    }

    fn year(event: &AccountEvent) -> Vec<String> {
        if *event == AccountEvent::AccountClosed { vec!["year:2026".to_owned()] } else { vec![] }
    }
}

mod by_hand {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all_fields = "camelCase")]
    pub(crate) enum AccountEvent {
        AccountOpened {
            owner_id: Owner,
            referred_by: Option<String>,
        },
        #[serde(rename = "MoneyDeposited")]
        Deposited(u64, Option<Vec<String>>),
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        TransferSent {
            to_account: String,
            from: String,
            labels: BTreeSet<String>,
            tags: [u16; 2],
            at: Timestamp,
        },
        AccountClosed,
    }

    impl Event for AccountEvent {
        const CATEGORY: &'static str = "account";
        const VERSIONS: &'static [(&'static str, u32)] = &[("MoneyDeposited", 3)];

        fn tags(&self) -> Vec<String> {
            match self {
                Self::AccountOpened { owner_id, referred_by } => {
                    let referrer = referred_by.iter().map(|by| format!("referrer:{by}"));
                    referrer.chain([format!("ownerId:{owner_id}")]).collect()
                }
                Self::Deposited(_, from) => {
                    from.iter().flatten().map(|from| format!("from:{from}")).collect()
                }
                Self::TransferSent { to_account, from, labels, tags, .. } => {
                    let labels = labels.iter().map(|label| format!("label:{label}"));
                    let odd = tags.iter().map(|tag| format!("{{odd}}:{tag}"));
                    let accounts = [format!("TO_ACCOUNT:{to_account}"), format!("account:{from}")];
                    labels.chain(odd).chain(accounts).collect()
                }
                Self::AccountClosed => vec!["year:2026".to_owned()],
            }
        }

        fn happened_at(&self) -> Option<Timestamp> {
            moment(if let Self::TransferSent { at, .. } = self { Some(at) } else { None })
        }

        fn evolution() -> Evolution<Self> {
            Evolution::new().drop("Noise")
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Owner(u32);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "o{}", self.0)
    }
}

fn moment(at: Option<&Timestamp>) -> Option<Timestamp> {
    at.copied()
}

macro_rules! samples {
    ($events:ident) => {{
        use $events::AccountEvent::*;
        let text = str::to_owned;
        vec![
            AccountOpened { owner_id: Owner(7), referred_by: None },
            AccountOpened { owner_id: Owner(7), referred_by: Some(text("Ada")) },
            Deposited(5, None),
            Deposited(5, Some(vec![text("a"), text("b")])),
            TransferSent {
                to_account: text("17"),
                from: text("19"),
                labels: ["x", "y"].map(text).into(),
                tags: [1, 2],
                at: Timestamp(17),
            },
            AccountClosed,
        ]
    }};
}

/// What a store would keep of it.
fn stored(event: &impl Event) -> (EventType, Tags, String, Option<Timestamp>) {
    let NewEvent { event_type, tags, data, .. } = codec::encode(event).unwrap();
    (event_type, tags, String::from_utf8(data.to_vec()).unwrap(), event.happened_at())
}

#[test]
fn what_is_stored_is_the_same() {
    let derived: Vec<_> = samples!(derived).iter().map(stored).collect();
    let by_hand: Vec<_> = samples!(by_hand).iter().map(stored).collect();
    assert_eq!(derived, by_hand);
    let tags: Vec<_> = derived[4].1.iter().collect();
    let expected = ["TO_ACCOUNT:17", "account:19", "label:x", "label:y", "{odd}:1", "{odd}:2"];
    assert_eq!(tags, expected);
    assert_eq!((derived[3].0.as_str(), derived[4].3), ("MoneyDeposited.v3", Some(Timestamp(17))));
}

#[test]
fn what_is_known_of_the_type_is_the_same() {
    use {by_hand::AccountEvent as ByHand, derived::AccountEvent as Derived};
    assert_eq!((Derived::CATEGORY, Derived::VERSIONS), (ByHand::CATEGORY, ByHand::VERSIONS));
    let types = codec::stored_types::<Derived>().unwrap();
    assert_eq!(types, codec::stored_types::<ByHand>().unwrap());
    assert!(types.contains(&"Noise".to_owned()), "{types:?}");
    let (types, data) = (["AccountClosed", "Noise"], b"{}");
    let closed = types.map(|name| codec::upcast::<Derived>(name, data).unwrap());
    assert_eq!(closed, [vec![Derived::AccountClosed], vec![]]);
}

/// Versions name variants as serde does, by whatever rule: `codec::today` refuses others.
#[test]
fn names_follow_the_rules_of_serde() {
    macro_rules! by {
        ($($name:ident $rule:literal),*) => {$({
            #[derive(Event, Serialize, Deserialize)]
            #[serde(rename_all = $rule, rename_all_fields = $rule)]
            #[allow(dead_code, nonstandard_style, reason = "odd names are the point")]
            enum $name {
                #[event(version = 2)]
                MoneyDeposited { #[tag] account_number: u8, #[tag] a: u8, #[tag] _b__c: u8 },
                #[event(version = 2)]
                HTTPCalled2Times,
                #[event(version = 2)]
                snake_d,
                #[event(version = 2)]
                X,
            }
            assert_eq!(codec::today::<$name>().unwrap().len(), 4, $rule);
            let event = $name::MoneyDeposited { account_number: 7, a: 7, _b__c: 7 };
            // What serde called the fields stands in the data.
            let data = codec::encode(&event).unwrap().data;
            let data = String::from_utf8(data.to_vec()).unwrap();
            let tags: Vec<_> = event.tags().iter().map(|tag| format!("\"{}\":7", tag.replace(":7", ""))).collect();
            assert_eq!(data, format!("{{{}}}", tags.join(",")), $rule);
        })*};
    }
    by!(
        Lower "lowercase", Upper "UPPERCASE", Pascal "PascalCase", Camel "camelCase", Snake "snake_case",
        Scream "SCREAMING_SNAKE_CASE", Kebab "kebab-case", ScreamingKebab "SCREAMING-KEBAB-CASE"
    );
}

#[test]
fn a_category_follows_from_the_name() {
    macro_rules! categories {
        ($($name:ident)*) => {[$({
            #[derive(Event, Serialize, Deserialize)]
            #[allow(non_camel_case_types, reason = "odd names are the point")]
            enum $name {}
            $name::CATEGORY
        }),*]};
    }
    let categories = categories!(AccountEvent OrderLineEvents HTTPCallEvent Plain V2OrderEvent Order_LineEvent EventLogEvent);
    assert_eq!(
        categories,
        ["account", "order_line", "http_call", "plain", "v2_order", "order_line", "event_log"]
    );
}

#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
enum PaymentEvent {
    Received,
}

#[derive(Clone, Debug, PartialEq, EventSet)]
enum ShopEvent {
    Account(derived::AccountEvent),
    Payment(PaymentEvent),
}

#[derive(Debug, PartialEq, EventSet)]
enum Everything {
    Shop(ShopEvent),
    Seat(SeatEvent),
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
enum SeatEvent {
    Taken,
}

fn record(stream: &str, event_type: &str) -> RecordedEvent {
    let event = RecordedEvent {
        stream: factum::StreamName::new(stream).unwrap(),
        event_type: EventType::new(event_type).unwrap(),
        data: "{}".into(),
        position: Position::START,
        revision: Revision::FIRST,
        recorded_at: Timestamp(0),
        id: factum::EventId::new(),
        content_type: factum::ContentType::Json,
        metadata: factum::Metadata::EMPTY,
        tags: Tags::NONE,
    };
    assert!(Everything::is_for(&event) != stream.starts_with("other"));
    event
}

fn decoded<S: EventSet>(record: &RecordedEvent) -> factum::Result<Vec<S>> {
    let mut events = Vec::new();
    S::decode_each(record, &mut |event| events.push(event))?;
    Ok(events)
}

#[test]
fn a_set_is_made_of_its_parts() {
    let closed = ShopEvent::Account(derived::AccountEvent::AccountClosed);
    let received = ShopEvent::Payment(PaymentEvent::Received);
    let (account, payment) = (record("account-1", "AccountClosed"), record("payment-1", "Received"));
    assert_eq!(decoded::<ShopEvent>(&account).unwrap(), std::slice::from_ref(&closed));
    assert_eq!(decoded::<ShopEvent>(&payment).unwrap(), [received]);
    assert_eq!(decoded::<ShopEvent>(&record("account-1", "Noise")).unwrap(), []);
    assert_eq!(decoded::<Everything>(&account).unwrap(), [Everything::Shop(closed)]);
    assert_eq!(
        decoded::<Everything>(&record("seat-1", "Taken")).unwrap(),
        [Everything::Seat(SeatEvent::Taken)]
    );
    assert!(!ShopEvent::is_for(&record("seat-1", "Taken")) && !ShopEvent::is_for(&record("other-1", "X")));
    let query = derived::AccountEvent::query().unwrap().or(PaymentEvent::query().unwrap());
    assert_eq!(ShopEvent::query().unwrap(), query);
    let error = decoded::<Everything>(&record("payment-1", "Unheard")).unwrap_err().to_string();
    assert!(error.contains("PaymentEvent") && error.contains("Unheard"), "{error}");
}
