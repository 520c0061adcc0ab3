//! NATS JetStream, on a server that is killed.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy, StorageType, Stream},
};
use factum::{Sink, Stuck, Trouble};
use factum_relay::{JetStream, Stamp};
use support::{log, mischief::Bug, record, relay, seed, server::Server, storm::Storm};

fn url(server: &Server) -> String {
    format!("nats://127.0.0.1:{}", server.port())
}

/// Repeats are to be seen: the server drops them for a moment only.
fn settings(name: &str) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![name.to_owned()],
        storage: StorageType::File,
        duplicate_window: Duration::from_millis(100),
        ..Config::default()
    }
}

async fn stream(server: &Server, settings: Config) -> Stream {
    let client = async_nats::connect(url(server)).await.unwrap();
    jetstream::new(client).get_or_create_stream(settings).await.unwrap()
}

async fn received(server: &Server, name: &str) -> Vec<(Stamp, Vec<u8>)> {
    let mut stream = stream(server, settings(name)).await;
    let state = stream.info().await.unwrap().state.clone();
    let mut received = Vec::new();
    if state.messages > 0 {
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            received.push((JetStream::stamp(&message.headers).unwrap(), message.payload.to_vec()));
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_is_killed() {
    let mut server = Server::nats("").await;
    drop(stream(&server, settings("orders")).await);
    let broker = Arc::new(JetStream::at(&url(&server)).unwrap().subject("orders"));
    let storm = Storm { seed: seed("nats"), messages: 10_000, keys: 200, workers: 4, bug: Bug::seeded() };
    let published = storm.publish(broker, &mut server, 8).await;
    published.check("nats, killed 8 times", &received(&server, "orders").await).await;
    drop(stream(&server, settings("again")).await);
    let broker = Arc::new(JetStream::at(&url(&server)).unwrap().subject("again"));
    let published = storm.run(broker, &mut server, 8).await;
    published.check("nats under the runtime, killed 8 times", &received(&server, "again").await).await;
}

#[tokio::test]
async fn what_keeps_it_from_publishing_is_said_in_a_sentence() {
    for bad in ["", "http://host"] {
        let refused = JetStream::at(bad).map(drop).unwrap_err().to_string();
        assert!(refused.contains("nats://host:port"), "{refused}");
    }
    let server = Server::nats("authorization { user: app, password: secret }").await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let port = server.port();
    let said = |broker: JetStream| {
        let (factum, event) = (factum.clone(), event.clone());
        async move {
            let stuck = relay(&factum, broker).accept(&[event]).await;
            let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else {
                panic!("{stuck:?}")
            };
            assert!(!why.contains("secret") && !why.contains('\n'), "{why}");
            why
        }
    };
    let at = |url: String| JetStream::at(&url).unwrap();
    let none = said(at(format!("nats://127.0.0.1:{}", support::free_port()))).await;
    assert!(none.contains("refused"), "{none}");
    let wrong = said(at(format!("nats://app:secret1@127.0.0.1:{port}"))).await;
    assert!(wrong.contains("put user and password into the URL"), "{wrong}");
    let nowhere = said(at(format!("nats://app:secret@127.0.0.1:{port}")).subject("nowhere")).await;
    assert!(nowhere.contains("no stream of JetStream takes the subject"), "{nowhere}");
}

#[tokio::test]
async fn what_will_never_be_taken_is_refused_and_what_may_is_waited_for() {
    let server = Server::nats("max_payload: 100000").await;
    let small = Config { max_message_size: 2_000, ..settings("sizes") };
    drop(stream(&server, small).await);
    let factum = log();
    let mut events = Vec::new();
    for (key, bytes) in [("a-1", 10), ("b-1", 10), ("a-1", 10), ("c-1", 3_000), ("a-1", 10), ("d 1", 100_000)]
    {
        events.push(record(&factum, key, serde_json::json!("x".repeat(bytes))).await);
    }
    let sizes = relay(&factum, JetStream::at(&url(&server)).unwrap().subject("sizes"));
    let stuck = sizes.accept(&events).await;
    let Err(Stuck { done: 3, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("max_msg_size"), "{why}");
    let stuck = sizes.accept(&events[4..]).await;
    let Err(Stuck { done: 1, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("max_payload"), "{why}");
    let by_key =
        relay(&factum, JetStream::at(&url(&server)).unwrap().subject_by(|message| message.key.clone()));
    let stuck = by_key.accept(&events[5..]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("`d 1`"), "{why}");

    let full = Config { max_messages: 2, discard: DiscardPolicy::New, ..settings("full") };
    let stream = stream(&server, full).await;
    let relay = relay(&factum, JetStream::at(&url(&server)).unwrap().subject("full"));
    let stuck = relay.accept(&events[..3]).await;
    let Err(Stuck { done: 2, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("maximum messages exceeded"), "{why}");
    stream.purge().await.unwrap();
    relay.accept(&events[2..3]).await.unwrap();
}

/// A server hangs up at a subject that is too long for it, and a stream takes 64 KiB of headers.
#[tokio::test]
async fn a_definite_no_is_not_waited_for() {
    let server = Server::nats("max_control_line: 1024").await;
    let wide = Config { subjects: vec!["wide.>".to_owned()], ..settings("wide") };
    drop(stream(&server, wide).await);
    let factum = log();
    let mut events = Vec::new();
    for key in ["a-1", "b-1", "c-1", "a-1", "d-1"] {
        events.push(record(&factum, key, serde_json::json!({ "n": 1 })).await);
    }
    let broker = || JetStream::at(&url(&server)).unwrap().patience(Duration::from_secs(2));
    let long = |message: &factum_relay::Message| match message.key.as_str() {
        "c-1" => format!("wide.{}", "c".repeat(2_000)),
        key => format!("wide.{key}"),
    };
    let subjects = relay(&factum, broker().subject_by(long));
    let stuck = subjects.accept(&events).await;
    let Err(Stuck { done: 2, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.to_lowercase().contains("maximum control line"), "{why}");
    subjects.accept(&events[3..]).await.unwrap();

    let keys = relay(&factum, broker().subject("wide.keys")).keyed_by(|event| match event.stream.as_str() {
        "c-1" => "x".repeat(70_000),
        name => name.to_owned(),
    });
    let stuck = keys.accept(&events).await;
    let Err(Stuck { done: 2, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("64 KiB"), "{why}");
    keys.accept(&events[3..]).await.unwrap();
}

/// What a user may do is the operator's to say, and is said.
#[tokio::test]
async fn who_may_not_publish_is_told_so() {
    let permissions = "permissions: { publish: { deny: [\"orders\"] } }";
    let users = format!("authorization {{ users: [ {{ user: app, password: secret, {permissions} }} ] }}");
    let server = Server::nats(users.leak()).await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let url = format!("nats://app:secret@127.0.0.1:{}", server.port());
    let broker = JetStream::at(&url).unwrap().subject("orders").patience(Duration::from_millis(500));
    let stuck = relay(&factum, broker).accept(&[event]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.to_lowercase().contains("permissions violation"), "{why}");
}

/// A stream takes what two relays say of the same event, and what one relay says in two histories, for different messages.
#[tokio::test]
async fn two_relays_write_to_one_stream() {
    let server = Server::nats("").await;
    let patient = Config { duplicate_window: Duration::from_secs(60), ..settings("orders") };
    drop(stream(&server, patient).await);
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    for name in ["out", "audit", "out"] {
        let broker = JetStream::at(&url(&server)).unwrap().subject("orders");
        let relay = factum_relay::Relay::new(&factum, name, factum::Query::all(), broker);
        relay.accept(std::slice::from_ref(&event)).await.unwrap();
    }
    let names: Vec<String> =
        received(&server, "orders").await.into_iter().map(|(stamp, _)| stamp.relay).collect();
    assert_eq!(names, ["out", "audit"], "the server drops what it has, and nothing else");
}
