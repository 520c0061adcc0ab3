//! Every byte of a small log damaged, and every length of every file cut short: each is noticed, or does no harm.
//!
//! *Noticed*: the log does not open, or a reader is told that it is corrupt. *No harm*: every reader is answered as before, an
//! append that is sent again is known again, and a new one goes through. Silent loss, another answer, and a panic are failures.
//! Damage to an index or to the manifest must do no harm: they are made again from the log. What [`verify`](crate::verify()) says is held to more: no byte of a segment may change without its saying so.

use std::{ops::ControlFlow, sync::Arc};

use factum::{
    Append, Error, EventId, Limits, ManualClock, NewEvent, Page, Query, Read, Retention, StreamName, Tags,
    Timestamp, stream::LifeChange,
};
use uuid::Uuid;

use super::SimDisk;
use crate::{
    bugs::Bugs,
    index::{PageCache, Run, Secret},
    log::{Log, Settings, scavenge::Scavenge},
    read,
    segment::Segment,
    verify::verify_disk,
};

/// Events of the log, and of those that are indexed in memory.
const EVENTS: u128 = 24;
const RUN_EVENTS: u64 = 9;

/// What to damage.
#[derive(Clone, Copy, Debug)]
pub struct Damages {
    /// Every such byte and length; 1 for all of them.
    pub stride: usize,
    /// The first of them.
    pub first: usize,
    /// Whether the log was scavenged before.
    pub scavenged: bool,
}

/// What was damaged, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageReport {
    /// Files, and their bytes.
    pub files: usize,
    /// As above.
    pub bytes: usize,
    /// Bytes that were damaged, each in two ways.
    pub flipped: usize,
    /// Lengths to which files were cut.
    pub cut: usize,
    /// Logs that did not open.
    pub refused: usize,
    /// Logs of which a reader was told that they are corrupt.
    pub told: usize,
    /// Logs that were as before.
    pub harmless: usize,
    /// Of the harmless ones, those of which `verify` said something all the same.
    pub verified: usize,
}

/// Damages one byte after the other.
///
/// # Errors
/// The first damage that was neither noticed nor harmless.
pub fn every_byte(what: &Damages, mut each: impl FnMut(usize, usize)) -> Result<DamageReport, String> {
    let (sound, asked) = Asked::of_a_sound_log(what.scavenged)?;
    let names: Vec<String> = sound.names().into_iter().filter(|name| !name.ends_with(".new")).collect();
    let segments = names.iter().filter(|name| Segment::number_in(name).is_some()).count();
    let runs = names.iter().filter(|name| Run::span_in(name).is_some()).count();
    if segments < 3 || runs < 2 {
        return Err(format!("the log to damage is too small: {names:?}"));
    }
    let mut report = DamageReport { files: names.len(), ..DamageReport::default() };
    for name in &names {
        let whole = sound.contents(name).unwrap_or_default();
        report.bytes += whole.len();
        for at in (what.first % what.stride..whole.len()).step_by(what.stride) {
            for mask in [0xff, 1 << (at / what.stride % 8)] {
                let mut bytes = whole.clone();
                bytes[at] ^= mask;
                let how = || format!("byte {at} of {name} changed by {mask:#04x}");
                report
                    .take(&asked, &sound, name, bytes, true)
                    .map_err(|what| format!("{}: {what}", how()))?;
            }
            report.flipped += 1;
            let cut = whole[..at].to_vec();
            let how = || format!("{name} cut to {at} bytes");
            report.take(&asked, &sound, name, cut, false).map_err(|what| format!("{}: {what}", how()))?;
            report.cut += 1;
            each(report.flipped, report.bytes);
        }
    }
    Ok(report)
}

/// What readers are answered.
struct Asked {
    reads: Vec<Read>,
    pages: Vec<Page>,
    /// An append that is recorded.
    again: Append,
}

fn settings() -> Settings {
    Settings {
        limits: Limits::default(),
        clock: Arc::new(ManualClock::at(Timestamp(1_000_000))),
        birth: Some(Uuid::from_u128(1)),
        secret: Secret(7),
        first_segment_bytes: 8192,
        segment_bytes: 8192,
        run_events: RUN_EVENTS,
        index_pages: Arc::new(PageCache::of_bytes(64 << 10)),
        bugs: Bugs::default(),
    }
}

fn event(n: u128) -> factum::Result<Append> {
    let stream = StreamName::new(format!("s-{}", n % 3))?;
    let event = NewEvent::bytes(if n.is_multiple_of(2) { "Even" } else { "Odd" }, vec![7; 250])?;
    let tags = Tags::new(["all:1".to_owned(), format!("n:{n}")])?;
    Ok(Append::to(stream, [event.with_id(EventId(Uuid::from_u128(n + 1))).with_tags(tags)]))
}

fn append(log: &Log, append: Append) -> factum::Result<factum::Appended> {
    let mut answer = log.submit(append)?;
    while log.commit() {}
    let unanswered = || Err(Error::invalid("the append", "nobody answered"));
    answer.try_recv().unwrap_or_else(|_| unanswered())
}

impl Asked {
    /// A log of three segments, with runs, retention and a deleted stream, closed in good order; and what readers see of it.
    fn of_a_sound_log(scavenged: bool) -> Result<(SimDisk, Self), String> {
        let disk = SimDisk::new(1);
        let make = || -> factum::Result<Self> {
            let log = Log::open(Arc::new(disk.clone()), settings())?;
            for n in 0..EVENTS {
                append(&log, event(n)?)?;
                while log.write_run()? {}
            }
            let lives = [
                ("s-1", LifeChange::Retention(Retention { max_count: Some(4), ..Retention::default() })),
                ("s-2", LifeChange::Deleted),
            ];
            for (n, (stream, change)) in (1000..).zip(lives) {
                let stream = StreamName::new(stream)?.metadata_stream()?;
                let id = EventId(Uuid::from_u128(n));
                append(&log, Append::to(stream, [change.to_event()?.with_id(id)]))?;
            }
            let all = Scavenge::default().at_least_percent(0);
            if scavenged && log.scavenge(&all, &mut |_| ControlFlow::Continue(()))?.events() == 0 {
                return Err(Error::invalid("the log", "nothing of it was scavenged"));
            }
            log.close()?;
            let mut reads = vec![Read::all(), Read::all().backwards(), Read::query(Query::tags(["all:1"])?)];
            reads.push(Read::query(Query::types(["Odd"])?.tag("n:7")?));
            reads.push(Read::query(Query::category("s")).backwards());
            for stream in 0..3 {
                reads.push(Read::stream(StreamName::new(format!("s-{stream}"))?));
            }
            let pages = reads.iter().map(|read| read::page(&log, read)).collect::<factum::Result<_>>()?;
            Ok(Self { reads, pages, again: event(5)? })
        };
        let asked = make().map_err(|error| error.to_string())?;
        drop(disk.clone());
        Ok((disk, asked))
    }

    /// Opens the log and asks everything. Whether it was refused, told, or harmless.
    fn ask(&self, disk: &SimDisk) -> Result<Met, String> {
        let log = match Log::open(Arc::new(disk.clone()), settings()) {
            Ok(log) => log,
            Err(Error::Corrupt(_)) => return Ok(Met::Refused),
            Err(other) => return Err(format!("opening it says: {other}")),
        };
        let mut met = Met::Harmless;
        for (read, expected) in self.reads.iter().zip(&self.pages) {
            match read::page(&log, read) {
                Ok(page) if page == *expected => {}
                Ok(page) => {
                    let (is, was) = (page.events.len(), expected.events.len());
                    return Err(format!("{read:?} is answered with {is} events where there were {was}"));
                }
                Err(Error::Corrupt(_)) => met = Met::Told,
                Err(other) => return Err(format!("a reader is told: {other}")),
            }
        }
        match append(&log, self.again.clone()) {
            Ok(appended) if appended.replayed => {}
            Err(Error::Corrupt(_)) => met = Met::Told,
            Ok(_) => return Err("what is recorded was recorded once more".to_owned()),
            Err(other) => return Err(format!("what is recorded is not known again: {other}")),
        }
        match event(EVENTS + 1).and_then(|new| append(&log, new)) {
            Ok(appended) if !appended.replayed => Ok(met),
            Err(Error::Corrupt(_)) => Ok(Met::Told),
            Ok(_) => Err("what is new was taken for recorded".to_owned()),
            Err(other) => Err(format!("an append is told: {other}")),
        }
    }
}

enum Met {
    Refused,
    Told,
    Harmless,
}

impl DamageReport {
    fn take(
        &mut self,
        asked: &Asked,
        sound: &SimDisk,
        name: &str,
        bytes: Vec<u8>,
        flipped: bool,
    ) -> Result<(), String> {
        let disk = sound.copy(1);
        disk.set_contents(name, bytes);
        let verified = verify_disk(&disk, &mut |_| {}).map_err(|error| format!("verify says: {error}"))?;
        let noticed = !verified.is_sound() || verified.torn_bytes > 0 || !verified.unchecked.is_empty();
        if flipped && !noticed && Segment::number_in(name).is_some() {
            return Err("verify finds nothing".to_owned());
        }
        let met = asked.ask(&disk)?;
        if Segment::number_in(name).is_none() && !matches!(met, Met::Harmless) {
            return Err("what can be made again from the log is missed".to_owned());
        }
        match met {
            Met::Refused => self.refused += 1,
            Met::Told => self.told += 1,
            Met::Harmless => {
                self.harmless += 1;
                self.verified += usize::from(noticed);
            }
        }
        if matches!(met, Met::Refused | Met::Told) && !noticed {
            return Err("verify finds nothing where a reader was told of damage".to_owned());
        }
        Ok(())
    }
}
