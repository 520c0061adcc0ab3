//! RabbitMQ, on a server that is killed.
#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{sync::Arc, time::Duration};

use factum::{Sink, Stuck, Trouble};
use factum_relay::{RabbitMq, Stamp};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use support::{log, mischief::Bug, record, relay, seed, server::Server, storm::Storm, tls, which};

fn url(server: &Server) -> String {
    format!("amqp://127.0.0.1:{}/%2f", server.port())
}

async fn client(server: &Server) -> (Connection, Channel) {
    let connection = Connection::connect(&url(server), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn declare(server: &Server, queue: &str, arguments: FieldTable) {
    let (_connection, channel) = client(server).await;
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

async fn received(server: &Server, queue: &str) -> Vec<(Stamp, Vec<u8>)> {
    let (_connection, channel) = client(server).await;
    let mut received = Vec::new();
    while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        received.push((RabbitMq::stamp(&got.delivery.properties).unwrap(), got.delivery.data));
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_is_killed() {
    let mut server = Server::rabbitmq("").await;
    declare(&server, "orders", FieldTable::default()).await;
    let broker = Arc::new(RabbitMq::at(&url(&server)).unwrap().queue("orders"));
    let storm = Storm { seed: seed("rabbitmq"), messages: 6_000, keys: 200, workers: 4, bug: Bug::seeded() };
    let published = storm.publish(broker, &mut server, 2).await;
    published.check("rabbitmq, killed 2 times", &received(&server, "orders").await).await;
    let broker = Arc::new(RabbitMq::at(&url(&server)).unwrap().queue("again"));
    declare(&server, "again", FieldTable::default()).await;
    let published = storm.run(broker, &mut server, 3).await;
    published.check("rabbitmq under the runtime, killed 3 times", &received(&server, "again").await).await;
}

/// Of messages that are sent together, some come back and some are confirmed. The client does not tell which.
async fn what_comes_back_is_told_from_what_does_not(server: &Server) {
    declare(server, "a-1", FieldTable::default()).await;
    declare(server, "c-1", FieldTable::default()).await;
    let factum = log();
    let mut events = Vec::new();
    for key in ["a-1", "b-1", "c-1", "b-1", "d-1", "a-1"] {
        events.push(record(&factum, key, serde_json::json!({ "n": 1 })).await);
    }
    let broker = RabbitMq::at(&url(server)).unwrap().queue("").routing_key_by(|message| message.key.clone());
    let relay = relay(&factum, broker);
    for _ in 0..20 {
        let Err(Stuck { done: 1, trouble: Trouble::Infrastructure(why) }) = relay.accept(&events).await
        else {
            panic!("the second must wait for its queue")
        };
        assert!(why.contains("no queue `b-1`"), "{why}");
    }
    declare(server, "b-1", FieldTable::default()).await;
    // The fifth has no queue, and the fourth was not begun: it is of the second's key.
    let stuck = relay.accept(&events[1..]).await;
    assert!(matches!(stuck, Err(Stuck { done: 2, .. })), "{stuck:?}");
    declare(server, "d-1", FieldTable::default()).await;
    relay.accept(&events[3..]).await.unwrap();
    for (queue, expected) in [("b-1", vec![1, 3]), ("d-1", vec![4]), ("a-1", vec![0, 5])] {
        assert_eq!(which(&events, &received(server, queue).await), expected, "{queue}");
    }
}

async fn a_full_queue_is_waited_for(server: &Server) {
    let mut limited = FieldTable::default();
    limited.insert("x-max-length".into(), AMQPValue::LongInt(2));
    limited.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    declare(server, "small", limited).await;
    let factum = log();
    let mut events = Vec::new();
    for n in 0..5 {
        events.push(record(&factum, "order-1", serde_json::json!({ "n": n })).await);
    }
    let relay = relay(&factum, RabbitMq::at(&url(server)).unwrap().queue("small"));
    let (mut done, mut taken) = (0, Vec::new());
    while done < events.len() {
        if let Err(Stuck { done: more, trouble }) = relay.accept(&events[done..]).await {
            assert!(trouble.is_infrastructure() && trouble.to_string().contains("full"), "{trouble}");
            done += more;
        } else {
            done = events.len();
        }
        taken.extend(which(&events, &received(server, "small").await));
    }
    assert_eq!(taken, [0, 1, 2, 3, 4], "what is refused for want of room is neither lost nor overtaken");
}

async fn what_is_too_large_is_refused_and_nothing_else(server: &Server) {
    declare(server, "sizes", FieldTable::default()).await;
    let factum = log();
    let mut events = Vec::new();
    for (key, bytes) in [("a-1", 10), ("b-1", 10), ("a-1", 10), ("c-1", 70_000), ("a-1", 10), ("d-1", 10)] {
        events.push(record(&factum, key, serde_json::json!("x".repeat(bytes))).await);
    }
    let relay = relay(&factum, RabbitMq::at(&url(server)).unwrap().queue("sizes"));
    let stuck = relay.accept(&events).await;
    let Err(Stuck { done: 3, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("message size"), "{why}");
    relay.accept(&events[4..]).await.unwrap();
    let mut taken = which(&events, &received(server, "sizes").await);
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 4, 5]);
}

async fn what_one_message_may_not_is_not_waited_for(server: &Server) {
    declare(server, "sizes", FieldTable::default()).await;
    let factum = log();
    let mut events = Vec::new();
    for key in ["a-1", "b-1", "c-1", "a-1", "d-1"] {
        events.push(record(&factum, key, serde_json::json!({ "n": 1 })).await);
    }
    // A header that no frame has room for; the client would neither send it nor anything after it.
    let wide = |bytes: usize| {
        let to_sizes = RabbitMq::at(&url(server)).unwrap().queue("sizes").patience(Duration::from_secs(2));
        relay(&factum, to_sizes).keyed_by(move |event| match event.stream.as_str() {
            "c-1" => "x".repeat(bytes),
            name => name.to_owned(),
        })
    };
    let stuck = wide(200_000).accept(&events).await;
    let Err(Stuck { done: 2, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("frame_max"), "{why}");
    wide(200_000).accept(&events[3..]).await.unwrap();
    received(server, "sizes").await;
    // What is found too large is too large, and what is not is not.
    let (mut fits, mut does_not) = (130_500, 131_072);
    while fits + 1 < does_not {
        let bytes = usize::midpoint(fits, does_not);
        match wide(bytes).accept(&events[2..3]).await {
            Ok(()) => fits = bytes,
            Err(stuck) => {
                assert!(matches!(stuck.trouble, Trouble::Refused(_)), "{bytes}: {stuck:?}");
                does_not = bytes;
            }
        }
    }

    let (_connection, channel) = client(server).await;
    channel
        .queue_bind("sizes".into(), "amq.topic".into(), "#".into(), Default::default(), FieldTable::default())
        .await
        .unwrap();
    server.control(&["set_topic_permissions", "guest", "amq.topic", "^[abd]", ".*"]);
    received(server, "sizes").await;
    let topics = RabbitMq::at(&url(server))
        .unwrap()
        .exchange("amq.topic")
        .routing_key_by(|message| message.key.clone());
    let topics = relay(&factum, topics);
    let stuck = topics.accept(&events).await;
    let Err(Stuck { done: 2, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("access to topic 'c-1'"), "{why}");
    topics.accept(&events[3..]).await.unwrap();
    let mut taken = which(&events, &received(server, "sizes").await);
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 3, 4]);
}

async fn a_message_says_all_that_the_event_does(server: &Server) {
    let (_connection, channel) = client(server).await;
    declare(server, "one", FieldTable::default()).await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let broker = RabbitMq::at(&url(server)).unwrap().queue("one");
    relay(&factum, broker).accept(std::slice::from_ref(&event)).await.unwrap();
    let got =
        channel.basic_get("one".into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap().delivery;
    let (stamp, properties) = (RabbitMq::stamp(&got.properties).unwrap(), &got.properties);
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), stamp.id.to_string());
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "Placed");
    assert_eq!((*properties.delivery_mode(), got.data), (Some(2), event.data.to_vec()));
}

async fn what_keeps_it_from_publishing_is_said_in_a_sentence(server: &Server) {
    for bad in ["", "http://host", "amqp://host:x"] {
        let refused = RabbitMq::at(bad).map(drop).unwrap_err().to_string();
        assert!(refused.contains("amqp://host:port/vhost"), "{refused}");
    }
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let said = |broker: RabbitMq| {
        let (factum, event) = (factum.clone(), event.clone());
        async move {
            let stuck = relay(&factum, broker.patience(Duration::from_secs(10))).accept(&[event]).await;
            let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else {
                panic!("{stuck:?}")
            };
            assert!(!why.contains("secret") && !why.contains('\n'), "{why}");
            why
        }
    };
    let at = |url: String| RabbitMq::at(&url).unwrap();
    let port = server.port();
    let none = said(at(format!("amqp://127.0.0.1:{}", support::free_port()))).await;
    assert!(none.contains("refused"), "{none}");
    let stranger = said(at(format!("amqp://u:secret@127.0.0.1:{port}"))).await;
    assert!(stranger.contains("user, password and vhost"), "{stranger}");
    let vhost = said(at(format!("amqp://127.0.0.1:{port}/nowhere"))).await;
    assert!(vhost.contains("nowhere"), "{vhost}");
    let exchange = said(at(url(server)).exchange("nothing")).await;
    assert!(exchange.contains("no exchange 'nothing'") && exchange.contains("declare it"), "{exchange}");
    let unbound = said(at(url(server)).exchange("amq.topic")).await;
    assert!(unbound.contains("`Placed`") && unbound.contains("bind one"), "{unbound}");
    let relay = relay(&factum, at(url(server)).exchange("amq.topic").routing_key_by(|_| "x".repeat(256)));
    let stuck = relay.accept(&[event]).await;
    assert!(
        matches!(&stuck, Err(Stuck { done: 0, trouble: Trouble::Refused(why) }) if why.contains("255")),
        "{stuck:?}"
    );
}

#[cfg(feature = "tls")]
async fn the_servers_certificate_must_be_trusted(server: &Server, papers: &tls::Papers, port: u16) {
    declare(server, "events", FieldTable::default()).await;
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let url = format!("amqps://localhost:{port}/%2f");
    let stuck = relay(&factum, RabbitMq::at(&url).unwrap()).accept(&[event]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("certificate"), "{why}");
    papers.run_again("what_the_server_does_not_take_is_told_apart", &url);
    assert_eq!(received(server, "events").await.len(), 1);
}

/// One after the other on one server, which takes seconds to start.
#[tokio::test]
async fn what_the_server_does_not_take_is_told_apart() {
    if let Some(url) = tls::trusted() {
        let factum = log();
        let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
        relay(&factum, RabbitMq::at(&url).unwrap()).accept(&[event]).await.unwrap();
        return;
    }
    let (papers, port) = (tls::Papers::new(), support::free_port());
    let mut settings = format!("max_message_size = 65536\nlisteners.ssl.1 = 127.0.0.1:{port}\n");
    for (option, name) in [("cacertfile", "authority"), ("certfile", "certificate"), ("keyfile", "key")] {
        settings += &format!("ssl_options.{option} = {}\n", papers.file(name).display());
    }
    let server = Server::rabbitmq(&settings).await;
    #[cfg(feature = "tls")]
    the_servers_certificate_must_be_trusted(&server, &papers, port).await;
    what_comes_back_is_told_from_what_does_not(&server).await;
    a_full_queue_is_waited_for(&server).await;
    what_is_too_large_is_refused_and_nothing_else(&server).await;
    a_message_says_all_that_the_event_does(&server).await;
    what_keeps_it_from_publishing_is_said_in_a_sentence(&server).await;
    what_one_message_may_not_is_not_waited_for(&server).await;
}
