//! What every store of read models does with dead letters and holds, as code.
//!
//! ```
//! # use std::sync::Arc;
//! # use factum::MemoryReads;
//! # tokio::runtime::Builder::new_multi_thread().enable_time().build()?.block_on(async {
//! let reads = Arc::new(MemoryReads::new());
//! factum_conformance::reads::check(reads.clone(), reads).await
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{sync::Arc, time::Duration};

use factum::{
    Error, LogIdentity, Position, ReadStore, Result, Token,
    reads::{HOLD_BYTES, Hold, Lease, Step},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use uuid::Uuid;

/// Workers who race.
const AT_ONCE: usize = 16;
/// For how long a name is held that nobody is to lose meanwhile.
const LONG: Duration = Duration::from_secs(600);
/// For how long a name is held that somebody else is to get.
const SHORT: Duration = Duration::from_millis(150);
/// By how much the clocks of a store and of this program may go apart in so short a time.
const TICK: Duration = Duration::from_millis(5);

/// Checks an empty store through two handles, such as two processes have, within a runtime of tokio that has its time.
///
/// # Errors
/// Failures of the store.
///
/// # Panics
/// Where the store breaks a promise, with which.
pub async fn check(store: Arc<dyn ReadStore>, other: Arc<dyn ReadStore>) -> Result<()> {
    letters_come_back_as_they_were_put(&*store).await?;
    letters_come_page_by_page(&*store, &*other).await?;
    letters_are_kept_apart(&*store).await?;
    letters_go_with_their_generation(&*store).await?;
    who_is_fenced_changes_no_letter(&*store, &*other).await?;
    a_letter_that_cannot_be_kept_is_refused_with_its_step(&*store).await?;
    letters_and_rows_change_as_one(&store, &other).await?;
    a_name_has_one_holder(&*store, &*other).await?;
    a_hold_that_is_not_kept_is_over_in_time(&*store, &*other).await?;
    of_those_who_race_one_gets_it(&store, &other).await?;
    holds_are_found_by_the_beginning_of_their_names(&*store, &*other).await?;
    bad_holds_are_refused(&*store).await
}

/// A model that is being filled.
struct Filling {
    lease: Lease,
    generation: u32,
    at: Option<Token>,
}

type Letters = Vec<(Position, Option<String>)>;

fn at(position: u64) -> Token {
    LogIdentity { log_id: Uuid::from_u128(7), epoch: 1 }.at(Position(position))
}

impl Filling {
    async fn begin(store: &dyn ReadStore, model: &str) -> Result<Self> {
        let lease = store.claim(model).await?;
        let generation = store.create(&lease, 1).await?.number;
        Ok(Self { lease, generation, at: None })
    }

    fn step(&self, letters: Letters) -> Step {
        let to = at(self.at.map_or(1, |token| token.position.0 + 1));
        Step { generation: self.generation, from: self.at, to, rows: Vec::new(), letters }
    }

    async fn go(&mut self, store: &dyn ReadStore, step: Step) -> Result<()> {
        let to = step.to;
        store.commit(&self.lease, step).await?;
        self.at = Some(to);
        Ok(())
    }

    async fn put(&mut self, store: &dyn ReadStore, letters: Letters) -> Result<()> {
        let step = self.step(letters);
        self.go(store, step).await
    }

    async fn letters(&self, store: &dyn ReadStore) -> Result<Vec<(Position, String)>> {
        store.letters(&self.lease.model, self.generation, Position::START, usize::MAX).await
    }
}

fn letter(position: u64, text: &str) -> (Position, Option<String>) {
    (Position(position), Some(text.to_owned()))
}

fn put(position: u64, text: &str) -> (Position, String) {
    (Position(position), text.to_owned())
}

async fn letters_come_back_as_they_were_put(store: &dyn ReadStore) -> Result<()> {
    let mut filling = Filling::begin(store, "letters").await?;
    assert_eq!(filling.letters(store).await?, [], "there are letters before any was put");
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let texts = ["{ \"a\": 1.0, \"a\": 1e400 }", "\"\\u0000 \\ud800 'q' ☃ %_\"", "null", " [ -0 ] ", &long];
    let numbered = || (10..).zip(texts);
    filling.put(store, numbered().map(|(n, text)| letter(n, text)).collect()).await?;
    for (found, (n, text)) in filling.letters(store).await?.into_iter().zip(numbered()) {
        assert!(found == put(n, text), "{text:.40?} came back as {:.40?}", found.1);
    }
    filling.put(store, vec![letter(10, "2"), (Position(11), None), (Position(99), None)]).await?;
    let found = filling.letters(store).await?;
    let places: Vec<u64> = found.iter().map(|(at, _)| at.0).collect();
    assert_eq!(places, [10, 12, 13, 14], "one letter was taken away, and no other");
    assert_eq!(found[0].1, "2", "the letter that was put last is not the one there");
    let twice = vec![letter(20, "1"), letter(20, "2"), letter(21, "1"), (Position(21), None)];
    filling.put(store, twice).await?;
    filling.put(store, vec![(Position(20), None), letter(20, "3")]).await?;
    let last = filling.letters(store).await?.pop();
    assert_eq!(last, Some(put(20, "3")), "of several at one position the last counts");
    filling.put(store, Vec::new()).await?;
    assert_eq!(filling.letters(store).await?.len(), 5, "a step without letters changed some");
    Ok(())
}

async fn letters_come_page_by_page(store: &dyn ReadStore, other: &dyn ReadStore) -> Result<()> {
    let mut filling = Filling::begin(store, "pages").await?;
    // Written in no order, and so that an order by text would be another.
    let positions: Vec<u64> = (0..300).map(|n| 1 + (n * 7919) % 2003).collect();
    for some in positions.chunks(100) {
        filling.put(store, some.iter().map(|n| letter(*n, &n.to_string())).collect()).await?;
    }
    let mut sorted = positions;
    sorted.sort_unstable();
    let (model, generation) = (filling.lease.model.as_str(), filling.generation);
    for (limit, store) in [(1, store), (7, other), (300, store), (usize::MAX, other)] {
        let (mut after, mut found) = (Position::START, Vec::new());
        loop {
            let page = store.letters(model, generation, after, limit).await?;
            assert!(page.len() <= limit, "a page of {limit} letters has {}", page.len());
            let Some((last, _)) = page.last() else { break };
            after = *last;
            found.extend(page);
            if found.len() > sorted.len() {
                break;
            }
        }
        let expected: Vec<_> = sorted.iter().map(|n| put(*n, &n.to_string())).collect();
        assert_eq!(found, expected, "pages of {limit} letters are not all of them in their order");
    }
    let last = Position(sorted.last().copied().unwrap_or_default());
    for (after, limit) in [(Position::START, 0), (last, 5), (Position(1 << 63), 5), (Position(u64::MAX), 5)] {
        let page = store.letters(model, generation, after, limit).await?;
        assert_eq!(page, [], "there is nothing among {limit} letters after {after}");
    }
    Ok(())
}

async fn letters_are_kept_apart(store: &dyn ReadStore) -> Result<()> {
    let (mut one, mut other) =
        (Filling::begin(store, "apart").await?, Filling::begin(store, "apart_2").await?);
    one.put(store, vec![letter(1, "1")]).await?;
    store.activate(&one.lease, one.generation).await?;
    let next = store.create(&one.lease, 1).await?.number;
    let mut next = Filling { lease: one.lease.clone(), generation: next, at: None };
    assert_eq!(next.letters(store).await?, [], "a new generation begins with another's letters");
    next.put(store, vec![letter(1, "2")]).await?;
    other.put(store, vec![letter(1, "3")]).await?;
    one.put(store, vec![letter(2, "4")]).await?;
    next.put(store, vec![(Position(2), None)]).await?;
    assert_eq!(one.letters(store).await?, [put(1, "1"), put(2, "4")], "another's letters are among them");
    assert_eq!(next.letters(store).await?, [put(1, "2")], "another's letters are among them");
    assert_eq!(other.letters(store).await?, [put(1, "3")], "another's letters are among them");
    let unknown = store.letters("nobody", 1, Position::START, 5).await?;
    assert_eq!(unknown, [], "a model that nobody knows has letters");
    Ok(())
}

async fn letters_go_with_their_generation(store: &dyn ReadStore) -> Result<()> {
    let mut first = Filling::begin(store, "gone").await?;
    first.put(store, vec![letter(1, "1")]).await?;
    store.activate(&first.lease, first.generation).await?;
    assert_eq!(first.letters(store).await?, [put(1, "1")], "a switch took the letters of what is shown");
    let mut left = Vec::new();
    // Given up, then replaced by the beginning of another, then shown in the place of the first.
    for _ in 0..3 {
        let generation = store.create(&first.lease, 2).await?.number;
        let mut building = Filling { lease: first.lease.clone(), generation, at: None };
        building.put(store, vec![letter(1, "2")]).await?;
        if left.is_empty() {
            store.discard(&first.lease).await?;
            assert_eq!(
                building.letters(store).await?,
                [],
                "the letters of what was given up are there without it"
            );
        }
        left.push(building);
    }
    let shown = left.pop().map_or(0, |last| last.generation);
    store.activate(&first.lease, shown).await?;
    left.push(first);
    for gone in left {
        let letters = gone.letters(store).await?;
        assert_eq!(letters, [], "the letters of generation {} are there without it", gone.generation);
        let late = store.commit(&gone.lease, gone.step(vec![letter(3, "3")])).await;
        assert!(matches!(late, Err(Error::Fenced { .. })), "a generation that is gone was written: {late:?}");
        assert_eq!(gone.letters(store).await?, [], "a generation that is gone got a letter");
    }
    let letters = store.letters("gone", shown, Position::START, 5).await?;
    assert_eq!(letters, [put(1, "2")], "a switch took the letters of what is shown now");
    Ok(())
}

async fn who_is_fenced_changes_no_letter(store: &dyn ReadStore, other: &dyn ReadStore) -> Result<()> {
    let mut filling = Filling::begin(store, "fenced").await?;
    filling.put(store, vec![letter(1, "1"), letter(2, "2")]).await?;
    let changes = || vec![letter(1, "no"), (Position(2), None), letter(3, "no")];
    let mut elsewhere = filling.step(changes());
    elsewhere.from = Some(at(700));
    let refused = store.commit(&filling.lease, elsewhere).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "another checkpoint was taken: {refused:?}");
    let unchanged = [put(1, "1"), put(2, "2")];
    assert_eq!(filling.letters(store).await?, unchanged, "a step from another checkpoint changed letters");
    let lease = other.claim("fenced").await?;
    let refused = store.commit(&filling.lease, filling.step(changes())).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "a lease that is over was taken: {refused:?}");
    assert_eq!(filling.letters(store).await?, unchanged, "a lease that is over changed letters");
    filling.lease = lease;
    filling.put(other, changes()).await?;
    assert_eq!(filling.letters(store).await?, [put(1, "no"), put(3, "no")], "the lease in force counts");
    Ok(())
}

/// A store that cannot count as far as positions go refuses it, and keeps all as it was.
async fn a_letter_that_cannot_be_kept_is_refused_with_its_step(store: &dyn ReadStore) -> Result<()> {
    let mut filling = Filling::begin(store, "far").await?;
    filling.put(store, vec![letter(1, "1")]).await?;
    let mut step = filling.step(vec![letter(2, "2"), letter(u64::MAX, "3")]);
    step.rows = vec![("row".to_owned(), Some("1".to_owned()))];
    let before = filling.letters(store).await?;
    match store.commit(&filling.lease, step).await {
        Ok(()) => {
            let last = filling.letters(store).await?.pop();
            assert_eq!(last, Some(put(u64::MAX, "3")), "a letter that was taken is not there");
        }
        Err(refused) => {
            assert!(matches!(refused, Error::InvalidInput { .. }), "{refused}");
            assert_eq!(filling.letters(store).await?, before, "a step that was refused changed letters");
            let rows = store.rows("far", filling.generation, vec!["row".to_owned()]).await?;
            assert_eq!(rows, [None], "a step that was refused changed rows");
            filling.put(store, vec![(Position(u64::MAX), None), (Position(1), None)]).await?;
            assert_eq!(
                filling.letters(store).await?,
                [],
                "where there cannot be a letter, none is to take away"
            );
        }
    }
    Ok(())
}

/// Each step puts a letter and a row of one name: whoever sees the one, and then looks for the other, finds it.
async fn letters_and_rows_change_as_one(
    store: &Arc<dyn ReadStore>,
    other: &Arc<dyn ReadStore>,
) -> Result<()> {
    const STEPS: u64 = 100;
    let mut filling = Filling::begin(&**store, "as_one").await?;
    let (generation, reader) = (filling.generation, other.clone());
    let reading = tokio::spawn(async move {
        let (mut row_first, mut seen, begun) = (false, 0, Instant::now());
        while seen < STEPS {
            assert!(begun.elapsed() < LONG / 10, "of {STEPS} rows and letters {seen} are there");
            row_first = !row_first;
            let keys: Vec<String> = (1..=STEPS).map(|n| n.to_string()).collect();
            let rows = async || {
                let rows = reader.rows("as_one", generation, keys.clone()).await?;
                Ok::<_, Error>(rows.into_iter().flatten().count() as u64)
            };
            let letters = async || {
                let letters = reader.letters("as_one", generation, Position::START, usize::MAX).await?;
                Ok::<_, Error>(letters.len() as u64)
            };
            let (what, first, second) = if row_first {
                ("letter", rows().await?, letters().await?)
            } else {
                ("row", letters().await?, rows().await?)
            };
            assert!(second >= first, "there was a step without its {what}: {first} and {second} later");
            seen = first;
        }
        Ok::<_, Error>(())
    });
    for n in 1..=STEPS {
        let mut step = filling.step(vec![letter(n, "{}")]);
        step.rows = vec![(n.to_string(), Some("{}".to_owned()))];
        filling.go(&**store, step).await?;
    }
    joined(reading.await)
}

fn joined<T>(done: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match done {
        Ok(done) => done,
        Err(broken) if broken.is_panic() => std::panic::resume_unwind(broken.into_panic()),
        Err(broken) => panic!("a task was given up: {broken}"),
    }
}

async fn a_name_has_one_holder(store: &dyn ReadStore, other: &dyn ReadStore) -> Result<()> {
    let (store, other) = (store.holds(), other.holds());
    assert_eq!(store.held("").await?, [], "there are holds before anybody has taken one");
    let mine = store.hold("one", "me", LONG).await?;
    let as_told = |hold: &Hold, holder: &str| {
        assert_eq!((hold.name.as_str(), hold.holder.as_str()), ("one", holder), "somebody else has it");
        assert!(hold.left <= LONG, "it is held for {:?}, longer than was asked for", hold.left);
        assert!(hold.left > LONG / 2, "it is held for {:?} only", hold.left);
    };
    as_told(&mine, "me");
    as_told(&other.hold("one", "you", SHORT).await?, "me");
    other.let_go("one", "you").await?;
    as_told(&other.hold("one", "you", SHORT).await?, "me");
    as_told(&store.hold("one", "me", LONG).await?, "me");
    let [seen] = &other.held("one").await?[..] else { panic!("a name that is held is not listed once") };
    as_told(seen, "me");
    // Who has it may also have it for a shorter time; and the one who does not lets nothing go.
    let kept = store.hold("one", "me", LONG / 100).await?;
    assert!(kept.left <= LONG / 100, "its holder cannot shorten it: {:?}", kept.left);
    store.hold("one", "me", LONG).await?;
    other.let_go("one", "me").await?;
    as_told(&other.hold("one", "you", LONG).await?, "you");
    store.let_go("one", "me").await?;
    as_told(&store.hold("one", "me", LONG).await?, "you");
    other.let_go("one", "you").await?;
    other.let_go("one", "you").await?;
    assert_eq!(store.held("one").await?, [], "what was let go is still held");
    Ok(())
}

async fn a_hold_that_is_not_kept_is_over_in_time(store: &dyn ReadStore, other: &dyn ReadStore) -> Result<()> {
    let (store, other) = (store.holds(), other.holds());
    let asked = Instant::now();
    store.hold("short", "dead", SHORT).await?;
    store.hold("dead_too", "dead", SHORT).await?;
    let taken = loop {
        let hold = other.hold("short", "heir", LONG).await?;
        if hold.holder == "heir" {
            break asked.elapsed();
        }
        assert_eq!(hold.holder, "dead", "somebody else has it");
        assert!(hold.left <= SHORT, "it is held for {:?}, longer than was asked for", hold.left);
        assert!(asked.elapsed() < LONG / 10, "a hold that nobody keeps is not over in time");
        sleep(hold.left.min(SHORT / 10).max(Duration::from_millis(1))).await;
    };
    assert!(taken + TICK >= SHORT, "a hold of {SHORT:?} was over after {taken:?}");
    let late = store.hold("short", "dead", LONG).await?;
    assert_eq!(late.holder, "heir", "who comes too late has got it back");
    while let Some(hold) = store.held("dead_too").await?.pop() {
        assert!(asked.elapsed() < LONG / 10, "a hold that nobody keeps is still listed");
        sleep(hold.left + Duration::from_millis(1)).await;
    }
    // Kept again and again, it lasts for longer than any of its times, whoever looks.
    let (begun, mut kept) = (Instant::now(), store.hold("kept", "me", SHORT).await?);
    let mut last = Instant::now();
    while begun.elapsed() < SHORT * 2 {
        let other = other.hold("kept", "you", SHORT).await?;
        // A machine that was busy elsewhere for so long proves nothing.
        if last.elapsed() + TICK < SHORT {
            assert_eq!(other.holder, "me", "a hold that was kept was over: {kept:?}");
        }
        let before = Instant::now();
        kept = store.hold("kept", "me", SHORT).await?;
        if kept.holder != "me" {
            break;
        }
        last = before;
        sleep(SHORT / 10).await;
    }
    for hold in store.held("").await? {
        store.let_go(&hold.name, &hold.holder).await?;
    }
    Ok(())
}

async fn of_those_who_race_one_gets_it(store: &Arc<dyn ReadStore>, other: &Arc<dyn ReadStore>) -> Result<()> {
    for round in 0..10 {
        let mut racing = JoinSet::new();
        for n in 0..AT_ONCE {
            let store = [store, other][n % 2].clone();
            racing.spawn(async move {
                let me = format!("racer {n}");
                let hold = store.holds().hold("raced", &me, LONG).await?;
                Ok::<_, Error>((hold.holder == me, hold.holder))
            });
        }
        let (mut winners, mut said) = (Vec::new(), Vec::new());
        while let Some(done) = racing.join_next().await {
            let (won, holder) = joined(done)?;
            winners.extend(won.then(|| holder.clone()));
            said.push(holder);
        }
        assert_eq!(winners.len(), 1, "round {round}: of {AT_ONCE} who race one gets it: {winners:?}");
        assert!(
            said.iter().all(|holder| *holder == winners[0]),
            "round {round}: the others were told {said:?}"
        );
        store.holds().let_go("raced", &winners[0]).await?;
    }
    Ok(())
}

async fn holds_are_found_by_the_beginning_of_their_names(
    store: &dyn ReadStore,
    other: &dyn ReadStore,
) -> Result<()> {
    let (store, other) = (store.holds(), other.holds());
    let long = format!("p#{}", "é".repeat(99));
    let names =
        ["p#1", "p#10", "p#2", "p#_", "p#%", "p#\\", "p#*?[a]", "P#1", "p##", "p", "q#'; --", "p#é", &long];
    for name in names {
        store.hold(name, &format!("holder of {name:.10}"), LONG).await?;
    }
    for prefix in ["", "p#", "p#1", "p#_", "p#%", "p#\\", "p#*", "P", "q", "p#é", "p#\u{0}", "nothing", &long]
    {
        let mut expected: Vec<&str> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        expected.sort_unstable();
        let found = other.held(prefix).await?;
        let found: Vec<&str> = found.iter().map(|hold| hold.name.as_str()).collect();
        assert_eq!(found, expected, "what begins with {prefix:?}");
    }
    for name in names {
        store.let_go(name, &format!("holder of {name:.10}")).await?;
    }
    assert_eq!(other.held("").await?, [], "what was let go is still held");
    Ok(())
}

async fn bad_holds_are_refused(store: &dyn ReadStore) -> Result<()> {
    let (holds, long, longest) = (store.holds(), "x".repeat(HOLD_BYTES + 1), "x".repeat(HOLD_BYTES));
    for (name, holder) in
        [("", "me"), ("a", ""), ("a\u{0}", "me"), ("a", "\u{0}"), (&*long, "me"), ("a", &*long)]
    {
        let refused = holds.hold(name, holder, LONG).await;
        let is_refused = matches!(refused, Err(Error::InvalidInput { .. }));
        assert!(is_refused, "{name:.9?} held by {holder:.9?} was not refused: {refused:?}");
        // Nobody has it.
        holds.let_go(name, holder).await?;
    }
    assert_eq!(holds.hold(&longest, &longest, LONG).await?.holder, longest, "the longest name is a name");
    holds.let_go(&longest, &longest).await?;
    // No clock overflows.
    let for_ever = holds.hold("ever", "me", Duration::MAX).await?;
    assert!(for_ever.left > LONG, "{for_ever:?}");
    let kept = holds.hold("ever", "me", Duration::MAX).await?;
    assert_eq!(kept.holder, "me", "who held it for ever has lost it");
    assert_eq!(holds.hold("ever", "you", LONG).await?.holder, "me", "who held it for ever has lost it");
    holds.let_go("ever", "me").await?;
    // Over as it begins.
    holds.hold("never", "me", Duration::ZERO).await?;
    assert_eq!(holds.hold("never", "you", LONG).await?.holder, "you", "a hold of no time is in the way");
    holds.let_go("never", "you").await
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use factum::{
        MemoryReads,
        reads::{Catalog, Generation, Holds, Scan, Snapshot},
    };

    use super::*;

    fn run(how: &'static str) -> std::result::Result<(), String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
        let store = Arc::new(Broken { how, inner: MemoryReads::new() });
        let checked = async move { tokio::spawn(check(store.clone(), store)).await };
        runtime.unwrap().block_on(checked).map(Result::unwrap).map_err(|broken| {
            let said = broken.into_panic();
            let text = said.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| (*said.downcast::<&str>().unwrap()).to_owned())
        })
    }

    /// One that breaks a promise.
    #[derive(Debug)]
    struct Broken {
        how: &'static str,
        inner: MemoryReads,
    }

    impl Broken {
        fn is(&self, how: &str) -> bool {
            self.how == how
        }
    }

    #[async_trait]
    impl ReadStore for Broken {
        async fn claim(&self, model: &str) -> Result<Lease> {
            self.inner.claim(model).await
        }
        async fn catalog(&self, model: &str) -> Result<Catalog> {
            self.inner.catalog(model).await
        }
        async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
            let shown = self.inner.catalog(&lease.model).await?.active;
            let created = self.inner.create(lease, version).await?;
            let Some(shown) = shown.filter(|_| self.is("begins with another's letters")) else {
                return Ok(created);
            };
            let copied = self.letters(&lease.model, shown.number, Position::START, 9).await?;
            let letters = copied.into_iter().map(|(at, letter)| (at, Some(letter))).collect();
            let step = Step { generation: created.number, from: None, to: at(1), rows: Vec::new(), letters };
            self.inner.commit(lease, step).await.map(|()| created)
        }
        async fn discard(&self, lease: &Lease) -> Result<()> {
            if self.is("keeps what is given up") { Ok(()) } else { self.inner.discard(lease).await }
        }
        async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
            self.inner.activate(lease, generation).await
        }
        async fn commit(&self, lease: &Lease, mut step: Step) -> Result<()> {
            let mut letters = Vec::new();
            match self.how {
                "forgets letters" => step.letters.clear(),
                "keeps the first" => step.letters.reverse(),
                "takes none away" => step.letters.retain(|(_, letter)| letter.is_some()),
                "trims" => {
                    let trim = |letter: &mut Option<String>| {
                        *letter = letter.as_deref().map(str::trim).map(Into::into);
                    };
                    step.letters.iter_mut().for_each(|(_, letter)| trim(letter));
                }
                "letters after the rest" => letters = std::mem::take(&mut step.letters),
                "letters without a lease" => {
                    let Lease { model, .. } = lease;
                    let epoch = self.inner.catalog(model).await?.epoch;
                    let generation = step.generation;
                    let known = self.inner.catalog(model).await?;
                    let known = [known.active, known.building].into_iter().flatten();
                    let known: Vec<_> = known.filter(|known| known.number == generation).collect();
                    let Some(to) = known.first().and_then(|known| known.checkpoint) else {
                        return self.inner.commit(lease, step).await;
                    };
                    let letters = std::mem::take(&mut step.letters);
                    let force = Step { generation, from: Some(to), to, rows: Vec::new(), letters };
                    let forced = Lease { model: model.clone(), epoch };
                    self.inner.commit(&forced, force).await?;
                }
                "cannot count, and writes what it can" => {
                    let counts = |at: Position| at.0 <= u64::MAX / 2;
                    if step.letters.iter().any(|(at, _)| !counts(*at)) {
                        step.letters.retain(|(at, _)| counts(*at));
                        self.inner.commit(lease, step).await?;
                        return Err(Error::invalid("a letter", "it is too far"));
                    }
                }
                "cannot count"
                    if step.letters.iter().any(|(at, letter)| at.0 > u64::MAX / 2 && letter.is_some()) =>
                {
                    return Err(Error::invalid("a letter", "it is too far"));
                }
                _ => {}
            }
            let (from, generation) = (Some(step.to), step.generation);
            self.inner.commit(lease, step).await?;
            if letters.is_empty() {
                return Ok(());
            }
            tokio::task::yield_now().await;
            let to = from.unwrap();
            self.inner.commit(lease, Step { generation, from, to, rows: Vec::new(), letters }).await
        }
        async fn letters(
            &self,
            model: &str,
            generation: u32,
            after: Position,
            limit: usize,
        ) -> Result<Vec<(Position, String)>> {
            let before = Position(after.0.saturating_sub(1));
            match self.how {
                "begins at the place itself" if after.0 < 1 << 62 => {
                    self.inner.letters(model, generation, before, limit).await
                }
                "sorts by text" => {
                    let mut all = self.inner.letters(model, generation, after, usize::MAX).await?;
                    all.sort_by_key(|(at, _)| at.0.to_string());
                    all.truncate(limit);
                    Ok(all)
                }
                "one page too long" => {
                    self.inner.letters(model, generation, after, limit.saturating_add(1)).await
                }
                _ => self.inner.letters(model, generation, after, limit).await,
            }
        }
        fn holds(&self) -> &dyn Holds {
            self
        }
        async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
            self.inner.rows(model, generation, keys).await
        }
        async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
            self.inner.get(model, key).await
        }
        async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
            self.inner.page(model, after, limit).await
        }
        async fn scan(&self, model: &str) -> Result<Scan> {
            self.inner.scan(model).await
        }
    }

    #[async_trait]
    impl Holds for Broken {
        async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<Hold> {
            match self.how {
                "looks, then takes" => {
                    let held = self.inner.held(name).await?.into_iter().find(|hold| hold.name == name);
                    if let Some(other) = held.filter(|hold| hold.holder != holder) {
                        return Ok(other);
                    }
                    tokio::task::yield_now().await;
                    let _ = self.inner.let_go(name, &self.whose(name).await).await;
                    self.inner.hold(name, holder, ttl).await
                }
                "gives it to whoever asks" => {
                    let _ = self.inner.let_go(name, &self.whose(name).await).await;
                    self.inner.hold(name, holder, ttl).await
                }
                "over too soon" => self.inner.hold(name, holder, ttl * 3 / 4).await,
                "never over" if name == "short" => self.inner.hold(name, holder, ttl.max(LONG)).await,
                "counts in seconds" => {
                    self.inner.hold(name, holder, Duration::from_secs(ttl.as_secs())).await
                }
                "never kept" => match self.inner.held(name).await?.pop().filter(|hold| hold.name == name) {
                    Some(hold) => Ok(hold),
                    None => self.inner.hold(name, holder, ttl).await,
                },
                "takes any name" => match factum::reads::check_hold(name, holder) {
                    Ok(()) => self.inner.hold(name, holder, ttl).await,
                    Err(_) => Ok(Hold { name: name.to_owned(), holder: holder.to_owned(), left: ttl }),
                },
                _ => self.inner.hold(name, holder, ttl).await,
            }
        }
        async fn let_go(&self, name: &str, holder: &str) -> Result<()> {
            match self.how {
                "anybody lets go" => self.inner.let_go(name, &self.whose(name).await).await,
                "nobody lets go" => Ok(()),
                _ => self.inner.let_go(name, holder).await,
            }
        }
        async fn held(&self, prefix: &str) -> Result<Vec<Hold>> {
            let mut all = self.inner.held("").await?;
            match self.how {
                "prefixes are patterns" => {
                    let matches = |name: &str| {
                        let mut letters = name.chars();
                        prefix.chars().all(|p| letters.next().is_some_and(|l| p == '_' || p == l))
                    };
                    all.retain(|hold| matches(&hold.name));
                }
                "prefixes forget case" => {
                    let prefix = prefix.to_lowercase();
                    all.retain(|hold| hold.name.to_lowercase().starts_with(&prefix));
                }
                "sorted backwards" => {
                    all.retain(|hold| hold.name.starts_with(prefix));
                    all.reverse();
                }
                _ => all.retain(|hold| hold.name.starts_with(prefix)),
            }
            Ok(all)
        }
    }

    impl Broken {
        async fn whose(&self, name: &str) -> String {
            let held = self.inner.held(name).await.unwrap();
            held.into_iter().find(|hold| hold.name == name).map(|hold| hold.holder).unwrap_or_default()
        }
    }

    #[test]
    fn one_that_keeps_all_promises_is_not_complained_of() {
        run("not at all").unwrap();
        run("cannot count").unwrap();
    }

    #[test]
    fn a_promise_that_is_broken_is_noticed() {
        let mut missed = Vec::new();
        for (how, noticed) in [
            ("forgets letters", "one letter was taken away"),
            ("keeps the first", "the last counts"),
            ("takes none away", "one letter was taken away"),
            ("trims", "came back as"),
            ("begins at the place itself", "are not all of them"),
            ("sorts by text", "are not all of them"),
            ("one page too long", "a page of 1 letters has 2"),
            ("begins with another's letters", "begins with another's letters"),
            ("keeps what is given up", "are there without it"),
            ("letters without a lease", "changed letters"),
            ("cannot count, and writes what it can", "a step that was refused changed letters"),
            ("letters after the rest", "there was a step without its"),
            ("gives it to whoever asks", "somebody else has it"),
            ("looks, then takes", "of 16 who race one gets it"),
            ("over too soon", "was over after"),
            ("never over", "longer than was asked for"),
            ("counts in seconds", "was over after"),
            ("never kept", "its holder cannot shorten it"),
            ("takes any name", "was not refused"),
            ("anybody lets go", "somebody else has it"),
            ("nobody lets go", "somebody else has it"),
            ("prefixes are patterns", "what begins with"),
            ("prefixes forget case", "what begins with"),
            ("sorted backwards", "what begins with"),
        ] {
            let said = run(how).err().unwrap_or_else(|| "nothing was noticed".to_owned());
            if !said.contains(noticed) {
                missed.push(format!("{how}: {said}"));
            }
        }
        assert!(missed.is_empty(), "{missed:#?}");
    }
}
