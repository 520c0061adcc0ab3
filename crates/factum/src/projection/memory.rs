//! Read models in memory: for tests, and for what is quicker made again than kept.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{Attached, Generation, JsonRow, Place, ReadStore, check_model_name};
use crate::{
    error::{Error, Result},
    position::Token,
};

/// Read models in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryReads(Arc<Mutex<HashMap<String, Model>>>);

#[derive(Debug, Default)]
struct Model {
    epoch: u64,
    last_generation: u64,
    active: Option<Kept>,
    building: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    generation: Generation,
    rows: BTreeMap<String, String>,
}

impl MemoryReads {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn models(&self) -> MutexGuard<'_, HashMap<String, Model>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, epoch: u64, work: impl FnOnce(&mut Model) -> Result<T>) -> Result<T> {
        let mut models = self.models();
        match models.get_mut(name) {
            Some(model) if model.epoch == epoch => work(model),
            _ => Err(fenced(name)),
        }
    }
}

/// The error of a worker that is not the owner any more.
fn fenced(name: &str) -> Error {
    Error::Fenced { what: format!("the read model `{name}`"), by: "a worker that started later".into() }
}

impl Model {
    fn kept(&mut self, number: u64) -> Option<&mut Kept> {
        [&mut self.active, &mut self.building]
            .into_iter()
            .flatten()
            .find(|kept| kept.generation.number == number)
    }
}

#[async_trait]
impl ReadStore for MemoryReads {
    async fn attach(&self, name: &str) -> Result<Attached> {
        check_model_name(name)?;
        let mut models = self.models();
        let model = models.entry(name.to_owned()).or_default();
        model.epoch += 1;
        let generation = |kept: &Option<Kept>| kept.as_ref().map(|kept| kept.generation);
        Ok(Attached {
            epoch: model.epoch,
            active: generation(&model.active),
            building: generation(&model.building),
        })
    }

    async fn begin(&self, name: &str, epoch: u64, version: u32) -> Result<Generation> {
        self.with(name, epoch, |model| {
            model.last_generation += 1;
            let generation = Generation { number: model.last_generation, version, checkpoint: None };
            let kept = Kept { generation, rows: BTreeMap::new() };
            // The first one can be read while it is made: there is nothing better.
            let slot = if model.active.is_none() { &mut model.active } else { &mut model.building };
            *slot = Some(kept);
            Ok(generation)
        })
    }

    async fn rows(&self, place: Place<'_>, keys: &[String]) -> Result<Vec<Option<String>>> {
        self.with(place.name, place.epoch, |model| {
            let kept = model.kept(place.generation).ok_or_else(|| fenced(place.name))?;
            Ok(keys.iter().map(|key| kept.rows.get(key).cloned()).collect())
        })
    }

    async fn change(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        rows: Vec<(String, Option<String>)>,
    ) -> Result<()> {
        self.with(place.name, place.epoch, |model| {
            let kept = model.kept(place.generation).filter(|kept| kept.generation.checkpoint == from);
            let kept = kept.ok_or_else(|| fenced(place.name))?;
            kept.generation.checkpoint = Some(to);
            for (key, row) in rows {
                match row {
                    Some(row) => kept.rows.insert(key, row),
                    None => kept.rows.remove(&key),
                };
            }
            Ok(())
        })
    }

    async fn activate(&self, place: Place<'_>) -> Result<()> {
        self.with(place.name, place.epoch, |model| {
            let built = model.building.take_if(|kept| kept.generation.number == place.generation);
            model.active = Some(built.ok_or_else(|| fenced(place.name))?);
            Ok(())
        })
    }

    async fn get(&self, name: &str, key: &str) -> Result<Option<String>> {
        let models = self.models();
        Ok(models.get(name).and_then(|model| model.active.as_ref()?.rows.get(key).cloned()))
    }

    async fn page(&self, name: &str, beyond: Option<&str>, limit: usize) -> Result<Vec<JsonRow>> {
        let models = self.models();
        let Some(active) = models.get(name).and_then(|model| model.active.as_ref()) else {
            return Ok(Vec::new());
        };
        let from = beyond.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = active.rows.range::<str, _>((from, Bound::Unbounded)).take(limit);
        Ok(rows.map(|(key, row)| (key.clone(), row.clone())).collect())
    }
}
