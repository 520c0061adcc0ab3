//! Two axes of time, what changed between two moments, and the audit trail.

use std::{sync::Arc, time::Duration};

use factum::{
    Append, AsOf, At, EventStoreExt, ExpectedRevision, Limits, ManualClock, MemorySnapshots, MemoryStore,
    Metadata, NewEvent, Read, Retention, Snapshots, StreamName, Tags, prelude::*,
};

use crate::support::seeded;

/// A person's address, which is told late, and not in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum PersonEvent {
    Registered { name: String },
    Moved { to: String, on: Timestamp },
}

use PersonEvent::*;

impl Event for PersonEvent {
    const CATEGORY: &'static str = "person";

    fn happened_at(&self) -> Option<Timestamp> {
        match self {
            Registered { .. } => None,
            Moved { on, .. } => Some(*on),
        }
    }

    fn evolution() -> Evolution<Self> {
        Evolution::new().drop("Greeted")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Person {
    name: String,
    lives: String,
    lived: Vec<String>,
}

impl Aggregate for Person {
    type Event = PersonEvent;

    fn apply(&mut self, event: &PersonEvent) {
        match event {
            Registered { name } => self.name.clone_from(name),
            Moved { to, .. } => {
                self.lived.push(std::mem::replace(&mut self.lives, to.clone()));
            }
        }
    }

    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(2))
    }
}

struct Tell(PersonEvent);

impl Command<Person> for Tell {
    type Error = std::convert::Infallible;

    fn decide(&self, _: &Person) -> Result<Vec<PersonEvent>, Self::Error> {
        Ok(vec![self.0.clone()])
    }
}

fn day(day: i64) -> Timestamp {
    Timestamp(day * 86_400_000_000)
}

fn moved(to: &str, on: i64) -> PersonEvent {
    Moved { to: to.into(), on: day(on) }
}

fn ada() -> Id<Person> {
    Person::id("ada")
}

/// Told on day 10: registered. On day 20: in Rome since 15. On day 30: in Oslo since 28, and in Bern from 18.
async fn told() -> (Factum, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(day(10)));
    let store = MemoryStore::with(Limits::default(), Arc::new(clock.clone()));
    let factum = Factum::new(store).with_snapshots(MemorySnapshots::new());
    let tell = async |event| factum.acting_as("clerk").execute(&ada(), Tell(event)).await.unwrap();
    tell(Registered { name: "Ada".into() }).await;
    clock.set(day(20));
    tell(moved("Rome", 15)).await;
    clock.set(day(30));
    tell(moved("Oslo", 28)).await;
    tell(moved("Bern", 18)).await;
    clock.set(day(40));
    (factum, clock)
}

#[tokio::test]
async fn what_had_happened_and_what_was_known() {
    let (factum, _) = told().await;
    let lives = async |at: At| factum.load_at(&ada(), at).await.unwrap().state.lives;
    assert_eq!(lives(At::NOW).await, "Bern", "in the order in which it was told");
    for (on, there) in [
        (9, ""),
        (14, ""),
        (15, "Rome"),
        (17, "Rome"),
        (18, "Bern"),
        (27, "Bern"),
        (28, "Oslo"),
        (99, "Oslo"),
    ] {
        assert_eq!(lives(At::Business(day(on))).await, there, "on day {on}, as we know now");
    }
    for (business, recorded, there) in
        [(18, 19, ""), (18, 20, "Rome"), (18, 29, "Rome"), (18, 30, "Bern"), (99, 29, "Rome")]
    {
        let at = At::Both { business: day(business), recorded: day(recorded) };
        assert_eq!(lives(at).await, there, "on day {business}, as was known on day {recorded}");
    }
    let early = factum.load_at(&ada(), At::Business(day(18))).await.unwrap();
    assert_eq!((early.state.name.as_str(), early.revision), ("Ada", Some(Revision(3))));
    assert!(!factum.load_at(&ada(), At::Business(day(9))).await.unwrap().exists());
}

#[tokio::test]
async fn what_changed_between_two_moments() {
    let (factum, _) = told().await;
    let changes = factum.difference(&ada(), day(20), At::NOW).await.unwrap();
    let fields: Vec<String> = changes.fields.iter().map(ToString::to_string).collect();
    let expected =
        [r#"/lived/1: nothing -> "Rome""#, r#"/lived/2: nothing -> "Oslo""#, r#"/lives: "Rome" -> "Bern""#];
    assert_eq!(fields, expected);
    let told: Vec<_> = changes.events.iter().map(|event| event.event.clone()).collect();
    assert_eq!(told, [moved("Oslo", 28), moved("Bern", 18)]);
    assert_eq!((changes.before.revision, changes.after.revision), (Some(Revision(1)), Some(Revision(3))));

    let back = factum.difference(&ada(), At::NOW, day(20)).await.unwrap();
    assert_eq!((&back.before, &back.after, &back.events), (&changes.after, &changes.before, &changes.events));
    assert_eq!(back.fields[2].to_string(), r#"/lives: "Bern" -> "Rome""#);

    // What we have learnt about day 20 since then.
    let then = At::Both { business: day(20), recorded: day(20) };
    let learnt = factum.difference(&ada(), then, At::Business(day(20))).await.unwrap();
    assert_eq!(learnt.events.iter().map(|e| e.event.clone()).collect::<Vec<_>>(), [moved("Bern", 18)]);
    assert_eq!(factum.difference(&ada(), At::NOW, At::NOW).await.unwrap().fields, []);
}

/// Every moment, on whichever axis, is what one gets by taking the events by hand.
#[tokio::test]
async fn every_moment_is_what_its_events_make() {
    let mut random = seeded();
    for _ in 0..10 {
        let clock = Arc::new(ManualClock::at(day(1)));
        let store = MemoryStore::with(Limits::default(), Arc::new(clock.clone()));
        let factum = Factum::new(store.clone()).with_snapshots(MemorySnapshots::new());
        for n in 0..random.u32(1..15) {
            clock.advance(Duration::from_secs(random.u64(0..2) * 86_400));
            let event = match random.u8(0..4) {
                0 => Registered { name: n.to_string() },
                _ => moved(&n.to_string(), random.i64(0..15)),
            };
            factum.execute(&ada(), Tell(event)).await.unwrap();
        }
        let history = factum.history(&ada()).await.unwrap();
        let happened = |e: &Recorded<PersonEvent>| e.event.happened_at().unwrap_or(e.record.recorded_at);
        for _ in 0..30 {
            let (business, recorded) = (day(random.i64(0..16)), day(random.i64(0..16)));
            let mut events: Vec<_> = history.iter().filter(|e| happened(e) <= business).collect();
            events.retain(|e| e.record.recorded_at <= recorded);
            events.sort_by_key(|e| (happened(e), e.record.revision));
            let mut expected = Person::default();
            events.iter().for_each(|e| expected.apply(&e.event));
            let at = At::Both { business, recorded };
            assert_eq!(factum.load_at(&ada(), at).await.unwrap().state, expected, "{at:?}");
            let pages =
                store.read_to_end(Read::stream(ada().stream().unwrap()).as_of(AsOf::Time(recorded))).await;
            let known = factum.load_at(&ada(), recorded).await.unwrap();
            assert_eq!(known.revision, pages.unwrap().last().map(|record| record.revision), "{recorded}");
            let changes = factum.difference(&ada(), recorded, at).await.unwrap();
            assert_eq!((changes.before, changes.after.state), (known, expected));
        }
    }
}

#[tokio::test]
async fn a_trail_says_what_when_who_and_why() {
    let (factum, clock) = told().await;
    let cause = factum.history(&ada()).await.unwrap().pop().unwrap().record;
    factum.acting_as("bot").caused_by(&cause).execute(&ada(), Tell(moved("Lima", 39))).await.unwrap();
    let stream = ada().stream().unwrap();
    let store = factum.store();
    store.append(Append::to(stream.clone(), [NewEvent::json("Greeted", &()).unwrap()])).await.unwrap();
    let last_three = Retention { max_count: Some(3), ..Retention::default() };
    clock.set(day(41));
    store.set_retention(&stream, ExpectedRevision::Any, last_three).await.unwrap();

    let trail = factum.audit(&ada()).await.unwrap();
    let types: Vec<&str> = trail.entries.iter().map(|entry| &*entry.record.event_type).collect();
    assert_eq!(types, ["Moved", "Moved", "Greeted", "$metadata"], "what can be seen, and who hid the rest");
    let [bern, lima, greeted, retention] = &trail.entries[..] else { panic!("{trail:?}") };
    assert_eq!((bern.actor.as_deref(), bern.happened_at), (Some("clerk"), Some(day(18))));
    assert_eq!((bern.record.revision, bern.record.recorded_at), (Revision(3), day(30)));
    assert_eq!((lima.actor.as_deref(), &lima.events[..]), (Some("bot"), &[moved("Lima", 39)][..]));
    assert_eq!(lima.causation_id, Some(cause.id.to_string()));
    assert_eq!(lima.correlation_id, bern.correlation_id, "the flow of its cause");
    assert_eq!(
        (&greeted.events[..], &greeted.actor),
        (&[][..], &None),
        "dropped today, recorded all the same"
    );
    assert_eq!((&*retention.record.stream, retention.record.recorded_at), ("$$person-ada", day(41)));

    store.tombstone(&stream, ExpectedRevision::Any).await.unwrap();
    let types: Vec<_> = factum.audit(&ada()).await.unwrap().entries;
    assert_eq!(
        types.iter().map(|entry| &*entry.record.event_type).collect::<Vec<_>>(),
        ["$metadata", "$tombstoned"]
    );
    let of_life = factum.audit_stream(&stream.metadata_stream().unwrap()).await.unwrap();
    assert_eq!(of_life.entries.len(), 2);
}

/// A reader of RFC 4180, to see what a reader sees.
fn cells(csv: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = csv.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => cell.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {
                assert_eq!(characters.next(), Some('\n'));
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    assert!(row.is_empty() && cell.is_empty() && !quoted, "it ends with a line");
    rows
}

#[tokio::test]
async fn exports_come_back_as_they_were_recorded() {
    let factum = Factum::new(MemoryStore::new());
    let stream = StreamName::new("odd,\"name\"-1").unwrap();
    let metadata =
        |actor: &str| Metadata::from_json(serde_json::json!({"actor": actor, "n": 1}).to_string()).unwrap();
    let events = [
        NewEvent::json_text("A", "{\"n\": 10000000000000000000001.10,\n \"t\": \"a \\\"b\\\", c\"}").unwrap(),
        NewEvent::bytes("B", vec![0, 255]).unwrap().with_metadata(metadata("=HYPERLINK(\"x\")")),
        NewEvent::bytes("C", " plain,\r\ntext ").unwrap().with_metadata(metadata("a\"b, c")),
        NewEvent::json("D", &-1).unwrap().with_tags(Tags::new(["k:1", "k:2"]).unwrap()),
    ];
    factum.store().append(Append::to(stream.clone(), events)).await.unwrap();
    let trail = factum.audit_stream(&stream).await.unwrap();

    let lines = trail.json_lines();
    assert_eq!(lines.lines().count(), 4, "one line each: {lines}");
    assert!(lines.contains(r#""data":{"n": 10000000000000000000001.10,  "t": "a \"b\", c"}"#), "{lines}");
    let json: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&json[1]["data_hex"], &json[2]["data"]), (&"00ff".into(), &" plain,\r\ntext ".into()));
    assert_eq!((&json[1]["actor"], &json[1]["metadata"]["n"]), (&"=HYPERLINK(\"x\")".into(), &1.into()));
    assert_eq!((&json[3]["tags"][1], &json[3]["revision"]), (&"k:2".into(), &3.into()));
    assert_eq!((&json[0]["stream"], &json[0]["happened_at"]), (&(*stream).into(), &serde_json::Value::Null));

    let rows = cells(&trail.csv());
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0].join(","), factum::audit::csv_header());
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
    let column = |name: &str| rows[0].iter().position(|column| column == name).unwrap();
    let cell = |row: usize, name: &str| rows[row][column(name)].as_str();
    assert_eq!(
        (cell(1, "stream"), cell(1, "data")),
        (&*stream, std::str::from_utf8(&trail.entries[0].record.data).unwrap())
    );
    assert_eq!((cell(2, "data"), cell(2, "actor")), ("\\x00ff", "'=HYPERLINK(\"x\")"), "no formula");
    assert_eq!((cell(3, "data"), cell(3, "actor")), (" plain,\r\ntext ", "a\"b, c"));
    assert_eq!((cell(4, "data"), cell(4, "tags"), cell(4, "revision")), ("'-1", "k:1 k:2", "3"));
}
