//! What of a damaged log can still be read, event by event, whatever is damaged around it.

use std::{io, path::Path};

use factum::{Error, Outcome, Position, RecordedEvent, Result};

use crate::{
    disk::{Directory, Disk, explain},
    format::{Damage, SEGMENT_HEADER, is_removed},
    segment::Segment,
    verify::{
        Continuity, Ends, Finding, Findings, Part, Visitor, Whole, is_unused, open_segments, table_damage,
        walk,
    },
};

/// Hands on every sound event of the log in a directory, in the order of positions, and tells what is damaged.
///
/// It needs no index, owns nothing and changes nothing. It is for a log that cannot be opened, or of which a read says that it is
/// corrupt: the events before and after the damage are still there. Streams' lives are not looked at: what is hidden is handed on,
/// too, if it is still on the disk.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// let damaged = factum_log::salvage("data", |event| {
///     println!("{} {}", event.position, event.event_type);
///     Ok(())
/// })?;
/// for finding in damaged {
///     eprintln!("{finding}");
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::NotFound`] if there is no log, those of the disk, and those of `each`. Damage is no error: it is in the answer.
pub fn salvage(
    directory: impl AsRef<Path>,
    mut each: impl FnMut(&RecordedEvent) -> Result<()>,
) -> Result<Vec<Finding>> {
    let disk = Directory::existing(directory.as_ref())?;
    let failed = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    let live = disk.is_owned().map_err(failed)?;
    let names = disk.list().map_err(failed)?;
    let numbers: Vec<u32> = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    if numbers.is_empty() {
        return Err(Error::NotFound { what: format!("log in {}", disk.path_of("")) });
    }
    let mut findings = Findings::default();
    let segments = open_segments(&disk, numbers, Segment::name, 0, None, &mut findings)?;
    let ends = Ends::Log { durable: 0, live };
    let mut salvaging = Salvaging { each: &mut each, findings };
    for (n, opened) in segments.iter().enumerate() {
        if let Some(damage) = table_damage(&opened.segment)? {
            let segment = &opened.segment;
            let positions = Some((Position(segment.first()), Position(segment.end() - 1)));
            salvaging.damage(segment, 0, positions, damage);
            continue;
        }
        let mut continuity = Continuity::UNKNOWN;
        walk(&opened.segment, SEGMENT_HEADER, ends.of(&segments, n), &mut continuity, &mut salvaging)?;
    }
    Ok(salvaging.findings.listed)
}

/// A salvage under way.
struct Salvaging<'a> {
    each: &'a mut dyn FnMut(&RecordedEvent) -> Result<()>,
    findings: Findings,
}

impl Visitor for Salvaging<'_> {
    fn frame(&mut self, segment: &Segment, frame: &Whole) -> Result<()> {
        self.broken(segment, frame)
    }

    fn broken(&mut self, _: &Segment, frame: &Whole) -> Result<()> {
        // Each of these was found to be whole, whatever is wrong with others of the frame. Of one that was scavenged nothing is left.
        frame.events.iter().filter(|event| !is_removed(event)).try_for_each(&mut *self.each)
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        if !is_unused(damage) {
            self.findings.add(Part::Log, &segment.path, offset, positions, damage.0);
        }
    }

    fn done(&mut self, _: u64) {}
}
