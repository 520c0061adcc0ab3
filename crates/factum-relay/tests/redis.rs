//! Redis Streams, on a server that is killed.
#![cfg(feature = "redis")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use factum::{Sink, Stuck, Trouble};
use factum_relay::{RedisStreams, Stamp};
use redis::{AsyncCommands, aio::MultiplexedConnection, streams::StreamRangeReply};
#[cfg(feature = "tls")]
use support::tls;
use support::{log, mischief::Bug, record, relay, seed, server::Server, storm::Storm, which};
use tokio::net::{TcpListener, TcpStream};

async fn client(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(url(server)).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

async fn received(server: &Server, stream: &str) -> Vec<(Stamp, Vec<u8>)> {
    let entries: StreamRangeReply = client(server).await.xrange_all(stream).await.unwrap();
    let message =
        |entry: &redis::streams::StreamId| (RedisStreams::stamp(entry).unwrap(), entry.get("data").unwrap());
    entries.ids.iter().map(message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_is_killed() {
    let mut server = Server::redis(&[]).await;
    let broker = Arc::new(RedisStreams::at(&url(&server)).unwrap().stream("orders"));
    let storm = Storm { seed: seed("redis"), messages: 30_000, keys: 50, workers: 4, bug: Bug::seeded() };
    let published = storm.publish(broker, &mut server, 8).await;
    published.check("redis, killed 8 times", &received(&server, "orders").await).await;
    let broker = Arc::new(RedisStreams::at(&url(&server)).unwrap().stream("again"));
    let published = storm.run(broker, &mut server, 8).await;
    published.check("redis under the runtime, killed 8 times", &received(&server, "again").await).await;
}

#[tokio::test]
async fn an_entry_says_all_that_the_event_does() {
    let server = Server::redis(&[]).await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let broker = RedisStreams::at(&url(&server))
        .unwrap()
        .stream_by(|message| format!("{}:{}", message.relay, message.part_of(1)));
    relay(&factum, broker).accept(std::slice::from_ref(&event)).await.unwrap();
    let entries: StreamRangeReply = client(&server).await.xrange_all("out:0").await.unwrap();
    let field = |name: &str| entries.ids[0].get::<String>(name).unwrap();
    assert_eq!(field("data"), r#"{"n":1}"#);
    assert_eq!((field("ce_type"), field("ce_subject")), ("Placed".to_owned(), "order-1".to_owned()));
    assert_eq!(
        (field("ce_eventid"), field("content-type")),
        (event.id.to_string(), "application/json".to_owned())
    );
    let log = factum.store().head().await.unwrap().token.log;
    assert_eq!(field("ce_id"), format!("{}:{}", log.log_id, event.position));
}

#[tokio::test]
async fn what_keeps_it_from_publishing_is_said_in_a_sentence() {
    for bad in ["", "http://host", "redis://"] {
        let refused = RedisStreams::at(bad).map(drop).unwrap_err().to_string();
        assert!(refused.contains("redis://host:port"), "{refused}");
    }
    let server = Server::redis(&["--requirepass", "secret", "--proto-max-bulk-len", "1mb"]).await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let port = server.port();
    let said = |broker: RedisStreams| {
        let (factum, event) = (factum.clone(), event.clone());
        async move {
            let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) =
                relay(&factum, broker).accept(&[event]).await
            else {
                panic!("it must wait")
            };
            assert!(!why.contains("secret") && !why.contains('\n'), "{why}");
            why
        }
    };
    let at = |url: String| RedisStreams::at(&url).unwrap();
    let none = said(at(format!("redis://127.0.0.1:{}", support::free_port()))).await;
    assert!(none.contains("refused"), "{none}");
    let stranger = said(at(format!("redis://127.0.0.1:{port}"))).await;
    assert!(stranger.contains("put user and password into the URL"), "{stranger}");
    let wrong = said(at(format!("redis://:secret1@127.0.0.1:{port}"))).await;
    assert!(wrong.contains("put user and password into the URL"), "{wrong}");

    let right = format!("redis://:secret@127.0.0.1:{port}");
    let mut client =
        redis::Client::open(right.as_str()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let () = client.set("taken", "by another").await.unwrap();
    let taken = said(at(right.clone()).stream("taken")).await;
    assert!(taken.contains("no stream"), "{taken}");
    let alone = said(at(right.clone()).replicas(1).patience(Duration::from_millis(50))).await;
    assert!(alone.contains("0 of 1 replicas"), "{alone}");
    let () =
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut client).await.unwrap();
    let full = said(at(right.clone())).await;
    assert!(full.contains("memory"), "{full}");
    let () =
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut client).await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_nothing_else() {
    let server = Server::redis(&["--proto-max-bulk-len", "1mb"]).await;
    let factum = log();
    let mut events = Vec::new();
    for (key, bytes) in [("a-1", 10), ("b-1", 10), ("a-1", 10), ("c-1", (1 << 20) - 60), ("a-1", 10)] {
        events.push(record(&factum, key, serde_json::json!("x".repeat(bytes))).await);
    }
    let large = &mut events[3];
    let (mut bytes, more) = (large.data.to_vec(), vec![b'x'; 1_000]);
    bytes.splice(1..1, more);
    large.data = bytes.into();
    let relay = relay(&factum, RedisStreams::at(&url(&server)).unwrap().stream("orders"));
    let stuck = relay.accept(&events).await;
    let Err(Stuck { done: 3, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("proto-max-bulk-len"), "{why}");
    relay.accept(&events[4..]).await.unwrap();
    assert_eq!(which(&events, &received(&server, "orders").await), [0, 1, 2, 4]);
}

/// A name that leads new connections from now on to another server, as after a failover.
async fn name_for(port: u16) -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (name, leads_to) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU16::new(port)));
    let port = Arc::clone(&leads_to);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", port.load(Ordering::Relaxed))).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (name, leads_to)
}

#[tokio::test]
async fn a_primary_that_is_none_any_more_is_left() {
    let (old, new) = (Server::redis(&[]).await, Server::redis(&[]).await);
    let (name, leads_to) = name_for(old.port()).await;
    let factum = log();
    let mut events = Vec::new();
    for n in 0..3 {
        events.push(record(&factum, "order-1", serde_json::json!({ "n": n })).await);
    }
    let redis = relay(&factum, RedisStreams::at(&format!("redis://127.0.0.1:{name}")).unwrap());
    redis.accept(&events[..1]).await.unwrap();
    let () = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(new.port())
        .query_async(&mut client(&old).await)
        .await
        .unwrap();
    leads_to.store(new.port(), Ordering::Relaxed);
    let stuck = redis.accept(&events[1..]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("read only replica"), "{why}");
    redis.accept(&events[1..]).await.unwrap();
    assert_eq!(which(&events, &received(&new, "events").await), [1, 2]);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_servers_certificate_must_be_trusted() {
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    if let Some(url) = tls::trusted() {
        relay(&factum, RedisStreams::at(&url).unwrap()).accept(&[event]).await.unwrap();
        return;
    }
    let (papers, port) = (tls::Papers::new(), support::free_port());
    let file = |name| papers.file(name).display().to_string();
    let (tls_port, certificate, key, authority) =
        (port.to_string(), file("certificate"), file("key"), file("authority"));
    let server = Server::redis(&[
        "--tls-port",
        &tls_port,
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ])
    .await;
    let url = format!("rediss://localhost:{port}");
    let stuck = relay(&factum, RedisStreams::at(&url).unwrap()).accept(&[event]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("certificate"), "{why}");
    papers.run_again("the_servers_certificate_must_be_trusted", &url);
    assert_eq!(received(&server, "events").await.len(), 1);
}

/// A test that is killed leaves no server behind.
#[tokio::test]
async fn a_server_ends_with_the_test_that_started_it() {
    const CHILD: &str = "FACTUM_TEST_KILLED";
    if std::env::var_os(CHILD).is_some() {
        let server = Server::redis(&[]).await;
        println!("port {}", server.port());
        std::future::pending::<()>().await;
    }
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "a_server_ends_with_the_test_that_started_it", "--nocapture"]).env(CHILD, "1");
    let mut test = test.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let said = std::io::BufReader::new(test.stdout.take().unwrap());
    let mut ports = std::io::BufRead::lines(said).map_while(Result::ok);
    let port: u16 = ports
        .find_map(|line| line.rsplit_once("port ").and_then(|(_, port)| port.parse().ok()))
        .expect("a server was started");
    test.kill().unwrap();
    test.wait().unwrap();
    let gone = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the server is there still");
}
