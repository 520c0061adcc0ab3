//! One row per key, as JSON.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use super::{
    Attached, Difference, Generation, Place, Projection, ReadStore, decoded, guarded, runner::Target,
};
use crate::{
    aggregate::Recorded,
    error::{Corrupt, Error, Result},
    event::RecordedEvent,
    position::Token,
    query::Query,
};

/// Rows read at once.
const PAGE: usize = 1000;

/// A projection and where its rows are.
#[derive(Debug)]
pub(super) struct Documents<P> {
    projection: P,
    reads: Arc<dyn ReadStore>,
}

impl<P: Projection> Documents<P> {
    pub(super) fn new(projection: P, reads: Arc<dyn ReadStore>) -> Self {
        Self { projection, reads }
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        let json = self.reads.get(P::NAME, key).await?;
        json.map(|json| row_of::<P>(key, &json)).transpose()
    }

    pub(super) async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        let rows = self.all_json().await?;
        rows.into_iter().map(|(key, json)| row_of::<P>(&key, &json).map(|row| (key, row))).collect()
    }

    async fn all_json(&self) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = Vec::new();
        loop {
            let beyond = all.last().map(|(key, _)| key.clone());
            let page = self.reads.page(P::NAME, beyond.as_deref(), PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// What becomes of some rows by these events.
    fn evolve(
        &self,
        rows: &mut HashMap<String, Option<P::Row>>,
        events: &[(String, Recorded<P::Event>)],
    ) -> Result<()> {
        for (key, event) in events {
            let row = rows.remove(key).flatten();
            let what =
                || format!("the event at position {} in `{}`", event.record.position, event.record.stream);
            let row = guarded(what, || self.projection.evolve(row, event))?;
            rows.insert(key.clone(), row);
        }
        Ok(())
    }

    /// The events that concern a row, with its key.
    fn keyed(&self, events: Vec<RecordedEvent>) -> Result<Vec<(String, Recorded<P::Event>)>> {
        let mut keyed = Vec::with_capacity(events.len());
        for event in decoded::<P::Event>(events)? {
            let what =
                || format!("the event at position {} in `{}`", event.record.position, event.record.stream);
            if let Some(key) = guarded(what, || self.projection.key(&event))? {
                keyed.push((key, event));
            }
        }
        Ok(keyed)
    }
}

fn row_of<P: Projection>(key: &str, json: &str) -> Result<P::Row> {
    from_json(json).map_err(|why| {
        let problem = format!("the row `{key}` is not one of version {} ({why}); rebuild it", P::VERSION);
        Corrupt { segment: format!("the read model `{}`", P::NAME), offset: 0, positions: None, problem }
            .into()
    })
}

fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(json)
}

fn to_json<P: Projection>(key: &str, row: &P::Row) -> Result<String> {
    let what = || format!("the row `{key}` of the read model `{}`", P::NAME);
    serde_json::to_string(row).map_err(|e| Error::invalid(what(), format!("it cannot be JSON ({e})")))
}

#[async_trait]
impl<P: Projection> Target for Documents<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn query(&self) -> Result<Query> {
        self.projection.query()
    }

    async fn attach(&self) -> Result<Attached> {
        self.reads.attach(P::NAME).await
    }

    async fn begin(&self, epoch: u64) -> Result<Generation> {
        self.reads.begin(P::NAME, epoch, P::VERSION).await
    }

    async fn apply(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        events: Vec<RecordedEvent>,
    ) -> Result<()> {
        let events = self.keyed(events)?;
        let mut keys: Vec<String> = events.iter().map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut rows = HashMap::with_capacity(keys.len());
        if !keys.is_empty() {
            for (key, json) in keys.iter().zip(self.reads.rows(place, &keys).await?) {
                let row = json.map(|json| row_of::<P>(key, &json)).transpose()?;
                rows.insert(key.clone(), row);
            }
        }
        self.evolve(&mut rows, &events)?;
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let row = rows.remove(&key).flatten();
            let json = row.map(|row| to_json::<P>(&key, &row)).transpose()?;
            changes.push((key, json));
        }
        self.reads.change(place, from, to, changes).await
    }

    async fn activate(&self, place: Place<'_>) -> Result<()> {
        self.reads.activate(place).await
    }

    /// Compares as values: a row's JSON may be written in another order than it was.
    async fn differences(&self, events: Vec<RecordedEvent>) -> Result<Vec<Difference>> {
        let mut folded = HashMap::new();
        self.evolve(&mut folded, &self.keyed(events)?)?;
        let mut by_the_log = BTreeMap::new();
        for (key, row) in folded {
            if let Some(row) = row {
                by_the_log.insert(key.clone(), to_json::<P>(&key, &row)?);
            }
        }
        let mut kept: BTreeMap<String, String> = self.all_json().await?.into_iter().collect();
        let mut differences = Vec::new();
        for (key, json) in by_the_log {
            let row = kept.remove(&key);
            if row.as_deref().map(value_of) != Some(value_of(&json)) {
                differences.push(Difference { key, kept: row, by_the_log: Some(json) });
            }
        }
        differences.extend(kept.into_iter().map(|(key, row)| Difference {
            key,
            kept: Some(row),
            by_the_log: None,
        }));
        differences.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(differences)
    }
}

/// The value of a row's JSON; the text itself, if it is none.
fn value_of(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap_or_else(|_| serde_json::Value::String(json.to_owned()))
}
