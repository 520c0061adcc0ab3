//! Kafka: the client's own mock cluster, whose brokers go away; or the cluster of `FACTUM_TEST_KAFKA` (`host:port,host:port`).
#![cfg(feature = "kafka")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::{sync::Arc, time::Duration};

use factum::{Sink, Stuck, Trouble};
use factum_relay::{Kafka, Stamp};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use support::{
    log,
    mischief::Bug,
    record, relay, seed,
    storm::{Storm, Victim},
};

const PARTITIONS: i32 = 4;
/// A short one, on the mock.
const PATIENCE: Duration = Duration::from_secs(1);

type Mock = MockCluster<'static, DefaultProducerContext>;

/// What stands in for a cluster.
fn mock(topic: &str) -> Mock {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic(topic, PARTITIONS, 3).unwrap();
    cluster
}

fn received(brokers: &str, topic: &str) -> Vec<(Stamp, Vec<u8>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let partitions =
        consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap().topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap() {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut received, mut ended) = (Vec::new(), 0);
    while ended < partitions {
        match consumer.poll(Duration::from_secs(20)).expect("records, or their end") {
            Ok(record) => {
                let stamp = Kafka::stamp(&record).unwrap();
                assert_eq!(record.key(), Some(stamp.key.as_bytes()));
                received.push((stamp, record.payload().unwrap().to_vec()));
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => println!("{error}"),
        }
    }
    received
}

/// All brokers away, with answers that say that something is wrong before they are.
struct Brokers(Option<Mock>, usize);

impl Victim for Brokers {
    fn kill(&mut self) {
        let Some(cluster) = &self.0 else { return };
        let errors = [
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        ];
        cluster.request_errors(RDKafkaApiKey::Produce, &errors);
        for broker in 1..=3 {
            cluster.broker_down(broker).unwrap();
        }
    }

    async fn run(&mut self) {
        let Some(cluster) = &self.0 else { return };
        self.1 += 1;
        if self.1.is_multiple_of(2) {
            // Longer than the relay's patience: it gives up what is on its way.
            tokio::time::sleep(PATIENCE + PATIENCE / 2).await;
        }
        for broker in 1..=3 {
            cluster.broker_up(broker).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_brokers_go_away() {
    storm(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_the_runtime() {
    storm(true).await;
}

async fn storm(runtime: bool) {
    let given = std::env::var("FACTUM_TEST_KAFKA").ok();
    let topic = format!("factum-{}", factum::EventId::new());
    let (brokers, mut victims, name) = match given {
        Some(brokers) => (brokers, Brokers(None, 0), "the cluster of FACTUM_TEST_KAFKA, which nobody kills"),
        None => {
            let cluster = mock(&topic);
            (
                cluster.bootstrap_servers(),
                Brokers(Some(cluster), 0),
                "librdkafka's mock cluster (FACTUM_TEST_KAFKA names no other), gone 6 times",
            )
        }
    };
    let broker = Kafka::at(&brokers).topic(&topic).setting("reconnect.backoff.max.ms", "200").unwrap();
    let broker = Arc::new(broker.patience(if victims.0.is_some() { PATIENCE } else { 30 * PATIENCE }));
    let storm = Storm { seed: seed("kafka"), messages: 10_000, keys: 50, workers: 4, bug: Bug::seeded() };
    let published = match runtime {
        true => storm.run(broker, &mut victims, 6).await,
        false => storm.publish(broker, &mut victims, 6).await,
    };
    let how = if runtime { " under the runtime" } else { "" };
    published.check(&format!("kafka{how}, {name}"), &received(&brokers, &topic)).await;
}

#[tokio::test]
async fn what_will_never_be_taken_is_refused() {
    let cluster = mock("orders");
    let factum = log();
    let mut events = Vec::new();
    for (key, bytes) in [("a-1", 10), ("b-1", 10), ("a-1", 10), ("c-1", 3_000), ("a-1", 10)] {
        events.push(record(&factum, key, serde_json::json!("x".repeat(bytes))).await);
    }
    let kafka =
        Kafka::at(&cluster.bootstrap_servers()).topic("orders").setting("message.max.bytes", "2000").unwrap();
    let kafka = kafka.setting("batch.size", "2000").unwrap();
    let stuck = relay(&factum, kafka).accept(&events).await;
    let Err(Stuck { done: 3, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("message.max.bytes"), "{why}");

    // A broker that refuses a batch for its size refuses each that is in it, and what it refuses alone is at fault.
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    let again = relay(&factum, Kafka::at(&cluster.bootstrap_servers()).topic("orders"));
    again.accept(&events).await.unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    again.accept(&events[..1]).await.expect("it may have been in a batch with what other workers send");
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large, too_large]);
    let stuck = again.accept(&events[..1]).await;
    assert!(matches!(stuck, Err(Stuck { done: 0, trouble: Trouble::Refused(_) })), "{stuck:?}");
    again.accept(&events[..1]).await.unwrap();
}

/// What will be said again however often it is asked is the record's fault, unless others in its batch were to blame.
#[tokio::test]
async fn a_definite_no_is_not_waited_for() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
    };
    let factum = log();
    let mut events = Vec::new();
    for n in 0..3 {
        events.push(record(&factum, &format!("order-{n}"), serde_json::json!({ "n": n })).await);
    }
    let cluster = mock("orders");
    let orders = relay(&factum, Kafka::at(&cluster.bootstrap_servers()).topic("orders"));
    cluster.request_errors(RDKafkaApiKey::Produce, &[RD_KAFKA_RESP_ERR_INVALID_RECORD]);
    orders.accept(&events).await.unwrap();
    for (error, says) in [
        (RD_KAFKA_RESP_ERR_INVALID_RECORD, "invalid"),
        (RD_KAFKA_RESP_ERR_POLICY_VIOLATION, "policy"),
        (RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, "topic of that name"),
    ] {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error]);
        let stuck = orders.accept(&events[..1]).await;
        let Err(Stuck { done: 0, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
        assert!(why.contains(says) && !why.contains('\n'), "{why}");
    }
    cluster.request_errors(RDKafkaApiKey::Produce, &[RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let stuck = orders.accept(&events[..1]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("allow this client"), "permissions are set at the cluster: {why}");
    for name in ["", "..", "order 1", "orders/1", &"x".repeat(250)] {
        let kafka = Kafka::at(&cluster.bootstrap_servers()).topic(name);
        let stuck = relay(&factum, kafka).accept(&events).await;
        let Err(Stuck { done: 0, trouble: Trouble::Refused(why) }) = stuck else { panic!("{stuck:?}") };
        assert!(why.contains("a topic is"), "{why}");
    }
}

#[tokio::test]
async fn what_keeps_it_from_publishing_is_said_in_a_sentence() {
    let factum = log();
    let event = record(&factum, "order-1", serde_json::json!({ "n": 1 })).await;
    let nobody =
        Kafka::at(&format!("127.0.0.1:{}", support::free_port())).patience(Duration::from_millis(300));
    let stuck = relay(&factum, nobody).accept(std::slice::from_ref(&event)).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("Kafka at 127.0.0.1") && why.contains("did not confirm"), "{why}");

    for (name, value, says) in [
        ("acks", "1", "the relay's own"),
        ("enable.idempotence", "false", "the relay's own"),
        ("no.such.setting", "1", "no.such.setting"),
        ("linger.ms", "soon", "linger.ms"),
    ] {
        let refused = Kafka::at("h:1").setting(name, value).map(drop).unwrap_err().to_string();
        assert!(refused.contains(says) && !refused.contains('\n'), "{refused}");
    }
    let cluster = mock("orders");
    cluster.topic_error("gone", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let settings = Kafka::at(&cluster.bootstrap_servers())
        .topic("gone")
        .setting("topic.metadata.propagation.max.ms", "100");
    let stuck = relay(&factum, settings.unwrap()).accept(&[event]).await;
    let Err(Stuck { done: 0, trouble: Trouble::Infrastructure(why) }) = stuck else { panic!("{stuck:?}") };
    assert!(why.contains("no such topic"), "{why}");
}
