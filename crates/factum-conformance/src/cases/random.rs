//! Everything at random, compared with the naive model, or judged by the history checker.

use std::sync::Arc;

use factum::{
    Append, AsOf, Error, EventStoreExt, ExpectedRevision, Guard, NewEvent, Query, Read, RecordedEvent,
    Result, Retention, Revision, Source, Start, StreamName, Tags, Token, error::Actual, stream::LifeChange,
};
use fastrand::Rng;

use crate::{
    FinalLog, Recorder,
    lab::{Lab, Tried, stream},
    model::{Model, Verdict},
    verify, workload,
};

const SEEDS: u64 = 6;
const STEPS: usize = 60;

pub async fn any_sequence_of_operations_does_what_the_naive_model_does(lab: Lab) -> Result<Tried> {
    for seed in 0..SEEDS {
        let lab = lab.another(factum::Limits::default()).await?;
        let mut pair = Pair {
            rng: Rng::with_seed(seed),
            lab,
            model: Model::default(),
            tokens: Vec::new(),
            sent: Vec::new(),
            seed,
        };
        for _ in 0..STEPS {
            match pair.rng.u32(0..10) {
                0..6 => pair.append().await?,
                6 => pair.change_a_life().await?,
                _ => pair.read().await?,
            }
        }
    }
    Ok(Tried::Yes)
}

pub async fn many_clients_at_once_leave_a_history_that_can_be_true(lab: Lab) -> Result<Tried> {
    for (seed, lives) in [(1, false), (2, true)] {
        let lab = lab.another(factum::Limits::default()).await?;
        let recorder = Recorder::in_memory(Arc::clone(&lab.store)).await?;
        let options = workload::Options { seed, lives, clients: 8, operations: 60, ..Default::default() };
        let summary = workload::run(&recorder, &options).await?;
        let log = FinalLog::read(&*lab.store).await?;
        if let Err(broken) = verify(&recorder.history(), &log) {
            panic!("seed {seed}, {summary}: {broken}");
        }
        assert!(summary.appended > 0 && summary.conflicts > 0 && summary.replayed > 0, "{summary}");
    }
    Ok(Tried::Yes)
}

/// A store and the model, which must agree.
struct Pair {
    rng: Rng,
    lab: Lab,
    model: Model,
    tokens: Vec<Token>,
    sent: Vec<Append>,
    seed: u64,
}

impl Pair {
    fn name(&mut self) -> StreamName {
        stream(["account-1", "account-2", "course-1", "plain"][self.rng.usize(0..4)])
    }

    fn tag(&mut self) -> String {
        format!("k:{}", self.rng.u32(0..4))
    }

    fn query(&mut self) -> Result<Query> {
        let kind = ["A", "B", "C"][self.rng.usize(0..3)];
        let query = match self.rng.u32(0..7) {
            0 => Query::all(),
            1 => Query::types([kind])?,
            2 => Query::types([kind, "B"])?.tag(&self.tag())?,
            3 => Query::tags([self.tag(), self.tag()])?,
            4 => Query::category(["account", "course", "plain", "nope"][self.rng.usize(0..4)]),
            5 => Query::stream(self.name()),
            _ => Query::tags([self.tag()])?,
        };
        Ok(if self.rng.u32(0..4) == 0 { query.or(Query::tags([self.tag()])?) } else { query })
    }

    fn token(&mut self) -> Option<Token> {
        let place = self.rng.usize(0..self.tokens.len().max(1));
        self.tokens.get(place).copied()
    }

    async fn append(&mut self) -> Result<()> {
        let again = self.rng.usize(0..self.sent.len() + 10);
        let mut append = match self.sent.get(again) {
            Some(sent) => sent.clone(),
            None => self.some_append().await?,
        };
        if again < self.sent.len() && self.rng.bool() {
            append.writes.truncate(1);
        }
        if self.rng.u32(0..10) == 0
            && let Some(event) = append.writes.first_mut().and_then(|write| write.events.first_mut())
        {
            event.data = "\"other\"".into();
        }
        self.sent.push(append.clone());
        let wanted = self.model.verdict(&append);
        let answer = self.lab.store.append(append.clone()).await;
        let given = Verdict::of(&answer)?;
        let another_match = match (&answer, wanted, given) {
            (
                Err(Error::Conflict(conflict)),
                Verdict::Conflict(Actual::Match(_)),
                Verdict::Conflict(Actual::Match(at)),
            ) => {
                matches!(&conflict.guard, Guard::Query { query, after } if at > after.position && self.model.shows_match(query, at))
            }
            _ => false,
        };
        assert!(
            wanted == given || another_match,
            "seed {}: {wanted:?} was due, {given:?} came for {append:?}",
            self.seed
        );
        if let Ok(appended) = answer {
            self.tokens.push(appended.token);
            if given == Verdict::Written {
                let recorded = self.lab.store.head().await?.recorded_at.unwrap_or_default();
                for ((stream, event), placed) in append.events().zip(&appended.events) {
                    self.model.record(stream, event, *placed, recorded);
                }
            }
        }
        Ok(())
    }

    async fn some_append(&mut self) -> Result<Append> {
        let mut append = Append::new();
        for _ in 0..1 + self.rng.usize(0..3) {
            let mut events = Vec::new();
            for n in 0..1 + self.rng.u32(0..3) {
                let tags: Vec<String> = (0..self.rng.usize(0..3)).map(|_| self.tag()).collect();
                let kind = ["A", "B", "C"][self.rng.usize(0..3)];
                events.push(NewEvent::json(kind, &n)?.with_tags(Tags::new(tags)?));
            }
            append = append.write(self.name(), events);
        }
        for _ in 0..self.rng.usize(0..3) {
            let name = self.name();
            append = match self.rng.u32(0..6) {
                0 => append.expect(name, ExpectedRevision::NoStream),
                1 => append.expect(name, ExpectedRevision::StreamExists),
                2 => append.expect(name, ExpectedRevision::Exact(Revision(self.rng.u64(0..10)))),
                3 => match self.model.actual(&name) {
                    Actual::Revision(last) | Actual::Deleted(last) => {
                        append.expect(name, ExpectedRevision::Exact(last))
                    }
                    _ => append.expect(name, ExpectedRevision::Any),
                },
                4 => {
                    let query = self.query()?;
                    let token = self.lab.store.read(Read::query(query.clone())).await?.token;
                    append.expect_none(query, token)
                }
                _ => match self.token() {
                    Some(token) => append.expect_none(self.query()?, token),
                    None => append,
                },
            };
        }
        Ok(append)
    }

    /// Changes a stream's life, once the guard that comes with it holds.
    async fn change_a_life(&mut self) -> Result<()> {
        let name = self.name();
        if self.model.actual(&name) == Actual::Tombstoned {
            return Ok(());
        }
        let count = self.rng.u64(1..6);
        let change = match self.rng.u32(0..12) {
            0..4 => LifeChange::Retention(Retention { max_count: Some(count), ..Retention::default() }),
            4..8 => {
                // Nothing yet to be written is truncated: the store must not do it, and the model cannot.
                let last = match self.model.actual(&name) {
                    Actual::Revision(last) | Actual::Deleted(last) => last.0 + 1,
                    _ => 0,
                };
                let before = Some(Revision(self.rng.u64(0..last + 3)));
                LifeChange::Retention(Retention { truncate_before: before, ..Retention::default() })
            }
            8..11 => LifeChange::Deleted,
            _ => LifeChange::Tombstoned,
        };
        let deletes_nothing = !matches!(self.model.actual(&name), Actual::Revision(_));
        if change == LifeChange::Deleted && deletes_nothing {
            let deleted = self.lab.store.delete(&name, ExpectedRevision::Any).await;
            assert!(matches!(deleted, Err(Error::NotFound { .. })), "seed {}: {deleted:?}", self.seed);
            return Ok(());
        }
        let event = change.to_event()?;
        let described = name.metadata_stream()?;
        let appended = self.lab.append(Append::to(described.clone(), [event.clone()])).await?;
        let recorded = self.lab.store.head().await?.recorded_at.unwrap_or_default();
        self.model.record(&described, &event, appended.events[0], recorded);
        match change {
            LifeChange::Retention(retention) => self.model.retain(&name, retention),
            LifeChange::Deleted => self.model.delete(&name),
            LifeChange::Tombstoned => self.model.tombstone(&name),
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let mut read = match self.rng.u32(0..4) {
            0 => Read::all(),
            1 => Read::stream(self.name()),
            _ => Read::query(self.query()?),
        };
        if self.rng.bool() {
            read = read.backwards();
        }
        read.start = match (self.rng.u32(0..4), self.token()) {
            (0, Some(token)) => Start::Beyond(token),
            (1, _) if matches!(read.source, Source::Stream(_)) => {
                Start::Revision(Revision(self.rng.u64(0..12)))
            }
            _ => Start::Edge,
        };
        read.as_of = match (self.rng.u32(0..6), self.token()) {
            (0, Some(token)) => Some(AsOf::Position(token.position)),
            (1, _) => self.model.read(&Read::all()).last().map(|event| AsOf::Time(event.recorded_at)),
            _ => None,
        };
        read.limit = [1, 2, 7, 1000][self.rng.usize(0..4)];
        let tombstoned =
            matches!(&read.source, Source::Stream(name) if self.model.actual(name) == Actual::Tombstoned);
        let found = self.lab.store.read_to_end(read.clone()).await;
        if tombstoned {
            assert!(matches!(found, Err(Error::Tombstoned { .. })), "seed {}: {found:?}", self.seed);
            return Ok(());
        }
        let (found, wanted) = (found?, self.model.read(&read));
        let same = |(found, wanted): (&RecordedEvent, &&RecordedEvent)| {
            let data = serde_json::from_slice::<serde_json::Value>(&found.data).ok();
            let place = (found.position, found.revision, found.recorded_at, found.id);
            place == (wanted.position, wanted.revision, wanted.recorded_at, wanted.id)
                && found.stream == wanted.stream
                && found.event_type == wanted.event_type
                && found.tags == wanted.tags
                && data == serde_json::from_slice(&wanted.data).ok()
        };
        let all = found.len() == wanted.len() && found.iter().zip(&wanted).all(same);
        assert!(all, "seed {}: {read:?}\nwanted {wanted:#?}\nfound {found:#?}", self.seed);
        Ok(())
    }
}
