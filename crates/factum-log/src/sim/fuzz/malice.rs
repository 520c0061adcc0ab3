//! Wrong contents with right checksums.

use crc32c::crc32c;
use fastrand::Rng;

use super::{files::Files, mutate};
use crate::{
    format::{
        BodyCrc, FRAME_HEADER, FrameHeader, RECORD_HEADER, SEGMENT_HEADER_BYTES, Seed, SegmentHeader, align,
    },
    index::run::{CRC_AT, HEADER, PAGE, Tables},
};

/// Makes a segment's header right.
pub(super) fn seal_segment_header(bytes: &mut [u8]) {
    let (covered, crc) = bytes[..SEGMENT_HEADER_BYTES].split_at_mut(SEGMENT_HEADER_BYTES - 4);
    crc.copy_from_slice(&crc32c(covered).to_le_bytes());
}

/// Makes a frame's header right.
pub(super) fn seal_frame_header(bytes: &mut [u8], seed: Seed, offset: u64) {
    let crc = seed.crc(offset, &bytes[8..FRAME_HEADER]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Makes a record right, as far as there is one; returns its checksum.
pub(super) fn seal_record(bytes: &mut [u8], seed: Seed, offset: u64) -> Option<u32> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    if length >= RECORD_HEADER && length <= bytes.len() {
        let crc = crc32c(&bytes[RECORD_HEADER..length]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = seed.crc(offset, bytes.get(4..RECORD_HEADER)?);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    Some(crc)
}

/// Makes a manifest right.
pub(super) fn seal_manifest(text: &mut [u8]) {
    let Some(end) = text.iter().position(|&byte| byte == b'\n') else { return };
    let right = format!("\ncrc32c {:08x}\n", crc32c(&text[..end]));
    let some = right.len().min(text.len() - end);
    text[end..end + some].copy_from_slice(&right.as_bytes()[..some]);
}

fn some_name(files: &Files, ending: &str, rng: &mut Rng) -> Option<String> {
    let names: Vec<String> = files.names().into_iter().filter(|name| name.ends_with(ending)).collect();
    (!names.is_empty()).then(|| names[rng.usize(0..names.len())].clone())
}

/// Changes a segment's header, a frame's, or a record, or the manifest.
pub(super) fn segment(files: &Files, rng: &mut Rng) {
    if rng.u8(0..8) == 0 {
        let mut text = files.bytes_of(crate::manifest::NAME);
        mutate(&mut text, rng);
        seal_manifest(&mut text);
        return files.put(crate::manifest::NAME, text);
    }
    let Some(name) = some_name(files, ".segment", rng) else { return };
    let mut bytes = files.bytes_of(&name);
    let Ok(header) = SegmentHeader::decode(&bytes) else { return };
    if rng.u8(0..4) == 0 {
        mutate(&mut bytes[..92], rng);
        seal_segment_header(&mut bytes);
    } else {
        frame(&mut bytes, header.seed(), rng);
    }
    files.put(&name, bytes);
}

/// Changes one of the frames.
fn frame(bytes: &mut [u8], seed: Seed, rng: &mut Rng) {
    let mut frames = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let Ok(header) = FrameHeader::decode(header, seed, at as u64) else { break };
        let end = at + FRAME_HEADER + header.body_bytes as usize;
        if end > bytes.len() {
            break;
        }
        frames.push((at, end));
        let Ok(next) = usize::try_from(align(end as u64)) else { break };
        at = next;
    }
    if frames.is_empty() {
        return;
    }
    let (start, end) = frames[rng.usize(0..frames.len())];
    let (header, body) = bytes[start..end].split_at_mut(FRAME_HEADER);
    if rng.bool() {
        mutate(&mut header[8..], rng);
    } else {
        mutate(body, rng);
        let (mut crc, mut at) = (BodyCrc::default(), 0);
        while at + RECORD_HEADER <= body.len() {
            let offset = (start + FRAME_HEADER + at) as u64;
            let length =
                u32::from_le_bytes([body[at + 4], body[at + 5], body[at + 6], body[at + 7]]) as usize;
            let Some(record) = seal_record(&mut body[at..], seed, offset) else { break };
            crc.add(record);
            at = at.saturating_add(length.max(RECORD_HEADER));
        }
        header[8..12].copy_from_slice(&crc.0.to_le_bytes());
    }
    seal_frame_header(header, seed, start as u64);
}

/// Changes a run's header, one of its tables, one of its pages, or one of its long lists.
pub(super) fn run(files: &Files, rng: &mut Rng) {
    let Some(name) = some_name(files, ".run", rng) else { return };
    let mut bytes = files.bytes_of(&name);
    let Some(tables) = Tables::of(&bytes) else { return };
    match rng.u8(0..4) {
        0 => mutate(&mut bytes[8..CRC_AT], rng),
        1 => {
            let (offset, length, crc_at) = tables.blobs[rng.usize(0..tables.blobs.len())];
            mutate(&mut bytes[offset..offset + length], rng);
            let crc = u64::from(crc32c(&bytes[offset..offset + length]));
            bytes[crc_at..crc_at + 8].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {
            let offset = tables.pages[rng.usize(0..tables.pages.len())];
            let page = &mut bytes[offset..offset + PAGE];
            mutate(&mut page[4..], rng);
            let crc = crc32c(&page[4..]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let crc = crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
    files.put(&name, bytes);
}
