//! Answers that are lost: between a store and its server stands somebody who reads along, and cuts the connection when a commit has
//! been sent and its answer has not arrived. Each event is there once, and where its writer was told.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use factum::{
    Append, EventId, EventStore, ExpectedRevision, NewEvent, Placed, Position, Revision, StreamName,
};
use factum_postgres::{Options, PostgresStore, Writing};
use serde_json::json;
use support::{bench::Bench, proof};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The commit is not passed on: nothing has happened.
    BeforeTheCommit,
    /// It is passed on, and whether the server reads it before it notices is up to the machine.
    WithTheCommit,
    /// The server has answered that it is done, and that is not passed on.
    BeforeTheAnswer,
    /// So many bytes of the answer are passed on.
    WithinTheAnswer(usize),
    /// The answer to the commit is passed on, but not that all readers see it.
    AfterTheAnswer,
}

/// Who stands between.
struct Middleman {
    server: SocketAddr,
    /// Stores have been opened.
    armed: AtomicBool,
    /// Cut so many connections; then pass everything on.
    wanted: u64,
    cuts: AtomicU64,
    kinds: [AtomicU64; 5],
}

impl Middleman {
    /// What to do at a commit.
    fn decide(&self) -> Option<Cut> {
        let enough = self.cuts.load(Ordering::Relaxed) >= self.wanted;
        if enough || !self.armed.load(Ordering::Relaxed) || fastrand::u8(0..5) < 2 {
            return None;
        }
        let cuts = [
            Cut::BeforeTheCommit,
            Cut::WithTheCommit,
            Cut::BeforeTheAnswer,
            Cut::WithinTheAnswer(fastrand::usize(1..12)),
            Cut::AfterTheAnswer,
        ];
        // Where nothing has happened, nothing is to be lost: seldom.
        let n = if fastrand::u8(0..10) == 0 { 0 } else { fastrand::usize(1..5) };
        self.kinds[n].fetch_add(1, Ordering::Relaxed);
        if n > 0 {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
        Some(cuts[n])
    }

    async fn serve(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (mut from_client, mut from_server) = (BufReader::new(from_client), BufReader::new(from_server));
        let (mut to_client, mut to_server) = (to_client, to_server);
        let greeted = greet(&mut from_client, &mut from_server, &mut to_client, &mut to_server).await;
        if greeted.is_none() {
            return;
        }
        let (tell, told) = mpsc::unbounded_channel();
        // Whoever ends first ends both: the connection is cut.
        tokio::select! {
            _ = self.pass_on(from_client, to_server, tell) => {}
            _ = pass_back(from_server, to_client, told) => {}
        }
    }

    /// From the client to the server.
    async fn pass_on(
        &self,
        mut from: BufReader<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
        tell: mpsc::UnboundedSender<Cut>,
    ) -> Option<()> {
        loop {
            let message = message(&mut from).await?;
            if message[0] == b'Q' && message[5..].starts_with(b"COMMIT") {
                match self.decide() {
                    Some(Cut::BeforeTheCommit) => return None,
                    Some(Cut::WithTheCommit) => {
                        to.write_all(&message).await.ok()?;
                        return None;
                    }
                    Some(cut) => tell.send(cut).ok()?,
                    None => {}
                }
            }
            to.write_all(&message).await.ok()?;
        }
    }
}

/// From the server to the client.
async fn pass_back(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    mut told: mpsc::UnboundedReceiver<Cut>,
) -> Option<()> {
    let mut cut = None;
    loop {
        let message = message(&mut from).await?;
        // It is told before the server is.
        cut = cut.or(told.try_recv().ok());
        let passed = match cut {
            Some(cut) if message[0] == b'C' && message[5..].starts_with(b"COMMIT") => match cut {
                Cut::WithinTheAnswer(bytes) => &message[..bytes],
                Cut::AfterTheAnswer => &message,
                _ => &[],
            },
            _ => &message,
        };
        to.write_all(passed).await.ok()?;
        if passed.len() < message.len()
            || cut == Some(Cut::AfterTheAnswer) && message[5..].starts_with(b"COMMIT")
        {
            return None;
        }
    }
}

/// The first words, which have no kind: a wish for encryption, and who is there.
async fn greet(
    from_client: &mut (impl AsyncRead + Unpin),
    from_server: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    to_server: &mut (impl AsyncWrite + Unpin),
) -> Option<()> {
    const SSL: u32 = 80_877_103;
    loop {
        let bytes = from_client.read_u32().await.ok()?;
        let mut rest = vec![0; bytes as usize - 4];
        from_client.read_exact(&mut rest).await.ok()?;
        to_server.write_all(&[&bytes.to_be_bytes()[..], &rest].concat()).await.ok()?;
        if rest[..4] != SSL.to_be_bytes() {
            return Some(());
        }
        let refused = from_server.read_u8().await.ok()?;
        to_client.write_u8(refused).await.ok()?;
    }
}

/// One message, with its kind and its length.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await.ok()?;
    let bytes = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
    let mut message = vec![0; bytes + 1];
    message[..5].copy_from_slice(&head);
    from.read_exact(&mut message[5..]).await.ok()?;
    Some(message)
}

/// What a writer was told of each of its events.
type Told = HashMap<EventId, Placed>;

/// Appends one after the other to a stream of its own, and one that others write to as well, each sent until it is answered.
/// Anything done twice or not at all meets the guard of the next.
async fn write_on(
    store: Arc<PostgresStore>,
    n: u64,
    middle: Arc<Middleman>,
    unknown: Arc<AtomicU64>,
) -> Told {
    let (own, shared) =
        (StreamName::new(format!("writer-{n}")).unwrap(), StreamName::new("shared-1").unwrap());
    let (mut told, mut expected) = (HashMap::new(), ExpectedRevision::NoStream);
    while middle.cuts.load(Ordering::Relaxed) < middle.wanted {
        let events: Vec<NewEvent> =
            (0..3).map(|m| NewEvent::json("Done", &json!({ "by": n, "m": m })).unwrap()).collect();
        let append = Append::to(own.clone(), events[..2].to_vec()).expect(own.clone(), expected);
        let append = append.write(shared.clone(), [events[2].clone()]);
        let (mut sent, mut again) = (0, None);
        let appended = loop {
            sent += 1;
            match store.append(append.clone()).await {
                Ok(appended) => break appended,
                Err(error) => {
                    assert!(error.is_retryable(), "{error} ({error:?})");
                    unknown.fetch_add(1, Ordering::Relaxed);
                    again = Some(error);
                }
            }
        };
        assert!(!appended.replayed || sent > 1, "told of a replay, and never told of the first: {again:?}");
        expected = ExpectedRevision::Exact(appended.events[1].revision);
        told.extend(events.iter().zip(appended.events).map(|(event, placed)| (event.id, placed)));
    }
    told
}

async fn cut_answers(writing: Writing, wanted: u64) -> serde_json::Value {
    let bench = Bench::new().await;
    let server: SocketAddr = support::url()
        .split(['@', '/'])
        .find(|part| part.contains(':') && *part != "postgres:")
        .unwrap()
        .parse()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let middle = Arc::new(Middleman {
        server,
        armed: AtomicBool::new(false),
        wanted,
        cuts: AtomicU64::new(0),
        kinds: Default::default(),
    });
    let standing = {
        let middle = middle.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(middle.clone().serve(client));
            }
        })
    };
    let url = support::url().replace(&server.to_string(), &address.to_string());
    let options = Options { schema: bench.schema.clone(), writing, ..Options::default() };
    let (mut stores, unknown) = (Vec::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..2 {
        stores.push(Arc::new(PostgresStore::open(&url, options.clone()).await.unwrap()));
    }
    middle.armed.store(true, Ordering::Relaxed);
    let writer = |(n, store): (u64, &Arc<PostgresStore>)| {
        tokio::spawn(write_on(store.clone(), n, middle.clone(), unknown.clone()))
    };
    let writers: Vec<_> = (0..8).zip(stores.iter().cycle()).map(writer).collect();
    let mut told = Told::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    standing.abort();
    let rows =
        bench.hand.query(&bench.sql("SELECT id, position, revision FROM factum.events"), &[]).await.unwrap();
    assert_eq!(rows.len(), told.len(), "each is there once");
    for row in &rows {
        let number = |n| row.get::<_, i64>(n).cast_unsigned();
        let placed = Placed { position: Position(number(1)), revision: Revision(number(2)) };
        assert_eq!(told.get(&EventId(row.get(0))), Some(&placed), "it is where its writer was told");
    }
    let kinds: Vec<u64> = middle.kinds.iter().map(|kind| kind.load(Ordering::Relaxed)).collect();
    json!({
        "cut_after_the_commit_was_sent": kinds[1..].iter().sum::<u64>(), "cut_before": kinds[0],
        "of_these_with_the_commit": kinds[1], "before_its_answer": kinds[2], "within_its_answer": kinds[3],
        "before_all_readers_see_it": kinds[4], "left_to_the_caller_to_send_again": unknown.load(Ordering::Relaxed),
        "events": rows.len(), "lost": 0, "doubled": 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_cut_leave_exactly_one_copy() {
    proof::tell("cuts", &cut_answers(Writing::Single, proof::scaled(200, 7_500)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_groups_that_are_cut_leave_exactly_one_copy() {
    proof::tell("cuts_grouped", &cut_answers(Writing::Grouped, proof::scaled(100, 2_500)).await);
}
