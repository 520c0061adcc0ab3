//! What every store of snapshots does, as code.
//!
//! ```
//! # use std::sync::Arc;
//! # use factum::MemorySnapshots;
//! # tokio::runtime::Builder::new_multi_thread().build()?.block_on(async {
//! factum_conformance::snapshots::check(Arc::new(MemorySnapshots::new())).await
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{sync::Arc, time::Duration};

use factum::{
    Append, EventStore, MemoryStore, Result, SnapshotStore, Snapshots, StreamName,
    prelude::*,
    snapshot::{FORMS, Keeper, SnapshotKey},
};

/// Who puts at the same time.
const AT_ONCE: usize = 16;

/// Checks an empty store, within a runtime of tokio. It is empty again in the end.
///
/// # Errors
/// Failures of the store.
///
/// # Panics
/// Where the store breaks a promise, with which.
pub async fn check(store: Arc<dyn SnapshotStore>) -> Result<()> {
    the_text_comes_back_as_it_was_put(&*store).await?;
    the_last_one_counts(&*store).await?;
    keys_are_kept_apart(&*store).await?;
    old_forms_make_room(&*store).await?;
    a_stream_is_forgotten_whole_and_alone(&*store).await?;
    those_who_put_at_the_same_time_do_not_mix(&store).await?;
    store.clear().await
}

/// Checks that snapshots outlive the program that put them: `open` opens the same store, empty at first, each time anew.
///
/// # Errors
/// Failures of the store.
///
/// # Panics
/// Where one is not there, or not forgotten.
pub async fn check_reopened<S: SnapshotStore>(mut open: impl AsyncFnMut() -> Result<S>) -> Result<()> {
    let log = MemoryStore::new();
    walk(&log, 12).await?;
    // However busy the machine is.
    let patient = |store: S| Keeper::new(store).patience(Duration::from_secs(60));
    for used in [0, 1] {
        let keeper = patient(open().await?);
        let loaded = Factum::new(log.clone()).with_snapshots(keeper.clone()).load(&Walk::id("1")).await?;
        assert_eq!(loaded.state.steps, 12, "what was loaded is not what is in the log");
        keeper.settled().await;
        let status = keeper.status();
        let counts = (status.used, status.written, status.failed);
        assert_eq!(counts, (used, 1 - used, 0), "the one that was put before is to be used: {status:?}");
    }
    let store = open().await?;
    store.delete(&StreamName::new(WALK)?).await?;
    let keeper = patient(store);
    Factum::new(log).with_snapshots(keeper.clone()).load(&Walk::id("1")).await?;
    assert_eq!(keeper.status().absent, 1, "one that was forgotten is there");
    Ok(())
}

/// The stream of `Walk::id("1")`.
const WALK: &str = "walk-1";

/// Walks so many steps in the stream of `Walk::id("1")`.
///
/// # Errors
/// Those of the append.
pub async fn walk(log: &dyn EventStore, steps: u64) -> Result<()> {
    let steps = (0..steps).map(|_| factum::codec::encode(&Step::Walked)).collect::<Result<Vec<_>>>()?;
    log.append(Append::to(StreamName::new(WALK)?, steps)).await?;
    Ok(())
}

/// What a [`Walk`] is made of.
#[derive(Debug, Serialize, Deserialize)]
pub enum Step {
    /// One more.
    Walked,
}

impl Event for Step {
    const CATEGORY: &'static str = "walk";
}

/// An aggregate of which a snapshot is put after ten steps.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// How many there were.
    pub steps: u64,
}

impl Aggregate for Walk {
    type Event = Step;

    fn apply(&mut self, _: &Step) {
        self.steps += 1;
    }

    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(10))
    }
}

fn key(stream: &str, form: &str) -> Result<SnapshotKey> {
    Ok(SnapshotKey { stream: StreamName::new(stream.to_owned())?, form: form.to_owned() })
}

async fn the_text_comes_back_as_it_was_put(store: &dyn SnapshotStore) -> Result<()> {
    let long_name = format!("a-{}", "é".repeat(200));
    for stream in ["a-1", "a-'; DROP TABLE x; --", "a-\"%_*?\\", "ä-ß ☃", &long_name] {
        let key = key(stream, "a v1 'x'")?;
        assert_eq!(store.get(&key).await?, None, "there is something before anything was put: {key:?}");
        let long = "x".repeat(1 << 20);
        for text in ["", "{}", "{\"a\": 1.0 }", "\r\n\t 'quoted' \"twice\" \\ ☃\u{0}\u{1}", &long] {
            store.put(&key, text.to_owned()).await?;
            let found = store.get(&key).await?;
            assert!(found.as_deref() == Some(text), "{text:.40?} came back as {:.40?} for {key:?}", found);
        }
    }
    Ok(())
}

async fn the_last_one_counts(store: &dyn SnapshotStore) -> Result<()> {
    let key = key("b-1", "b v1")?;
    for text in ["2", "3", "1"] {
        store.put(&key, text.to_owned()).await?;
    }
    assert_eq!(
        store.get(&key).await?.as_deref(),
        Some("1"),
        "the one that was put last is not the one there"
    );
    Ok(())
}

async fn keys_are_kept_apart(store: &dyn SnapshotStore) -> Result<()> {
    let keys =
        [("c-1", "2 c"), ("c-1 2", "c"), ("c-1", "2 C"), ("C-1", "2 c"), ("c-1", "2 c "), ("c-12", "c")];
    for (n, (stream, form)) in keys.into_iter().enumerate() {
        store.put(&key(stream, form)?, n.to_string()).await?;
    }
    for (n, (stream, form)) in keys.into_iter().enumerate() {
        let found = store.get(&key(stream, form)?).await?;
        assert_eq!(found, Some(n.to_string()), "another key's text came for `{form}` of `{stream}`");
    }
    Ok(())
}

async fn old_forms_make_room(store: &dyn SnapshotStore) -> Result<()> {
    let form = |n: usize| key("d-1", &format!("d v{n}"));
    store.put(&key("d-2", "d v0")?, "another stream".to_owned()).await?;
    for n in 0..FORMS {
        store.put(&form(n)?, n.to_string()).await?;
    }
    store.put(&form(0)?, "0".to_owned()).await?;
    for n in FORMS..FORMS + 3 {
        store.put(&form(n)?, n.to_string()).await?;
    }
    // Put last are 0 and the three new ones, and before those the highest of the others.
    for n in (4..FORMS + 3).chain([0]) {
        assert_eq!(store.get(&form(n)?).await?, Some(n.to_string()), "form {n} is among the last {FORMS}");
    }
    for n in 1..4 {
        assert_eq!(
            store.get(&form(n)?).await?,
            None,
            "form {n} is older than the last {FORMS}, and still there"
        );
    }
    let other = store.get(&key("d-2", "d v0")?).await?;
    assert_eq!(other.as_deref(), Some("another stream"), "a stream made room for another");
    Ok(())
}

async fn a_stream_is_forgotten_whole_and_alone(store: &dyn SnapshotStore) -> Result<()> {
    for (stream, form) in [("e-1", "1"), ("e-1", "2"), ("e-10", "1")] {
        store.put(&key(stream, form)?, "there".to_owned()).await?;
    }
    let gone = StreamName::new("e-1")?;
    // The second time there is nothing to forget, which is no error.
    for _ in 0..2 {
        store.delete(&gone).await?;
        for form in ["1", "2"] {
            assert_eq!(store.get(&key("e-1", form)?).await?, None, "form {form} was to be forgotten");
        }
    }
    assert!(store.get(&key("e-10", "1")?).await?.is_some(), "another stream was forgotten");
    store.clear().await?;
    for (stream, form) in [("e-10", "1"), ("a-1", "a v1 'x'"), ("b-1", "b v1")] {
        assert_eq!(store.get(&key(stream, form)?).await?, None, "all was to be forgotten");
    }
    Ok(())
}

async fn those_who_put_at_the_same_time_do_not_mix(store: &Arc<dyn SnapshotStore>) -> Result<()> {
    let text = |n: usize| format!("{n} ").repeat(5000);
    let mut tasks = tokio::task::JoinSet::<Result<()>>::new();
    for n in 0..AT_ONCE {
        let (store, shared, own) = (store.clone(), key("f-1", "f")?, key(&format!("f-own-{n}"), "f")?);
        tasks.spawn(async move {
            for _ in 0..20 {
                store.put(&shared, text(n)).await?;
                store.put(&own, text(n)).await?;
                let found = store.get(&shared).await?;
                let whole = found.is_some_and(|found| (0..AT_ONCE).any(|n| found == text(n)));
                assert!(whole, "what was read is nothing that anybody put");
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(done) => done?,
            Err(broken) => panic!("a task that put and read broke: {broken}"),
        }
    }
    for n in 0..AT_ONCE {
        let found = store.get(&key(&format!("f-own-{n}"), "f")?).await?;
        assert_eq!(found, Some(text(n)), "what one put was changed by another");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use async_trait::async_trait;
    use factum::MemorySnapshots;

    use super::*;

    fn run(store: impl SnapshotStore) -> std::result::Result<(), String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let checked = runtime.block_on(async { tokio::spawn(check(Arc::new(store))).await });
        checked.map(Result::unwrap).map_err(|broken| {
            let said = broken.into_panic();
            said.downcast_ref::<String>()
                .cloned()
                .unwrap_or_else(|| (*said.downcast::<&str>().unwrap()).to_owned())
        })
    }

    #[test]
    fn the_one_in_memory_keeps_all_promises() {
        run(MemorySnapshots::new()).unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "the one that was put before is to be used")]
    async fn one_that_forgets_when_it_is_opened_again_is_noticed() {
        check_reopened(async || Ok(MemorySnapshots::new())).await.unwrap();
    }

    /// One that breaks a promise.
    #[derive(Debug)]
    struct Broken {
        how: &'static str,
        texts: Mutex<BTreeMap<(String, String), String>>,
    }

    #[async_trait]
    impl SnapshotStore for Broken {
        async fn get(&self, key: &SnapshotKey) -> Result<Option<String>> {
            Ok(self.texts.lock().unwrap().get(&self.place(key)).cloned())
        }
        async fn put(&self, key: &SnapshotKey, snapshot: String) -> Result<()> {
            let text = if self.how == "trims" { snapshot.trim().to_owned() } else { snapshot };
            let mut texts = self.texts.lock().unwrap();
            if self.how == "keeps the first" {
                texts.entry(self.place(key)).or_insert(text);
            } else {
                texts.insert(self.place(key), text);
            }
            Ok(())
        }
        async fn delete(&self, stream: &StreamName) -> Result<()> {
            let all = self.how == "deletes by prefix";
            let hit = |name: &str| if all { name.starts_with(&**stream) } else { name == &**stream };
            self.texts.lock().unwrap().retain(|(name, _), _| !hit(name));
            Ok(())
        }
        async fn clear(&self) -> Result<()> {
            Ok(())
        }
    }

    impl Broken {
        fn place(&self, key: &SnapshotKey) -> (String, String) {
            let (stream, form) = (key.stream.to_string(), key.form.clone());
            match self.how {
                "joins keys" => (format!("{stream} {form}"), String::new()),
                "forgets case" => (stream.to_lowercase(), form.to_lowercase()),
                _ => (stream, form),
            }
        }
    }

    #[test]
    fn a_promise_that_is_broken_is_noticed() {
        for (how, noticed) in [
            ("trims", "came back as"),
            ("keeps the first", "came back as"),
            ("joins keys", "another key's text"),
            ("forgets case", "another key's text"),
            ("keeps every form", "and still there"),
        ] {
            let said = run(Broken { how, texts: Mutex::default() }).unwrap_err();
            assert!(said.contains(noticed), "{how}: {said}");
        }
    }
}
