//! Answers that are lost: between a store and its server stands somebody who reads along, and cuts the connection around what
//! an append must not lose: its commit, its only statement where it is an ordinary one, and the look whether readers see it. Each
//! event is there once, and where its writer was told; and who was told before is told that it is a repetition, and nobody else.
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
    Append, Appended, EventId, EventStore, ExpectedRevision, NewEvent, Placed, Position, Revision, StreamName,
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

/// Around what a connection is cut.
#[derive(Clone, Copy, Debug)]
enum Act {
    Commit,
    /// The append that is one statement.
    Plain,
    /// The look that all appends of a process wait for.
    Settle,
}

const ACTS: [Act; 3] = [Act::Commit, Act::Plain, Act::Settle];

impl Act {
    /// The one that a statement is.
    fn of(sql: &[u8]) -> Option<Self> {
        let calls = |function: &[u8]| sql.windows(function.len()).any(|words| words == function);
        if sql.starts_with(b"COMMIT") {
            Some(Self::Commit)
        } else if calls(b".append_plain(") {
            Some(Self::Plain)
        } else {
            calls(b".settle(").then_some(Self::Settle)
        }
    }
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// It is not passed on: nothing has happened.
    Before,
    /// It is passed on, and whether the server reads it before it notices is up to the machine.
    With,
    /// The server has answered that it is done, and that is not passed on.
    BeforeTheAnswer,
    /// So many bytes of the answer are passed on, and never all.
    WithinTheAnswer(usize),
    /// The whole answer is passed on, and no more.
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
    /// How many there were, by act and place.
    kinds: [[AtomicU64; 5]; 3],
}

impl Middleman {
    /// What to do at an act.
    fn decide(&self, act: Act) -> Option<Cut> {
        let enough = self.cuts.load(Ordering::Relaxed) >= self.wanted;
        // One look is for many, who all look again when it fails.
        let spared = fastrand::u8(0..10) < if matches!(act, Act::Settle) { 8 } else { 4 };
        if enough || !self.armed.load(Ordering::Relaxed) || spared {
            return None;
        }
        let cuts = [
            Cut::Before,
            Cut::With,
            Cut::BeforeTheAnswer,
            Cut::WithinTheAnswer(fastrand::usize(1..60)),
            Cut::AfterTheAnswer,
        ];
        let n = fastrand::usize(0..cuts.len());
        self.kinds[act as usize][n].fetch_add(1, Ordering::Relaxed);
        // Where nothing has happened, nothing is to be lost: those are not counted.
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

    /// From the client to the server. `tell` in which question the answer is to be cut.
    async fn pass_on(
        &self,
        mut from: BufReader<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
        tell: mpsc::UnboundedSender<(u64, Cut)>,
    ) -> Option<()> {
        // The greeting is the first question.
        let (mut prepared, mut question, mut with) = (HashMap::new(), 1, false);
        loop {
            let message = message(&mut from).await?;
            let mut texts = message[5..].split(|byte| *byte == 0);
            let (first, second) = (texts.next()?, texts.next().unwrap_or_default());
            let act = match message[0] {
                b'Q' => Act::of(first),
                // A statement is prepared, with its name; and done, into a portal.
                b'P' => {
                    prepared.insert(first.to_vec(), Act::of(second));
                    None
                }
                b'B' => prepared.get(second).copied().flatten(),
                _ => None,
            };
            match act.and_then(|act| self.decide(act)) {
                Some(Cut::Before) => return None,
                Some(Cut::With) => with = true,
                Some(cut) => tell.send((question, cut)).ok()?,
                None => {}
            }
            to.write_all(&message).await.ok()?;
            if matches!(message[0], b'Q' | b'S') {
                if with {
                    return None;
                }
                question += 1;
            }
        }
    }
}

/// From the server to the client.
async fn pass_back(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    mut told: mpsc::UnboundedReceiver<(u64, Cut)>,
) -> Option<()> {
    let (mut question, mut cut, mut held) = (0, None, Vec::new());
    loop {
        let message = message(&mut from).await?;
        // It is told before the server is.
        cut = cut.or_else(|| told.try_recv().ok());
        let done = message[0] == b'Z';
        match cut {
            // What is written with it is durable when the answer is whole.
            Some((at, cut)) if at == question => {
                held.extend(message);
                if done {
                    let passed = match cut {
                        Cut::WithinTheAnswer(bytes) => bytes.min(held.len() - 1),
                        Cut::AfterTheAnswer => held.len(),
                        _ => 0,
                    };
                    to.write_all(&held[..passed]).await.ok()?;
                    return None;
                }
            }
            _ => to.write_all(&message).await.ok()?,
        }
        question += u64::from(done);
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

/// Somebody who writes, now through one of the stores and now through the other.
struct Writer {
    n: u64,
    stores: Vec<Arc<PostgresStore>>,
    /// How often it was left to the writer to send again.
    unknown: Arc<AtomicU64>,
    /// How often it was sent again although it was answered.
    repeated: Arc<AtomicU64>,
}

impl Writer {
    /// Appends one after the other, each sent until it is answered. Anything done twice or not at all meets the guard of the next.
    async fn write_on(self, middle: Arc<Middleman>) -> Told {
        let own = StreamName::new(format!("writer-{}", self.n)).unwrap();
        let shared = StreamName::new("shared-1").unwrap();
        let (mut told, mut expected) = (Told::new(), ExpectedRevision::NoStream);
        let mut before: Option<(Append, Appended)> = None;
        while middle.cuts.load(Ordering::Relaxed) < middle.wanted {
            let event = |m| NewEvent::json("Done", &json!({ "by": self.n, "m": m })).unwrap();
            let to_own = || Append::to(own.clone(), [event(0), event(1)]).expect(own.clone(), expected);
            // Every other one is of the usual kind: one stream, and nothing to look up.
            let append = match fastrand::u8(0..4) {
                0 => to_own(),
                1 => Append::to(shared.clone(), [event(2)]),
                _ => to_own().write(shared.clone(), [event(2)]),
            };
            let store = fastrand::choice(&self.stores).unwrap();
            let (appended, sent) = self.send(store, &append).await;
            assert!(!appended.replayed || sent > 1, "told of a repetition, and never told of the first");
            told.extend(append.events().map(|(_, event)| event.id).zip(appended.events.iter().copied()));
            if append.writes[0].stream == own {
                expected = ExpectedRevision::Exact(appended.events[1].revision);
            }
            let now = (append, appended);
            if fastrand::u8(0..3) == 0 {
                // The store has answered it, or one that comes later in the log: so it knows that this was drawn long before.
                let (append, first) = before.as_ref().filter(|_| fastrand::bool()).unwrap_or(&now);
                let (again, _) = self.send(store, append).await;
                assert!(
                    again.replayed,
                    "told of its events, and never told that it was a repetition: {again:?}"
                );
                assert_eq!(again.events, first.events);
                self.repeated.fetch_add(1, Ordering::Relaxed);
            }
            before = Some(now);
        }
        told
    }

    /// Sends it until it is answered; how often.
    async fn send(&self, store: &PostgresStore, append: &Append) -> (Appended, u64) {
        for sent in 1.. {
            match store.append(append.clone()).await {
                Ok(appended) => return (appended, sent),
                Err(error) => {
                    assert!(error.is_retryable(), "{error} ({error:?})");
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        unreachable!("it is sent for ever")
    }
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
    let (mut stores, unknown, repeated) =
        (Vec::new(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    for _ in 0..2 {
        stores.push(Arc::new(PostgresStore::open(&url, options.clone()).await.unwrap()));
    }
    middle.armed.store(true, Ordering::Relaxed);
    let writer = |n| {
        let writer =
            Writer { n, stores: stores.clone(), unknown: unknown.clone(), repeated: repeated.clone() };
        tokio::spawn(writer.write_on(middle.clone()))
    };
    let writers: Vec<_> = (0..8).map(writer).collect();
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
    let count = |act: Act, place: usize| middle.kinds[act as usize][place].load(Ordering::Relaxed);
    for act in ACTS {
        assert!((0..5).map(|place| count(act, place)).sum::<u64>() > 0, "{act:?} was never cut");
    }
    let of = |act| (1..5).map(|place| count(act, place)).sum::<u64>();
    let at = |place| ACTS.map(|act| count(act, place)).iter().sum::<u64>();
    json!({
        "cut_after_it_was_sent": ACTS.map(of).iter().sum::<u64>(), "cut_before": at(0),
        "of_these_commits": of(Act::Commit), "appends_of_one_statement": of(Act::Plain),
        "looks_whether_readers_see_it": of(Act::Settle),
        "with_it": at(1), "before_its_answer": at(2), "within_its_answer": at(3), "after_its_answer": at(4),
        "left_to_the_caller_to_send_again": unknown.load(Ordering::Relaxed),
        "sent_again_and_told_so": repeated.load(Ordering::Relaxed),
        "events": rows.len(), "lost": 0, "doubled": 0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_cut_leave_exactly_one_copy() {
    proof::tell("cuts", &cut_answers(Writing::Single, proof::scaled(200, 9_500)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_groups_that_are_cut_leave_exactly_one_copy() {
    proof::tell("cuts_grouped", &cut_answers(Writing::Grouped, proof::scaled(100, 3_500)).await);
}
