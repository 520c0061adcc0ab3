//! The executable, as a person or a script meets it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use factum::{Append, EventStore, EventStoreExt, ExpectedRevision, NewEvent, StreamName};
use factum_log::{LogStore, Options};

fn factum(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_factum")).args(arguments).output().unwrap()
}

/// What it prints and says, and how it ends.
fn run(verb: &str, arguments: &[&Path]) -> (String, String, i32) {
    let all: Vec<&Path> = [Path::new(verb)].into_iter().chain(arguments.iter().copied()).collect();
    let Output { stdout, stderr, status } = factum(&all);
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), status.code().unwrap())
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    async fn with_log() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let store = place.open();
        write(&store, 60).await;
        store.close().await.unwrap();
        place
    }

    fn open(&self) -> LogStore {
        Options::new(self.at("data")).segments(8192, 8192).indexed_in_memory(20).open().unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn flip(&self, name: &str, at: usize) {
        let file = self.at("data").join(name);
        let mut bytes = fs::read(&file).unwrap();
        bytes[at] ^= 0xff;
        fs::write(file, bytes).unwrap();
    }
}

async fn write(store: &LogStore, events: usize) {
    for _ in 0..events {
        let event = NewEvent::bytes("E", vec![7; 200]).unwrap();
        store.append(Append::to(StreamName::new("s-1").unwrap(), [event])).await.unwrap();
    }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[tokio::test]
async fn a_sound_log_is_verified_printed_backed_up_and_restored() {
    let place = Place::with_log().await;
    let (data, copy, again) = (place.at("data"), place.at("copy"), place.at("again"));
    let before = files(&data);
    let (out, said, code) = run("verify", &[&data]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(
        out.starts_with(&format!("{}: sound\nlog ", data.display())) && out.contains("60 events"),
        "{out}"
    );
    let (out, said, code) = run("layout", &[&data, "--frames".as_ref(), "2".as_ref()]);
    assert_eq!((code, said.as_str()), (0, ""));
    for part in ["segments\n", "index\n", "frames\n", "files\n", "closed in good order"] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let (out, _, code) = run("layout", &[&data, "--format".as_ref(), "json".as_ref()]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["segments"][0]["number"].as_u64()), (0, Some(1)));
    assert_eq!(files(&data), before, "looking changes nothing");

    let (out, said, code) = run("backup", &[&data, &copy]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(out.contains("60 events of log"), "{out}");
    let (out, _, code) = run("backup", &[&data, &copy]);
    assert!(code == 0 && out.contains("\n0 bytes were copied, of "), "{out}");
    let (out, _, code) = run("verify", &[&copy]);
    assert!(code == 0 && out.contains("sound"), "{out}");
    let (out, said, code) = run("restore", &[&copy, &again]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(out.contains("60 events of log") && out.contains("it was epoch 1 before"), "{out}");
    assert_eq!(run("verify", &[&again]).2, 0);
}

#[tokio::test]
async fn a_log_in_use_is_looked_at_and_copied_and_not_repaired() {
    let place = Place::with_log().await;
    let (data, copy) = (place.at("data"), place.at("copy"));
    let store = place.open();
    let (out, said, code) = run("verify", &[&data]);
    assert!(code == 0 && out.contains(", in use\n"), "{out}{said}");
    let (out, _, code) = run("layout", &[&data]);
    assert!(code == 0 && out.contains("refuse: another process has it open"), "{out}");
    assert_eq!(run("backup", &[&data, &copy]).2, 0);
    let (_, said, code) = run("repair", &[&data, "--lose-events".as_ref()]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("is owned by another: process "), "{said}");
    write(&store, 1).await;
}

#[tokio::test]
async fn the_space_of_deleted_streams_is_taken_back() {
    let place = Place::with_log().await;
    let data = place.at("data");
    let store = place.open();
    let (_, said, code) = run("scavenge", &[&data]);
    assert!(code == 6 && said.contains("is owned by another: process "), "{said}");
    store.delete(&StreamName::new("s-1").unwrap(), ExpectedRevision::Any).await.unwrap();
    write(&store, 20).await;
    store.close().await.unwrap();
    drop(store);
    // So small a segment does not become smaller; what must go goes all the same.
    let (out, said, code) = run("scavenge", &[&data, "--at-least-percent".as_ref(), "0".as_ref()]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(out.contains(" events removed, ") && !out.contains(": 0 events"), "{out}");
    let (out, said, code) = run("verify", &[&data]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    let (out, _, code) = run("layout", &[&data]);
    assert!(code == 0 && out.contains("packed"), "{out}");
    let events = run("events", &[&data]).0.lines().count();
    assert!((21..81).contains(&events), "{events}");
    let copy = place.at("copy");
    assert_eq!(run("backup", &[&data, &copy]).2, 0);
    assert_eq!(run("restore", &[&copy, &place.at("again")]).2, 0);
    assert_eq!(run("events", &[&place.at("again")]).0.lines().count(), events);
    let (_, said, code) = run("scavenge", &[&place.at("nowhere")]);
    assert!(code == 10 && !place.at("nowhere").exists(), "{said}");
}

#[tokio::test]
async fn damage_is_told_and_has_its_exit_code() {
    let place = Place::with_log().await;
    let (data, copy) = (place.at("data"), place.at("copy"));
    let runs: Vec<String> = files(&data).into_keys().filter(|name| name.ends_with(".run")).collect();
    if let Some(run_file) = runs.first() {
        place.flip(run_file, 5000);
        let (out, said, code) = run("verify", &[&data]);
        assert_eq!(code, 9, "{out}{said}");
        assert!(out.contains("no event is lost") && said.contains("no event is lost"), "{out}{said}");
        place.flip(run_file, 5000);
    }
    place.flip("0000000002.segment", 4096 + 80);
    place.flip("0000000004.segment", 4096 + 80);
    let (out, said, code) = run("verify", &[&data]);
    assert_eq!(code, 8, "{out}{said}");
    assert_eq!(out.matches("0000000002.segment is damaged at byte 4").count(), 1, "{out}");
    assert_eq!(out.matches("0000000004.segment is damaged at byte 4").count(), 1, "{out}");
    assert!(said.starts_with("factum: the log is damaged at 2 places, from position "), "{said}");
    let (out, said, code) = run("events", &[&data]);
    assert!(code == 8 && said.contains("0000000004.segment is damaged at byte 4"), "{said}");
    let events: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 58, "all but those two");
    assert!(events.is_sorted_by_key(|event| event["position"].as_u64()));
    assert_eq!(
        (events[0]["stream"].as_str(), events[0]["data"].as_str().map(str::len)),
        (Some("s-1"), Some(200))
    );
    let (_, said, code) = run("backup", &[&data, &copy]);
    assert!(code == 8 && said.contains("0000000002.segment is damaged"), "{said}");
    let damaged = files(&data);
    let (out, said, code) = run("repair", &[&data]);
    assert!(code == 8 && said.contains("run it again with --lose-events"), "{out}{said}");
    assert!(out.contains("12 events before position ") && out.contains("would be cut off"), "{out}");
    assert_eq!(files(&data), damaged, "it only tells");
    let (out, said, code) = run("repair", &[&data, "--lose-events".as_ref()]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(out.contains("0000000002.segment is kept as 0000000002.segment.before-repair-1"), "{out}");
    assert_eq!(run("verify", &[&data]).2, 0);
    let (_, said, code) = run("repair", &[&data]);
    assert!(code == 3 && said.contains("nothing needs to be cut"), "{said}");
}

#[tokio::test]
async fn what_is_not_there_or_in_the_way_is_said_in_words() {
    let place = Place::with_log().await;
    let (data, copy, nowhere, empty) =
        (place.at("data"), place.at("copy"), place.at("nowhere"), place.at("empty"));
    fs::create_dir(&empty).unwrap();
    fs::write(place.at("file"), "text").unwrap();
    for verb in ["verify", "layout", "repair"] {
        let (_, said, code) = run(verb, &[&nowhere]);
        assert_eq!((code, said), (10, format!("factum: there is no directory {}\n", nowhere.display())));
        let (_, said, code) = run(verb, &[&place.at("file")]);
        assert!(code == 3 && said.contains("it is a file; name the directory of a log"), "{said}");
    }
    for verb in ["verify", "repair"] {
        let (_, said, code) = run(verb, &[&empty]);
        assert_eq!((code, said), (10, format!("factum: there is no log in {}\n", empty.display())));
    }
    let (out, _, code) = run("layout", &[&empty]);
    assert!(code == 0 && out.contains("there is no log here"), "{out}");
    let (_, said, code) = run("layout", &[&data, "--frames".as_ref(), "99".as_ref()]);
    assert!(code == 10 && said.contains("there is no segment 99 in "), "{said}");
    let (_, said, code) = run("backup", &[&empty, &copy]);
    assert_eq!((code, said), (10, format!("factum: there is no log in {}\n", empty.display())));
    let (_, said, code) = run("backup", &[&data, &data]);
    assert!(code == 3 && said.contains("it holds other things than a backup"), "{said}");
    let (_, said, code) = run("restore", &[&data, &copy]);
    assert_eq!((code, said), (10, format!("factum: there is no finished backup in {}\n", data.display())));
    assert_eq!(run("backup", &[&data, &copy]).2, 0);
    let (_, said, code) = run("restore", &[&copy, &data]);
    assert!(code == 3 && said.contains("restore into a new directory"), "{said}");
    let (_, said, code) = run("repair", &[&copy]);
    assert_eq!(code, 10, "{said}");
    let (_, said, code) = run("nonsense", &[]);
    assert!(code == 2 && said.contains("unrecognized subcommand"), "{said}");
}

/// Also the one who owns every file cannot write where the file system is mounted read-only, or is none; `/proc` is such a place.
#[tokio::test]
async fn where_nothing_can_be_written_one_can_still_look() {
    let place = Place::with_log().await;
    let (_, said, code) = run("backup", &[&place.at("data"), Path::new("/proc/factum")]);
    assert!(matches!(code, 7 | 10) && said.contains("/proc/factum"), "{code}: {said}");
    let data = place.at("data");
    let mut all = vec![data.clone()];
    all.extend(files(&data).into_keys().map(|name| data.join(name)));
    let write_protected = |protected: bool| {
        for path in &all {
            let mut permissions = fs::metadata(path).unwrap().permissions();
            permissions.set_readonly(protected);
            fs::set_permissions(path, permissions).unwrap();
        }
    };
    write_protected(true);
    let seen = ["verify", "layout"].map(|verb| run(verb, &[&data]).2);
    let copied = run("backup", &[&data, &place.at("copy")]).2;
    write_protected(false);
    assert_eq!((seen, copied), ([0, 0], 0));
}

#[test]
fn help_is_a_page_that_says_what_exit_codes_mean() {
    let (out, _, code) = run("--help", &[]);
    assert_eq!(code, 0);
    for line in
        ["verify", "layout", "backup", "restore", "repair", "Exit codes:", "  8  the log is damaged", "130"]
    {
        assert!(out.contains(line), "{line} in {out}");
    }
    assert!(out.lines().count() < 40 && out.lines().all(|line| line.chars().count() <= 110), "{out}");
    let silent = Command::new(env!("CARGO_BIN_EXE_factum")).output().unwrap();
    assert_eq!(silent.status.code(), Some(2));
}
