//! `docs/format.md`: written from the descriptions below, each of which is compared byte by byte with what the engine writes.

use std::{fmt::Write as _, fs, path::Path};

use crc32c::{crc32c, crc32c_append};
use factum::{
    EventId, EventType, LogIdentity, Metadata, NewEvent, Position, Revision, StreamName, Tags, Timestamp,
};
use uuid::Uuid;

use super::{
    ALIGN, BodyCrc, FORMAT, FRAME_HEADER, FrameHeader, MAX_BODY, RECORD_HEADER, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, Stub, draft_record, place_record,
};
use crate::{
    backup,
    disk::{Directory, Disk},
    index::{Index, Indexed, Secret, Span, run},
    manifest::Manifest,
    packed::{Facts, Packing},
    segment::Segment,
};

/// Writes the page anew.
const WRITE: &str = "FACTUM_WRITE_FORMAT";

/// A field: its name, its length, and what it is.
struct Field(&'static str, Length, &'static str);

/// How long a field is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// So many bytes; an integer, unless said otherwise.
    Bytes(usize),
    /// An integer of seven bits in each byte, the lowest first; the last byte is less than 128.
    Varint,
    /// As many as other fields say.
    Said,
    /// Zeros up to this many bytes from the beginning.
    ZerosTo(usize),
}

use Length::{Bytes as B, Said, Varint, ZerosTo};

const SEGMENT: &[Field] = &[
    Field("magic", B(8), "the text `factlog1`"),
    Field("format", B(4), "the version of this format"),
    Field("log id", B(16), "a UUID, as its bytes are written"),
    Field("epoch", B(8), "of the log when the segment was begun"),
    Field("number", B(4), "of the segment, from 1"),
    Field("base", B(8), "the position of the segment's first byte"),
    Field("capacity", B(8), "bytes of the segment"),
    Field("first frame", B(8), "the number of its first frame"),
    Field("events before", B(8), "how many events are in the segments before"),
    Field("previous end", B(8), "the position at which the frames of the segment before end"),
    Field("last recorded at", B(8), "when the last event before was recorded"),
    Field("zeros", ZerosTo(SEGMENT_HEADER_BYTES - 4), "room for later versions"),
    Field("checksum", B(4), "of all bytes of the header before; not seeded"),
];

const FRAME: &[Field] = &[
    Field("magic", B(4), "the text `FRM1`"),
    Field("checksum", B(4), "seeded; of the rest of this header"),
    Field("body checksum", B(4), "not seeded; of the records' own checksums, one after the other"),
    Field("body bytes", B(4), "of the records, without what follows them up to the next frame"),
    Field("events", B(4), "how many records; none in a mark"),
    Field("segment", B(4), "the number of the segment"),
    Field("number", B(8), "counts the frames of the log, from 1"),
    Field("position", B(8), "of the frame's first byte"),
    Field("synced up to", B(8), "everything before this position was durable when the frame was written"),
    Field("events before", B(8), "how many events are in the log before it"),
    Field("recorded at", B(8), "when its last event was recorded; in a mark, the last before it"),
];

const RECORD: &[Field] = &[
    Field("checksum", B(4), "seeded; of the rest of the fixed part"),
    Field("bytes", B(4), "of the record"),
    Field("payload checksum", B(4), "not seeded; of everything after the fixed part"),
    Field("metadata bytes", B(4), "as below"),
    Field("stream bytes", B(2), "as below"),
    Field("type bytes", B(2), "as below"),
    Field("content type bytes", B(2), "as below"),
    Field("tags bytes", B(2), "as below"),
    Field("revision", B(8), "in the stream, from 0"),
    Field("recorded at", B(8), "when the store took the event"),
    Field("id", B(16), "a UUID, as its bytes are written"),
    Field("kind", B(1), "of the data: 0 JSON, 1 bytes, 2 of the content type below"),
    Field("zeros", B(3), ""),
    Field("stream", Said, "UTF-8"),
    Field("type", Said, "UTF-8"),
    Field("content type", Said, "UTF-8, only of kind 2"),
    Field("tags", Said, "each as two bytes of length and UTF-8, in the order of their bytes"),
    Field("metadata", Said, "a JSON object; nothing for an empty one"),
    Field("data", Said, "the rest of the record"),
];

const STUB: &[Field] = &[
    Field("checksum", B(4), "seeded; of the rest of the fixed part"),
    Field("bytes", B(4), "of the record that stood here, and the highest bit, which says that it is a stub"),
    Field("stream checksum", B(4), "not seeded; of the stream's name"),
    Field("record checksum", B(4), "of the record that stood here: the frame's is made of it"),
    Field("stream bytes", B(2), "as below"),
    Field("digest, begin", B(6), "of the content: the first of ten bytes"),
    Field("revision", B(8), "as in the record"),
    Field("recorded at", B(8), "as in the record"),
    Field("id", B(16), "as in the record"),
    Field("digest, rest", B(4), "the other four"),
    Field("stream", Said, "UTF-8"),
];

const PACKED: &[Field] = &[
    Field("magic", B(8), "the text `factpck1`"),
    Field("segment", B(80), "from `format` to `last recorded at`, as in a segment's header"),
    Field("generation", B(8), "how many times the segment was packed"),
    Field("synced up to", B(8), "everything before this position was durable when the file was made"),
    Field("removed", B(8), "how many of its events are stubs"),
    Field(
        "stretches end",
        B(8),
        "where in this file the stretches end; the table begins at the next multiple of 4096",
    ),
    Field("pages", B(8), "of the table"),
    Field("checksum of firsts", B(8), "not seeded; of the offsets behind the table"),
    Field("zeros", ZerosTo(SEGMENT_HEADER_BYTES - 4), "room for later versions"),
    Field("checksum", B(4), "of all bytes of the header before; not seeded"),
];

const PACKED_PAGE: &[Field] = &[
    Field("checksum", B(4), "seeded, with the offset in this file; of the rest of the page"),
    Field("stretches", B(4), "how many"),
    Field("original", B(8), "the offset of the first in the segment"),
    Field("here", B(8), "its offset in this file"),
    Field(
        "distances",
        Said,
        "of each stretch from the first, in the segment and in this file, 4 bytes each; and once more, of where the last one ends",
    ),
    Field("zeros", ZerosTo(4096), ""),
];

const RUN: &[Field] = &[
    Field("magic", B(8), "the text `factidx3`"),
    Field("log id, high", B(8), "the upper half of the UUID"),
    Field("log id, low", B(8), "the lower half"),
    Field("secret", B(8), "what its hashes are made with"),
    Field("start", B(8), "the position at which its stretch of the log begins"),
    Field("end", B(8), "the position at which that ends: the end of a frame"),
    Field("events", B(8), "in the log, from its beginning up to the end"),
    Field("next frame", B(8), "the number of the first frame after the end"),
    Field("last", B(8), "the position of the last event before the end"),
    Field("last recorded at", B(8), "when that was recorded"),
    Field("hides something", B(8), "1 if a stream in it hides some of its events"),
    Field("largest id, high", B(8), "of the events in the stretch, the upper half"),
    Field("largest id, low", B(8), "the lower half"),
    Field("stream tops", B(24), "a blob: where it is, its bytes and its checksum, 8 bytes each"),
    Field("key tops", B(24), "a blob"),
    Field("id tops", B(24), "a blob"),
    Field(
        "frames",
        B(24),
        "a blob: pairs of the position of a frame and the time of its first event, 8 bytes each",
    ),
    Field(
        "stream table",
        B(32),
        "where its filter begins and how many blocks that has; where its directory begins and how many entries that has",
    ),
    Field("key table", B(32), "as before"),
    Field("id table", B(32), "as before"),
    Field("zeros", ZerosTo(508), "room for later versions"),
    Field("checksum", B(4), "not seeded; of all bytes before"),
];

const STREAM_ENTRY: &[Field] = &[
    Field("entry bytes", B(2), "of what follows"),
    Field("hash", B(16), "of the stream's name"),
    Field("first revision", Varint, "of its first event in the run"),
    Field("state bytes", Varint, "as below; none if the state follows from the events"),
    Field("state", Said, "JSON: last revision, retention and life at the end of the run"),
    Field("list", Said, "its events, as below"),
];

const KEY_ENTRY: &[Field] = &[
    Field("entry bytes", B(2), "of what follows"),
    Field("hash", B(8), "of a category, a type or a tag"),
    Field("list", Said, "the events under it, as below"),
];

const ID_ENTRY: &[Field] = &[
    Field("entry bytes", B(2), "of what follows"),
    Field("hash", B(8), "of an event's stream and id"),
    Field("position", B(8), "of the event"),
];

const TABLE_PAGE: &[Field] = &[
    Field("checksum", B(4), "not seeded; of the rest of the page"),
    Field("zeros", ZerosTo(16), ""),
    Field("pieces", Said, "blocks of a filter, up to 127, or entries of a directory, up to 255"),
    Field("zeros", ZerosTo(4096), ""),
];

const PAGE: &[Field] = &[
    Field("checksum", B(4), "not seeded; of the rest of the page"),
    Field("entries", B(2), "how many"),
    Field("entries", Said, "in the order of their hashes"),
    Field("zeros", ZerosTo(4096), ""),
];

/// The bytes that a description says, from the value of each field in its order.
fn assembled(fields: &[Field], values: &[&[u8]]) -> Vec<u8> {
    assert_eq!(fields.iter().filter(|field| !matches!(field.1, ZerosTo(_))).count(), values.len());
    let mut values = values.iter();
    let mut out = Vec::new();
    for Field(name, length, _) in fields {
        if let ZerosTo(end) = length {
            out.resize(*end, 0);
            continue;
        }
        let value = values.next().unwrap();
        assert!(!matches!(length, B(bytes) if *bytes != value.len()), "{name} has {} bytes", value.len());
        out.extend_from_slice(value);
    }
    out
}

/// A checksum that starts from the log's id, the segment's number and the offset.
fn seeded(log_id: Uuid, segment: u32, offset: u64, bytes: &[u8]) -> u32 {
    let seed = crc32c_append(crc32c(log_id.as_bytes()), &segment.to_le_bytes());
    crc32c_append(crc32c_append(seed, &offset.to_le_bytes()), bytes)
}

const LOG: LogIdentity =
    LogIdentity { log_id: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), epoch: 17 };

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        log: LOG,
        number: 3,
        base: 0x1122_3344,
        capacity: 1 << 20,
        first_frame: 55,
        events_before: 66,
        previous_end: 77,
        last_recorded_at: Timestamp(-88),
    }
}

#[test]
fn a_segments_header_is_as_described() {
    let header = segment_header();
    let (magic, zero) = (b"factlog1", [0; 4]);
    let mut bytes = assembled(
        SEGMENT,
        &[
            magic,
            &FORMAT.to_le_bytes(),
            LOG.log_id.as_bytes(),
            &17u64.to_le_bytes(),
            &3u32.to_le_bytes(),
            &0x1122_3344u64.to_le_bytes(),
            &(1u64 << 20).to_le_bytes(),
            &55u64.to_le_bytes(),
            &66u64.to_le_bytes(),
            &77u64.to_le_bytes(),
            &(-88i64).to_le_bytes(),
            &zero,
        ],
    );
    let covered = bytes.len() - 4;
    let crc = crc32c(&bytes[..covered]).to_le_bytes();
    bytes[covered..].copy_from_slice(&crc);
    assert_eq!(bytes, header.encode());
}

#[test]
fn a_frames_header_is_as_described() {
    let frame = FrameHeader {
        body_crc: 0xaabb_ccdd,
        body_bytes: 100,
        events: 2,
        segment: 3,
        number: 56,
        position: 4096,
        synced_upto: 4000,
        events_before: 12,
        recorded_at: Timestamp(-8),
    };
    let rest = [
        &0xaabb_ccddu32.to_le_bytes()[..],
        &100u32.to_le_bytes(),
        &2u32.to_le_bytes(),
        &3u32.to_le_bytes(),
        &56u64.to_le_bytes(),
        &4096u64.to_le_bytes(),
        &4000u64.to_le_bytes(),
        &12u64.to_le_bytes(),
        &(-8i64).to_le_bytes(),
    ];
    let crc = seeded(LOG.log_id, 3, 5000, &rest.concat()).to_le_bytes();
    let values: Vec<&[u8]> = [&b"FRM1"[..], &crc].into_iter().chain(rest).collect();
    assert_eq!(assembled(FRAME, &values), frame.encode(segment_header().seed(), 5000));
}

fn event() -> NewEvent {
    let event = NewEvent::bytes("Type", "the data").unwrap().with_id(EventId(Uuid::from_u128(7)));
    let event = event.with_tags(Tags::new(["b:2", "a:1"]).unwrap());
    let event = event.with_metadata(Metadata::from_json(r#"{"actor":"ada"}"#).unwrap());
    NewEvent { content_type: factum::ContentType::Other("text/csv".into()), ..event }
}

#[test]
fn a_record_is_as_described() {
    let payload: [&[u8]; 6] =
        [b"account-1", b"Type", b"text/csv", b"\x03\0a:1\x03\0b:2", br#"{"actor":"ada"}"#, b"the data"];
    let all = payload.concat();
    let length = |n: usize| u16::try_from(payload[n].len()).unwrap().to_le_bytes();
    let id = Uuid::from_u128(7);
    let rest: [&[u8]; 12] = [
        &u32::try_from(RECORD_HEADER + all.len()).unwrap().to_le_bytes(),
        &crc32c(&all).to_le_bytes(),
        &u32::try_from(payload[4].len()).unwrap().to_le_bytes(),
        &length(0),
        &length(1),
        &length(2),
        &length(3),
        &9u64.to_le_bytes(),
        &(-5i64).to_le_bytes(),
        id.as_bytes(),
        &[2],
        &[0; 3],
    ];
    let crc = seeded(LOG.log_id, 3, 5064, &rest.concat());
    let crc_bytes = crc.to_le_bytes();
    let values: Vec<&[u8]> = [&crc_bytes[..]].into_iter().chain(rest).chain(payload).collect();
    let mut out = Vec::new();
    draft_record(&mut out, &StreamName::new("account-1").unwrap(), &event());
    let written = place_record(&mut out, segment_header().seed(), 5064, Revision(9), Timestamp(-5));
    assert_eq!((assembled(RECORD, &values), crc), (out, written));
    let mut body = BodyCrc::default();
    body.add(crc);
    body.add(99);
    assert_eq!(body.0, crc32c(&[crc.to_le_bytes(), 99u32.to_le_bytes()].concat()), "the checksum of a body");
}

#[test]
fn a_stub_is_as_described() {
    let mut record = Vec::new();
    draft_record(&mut record, &StreamName::new("account-1").unwrap(), &event());
    let seed = segment_header().seed();
    let crc = place_record(&mut record, seed, 5064, Revision(9), Timestamp(-5));
    let bytes = u32::try_from(record.len()).unwrap();
    let header = RecordHeader::decode(&record, seed, 5064).unwrap();
    let whole = header.event(&record.into(), 0, Position(5064)).unwrap();
    let digest = xxhash_rust::xxh3::xxh3_128(&event().canonical_content()).to_be_bytes();
    let id = Uuid::from_u128(7);
    let rest: [&[u8]; 9] = [
        &(bytes | 1 << 31).to_le_bytes(),
        &crc32c(b"account-1").to_le_bytes(),
        &crc.to_le_bytes(),
        &9u16.to_le_bytes(),
        &digest[..6],
        &9u64.to_le_bytes(),
        &(-5i64).to_le_bytes(),
        id.as_bytes(),
        &digest[6..10],
    ];
    let crc = seeded(LOG.log_id, 3, 5064, &rest.concat()).to_le_bytes();
    let values: Vec<&[u8]> = [&crc[..]].into_iter().chain(rest).chain([&b"account-1"[..]]).collect();
    let mut out = Vec::new();
    Stub::write(&mut out, seed, 5064, &header, &whole);
    assert_eq!(assembled(STUB, &values), out);
}

#[test]
fn a_packed_segment_is_as_described() {
    let directory = tempfile::tempdir().unwrap();
    let file = Directory::at(directory.path()).create("packed", 0).unwrap();
    let header = segment_header();
    let mut packing = Packing::new(&header, Some(file.clone()));
    packing.put(4096, &[7; 100]).unwrap();
    packing.put(5000, &[8; 60]).unwrap();
    let facts = Facts { generation: 2, synced_upto: 0x1122_9999, removed: 5 };
    packing.finish(&header, facts).unwrap();
    let mut bytes = vec![0; usize::try_from(file.bytes().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[4096..4256], [&[7; 100][..], &[8; 60]].concat());
    let distances: Vec<u8> = [0u32, 0, 904, 100, 964, 160].iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut page = assembled(
        PACKED_PAGE,
        &[&[0; 4], &2u32.to_le_bytes(), &4096u64.to_le_bytes(), &4096u64.to_le_bytes(), &distances],
    );
    let crc = seeded(LOG.log_id, 3, 8192, &page[4..]).to_le_bytes();
    page[..4].copy_from_slice(&crc);
    assert_eq!(bytes[8192..8192 + 4096], page);
    // Behind the table, the offset of the first stretch of each page, up to the end of a sector.
    let firsts = 4096u64.to_le_bytes();
    assert_eq!((&bytes[8192 + 4096..8192 + 4104], bytes.len()), (&firsts[..], 8192 + 4096 + 512));
    let plain = header.encode();
    let numbers = [2, 0x1122_9999, 5, 4256, 1, u64::from(crc32c(&firsts))].map(u64::to_le_bytes);
    let values: Vec<&[u8]> = [&b"factpck1"[..], &plain[8..88]]
        .into_iter()
        .chain(numbers.iter().map(|number| &number[..]))
        .chain([&[0; 4][..]])
        .collect();
    let mut first_page = assembled(PACKED, &values);
    let crc = crc32c(&first_page[..4092]).to_le_bytes();
    first_page[4092..].copy_from_slice(&crc);
    assert_eq!(bytes[..4096], first_page);
}

/// A run of one event, as a file.
fn small_run() -> (Span, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Directory::at(directory.path());
    let secret = Secret(0x5ec7e7);
    let (stream, event) = (StreamName::new("account-1").unwrap(), event());
    let mut index = Index::default();
    let mut state =
        factum::StreamState { last_revision: Some(Revision(4)), ..factum::StreamState::default() };
    state.written();
    let (hash, mut keys) = (secret.stream(&stream), Vec::new());
    secret.keys_of(&stream, &EventType::new("Type").unwrap(), &Tags::NONE, &mut keys);
    keys.truncate(1);
    let (position, id) = (Position(4160), event.id);
    let found = Indexed { position, id, id_hash: secret.id(hash, id), keys: &keys };
    index.add(hash, state, Timestamp(-5), found);
    let span = Span {
        log_id: LOG.log_id,
        secret: secret.0,
        start: 4096,
        end: 5000,
        events: 1,
        next_frame: 2,
        last: position,
        last_recorded_at: Timestamp(-5),
        hides_something: false,
        largest_id: 7 << 64 | 8,
    };
    let cache = std::sync::Arc::new(crate::index::PageCache::of_bytes(1));
    run::make(&disk, span, &index, &[(4096, Timestamp(-5))], &cache).unwrap();
    let file = disk.open(&run::Run::name(span.start, span.end)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.bytes().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    (span, bytes)
}

#[test]
fn a_run_is_as_described() {
    let (span, bytes) = small_run();
    let secret = Secret(span.secret);
    let stream = secret.stream("account-1");
    // 64 from the start of the run to the record.
    let list = [1, 64];
    let entry = |fields: &[Field], values: &[&[u8]]| {
        let length = values.iter().map(|value| value.len()).sum::<usize>();
        let length = u16::try_from(length).unwrap().to_le_bytes();
        assembled(fields, &[&[&length[..]], values].concat())
    };
    let category = secret.key(crate::index::Kind::Category, "account").to_le_bytes();
    let id = secret.id(stream, EventId(Uuid::from_u128(7))).to_le_bytes();
    let entries = [
        entry(STREAM_ENTRY, &[&stream.to_le_bytes(), &[5], &[0], &[], &list]),
        entry(KEY_ENTRY, &[&category, &list]),
        entry(ID_ENTRY, &[&id, &4160u64.to_le_bytes()]),
    ];
    let page_at = |n: usize| &bytes[4096 * n..4096 * (n + 1)];
    let sealed = |mut page: Vec<u8>| {
        let crc = crc32c(&page[4..]).to_le_bytes();
        page[..4].copy_from_slice(&crc);
        page
    };
    let hashes = [(stream >> 64) as u64, u64::from_le_bytes(category), u64::from_le_bytes(id)];
    for (n, (entry, hash)) in entries.iter().zip(hashes).enumerate() {
        // Each table has a page of entries, one of its filter, and one of its directory.
        let (page, filter, directory) = (1 + 3 * n, 2 + 3 * n, 3 + 3 * n);
        assert_eq!(page_at(page), sealed(assembled(PAGE, &[&[0; 4], &[1, 0], entry])), "page {n}");
        let to_page = [hash.to_le_bytes(), (page as u64 * 4096).to_le_bytes()].concat();
        let expected = sealed(assembled(TABLE_PAGE, &[&[0; 4], &to_page]));
        assert_eq!(page_at(directory), expected, "directory {n}");
        let block = &page_at(filter)[16..48];
        assert!(
            crate::index::may_have(hash, block)
                && block.iter().map(|byte| byte.count_ones()).sum::<u32>() == 8
        );
        assert_eq!(page_at(filter), sealed(assembled(TABLE_PAGE, &[&[0; 4], block])), "filter {n}");
    }
    // The blobs follow each other behind the pages: the first hashes of the directories, and where frames begin.
    let words: Vec<u64> =
        bytes[8..512].as_chunks::<8>().0[12..36].iter().map(|number| u64::from_le_bytes(*number)).collect();
    let (blobs, tables) = words.split_at(12);
    let mut at = 4096 * 10;
    for (n, blob) in blobs.as_chunks::<3>().0.iter().enumerate() {
        let contents = &bytes[usize::try_from(at).unwrap()..usize::try_from(blob[0] + blob[1]).unwrap()];
        assert_eq!((blob[0], u64::from(crc32c(contents))), (at, blob[2]));
        if let Some(hash) = hashes.get(n) {
            assert_eq!(contents, hash.to_le_bytes());
        }
        at += blob[1];
    }
    assert_eq!(at, bytes.len() as u64);
    let tables_expected: Vec<u64> =
        (0..3).flat_map(|n| [4096 * (2 + 3 * n), 1, 4096 * (3 + 3 * n), 1]).collect();
    assert_eq!(tables, tables_expected);
    let bytes_of = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let blob_fields: Vec<Vec<u8>> = blobs.chunks(3).chain(tables.chunks(4)).map(bytes_of).collect();
    let (high, low) = LOG.log_id.as_u64_pair();
    let numbers = [high, low, span.secret, 4096, 5000, 1, 2, 4160, (-5i64).cast_unsigned(), 0, 7, 8];
    let numbers: Vec<[u8; 8]> = numbers.map(u64::to_le_bytes).to_vec();
    let values: Vec<&[u8]> = [&b"factidx3"[..]]
        .into_iter()
        .chain(numbers.iter().map(|number| &number[..]))
        .chain(blob_fields.iter().map(|blob| &blob[..]))
        .chain([&[0; 4][..]])
        .collect();
    let mut header = assembled(RUN, &values);
    let crc = crc32c(&header[..508]).to_le_bytes();
    header[508..].copy_from_slice(&crc);
    assert_eq!(bytes[..512], header);
    assert_eq!(bytes[512..4096], [0; 4096 - 512]);
}

fn table(out: &mut String, title: &str, what: &str, fields: &[Field]) {
    let _ =
        writeln!(out, "\n## {title}\n\n{what}\n\n| from | bytes | field | what it is |\n|---|---|---|---|");
    let mut from = Some(0);
    for Field(name, length, meaning) in fields {
        let (bytes, next) = match (length, from) {
            (B(bytes), from) => (bytes.to_string(), from.map(|from| from + bytes)),
            (Varint, _) => ("varint".to_owned(), None),
            (Said, _) => ("as said".to_owned(), None),
            (ZerosTo(end), Some(from)) => ((end - from).to_string(), Some(*end)),
            (ZerosTo(end), None) => (format!("up to {end}"), Some(*end)),
        };
        let from_shown = from.map_or_else(String::new, |from| from.to_string());
        let _ = writeln!(out, "| {from_shown} | {bytes} | {name} | {meaning} |");
        from = next;
    }
}

/// The names of files.
fn files(out: &mut String) {
    let segment = Segment::name(1);
    let files = [
        (
            segment.clone(),
            "a segment of the log, numbered from 1 without gaps; plain, or packed by a scavenge",
        ),
        (
            run::Run::name(0, 5000),
            "index of a stretch of the log, by its first position and its end, hexadecimal",
        ),
        ("manifest".into(), "a hint of how far the log was durable"),
        ("LOCK".into(), "locked by the owner of the directory; holds its process number; never deleted"),
        (crate::recovery::SPARE.into(), "made ahead of time for the next segment"),
        (format!("{segment}.new"), "any of these before it is complete; removed when the log is opened"),
        ("0000000001-000000004096-001.cut".into(), "what recovery cut off: segment, offset, and a number"),
        (backup::UNFINISHED.into(), "a restore into the directory did not finish; it is not opened"),
        (backup::UNREPAIRED.into(), "a repair did not finish; it is not opened"),
    ];
    for (name, what) in files {
        let _ = writeln!(out, "| `{name}` | {what} |");
    }
}

/// Files that people can read.
fn texts(out: &mut String) {
    let manifest =
        Manifest { log_id: LOG.log_id, epoch: 1, last_segment: 2, durable_upto: 12345, clean: true };
    let list = backup::List::sample(LOG.log_id);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let _ = write!(
        out,
        "\n## Manifest\n\nA line of JSON, and a line with its checksum, not seeded:\n\n```text\n{}```\n\
         \n## Backup\n\nA directory of its own kind: `{}` for each segment, its first bytes as far as they are used; and `{}`, which\n\
         is replaced last, and says how many bytes of each count:\n\n```text\n{}```\n",
        text(manifest.encode().unwrap()),
        backup::copy_name(1),
        backup::LIST,
        text(list.encode().unwrap()),
    );
}

/// The page, from what the code says of itself.
fn page() -> String {
    let mut out = format!(
        "# The format on disk\n\n\
         Version {FORMAT}. Written by the tests of `factum-log` from descriptions that are compared, byte by byte, with what the engine\n\
         writes; do not edit it. What is in a log is never rewritten when the format changes: every later version reads it, and\n\
         `crates/factum-log/tests/golden` holds it to that.\n\n\
         All integers are little-endian. Times are microseconds since 1970-01-01 UTC, signed. A *position* is a place in the whole\n\
         log: a segment's base and the offset within the segment. An event's position is that of its record.\n\n\
         Checksums are CRC-32C. A *seeded* one starts with the log's id, the segment's number (4 bytes) and the offset of the\n\
         structure in the segment (8 bytes): bytes that are right, but in another place, are as wrong as damaged ones.\n\n\
         ## Files\n\n\
         | name | what it is |\n|---|---|\n"
    );
    files(&mut out);
    let body = format!(
        "A segment is its header, then frames, then zeros up to its capacity. A frame begins at a multiple of {ALIGN} bytes; between \
         the end of its body and the next frame there are zeros. The body is at most {} MiB.",
        MAX_BODY >> 20
    );
    table(&mut out, "Segment header", &body, SEGMENT);
    let what = format!(
        "What one sync made durable: a header of {FRAME_HEADER} bytes, then the records of its events."
    );
    table(&mut out, "Frame header", &what, FRAME);
    let what = format!("An event: a fixed part of {RECORD_HEADER} bytes, then what it consists of.");
    table(&mut out, "Record", &what, RECORD);
    let what = "What is left of an event whose space was taken back, at the place of its record, which was longer; the rest of \
                that is zeros. The digest is the begin of the XXH3 (128 bits, big-endian) of the content's canonical form.";
    table(&mut out, "Stub", what, STUB);
    let what = "A segment whose space was taken back, in a file that has the segment's name. It stands for the segment's file, byte for \
                byte, with stubs in the place of removed events. What is not zeros there is here in stretches, one after the other behind \
                the header. A table says where each was; behind it, the offset of the first stretch of each page, 8 bytes each, and zeros \
                up to a multiple of 512.";
    table(&mut out, "Packed segment header", what, PACKED);
    table(&mut out, "Page of a packed segment's table", "4096 bytes, at a multiple of 4096.", PACKED_PAGE);
    let what = "Can be deleted: it is made again from the log. The header is one page of 4096 bytes, of which 512 are used; then \
                come, for each of three tables, pages of entries and lists of positions, in any order, and then the pages of the \
                table's filter and those of its directory; then the blobs that the header names.";
    table(&mut out, "Index of a stretch", what, RUN);
    table(&mut out, "Page of the index", "4096 bytes, at a multiple of as many.", PAGE);
    let what = "4096 bytes. A filter has blocks of eight 32-bit words: a hash sets a bit in each word of one block. A directory has an \
                entry for each page of the table, in the order of the hashes: the first hash in the page, and where the page is, 8 \
                bytes each. The tops of a table are the first hashes of the pages of its directory, 8 bytes each.";
    table(&mut out, "Page of a filter or of a directory", what, TABLE_PAGE);
    table(
        &mut out,
        "Entry of a stream",
        "Hashes of streams have 128 bits and stand for the stream.",
        STREAM_ENTRY,
    );
    table(&mut out, "Entry of a key", "Found events are read and compared: hashes may collide.", KEY_ENTRY);
    table(&mut out, "Entry of an id", "As for keys.", ID_ENTRY);
    let _ = write!(
        out,
        "\nA *list* is a varint with the number of positions. Up to 64 follow as varints, each the difference to the one before, the\n\
         first from the start of the run. More are elsewhere in the file: a varint says where. There is an entry of 24 bytes for each\n\
         256 positions (the first of them, 8 bytes; where the others are, as varints of the differences, 8; their bytes, 4; their\n\
         checksum, 4), and a checksum of the entries (4 bytes).\n"
    );
    texts(&mut out);
    out
}

#[test]
fn the_page_is_what_the_code_writes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let page = page();
    if std::env::var(WRITE).is_ok() {
        #[allow(clippy::disallowed_methods, reason = "a test writes the page when it is told to")]
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let same = written == page;
    assert!(
        same,
        "docs/format.md is not what this code says. If only words changed, run this test with {WRITE}=1 and commit the page. If \
         bytes changed, raise the version (FORMAT, or the index's MAGIC), go on reading what earlier versions wrote (the golden logs \
         in crates/factum-log/tests/golden prove it), add a golden log of the new version, and then do the same."
    );
}

/// A window that no description covers would go unnoticed.
#[test]
fn lengths_add_up() {
    let fixed = |fields: &[Field]| {
        let lengths = fields.iter().map(|Field(_, length, _)| match length {
            B(bytes) => *bytes,
            _ => 0,
        });
        lengths.sum::<usize>()
    };
    assert_eq!(fixed(FRAME), FRAME_HEADER);
    assert_eq!(fixed(RECORD), RECORD_HEADER);
    assert_eq!(fixed(STUB), RECORD_HEADER);
}
