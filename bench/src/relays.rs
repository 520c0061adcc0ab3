//! What a relay costs: its messages beside a bare loop that publishes the same ones, on the same server, with as many on their way.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use factum::{Append, EventStore, MemoryReads, NewEvent, Query, StreamName, prelude::*};
use factum_log::LogStore;
use factum_relay::{Broker, JetStream, RedisStreams, Relay};

use crate::{
    Arguments,
    machine::{Machine, Scratch},
    measure::median,
    peer::{Failure, broken},
    report,
};

const EVENTS: usize = 40_000;
/// Of the one key, since each of its events waits for the one before.
const HOT: usize = 4_000;
/// What the relay sends together: in a transaction of Redis, in a wave to NATS.
const TRANSACTION: usize = 256;
const WAVE: usize = 512;
const ROUNDS: usize = 5;
const WORKERS: u32 = 4;

/// Measures all of it, and prints it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let beside = std::env::current_exe().map_err(broken)?.with_file_name("bench-data");
    let scratch = Scratch::make(arguments.dir.as_deref().unwrap_or(&beside))?;
    scratch.remove_on_interrupt()?;
    let machine = Machine::look(scratch.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(broken)?;
    let figures = runtime.block_on(measure(scratch.path()))?;
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let text = serde_json::json!({ "when": when, "machine": machine, "rounds": ROUNDS, "figures": figures });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/relays.json");
    fs::write(&path, serde_json::to_string_pretty(&text).map_err(broken)?).map_err(broken)
}

async fn measure(directory: &Path) -> Result<Vec<serde_json::Value>, Failure> {
    let wide = log(directory.join("wide"), EVENTS, 10_000).await?;
    let hot = log(directory.join("hot"), HOT, 1).await?;
    let mut figures = Vec::new();
    for (name, sync) in [("Redis, nothing on its disk", "no"), ("Redis, synced before it answers", "yes")] {
        let Some(server) = redis_server(directory, sync)? else { break };
        let url = format!("redis://127.0.0.1:{}", server.port);
        let client = redis::Client::open(url.as_str()).map_err(broken)?;
        for workers in [1, WORKERS] {
            let (mut bare, mut relayed) = (Vec::new(), Vec::new());
            for _ in 0..=ROUNDS {
                empty(&client).await?;
                bare.push(bare_redis(&client, workers).await?);
                empty(&client).await?;
                relayed.push(relay(&wide, EVENTS, RedisStreams::at(&url).map_err(broken)?, workers).await?);
            }
            figures.extend(figure(&format!("{name}, {workers} × {TRANSACTION} on their way"), bare, relayed));
        }
    }
    if let Some(server) = nats_server(directory)? {
        let url = format!("nats://127.0.0.1:{}", server.port);
        let context = jetstream::new(async_nats::connect(&url).await.map_err(broken)?);
        let (mut bare, mut relayed) = (Vec::new(), Vec::new());
        let (mut bare_hot, mut relayed_hot) = (Vec::new(), Vec::new());
        for _ in 0..=ROUNDS {
            let broker = || JetStream::at(&url).map_err(broken);
            emptied(&context).await?;
            bare.push(bare_nats(&context, EVENTS, WAVE).await?);
            emptied(&context).await?;
            relayed.push(relay(&wide, EVENTS, broker()?, 1).await?);
            emptied(&context).await?;
            bare_hot.push(bare_nats(&context, HOT, 1).await?);
            emptied(&context).await?;
            relayed_hot.push(relay(&hot, HOT, broker()?, 1).await?);
        }
        figures.extend(figure(&format!("NATS, {WAVE} on their way, of as many keys"), bare, relayed));
        figures.extend(figure("NATS, one on its way: a single hot key", bare_hot, relayed_hot));
    }
    Ok(figures)
}

/// Prints two rates and their ratio, and gives them for the file. The first round warms up.
fn figure(what: &str, bare: Vec<f64>, relayed: Vec<f64>) -> Vec<serde_json::Value> {
    let (bare, relayed) = (bare[1..].to_vec(), relayed[1..].to_vec());
    let ratio = relayed.iter().zip(&bare).map(|(relayed, bare)| relayed / bare).collect();
    println!("{what}");
    let mut figures = Vec::new();
    for (name, values) in
        [("a bare loop, messages/s", bare), ("the relay, messages/s", relayed), ("  of the bare loop", ratio)]
    {
        let value = median(values.clone()).unwrap_or(f64::NAN);
        let shown = if value < 100.0 { format!("{value:.2}") } else { report::number(value) };
        println!("  {name:32} {shown:>9}");
        figures.push(serde_json::json!({ "what": what, "of": name, "median": value, "rounds": values }));
    }
    figures
}

/// A log of so many events, in so many streams in turn.
async fn log(directory: PathBuf, events: usize, streams: usize) -> Result<Factum, Failure> {
    let store = LogStore::open(directory).map_err(broken)?;
    for first in (0..events).step_by(500) {
        let mut append = Append::new();
        for n in first..events.min(first + 500) {
            let stream = StreamName::new(format!("order-{}", n % streams)).map_err(broken)?;
            let event = NewEvent::json("Placed", &data(n)).map_err(broken)?;
            append = append.write(stream, [event]);
        }
        store.append(append).await.map_err(broken)?;
    }
    Ok(Factum::new(store))
}

fn data(n: usize) -> serde_json::Value {
    serde_json::json!({ "cents": 10, "reference": format!("invoice {n}"), "text": "x".repeat(180) })
}

async fn relay(log: &Factum, events: usize, broker: impl Broker, workers: u32) -> Result<f64, Failure> {
    let to = log.store().head().await.map_err(broken)?.token;
    let reads = Arc::new(MemoryReads::new());
    let begun = Instant::now();
    let relay = Relay::new(log, "out", Query::category("order"), broker);
    let relay = log.sink(relay).partitions(workers).start(reads).await.map_err(broken)?;
    relay.wait_for_within(to, Duration::from_secs(300)).await.map_err(broken)?;
    let rate = events as f64 / begun.elapsed().as_secs_f64();
    relay.stop().await;
    Ok(rate)
}

/// What a message has beside its data, as the relay says it.
fn attributes(n: usize) -> Vec<(&'static str, String)> {
    vec![
        ("specversion", "1.0".to_owned()),
        ("id", format!("019ab4c5-1111-7000-8000-000000000000:{n}")),
        ("source", "urn:uuid:019ab4c5-1111-7000-8000-000000000000".to_owned()),
        ("type", "Placed".to_owned()),
        ("subject", format!("order-{}", n % 10_000)),
        ("time", "2026-11-21T12:00:00.000001Z".to_owned()),
        ("partitionkey", format!("order-{}", n % 10_000)),
        ("revision", "3".to_owned()),
        ("eventid", "019ab4c5-2222-7000-8000-000000000000".to_owned()),
        ("epoch", "1".to_owned()),
        ("relay", "out".to_owned()),
    ]
}

async fn bare_redis(client: &redis::Client, workers: u32) -> Result<f64, Failure> {
    let begun = Instant::now();
    let mut loops = Vec::new();
    for worker in 0..workers as usize {
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&patient).await;
        let mut connection = connecting.map_err(broken)?;
        let share = EVENTS / workers as usize;
        loops.push(tokio::spawn(async move {
            for first in (worker * share..(worker + 1) * share).step_by(TRANSACTION) {
                let mut pipeline = redis::pipe();
                pipeline.atomic();
                for n in first..((worker + 1) * share).min(first + TRANSACTION) {
                    pipeline.cmd("XADD").arg("events").arg("*");
                    for (name, value) in attributes(n) {
                        pipeline.arg(format!("ce_{name}")).arg(value);
                    }
                    pipeline.arg("content-type").arg("application/json");
                    pipeline.arg("data").arg(data(n).to_string()).ignore();
                }
                pipeline.query_async::<()>(&mut connection).await?;
            }
            redis::RedisResult::Ok(())
        }));
    }
    for done in loops {
        done.await.map_err(broken)?.map_err(broken)?;
    }
    Ok(EVENTS as f64 / begun.elapsed().as_secs_f64())
}

/// Sees that everything is there from the measurement before, and removes it.
async fn empty(client: &redis::Client) -> Result<(), Failure> {
    let mut connection = client.get_multiplexed_async_connection().await.map_err(broken)?;
    let there: usize = redis::cmd("XLEN").arg("events").query_async(&mut connection).await.map_err(broken)?;
    complete(there, EVENTS)?;
    redis::cmd("DEL").arg("events").query_async(&mut connection).await.map_err(broken)
}

async fn bare_nats(context: &jetstream::Context, events: usize, wave: usize) -> Result<f64, Failure> {
    let begun = Instant::now();
    for first in (0..events).step_by(wave) {
        let mut acks = Vec::with_capacity(wave);
        for n in first..events.min(first + wave) {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("out:019ab4c5-1111-7000-8000-000000000000:1:{n}"));
            headers.insert("content-type", "application/json");
            for (name, value) in attributes(n) {
                headers.insert(format!("ce-{name}"), value);
            }
            let data = data(n).to_string();
            acks.push(context.publish_with_headers("events", headers, data.into()).await.map_err(broken)?);
        }
        for ack in acks {
            ack.await.map_err(broken)?;
        }
    }
    Ok(events as f64 / begun.elapsed().as_secs_f64())
}

/// Sees that everything is there from the measurement before, and makes the stream anew.
async fn emptied(context: &jetstream::Context) -> Result<(), Failure> {
    if let Ok(mut stream) = context.get_stream("events").await {
        let there = stream.info().await.map_err(broken)?.state.messages as usize;
        if there != HOT {
            complete(there, EVENTS)?;
        }
        context.delete_stream("events").await.map_err(broken)?;
    }
    let config = jetstream::stream::Config {
        name: "events".to_owned(),
        subjects: vec!["events".to_owned()],
        ..Default::default()
    };
    context.create_stream(config).await.map(drop).map_err(broken)
}

fn complete(there: usize, expected: usize) -> Result<(), Failure> {
    if there != 0 && there != expected {
        return Err(broken(format!("{there} messages are there, not {expected}")));
    }
    Ok(())
}

/// A private server, killed when it is dropped.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn redis_server(directory: &Path, sync: &str) -> Result<Option<Server>, Failure> {
    let policy = if sync == "yes" { "always" } else { "no" };
    let data = directory.join(format!("redis-{sync}"));
    fs::create_dir(&data).map_err(broken)?;
    server("FACTUM_TEST_REDIS", "redis-server", |command, port| {
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(&data);
        command.args(["--appendonly", sync, "--appendfsync", policy]);
    })
}

fn nats_server(directory: &Path) -> Result<Option<Server>, Failure> {
    let store = directory.join("nats");
    server("FACTUM_TEST_NATS", "nats-server", |command, port| {
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(&store);
    })
}

/// Starts a server on a free port, unless its program is not here; then says so.
fn server(
    variable: &str,
    name: &str,
    settings: impl Fn(&mut Command, u16),
) -> Result<Option<Server>, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = places.map(|place| place.join(name)).find(|program| program.exists());
    let Some(program) = std::env::var_os(variable).map(PathBuf::from).or(found) else {
        println!("{name} is not installed, nor named by {variable}: left out");
        return Ok(None);
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(broken)?;
    let port = listener.local_addr().map_err(broken)?.port();
    drop(listener);
    let mut command = Command::new(program);
    settings(&mut command, port);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Server { process: command.spawn().map_err(broken)?, port };
    for _ in 0..400 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(Some(server));
        }
        if let Ok(Some(status)) = server.process.try_wait() {
            return Err(broken(format!("{name} ended as it started ({status})")));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Err(broken(format!("{name} did not start within 10 s")))
}
