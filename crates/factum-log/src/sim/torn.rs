//! What a crash has left of the last segment, to see that recovery destroys nothing of it without a copy.

use super::SimDisk;
use crate::segment::Segment;

/// The last segment as recovery finds it.
#[derive(Debug)]
pub(super) struct Found {
    number: u32,
    bytes: Vec<u8>,
}

impl Found {
    /// What is there now.
    pub(super) fn on(disk: &SimDisk) -> Option<Self> {
        let segments = (1..).map_while(|number| Some((number, disk.contents(&Segment::name(number))?)));
        segments.last().map(|(number, bytes)| Self { number, bytes })
    }

    /// Whether each byte of it is still where it was, or in a copy.
    ///
    /// # Errors
    /// What is gone.
    pub(super) fn is_kept(&self, disk: &SimDisk) -> Result<(), String> {
        let now = disk.contents(&Segment::name(self.number)).unwrap_or_default();
        let copies = self.copies(disk);
        let kept = |at: usize, byte: u8| {
            let copied = |(offset, copy): &(usize, Vec<u8>)| {
                at.checked_sub(*offset).and_then(|n| copy.get(n)) == Some(&byte)
            };
            now.get(at) == Some(&byte) || copies.iter().any(copied)
        };
        match self.bytes.iter().enumerate().find(|&(at, &byte)| byte != 0 && !kept(at, byte)) {
            None => Ok(()),
            Some((at, _)) => {
                Err(format!("recovery destroyed byte {at} of {} without a copy", Segment::name(self.number)))
            }
        }
    }

    /// The copies that were made of parts of it, each with its offset.
    fn copies(&self, disk: &SimDisk) -> Vec<(usize, Vec<u8>)> {
        let of_this = format!("{:010}-", self.number);
        let copy = |name: &String| {
            let offset =
                name.strip_prefix(&of_this)?.strip_suffix(".cut")?.split('-').next()?.parse().ok()?;
            Some((offset, disk.contents(name)?))
        };
        disk.names().iter().filter_map(copy).collect()
    }
}
