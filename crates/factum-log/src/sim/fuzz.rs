//! Bytes that nobody wrote: headers, records, manifests, runs of the index and whole directories, damaged in ways that fall out of a
//! seed.
//!
//! Two kinds of damage. *Rot* changes bytes and nothing else: what is then accepted must be what was written, or the engine tells a lie.
//! *Malice* makes the checksums right again: then nobody can know, but nothing may panic, go on for ever or ask for more memory than
//! the largest append needs.

mod files;
mod malice;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use factum::{
    Append, EventId, EventType, LogIdentity, ManualClock, NewEvent, Position, Query, Read, RecordedEvent,
    Retention, Revision, Start, StreamName, Tags, Timestamp, stream::LifeChange,
};
use fastrand::Rng;
use uuid::Uuid;

use self::files::Files;
use crate::{
    bugs::Bugs,
    format::{
        FRAME_HEADER, FrameHeader, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, draft_record,
        place_record,
    },
    index::{PageCache, Secret},
    log::{Log, Settings},
    manifest::Manifest,
    read,
};

/// Logs that the damaged directories are made from.
const LOGS: u64 = 6;
/// Bytes that may be asked for at once: the largest body of a frame, and something around it.
const MOST_BYTES: usize = 64 << 20;
/// Operations on the disk after which opening and reading a small log counts as going on for ever.
const MOST_OPERATIONS: u64 = 200_000;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The header of a segment.
    Segment,
    /// The header of a frame.
    Frame,
    /// An event's record.
    Record,
    /// A manifest.
    Manifest,
    /// Files of a directory, by rot.
    Directory,
    /// Segments of a directory, by malice.
    Log,
    /// Runs of the index in a directory, by malice.
    Index,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Segment, Self::Frame, Self::Record, Self::Manifest, Self::Directory, Self::Log, Self::Index];
}

/// What came of the inputs of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fuzzed {
    /// Inputs.
    pub inputs: u64,
    /// Of these, accepted, for what they are.
    pub accepted: u64,
    /// Bytes that were asked for at once, at most.
    pub most_bytes: usize,
}

/// An input that was not handled as it must be.
#[derive(Clone, Debug)]
pub struct Mishandled {
    /// What was damaged.
    pub target: Target,
    /// The seed of the input: [`Fuzzer::one`] with it shows it again.
    pub seed: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Mishandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, seed {}: {}", self.target, self.seed, self.what)
    }
}

/// What is damaged, and how it was before.
#[derive(Debug)]
pub struct Fuzzer {
    logs: Vec<Sound>,
}

/// A log as it was written.
#[derive(Debug)]
struct Sound {
    files: Files,
    events: Vec<RecordedEvent>,
}

impl Default for Fuzzer {
    fn default() -> Self {
        Self { logs: (1..=LOGS).map(Sound::new).collect() }
    }
}

impl Fuzzer {
    /// Lets one input be handled.
    ///
    /// # Errors
    /// How it was mishandled.
    pub fn one(&self, target: Target, seed: u64) -> Result<Fuzzed, Mishandled> {
        let mut rng = Rng::with_seed(seed);
        let handled = catch_unwind(AssertUnwindSafe(|| match target {
            Target::Segment => segment(&mut rng),
            Target::Frame => frame(&mut rng),
            Target::Record => record(&mut rng),
            Target::Manifest => manifest(&mut rng),
            Target::Directory => self.rotten(&mut rng),
            Target::Log => self.malicious(&mut rng, malice::segment),
            Target::Index => self.malicious(&mut rng, malice::run),
        }));
        let handled = handled.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
            Err(format!("it panicked: {text}"))
        });
        handled.map_err(|what| Mishandled { target, seed, what })
    }

    /// A directory in which bytes have changed: what is read is what was written, as far as it goes.
    fn rotten(&self, rng: &mut Rng) -> Result<Fuzzed, String> {
        let sound = &self.logs[rng.usize(0..self.logs.len())];
        let other = &self.logs[rng.usize(0..self.logs.len())];
        let files = sound.files.copy();
        for _ in 0..rng.u8(1..4) {
            rot(&files, &other.files, rng);
        }
        let read = open(&files, rng).and_then(|log| read_all(&log));
        files.is_within_bounds()?;
        let Ok(events) = read else { return Ok(files.refused()) };
        if events.len() > sound.events.len() || events != sound.events[..events.len()] {
            return Err("events are read that were never written so".to_owned());
        }
        Ok(files.accepted())
    }

    /// A directory that somebody has written with right checksums and wrong contents.
    fn malicious(&self, rng: &mut Rng, harm: fn(&Files, &mut Rng)) -> Result<Fuzzed, String> {
        let sound = &self.logs[rng.usize(0..self.logs.len())];
        let files = sound.files.copy();
        for _ in 0..rng.u8(1..4) {
            harm(&files, rng);
        }
        let opened = open(&files, rng);
        files.is_within_bounds()?;
        let Ok(log) = opened else { return Ok(files.refused()) };
        // Whatever it says, it says something.
        let _ = use_all_of(&log, &sound.events, rng);
        files.is_within_bounds()?;
        Ok(files.accepted())
    }
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        limits: factum::Limits::default(),
        clock: Arc::new(ManualClock::at(Timestamp(1_000_000))),
        birth: Some(Uuid::from_u128(u128::from(rng.u64(..)))),
        secret: Secret(rng.u64(..)),
        first_segment_bytes: 8192,
        segment_bytes: 32768,
        run_events: [20, 150, 1000][rng.usize(0..3)],
        index_pages: Arc::new(PageCache::of_bytes([0, 1 << 20][rng.usize(0..2)])),
        bugs: Bugs::default(),
    }
}

fn open(files: &Files, rng: &mut Rng) -> factum::Result<Log> {
    Log::open(Arc::new(files.clone()), settings(rng))
}

impl Sound {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let files = Files::default();
        let mut make = || -> factum::Result<Vec<RecordedEvent>> {
            let log = open(&files, &mut rng)?;
            for n in 0..150 {
                drop(log.submit(some_append(n, &mut rng)?)?);
                if rng.u8(0..3) > 0 {
                    while log.commit() {}
                    while log.write_run()? {}
                }
            }
            while log.commit() {}
            while log.write_run()? {}
            if seed.is_multiple_of(3) {
                log.mark();
            } else {
                log.close()?;
            }
            read_all(&log)
        };
        let events = make().unwrap_or_else(|error| panic!("a sound log cannot be made: {error}"));
        files.forget_counts();
        Self { files, events }
    }
}

fn some_append(n: u64, rng: &mut Rng) -> factum::Result<Append> {
    let stream = StreamName::new(format!("account-{}", rng.u8(0..4)))?;
    if rng.u8(0..40) == 0 {
        let kept = Retention { max_count: Some(u64::MAX - rng.u64(0..3)), ..Retention::default() };
        let about = StreamName::from_store(format!("$${stream}").into());
        return Ok(Append::to(about, LifeChange::Retention(kept).to_event()));
    }
    let mut events = Vec::new();
    for m in 0..rng.u64(1..4) {
        let mut data = vec![0; rng.usize(0..120)];
        rng.fill(&mut data);
        let event = NewEvent::bytes(["Opened", "Deposited"][rng.usize(0..2)], data)?;
        let tags = Tags::new([format!("branch:{}", rng.u8(0..3))])?;
        events.push(event.with_id(EventId(Uuid::from_u64_pair(n + 1, m))).with_tags(tags));
    }
    Ok(Append::to(stream, events))
}

fn read_all(log: &Log) -> factum::Result<Vec<RecordedEvent>> {
    read_to_end(log, Read::all())
}

fn read_to_end(log: &Log, mut read: Read) -> factum::Result<Vec<RecordedEvent>> {
    let mut events = Vec::new();
    loop {
        let page = read::page(log, &read)?;
        events.extend(page.events);
        match page.next {
            Some(next) => read.start = next,
            None => return Ok(events),
        }
    }
}

/// Reads in every way, looks at what is read, and goes on writing.
fn use_all_of(log: &Log, known: &[RecordedEvent], rng: &mut Rng) -> factum::Result<()> {
    let stream = StreamName::new("account-1")?;
    let queries = [
        Query::stream(stream.clone()),
        Query::category("account"),
        Query::types(["Deposited"])?,
        Query::tags(["branch:1"])?,
    ];
    for query in queries {
        let _ = read_to_end(log, Read::query(query.clone()));
        let _ = read_to_end(log, Read::query(query).backwards());
    }
    let _ = read_to_end(log, Read::stream(stream.clone()));
    let _ = read_to_end(log, Read::stream(stream.clone()).backwards());
    let _ = read_to_end(log, Read::all().backwards());
    for revision in [0, 1, 40, u64::MAX] {
        let _ = read_to_end(
            log,
            Read { start: Start::Revision(Revision(revision)), ..Read::stream(stream.clone()) }.limit(3),
        );
    }
    for event in read_all(log).unwrap_or_default() {
        look_at(&event);
    }
    let _ = log.stream_state(&stream);
    for event in known.iter().filter(|_| rng.u8(0..8) == 0) {
        let again = NewEvent::bytes("Opened", event.data.clone())?.with_id(event.id);
        let _ = log.submit(Append::to(event.stream.clone(), [again]));
    }
    for n in 0..10 {
        let _ = log.submit(some_append(1000 + n, rng)?);
        while log.commit() {}
    }
    let _ = log.write_run();
    log.mark();
    log.close()
}

/// What a reader may do with an event.
fn look_at(event: &RecordedEvent) {
    let _ = (event.tags.iter().count(), event.stream.category().len(), format!("{event:?}").len());
    let _ = LifeChange::of_event(&event.stream, &event.event_type, &event.data);
}

/// Changes a few bytes, the length, or the place of some, in one file; or takes a file from another log.
fn rot(files: &Files, other: &Files, rng: &mut Rng) {
    let names = files.names();
    if names.is_empty() {
        return;
    }
    let name = &names[rng.usize(0..names.len())];
    let mut bytes = files.bytes_of(name);
    match rng.u8(0..10) {
        0 => return files.forget(name),
        1 => bytes = other.bytes_of(name),
        2 => bytes.truncate(rng.usize(0..=bytes.len())),
        3 => bytes.resize(bytes.len() + rng.usize(0..5000), 0),
        4 => {
            let from = files.bytes_of(&names[rng.usize(0..names.len())]);
            overwrite(&mut bytes, &from, rng);
        }
        5 => {
            let own = bytes.clone();
            overwrite(&mut bytes, &own, rng);
        }
        6 => {
            let zeros = vec![0; rng.usize(1..2000)];
            overwrite(&mut bytes, &zeros, rng);
        }
        _ => mutate(&mut bytes, rng),
    }
    files.put(name, bytes);
}

/// Puts a piece of some bytes somewhere into others.
fn overwrite(bytes: &mut [u8], from: &[u8], rng: &mut Rng) {
    if bytes.is_empty() || from.is_empty() {
        return;
    }
    let block = [1, 8, 512, 4096][rng.usize(0..4)];
    let place = |length: usize, rng: &mut Rng| rng.usize(0..length) / block * block;
    let (to, at) = (place(bytes.len(), rng), place(from.len(), rng));
    let some = rng.usize(1..=from.len() - at).min(bytes.len() - to);
    bytes[to..to + some].copy_from_slice(&from[at..at + some]);
}

/// Changes a few bytes: bits, or numbers that are awkward.
fn mutate(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.u8(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(0..bytes.len());
        if rng.bool() {
            bytes[at] ^= 1 << rng.u8(0..8);
            continue;
        }
        let awkward = [0, 1, 7, 8, 255, 4096, u64::from(u32::MAX), 1 << 32, i64::MAX as u64, u64::MAX];
        let number = awkward[rng.usize(0..awkward.len())].wrapping_sub(rng.u64(0..3)).to_le_bytes();
        let width = [1, 2, 4, 8][rng.usize(0..4)].min(bytes.len() - at);
        bytes[at..at + width].copy_from_slice(&number[..width]);
    }
}

/// Whether a header that was accepted is one that could have been written, byte for byte.
fn accepted_as_written(is: bool) -> Result<Fuzzed, String> {
    if is {
        Ok(Fuzzed { inputs: 1, accepted: 1, most_bytes: 0 })
    } else {
        Err("it was believed, and is a lie".to_owned())
    }
}

const REFUSED: Fuzzed = Fuzzed { inputs: 1, accepted: 0, most_bytes: 0 };

fn some_segment_header(rng: &mut Rng) -> SegmentHeader {
    SegmentHeader {
        log: LogIdentity { log_id: Uuid::from_u128(rng.u128(..)), epoch: rng.u64(1..4) },
        number: rng.u32(1..9),
        base: rng.u64(0..1 << 40),
        capacity: 8192,
        first_frame: rng.u64(1..99),
        events_before: rng.u64(0..99),
        previous_end: rng.u64(0..1 << 40),
        last_recorded_at: Timestamp(rng.i64(..)),
    }
}

fn segment(rng: &mut Rng) -> Result<Fuzzed, String> {
    let sound = some_segment_header(rng).encode();
    let mut bytes = sound.clone();
    mutate(&mut bytes, rng);
    if rng.bool() {
        bytes.truncate(rng.usize(0..=bytes.len()));
    }
    let malice = rng.bool();
    if malice && bytes.len() == SEGMENT_HEADER_BYTES {
        malice::seal_segment_header(&mut bytes);
    }
    match SegmentHeader::decode(&bytes) {
        // The rest of the page is covered by the checksum, and read by nobody.
        Ok(_) if malice => accepted_as_written(true),
        Ok(_) => accepted_as_written(bytes == sound),
        Err(_) => Ok(REFUSED),
    }
}

fn frame(rng: &mut Rng) -> Result<Fuzzed, String> {
    let seed = some_segment_header(rng).seed();
    let offset = rng.u64(0..1 << 20) * 8;
    let sound = FrameHeader {
        body_crc: rng.u32(..),
        body_bytes: rng.u32(0..4096),
        events: rng.u32(0..9),
        segment: 1,
        number: rng.u64(1..99),
        position: offset,
        synced_upto: offset,
        events_before: rng.u64(0..99),
        recorded_at: Timestamp(rng.i64(..)),
    };
    let sound = sound.encode(seed, offset);
    let mut bytes = sound;
    mutate(&mut bytes, rng);
    let malice = rng.bool();
    if malice {
        malice::seal_frame_header(&mut bytes, seed, offset);
    }
    match FrameHeader::decode(&bytes, seed, offset) {
        Ok(header) if malice => {
            let _ = header.bytes();
            accepted_as_written(header.encode(seed, offset) == bytes)
        }
        Ok(_) => accepted_as_written(bytes == sound),
        Err(_) => Ok(REFUSED),
    }
}

fn record(rng: &mut Rng) -> Result<Fuzzed, String> {
    let seed = some_segment_header(rng).seed();
    let offset = rng.u64(0..1 << 20);
    let mut sound = Vec::new();
    let (stream, event) = some_event(rng).map_err(|error| error.to_string())?;
    draft_record(&mut sound, &stream, &event);
    place_record(&mut sound, seed, offset, Revision(rng.u64(..)), Timestamp(rng.i64(..)));
    let mut bytes = sound.clone();
    mutate(&mut bytes, rng);
    if rng.u8(0..4) == 0 {
        bytes.truncate(rng.usize(0..=bytes.len()));
    }
    let malice = rng.bool();
    if malice {
        malice::seal_record(&mut bytes, seed, offset);
    }
    let read = RecordHeader::decode(&bytes, seed, offset)
        .and_then(|header| header.event(&Bytes::copy_from_slice(&bytes), 0, Position(offset)));
    match read {
        Ok(event) => {
            look_at(&event);
            accepted_as_written(malice || bytes == sound)
        }
        Err(_) => Ok(REFUSED),
    }
}

fn some_event(rng: &mut Rng) -> factum::Result<(StreamName, NewEvent)> {
    let append = some_append(1, rng)?;
    let found = append.events().next().map(|(stream, event)| (stream.clone(), event.clone()));
    let (stream, mut event) = match found {
        Some(found) => found,
        None => (StreamName::new("account-1")?, NewEvent::bytes("Opened", "")?),
    };
    if rng.bool() {
        event.event_type = EventType::new("Renamed")?;
    }
    Ok((stream, event))
}

fn manifest(rng: &mut Rng) -> Result<Fuzzed, String> {
    let files = Files::default();
    let sound = Manifest {
        log_id: Uuid::from_u128(rng.u128(..)),
        epoch: rng.u64(1..9),
        last_segment: rng.u32(1..9),
        durable_upto: rng.u64(..),
        clean: rng.bool(),
    };
    sound.replace(&files).map_err(|error| error.to_string())?;
    let mut text = files.bytes_of(crate::manifest::NAME);
    mutate(&mut text, rng);
    if rng.u8(0..4) == 0 {
        text.truncate(rng.usize(0..=text.len()));
    }
    let malice = rng.bool();
    if malice {
        malice::seal_manifest(&mut text);
    }
    files.put(crate::manifest::NAME, text);
    match Manifest::read(&files).map_err(|error| error.to_string())? {
        Some(manifest) => accepted_as_written(malice || manifest == sound),
        None => Ok(REFUSED),
    }
}

/// The largest part of a frame's header that malice may point at.
const _: () = assert!(FRAME_HEADER == 64 && MOST_BYTES > crate::format::MAX_BODY);
