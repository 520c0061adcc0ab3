//! Scavenges: nothing that anyone can see changes, and the space comes back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test; it says its seed"
)]

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use factum::{
    Append, Appended, AsOf, Clock, Error, EventStore, EventStoreExt, ExpectedRevision, ManualClock, NewEvent,
    Position, Query, Read, RecordedEvent, Retention, Revision, StreamName, StreamState, Tags,
};
use factum_conformance::{
    checker::{FinalLog, verify as check_history},
    recorder::Recorder,
    workload,
};
use factum_log::{LogStore, Options, Scavenge, ScavengeStep, Scavenged, Scavenging, repair, restore, verify};
use fastrand::Rng;

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

async fn scavenge(store: &LogStore, percent: u8) -> Scavenged {
    let options = Scavenge::default().at_least_percent(percent);
    store.scavenge(options, |_| ControlFlow::Continue(())).await.unwrap()
}

fn bytes_of_segments(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let segments = files.filter(|file| file.path().extension().is_some_and(|e| e == "segment"));
    segments.map(|file| file.metadata().unwrap().len()).sum()
}

fn forget_index(directory: &Path) {
    for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "run") {
            fs::remove_file(file).unwrap();
        }
    }
}

#[tokio::test]
async fn the_space_of_a_deleted_stream_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let options = || Options::new(directory.path()).segments(256 << 10, 256 << 10);
    let store = options().open().unwrap();
    let mut sent = Vec::new();
    for n in 0..2000u32 {
        let name = stream(if n % 4 == 0 { "kept-1" } else { "gone-1" });
        let event = NewEvent::json("Said", &serde_json::json!({ "n": n, "text": "x".repeat(400) })).unwrap();
        let append = Append::to(name, [event]);
        sent.push((append.clone(), store.append(append).await.unwrap()));
    }
    store.delete(&stream("gone-1"), ExpectedRevision::Any).await.unwrap();
    let before = bytes_of_segments(directory.path());
    let seen = store.read_to_end(Read::all()).await.unwrap();
    let done = scavenge(&store, 20).await;
    let after = bytes_of_segments(directory.path());
    println!("{done}; {before} bytes before, {after} after");
    assert_eq!(before - after, done.bytes());
    assert!(done.events() > 1000 && done.bytes() > 500_000, "{done}");
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    for (append, answer) in &sent {
        let again = store.append(append.clone()).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.events, answer.events);
    }
    drop(store);
    forget_index(directory.path());
    let store = options().open().unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    for (append, answer) in &sent {
        assert_eq!(store.append(append.clone()).await.unwrap().events, answer.events);
    }
    assert_eq!(store.stream_state(&stream("gone-1")).await.unwrap().last_revision, Some(Revision(1499)));
    assert_eq!(scavenge(&store, 20).await.events(), 0, "there is nothing left to remove");
}

/// Streams of three categories, all of which have a life.
const STREAMS: u8 = 12;

fn any_stream(rng: &mut Rng) -> StreamName {
    let n = rng.u8(0..STREAMS);
    stream(&format!("{}-{n}", ["account", "order", "visit"][usize::from(n % 3)]))
}

fn any_event(rng: &mut Rng) -> NewEvent {
    let tags = Tags::new((0..rng.u8(0..3)).map(|_| format!("who:{}", rng.u8(0..5)))).unwrap();
    let event_type = ["Opened", "Moved", "Closed"][rng.usize(0..3)];
    let most = if rng.u8(..) < 10 { 4000 } else { 400 };
    let size = rng.usize(0..most);
    let event = if rng.bool() {
        NewEvent::json(event_type, &serde_json::json!({ "n": rng.u32(..), "text": "x".repeat(size) }))
    } else {
        NewEvent::bytes(event_type, std::iter::repeat_with(|| rng.u8(..)).take(size).collect::<Vec<u8>>())
    };
    event.unwrap().with_tags(tags)
}

async fn change_a_life(rng: &mut Rng, store: &LogStore) {
    let name = any_stream(rng);
    let any = ExpectedRevision::Any;
    let changed = match rng.u8(0..10) {
        0 => store.tombstone(&name, any).await,
        1..4 => store.delete(&name, any).await,
        _ => {
            let state = store.stream_state(&name).await.unwrap();
            let retention = Retention {
                truncate_before: rng.bool().then(|| Revision(rng.u64(0..=state.next_revision().0))),
                max_count: rng.bool().then(|| rng.u64(0..20)),
                max_age_seconds: rng.bool().then(|| rng.u64(0..60)),
            };
            store.set_retention(&name, any, retention).await
        }
    };
    match changed {
        Ok(_) | Err(Error::Tombstoned { .. } | Error::NotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Writes a history, and returns what was sent and answered.
async fn live(
    rng: &mut Rng,
    store: &LogStore,
    clock: &ManualClock,
    appends: usize,
) -> Vec<(Append, Appended)> {
    let mut sent = Vec::new();
    for _ in 0..appends {
        clock.advance(Duration::from_millis(rng.u64(0..500)));
        if rng.u8(..) < 12 {
            change_a_life(rng, store).await;
        }
        let mut append = Append::to(any_stream(rng), (0..rng.u8(1..4)).map(|_| any_event(rng)));
        if rng.u8(..) < 40 {
            append = append.write(any_stream(rng), [any_event(rng)]);
        }
        match store.append(append.clone()).await {
            Ok(answer) => sent.push((append, answer)),
            Err(Error::Tombstoned { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

/// Everything that can be read, in every way.
async fn views(store: &LogStore, moments: &[AsOf]) -> BTreeMap<String, Vec<RecordedEvent>> {
    let mut reads = vec![
        Read::all(),
        Read::all().limit(7),
        Read::query(Query::category("account")),
        Read::query(Query::types(["Moved", "$deleted"]).unwrap()),
        Read::query(Query::tags(["who:1"]).unwrap().or(Query::category("visit"))),
        Read::query(Query::tags(["who:1", "who:2"]).unwrap().or(Query::types(["Closed"]).unwrap())),
    ];
    for n in 0..STREAMS {
        let name = stream(&format!("{}-{n}", ["account", "order", "visit"][usize::from(n % 3)]));
        reads.extend([Read::stream(name.clone()), Read::stream(name.clone()).from_revision(Revision(9))]);
        reads.push(Read::query(Query::stream(name).tag("who:3").unwrap()));
    }
    let mut seen = BTreeMap::new();
    for read in reads {
        let mut ways = vec![read.clone(), read.clone().backwards()];
        ways.extend(
            moments.iter().flat_map(|at| [read.clone().as_of(*at), read.clone().backwards().as_of(*at)]),
        );
        for way in ways {
            let shown = format!("{way:?}");
            match store.read_to_end(way).await {
                Ok(events) => drop(seen.insert(shown, events)),
                Err(Error::Tombstoned { stream }) => {
                    drop(seen.insert(format!("{shown}: {stream}"), Vec::new()));
                }
                Err(error) => panic!("{shown}: {error}"),
            }
        }
    }
    seen
}

async fn states(store: &LogStore) -> Vec<StreamState> {
    let mut states = Vec::new();
    for n in 0..STREAMS {
        let name = stream(&format!("{}-{n}", ["account", "order", "visit"][usize::from(n % 3)]));
        states.push(store.stream_state(&name).await.unwrap());
    }
    states
}

/// What was sent once is known for ever, and is not mistaken for anything else.
async fn check_replays(store: &LogStore, sent: &[(Append, Appended)]) {
    for (append, answer) in sent {
        let again = store.append(append.clone()).await.unwrap();
        assert!(again.replayed, "{append:?}");
        assert_eq!(again.events, answer.events);
        let (name, event) = append.events().last().unwrap();
        let other = NewEvent { data: [&event.data[..], b" "].concat().into(), ..event.clone() };
        // White space is no difference in JSON.
        let same = other.content_type == factum::ContentType::Json;
        let alone = store.append(Append::to(name.clone(), [other])).await;
        match alone {
            Ok(answer) => assert!(same && answer.replayed),
            Err(error) => assert!(!same && matches!(error, Error::IdConflict { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn nothing_that_anyone_can_see_changes() {
    for _ in 0..2 {
        let mut rng = Rng::with_seed(seed());
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let (most, indexed) = (rng.u64(8..64) << 10, rng.u64(8..300));
        let options = || {
            let options = Options::new(directory.path()).clock(clock.clone());
            options.segments(16 << 10, most).indexed_in_memory(indexed)
        };
        let mut store = options().open().unwrap();
        let (mut sent, mut removed) = (Vec::new(), 0);
        for percent in [10, 0, 0] {
            sent.extend(live(&mut rng, &store, &clock, 100).await);
            let head = store.head().await.unwrap().token.position;
            let moments = [
                AsOf::Time(clock.now().minus(Duration::from_secs(rng.u64(0..60)))),
                AsOf::Position(Position(rng.u64(0..=head.0))),
            ];
            let (seen, lives) = (views(&store, &moments).await, states(&store).await);
            let bytes = bytes_of_segments(directory.path());
            let done = scavenge(&store, percent).await;
            removed += done.events();
            let bytes_now = bytes_of_segments(directory.path());
            println!("{done}; {bytes} bytes of segments before, {bytes_now} now");
            let (before, after) = done
                .segments
                .iter()
                .fold((0, 0), |(before, after), s| (before + s.bytes_before, after + s.bytes_after));
            assert_eq!(bytes - before, bytes_now - after);
            assert!(views(&store, &moments).await == seen, "after the scavenge");
            check_replays(&store, &sent).await;
            drop(store);
            if rng.bool() {
                forget_index(directory.path());
            }
            store = options().open().unwrap();
            assert!(views(&store, &moments).await == seen, "opened again");
            assert_eq!(states(&store).await, lives);
            check_replays(&store, &sent).await;
        }
        assert!(removed > 0);
    }
}

/// A store of some segments, of which a scavenge has something to take.
async fn store_with_refuse(directory: &Path) -> LogStore {
    let store = Options::new(directory).segments(48 << 10, 48 << 10).open().unwrap();
    for n in 0..600u32 {
        let name = stream(if n % 3 == 0 { "kept-1" } else { "gone-1" });
        let event = NewEvent::json("Said", &serde_json::json!({ "n": n, "text": "x".repeat(300) })).unwrap();
        store.append(Append::to(name, [event])).await.unwrap();
    }
    store.delete(&stream("gone-1"), ExpectedRevision::Any).await.unwrap();
    store
}

#[tokio::test]
async fn it_stops_when_told_and_keeps_what_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    let seen = store.read_to_end(Read::all()).await.unwrap();
    let stop_at = |segment| {
        move |at: &Scavenging| {
            if at.segment == segment && at.step == ScavengeStep::Comparing {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    };
    let done = store.scavenge(Scavenge::default(), stop_at(3)).await.unwrap();
    assert!(done.stopped && done.looked_at == 2 && done.segments.len() == 2, "{done}");
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("segment.new")), "{names:?}");
    let rest = scavenge(&store, 20).await;
    assert!(!rest.stopped && rest.segments.iter().all(|segment| segment.segment >= 3), "{rest}");
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
}

/// Files that this process has open, although they have no name any more.
#[cfg(target_os = "linux")]
fn nameless(directory: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    open.filter(|path| path.starts_with(directory) && path.to_string_lossy().ends_with("(deleted)")).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_room_of_old_files_comes_back_while_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    // Pages of a scan that is not over: it may hold what it has read.
    let mut next = Read::all().limit(7);
    for _ in 0..3 {
        next.start = store.read(next.clone()).await.unwrap().next.unwrap();
    }
    let (most, path) = (Arc::new(AtomicUsize::new(0)), directory.path().to_owned());
    let seen = most.clone();
    let progress = move |_: &Scavenging| {
        seen.fetch_max(nameless(&path), Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let done = store.scavenge(Scavenge::default(), progress).await.unwrap();
    assert!(done.segments.len() >= 3, "{done}");
    assert_eq!((most.load(Ordering::Relaxed), nameless(directory.path())), (0, 0));
    let rest = store.read_to_end(next).await.unwrap();
    let all = store.read_to_end(Read::all()).await.unwrap();
    assert!(all.ends_with(&rest) && !rest.is_empty(), "the scan goes on");
}

/// A scavenge that has begun, and stands still until it is let go.
struct Held {
    running: tokio::task::JoinHandle<factum::Result<Scavenged>>,
    go_on: mpsc::Sender<()>,
}

async fn hold(store: &LogStore) -> Held {
    let (go_on, wait) = mpsc::channel();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let store = store.clone();
    let running = tokio::spawn(async move {
        let progress = move |_: &Scavenging| {
            let _ = begun.send(());
            // Once nobody holds it any more, it goes on without asking.
            let _ = wait.recv();
            ControlFlow::Continue(())
        };
        store.scavenge(Scavenge::default(), progress).await
    });
    has_begun.recv().await.unwrap();
    Held { running, go_on }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_at_a_time_and_giving_up_on_it_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    let held = hold(&store).await;
    let second = store.scavenge(Scavenge::default(), |_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(matches!(second, Error::Unavailable { .. }) && second.is_retryable(), "{second}");
    let bytes = bytes_of_segments(directory.path());
    held.running.abort();
    assert!(held.running.await.unwrap_err().is_cancelled());
    held.go_on.send(()).unwrap();
    // Closing waits for it; it stopped at its first step.
    store.close().await.unwrap();
    assert_eq!(bytes_of_segments(directory.path()), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_store_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    let held = hold(&store).await;
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    while store.append(Append::to(stream("late-1"), [NewEvent::bytes("E", "").unwrap()])).await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(held.go_on);
    let done = held.running.await.unwrap().unwrap();
    assert!(done.stopped && done.segments.is_empty(), "{done}");
    closing.await.unwrap().unwrap();
    let after = store.scavenge(Scavenge::default(), |_| ControlFlow::Continue(())).await.unwrap();
    assert!(after.stopped && after.looked_at == 0, "a closed store is left as it is: {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_notice_nothing_of_it() {
    let seed = seed();
    let directory = tempfile::tempdir().unwrap();
    let store = Options::new(directory.path()).segments(8192, 16 << 10).indexed_in_memory(64).open().unwrap();
    let recorder = Recorder::in_memory(Arc::new(store.clone())).await.unwrap();
    let options = workload::Options {
        seed,
        clients: 8,
        operations: 80,
        subscribers: 3,
        lives: true,
        ..Default::default()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let scavenger = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut events = 0;
            while !stop.load(Ordering::Relaxed) {
                events += scavenge(&store, 0).await.events();
            }
            events + scavenge(&store, 0).await.events()
        }
    });
    let summary = workload::run(&recorder, &options).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let removed = scavenger.await.unwrap();
    println!("{summary}; {removed} events removed meanwhile");
    assert!(removed > 0);
    let log = FinalLog::read(&store).await.unwrap();
    check_history(&recorder.into_history(), &log).unwrap();
}

#[tokio::test]
async fn flipped_bytes_and_cut_files_are_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    let done = scavenge(&store, 20).await;
    assert!(done.segments.len() >= 3, "{done}");
    let seen = store.read_to_end(Read::all()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let open = || Options::new(directory.path()).create(false).open();
    let refused_to_open = || open().err().map(|error| error.to_string());
    let file = directory.path().join("0000000002.segment");
    let whole = fs::read(&file).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..whole.len()).step_by(307).chain((0..200).step_by(9)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&file, &damaged).unwrap();
        assert!(!verify(directory.path(), |_| {}).unwrap().is_sound(), "byte {at}");
        let read = match open() {
            Ok(store) => store.read_to_end(Read::all()).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(events) => {
                assert!(events == seen, "byte {at}");
                harmless += 1;
            }
            Err(Error::Corrupt(_)) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
        fs::write(&file, &whole).unwrap();
    }
    // Between the stretches and the table, and behind the table, there are zeros that only `verify` looks at.
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 60 && harmless < refused / 2);
    for length in (0..whole.len()).step_by(1511) {
        fs::write(&file, &whole[..length]).unwrap();
        let refused = refused_to_open();
        assert!(
            refused.as_ref().is_some_and(|why| why.contains("is damaged")),
            "cut at {length}: {refused:?}"
        );
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(open().unwrap().read_to_end(Read::all()).await.unwrap(), seen);
}

#[tokio::test]
async fn a_log_that_has_lost_what_hid_the_events_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_refuse(directory.path()).await;
    assert!(scavenge(&store, 20).await.events() > 0);
    store.close().await.unwrap();
    drop(store);
    // The last frame holds the deletion. It is replaced by what a disk has that never wrote it.
    let last = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    let last = last.filter(|path| path.extension().is_some_and(|e| e == "segment")).max().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let deletion = bytes.windows(10).rposition(|window| window == b"$$gone-1$d").unwrap();
    bytes[deletion - 60 - 64..].fill(0);
    fs::write(&last, &bytes).unwrap();
    fs::remove_file(directory.path().join("manifest")).unwrap();
    let open = || Options::new(directory.path()).create(false).open().err();
    let refused = open().expect("it must be refused");
    assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
    println!("{refused}");
    // A packed segment is never the last one, either.
    fs::remove_file(&last).unwrap();
    let refused = open().expect("it must be refused");
    assert!(refused.to_string().contains("should be there, but is missing"), "{refused}");
}

#[tokio::test]
async fn backups_before_and_after_it_are_whole() {
    let place = tempfile::tempdir().unwrap();
    let [data, early, late] = ["data", "early", "late"].map(|name| place.path().join(name));
    let store = store_with_refuse(&data).await;
    store.backup(&early, |_| {}).await.unwrap();
    let sent = Append::to(stream("gone-1"), [NewEvent::json("Said", &"again").unwrap()]);
    let answer = store.append(sent.clone()).await.unwrap();
    store.delete(&stream("gone-1"), ExpectedRevision::Any).await.unwrap();
    for _ in 0..200 {
        let event = NewEvent::bytes("Said", vec![7; 300]).unwrap();
        store.append(Append::to(stream("kept-1"), [event])).await.unwrap();
    }
    assert!(scavenge(&store, 0).await.events() > 200);
    assert_eq!(verify(&data, |_| {}).unwrap().findings, []);
    let seen = store.read_to_end(Read::all()).await.unwrap();
    // One goes on in the copy that was made before, the other copies what is left.
    for copy in [&early, &late] {
        store.backup(copy, |_| {}).await.unwrap();
        assert_eq!(verify(copy, |_| {}).unwrap().findings, []);
        let again = copy.with_extension("restored");
        restore(copy, &again, |_| {}).unwrap();
        let restored = Options::new(&again).segments(48 << 10, 48 << 10).create(false).open().unwrap();
        assert_eq!(restored.read_to_end(Read::all()).await.unwrap(), seen);
        let replayed = restored.append(sent.clone()).await.unwrap();
        assert!(replayed.replayed);
        assert_eq!(replayed.events, answer.events);
        assert!(scavenge(&restored, 20).await.bytes() > 0, "it takes no more room than it must");
        assert_eq!(restored.read_to_end(Read::all()).await.unwrap(), seen);
        restored.close().await.unwrap();
        assert_eq!(verify(&again, |_| {}).unwrap().findings, []);
    }
}

#[tokio::test]
async fn a_packed_segment_can_be_repaired() {
    // In the stretches, in the table, in the header; in the segment before that which hides everything.
    for at in [9_000, usize::MAX, 50] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let store = store_with_refuse(path).await;
        assert!(scavenge(&store, 20).await.segments.len() >= 3);
        let seen = store.read_to_end(Read::all()).await.unwrap();
        let head = store.head().await.unwrap().token.position;
        store.close().await.unwrap();
        drop(store);
        let file = path.join("0000000003.segment");
        let mut bytes = fs::read(&file).unwrap();
        let at = at.min(bytes.len() - 600);
        bytes[at] ^= 0xff;
        fs::write(&file, &bytes).unwrap();
        let cut = repair(path, |_| {}).unwrap();
        assert!(cut.kept_events > 100, "{cut:?}");
        let (_, kept) = cut.files.iter().find(|(name, _)| name == "0000000003.segment").unwrap();
        assert_eq!(fs::read(path.join(kept)).unwrap(), bytes);
        assert_eq!(verify(path, |_| {}).unwrap().findings, []);
        let store = Options::new(path).segments(48 << 10, 48 << 10).create(false).open().unwrap();
        let left = store.read_to_end(Read::all()).await.unwrap();
        let before = seen.iter().take_while(|event| event.position < cut.keeps_before).count();
        assert!(left == seen[..before], "what was removed does not come back, and is in nobody's way");
        let event = NewEvent::bytes("E", "").unwrap();
        let after = store.append(Append::to(stream("new-1"), [event])).await.unwrap();
        assert!(after.events[0].position > head, "no position is given twice");
    }
}

/// Where the child works; nobody else sets this.
const KILLED_IN: &str = "FACTUM_TEST_SCAVENGER_KILLED_IN";
/// How often it is killed.
const KILLS: u32 = 8;

fn numbered(n: u64) -> Append {
    let event = NewEvent::json("Said", &serde_json::json!({ "n": n, "text": "x".repeat(300) })).unwrap();
    let id = factum::EventId(uuid::Uuid::from_u128(u128::from(n) + 1));
    Append::to(stream(&format!("s-{}", n % 5)), [event.with_id(id)])
}

fn small_segments(directory: &Path) -> LogStore {
    Options::new(directory.join("log")).segments(8192, 16 << 10).indexed_in_memory(50).open().unwrap()
}

/// Not a test of its own: what the test below starts again and again, and kills. It says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scavenger_that_is_killed() {
    let Ok(directory) = std::env::var(KILLED_IN) else { return };
    let directory = Path::new(&directory);
    let store = small_segments(directory);
    let acknowledged = directory.join("acknowledged");
    let first = fs::read(&acknowledged).map_or(0, |text| text.len() as u64);
    let file = fs::OpenOptions::new().append(true).create(true).open(acknowledged).unwrap();
    tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                let _ = scavenge(&store, 0).await;
            }
        }
    });
    for n in first.. {
        store.append(numbered(n)).await.unwrap();
        // A byte for each: no part of it can be there.
        std::io::Write::write_all(&mut &file, b".").unwrap();
        if n % 20 == 19 {
            store.delete(&stream(&format!("s-{}", n / 20 % 4)), ExpectedRevision::Any).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_it_lose_nothing() {
    let mut rng = Rng::with_seed(seed());
    let directory = tempfile::tempdir().unwrap();
    let mut places = Vec::new();
    for _ in 0..KILLS {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_scavenger_that_is_killed", "--nocapture"]);
        command.env(KILLED_IN, directory.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let enough = places.len() + rng.usize(10..60);
        let acknowledged =
            || fs::metadata(directory.path().join("acknowledged")).map_or(0, |file| file.len());
        while acknowledged() < enough as u64 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SIGKILL, on every system that has it.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(verify(directory.path().join("log"), |_| {}).unwrap().findings, []);
        let store = small_segments(directory.path());
        let said = fs::read(directory.path().join("acknowledged")).map_or(0, |text| text.len());
        for n in 0..said {
            let answer = store.append(numbered(n as u64)).await.unwrap();
            assert!(answer.replayed, "event {n} was acknowledged");
            if let Some(before) = places.get(n) {
                assert_eq!(&answer.events, before, "event {n}");
            } else {
                places.push(answer.events);
            }
        }
        store.close().await.unwrap();
    }
    let store = small_segments(directory.path());
    let removed = scavenge(&store, 0).await;
    let removed_before = factum_log::layout(directory.path().join("log"), None).unwrap();
    let removed_before: u64 = removed_before.segments.iter().map(|segment| segment.removed_events).sum();
    println!("{KILLS} kills, {} events, {removed_before} removed; at last {removed}", places.len());
    assert!(places.len() >= 80 && removed_before > 0, "it hardly came to work");
}
