//! Where read models live: the contract for their stores, and the one in memory.
//!
//! A read model has **generations**. Readers see the active one; a rebuild fills another beside it and switches. Whoever fills
//! them holds a **lease**: claiming the model makes a new epoch, and every change names the epoch of who makes it, so that
//! there is one writer however many believe to be it.
//!
//! Beside its rows a generation has **dead letters**: what is known of events that could not be handled, by their positions.
//! They change in the same transaction, so that no checkpoint passes an event that is neither handled nor set aside.
//!
//! Who claims what is agreed on by **holds**: names that one worker has until a moment on the store's clock. They keep workers
//! out of each other's way, and nothing relies on them; what is relied on is the lease.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    error::{Error, Outcome, Result},
    position::{Position, Token},
};

/// Bytes in a read model's name, at most.
pub const MODEL_NAME_BYTES: usize = 48;

/// Bytes in the name of a hold, and in that of its holder, at most.
pub const HOLD_BYTES: usize = 200;

/// The longest that a name can be held at once: who asks for more gets this. 100 years, which no clock's arithmetic overflows.
pub const LONGEST_HOLD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Rows that a scan takes from its store at once.
pub const PAGE: usize = 500;

/// The right to change a read model, until somebody else claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The model's name.
    pub model: String,
    /// Counts the claims.
    pub epoch: u64,
}

impl Lease {
    /// The error of whoever acts on this lease although it has passed on.
    pub fn fenced(&self, epoch: u64) -> Error {
        let what = format!("the read model `{}`", self.model);
        Error::Fenced {
            what,
            by: format!("a worker that claimed it later (epoch {epoch}, this one has {})", self.epoch),
        }
    }
}

/// One filling of a read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Counts the generations of the model.
    pub number: u32,
    /// The version of the projection that fills it.
    pub version: u32,
    /// How far the log is in it. `None`: nothing is.
    pub checkpoint: Option<Token>,
}

/// What a store knows of a read model. The default: it was never heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The epoch of the lease in force.
    pub epoch: u64,
    /// What readers see.
    pub active: Option<Generation>,
    /// What a rebuild fills.
    pub building: Option<Generation>,
}

/// The rows that some events changed, and how far that brings a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The generation.
    pub generation: u32,
    /// The checkpoint that it has now.
    pub from: Option<Token>,
    /// The checkpoint that it gets.
    pub to: Token,
    /// Each key with its new row as JSON text; `None` takes the row away.
    pub rows: Vec<(String, Option<String>)>,
    /// The positions of events with what is to be known of them as JSON text; `None` takes a dead letter away.
    pub letters: Vec<(Position, Option<String>)>,
}

/// Who has a name, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What is held.
    pub name: String,
    /// By whom.
    pub holder: String,
    /// How long the holder still has it, by the store's clock.
    pub left: Duration,
}

/// A read model as it is at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The generation that it shows.
    pub generation: Option<Generation>,
    /// Each key with its row as JSON text, sorted by key.
    pub rows: Vec<(String, String)>,
}

impl Generation {
    /// Nothing, if readers of this version can make sense of it: another version's rows may look the same and mean something
    /// else.
    ///
    /// # Errors
    /// [`Error::Unavailable`] saying what is shown instead.
    pub fn check_version(&self, model: &str, version: u32) -> Result<()> {
        let shown = self.version;
        let why = match shown.cmp(&version) {
            Ordering::Equal => return Ok(()),
            Ordering::Less => {
                format!("the read model `{model}` shows version {shown} until version {version} is filled")
            }
            Ordering::Greater => format!(
                "the read model `{model}` shows version {shown}, which this program with version {version} cannot read; start the newer program"
            ),
        };
        Err(Error::Unavailable { why, outcome: Outcome::No })
    }
}

/// A store of read models.
///
/// - Every change MUST be atomic, and MUST fail with [`Error::Fenced`] unless the lease's epoch is the one in force.
/// - [`commit`](ReadStore::commit) MUST write rows, dead letters and checkpoint as one, and only if the checkpoint is `from`.
/// - Readers MUST see one generation, as of one step; the switch to another MUST be atomic.
#[async_trait]
pub trait ReadStore: Send + Sync + fmt::Debug + 'static {
    /// Takes the model over: from now on only the holder of this lease can change it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name, and failures of the store.
    async fn claim(&self, model: &str) -> Result<Lease>;

    /// What is known of the model.
    ///
    /// # Errors
    /// Failures of the store.
    async fn catalog(&self, model: &str) -> Result<Catalog>;

    /// Begins a new, empty generation. One that was being built before is dropped.
    ///
    /// # Errors
    /// [`Error::Fenced`], and failures of the store.
    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation>;

    /// Drops the generation that is being built, if there is one.
    ///
    /// # Errors
    /// [`Error::Fenced`], and failures of the store.
    async fn discard(&self, lease: &Lease) -> Result<()>;

    /// Shows the generation that is being built to readers, and drops the one that they saw before.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::NotFound`] if that generation is not being built, and failures of the store.
    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()>;

    /// Writes the rows and dead letters, and moves the checkpoint.
    ///
    /// # Errors
    /// [`Error::Fenced`] also if the checkpoint is not where the step begins; failures of the store.
    async fn commit(&self, lease: &Lease, step: Step) -> Result<()>;

    /// The rows of these keys, in the order of the keys.
    ///
    /// # Errors
    /// Failures of the store.
    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>>;

    /// The model as readers see it, with no row but that of this key.
    ///
    /// # Errors
    /// Failures of the store.
    async fn get(&self, model: &str, key: &str) -> Result<Snapshot>;

    /// Up to `limit` rows whose keys come after `after`, as readers see them.
    ///
    /// # Errors
    /// Failures of the store.
    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot>;

    /// All rows, as readers see them, at one moment: whatever is written while they are read. A store on a disk MUST NOT hold
    /// them all in memory.
    ///
    /// # Errors
    /// Failures of the store.
    async fn scan(&self, model: &str) -> Result<Scan>;

    /// Up to `limit` dead letters of a generation that come after `after`, in the order of their positions.
    ///
    /// # Errors
    /// Failures of the store.
    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>>;

    /// Where workers agree on who keeps what.
    fn holds(&self) -> &dyn Holds;

    /// An empty store of the same kind in a temporary place, gone when it is dropped.
    ///
    /// # Errors
    /// Failures of the store.
    async fn scratch(&self) -> Result<Arc<dyn ReadStore>> {
        Ok(Arc::new(MemoryReads::new()))
    }

    /// All rows in memory: what [`scan`](ReadStore::scan) gives.
    ///
    /// # Errors
    /// Failures of the store.
    async fn snapshot(&self, model: &str) -> Result<Snapshot> {
        let mut scan = self.scan(model).await?;
        let mut rows = Vec::new();
        while let Some(row) = scan.next().await? {
            rows.push(row);
        }
        Ok(Snapshot { generation: scan.generation, rows })
    }
}

/// Names that one worker has for a while, by the clock of the store.
#[async_trait]
pub trait Holds: Send + Sync {
    /// Takes a name that nobody has, or keeps it longer: for `ttl` from now. Answers who has it, maybe somebody else.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name or holder that is empty, longer than 200 bytes or holds a zero byte, and failures of the store.
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<Hold>;

    /// Gives a name up, if this holder has it.
    ///
    /// # Errors
    /// Failures of the store.
    async fn let_go(&self, name: &str, holder: &str) -> Result<()>;

    /// The names that begin with `prefix` and that somebody has, sorted by their bytes.
    ///
    /// # Errors
    /// Failures of the store.
    async fn held(&self, prefix: &str) -> Result<Vec<Hold>>;
}

/// The rows of a model at one moment, page by page.
pub struct Scan {
    /// The generation that it shows.
    pub generation: Option<Generation>,
    page: std::vec::IntoIter<(String, String)>,
    pages: Box<dyn Pages>,
}

/// Where a [`Scan`] comes from.
#[async_trait]
pub trait Pages: Send {
    /// The next rows, sorted by key; none at the end.
    ///
    /// # Errors
    /// Failures of the store.
    async fn next(&mut self) -> Result<Vec<(String, String)>>;
}

impl Scan {
    /// A look at a generation, from page to page.
    pub fn new(generation: Option<Generation>, pages: impl Pages + 'static) -> Self {
        Self { generation, page: Vec::new().into_iter(), pages: Box::new(pages) }
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn next(&mut self) -> Result<Option<(String, String)>> {
        if self.page.as_slice().is_empty() {
            self.page = self.pages.next().await?.into_iter();
        }
        Ok(self.page.next())
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan({:?})", self.generation)
    }
}

/// Whether a read model can have this name: it becomes a table's name where there are tables.
///
/// # Errors
/// [`Error::InvalidInput`] saying what a name looks like.
pub fn check_model_name(name: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("the read model's name `{name}`"), why));
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !well_formed || name.len() > MODEL_NAME_BYTES {
        return wrong("it must be up to 48 characters of a-z, 0-9 and _, beginning with a letter");
    }
    if name.starts_with("sqlite_") || name.starts_with("factum_") {
        return wrong("names that begin with `sqlite_` or `factum_` are taken");
    }
    if name.split('_').any(is_generation) {
        return wrong("a part like `g1` marks a generation; choose another name");
    }
    Ok(())
}

/// Whether a hold can be called so, and have such a holder.
///
/// # Errors
/// [`Error::InvalidInput`] saying what a name looks like.
pub fn check_hold(name: &str, holder: &str) -> Result<()> {
    for (what, text) in [("name", name), ("holder", holder)] {
        if text.is_empty() || text.len() > HOLD_BYTES || text.contains('\0') {
            let why = format!("it must have 1 to {HOLD_BYTES} bytes, none of them zero");
            return Err(Error::invalid(format!("the {what} `{text}` of a hold"), why));
        }
    }
    Ok(())
}

fn is_generation(part: &str) -> bool {
    part.strip_prefix('g').is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
}

/// Read models in memory: as strict as the others, and gone with the process. Clones share what is in it.
#[derive(Clone, Debug, Default)]
pub struct MemoryReads {
    models: Arc<Mutex<HashMap<String, Model>>>,
    holds: Arc<Mutex<BTreeMap<String, (String, Instant)>>>,
}

/// Shared with who scans it: it is copied if it is changed meanwhile.
type Table = Arc<BTreeMap<String, String>>;

#[derive(Debug, Default)]
struct Model {
    catalog: Catalog,
    created: u32,
    tables: HashMap<u32, Table>,
    letters: HashMap<u32, BTreeMap<Position, String>>,
}

impl MemoryReads {
    /// Without any model yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn models(&self) -> MutexGuard<'_, HashMap<String, Model>> {
        // Nothing under this lock panics half-way.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_holds(&self) -> MutexGuard<'_, BTreeMap<String, (String, Instant)>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a model, if the lease is in force.
    fn change<T>(&self, lease: &Lease, change: impl FnOnce(&mut Model) -> Result<T>) -> Result<T> {
        let mut models = self.models();
        let model = models.entry(lease.model.clone()).or_default();
        if model.catalog.epoch != lease.epoch {
            return Err(lease.fenced(model.catalog.epoch));
        }
        change(model)
    }
}

impl Model {
    fn active_table(&self) -> Option<&Table> {
        self.tables.get(&self.catalog.active?.number)
    }

    fn drop_building(&mut self) {
        if let Some(building) = self.catalog.building.take() {
            self.drop_tables(building.number);
        }
    }

    fn drop_tables(&mut self, generation: u32) {
        self.tables.remove(&generation);
        self.letters.remove(&generation);
    }

    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        let Catalog { active, building, .. } = &mut self.catalog;
        [active, building].into_iter().flatten().find(|generation| generation.number == number)
    }
}

#[async_trait]
impl ReadStore for MemoryReads {
    async fn claim(&self, model: &str) -> Result<Lease> {
        check_model_name(model)?;
        let mut models = self.models();
        let catalog = &mut models.entry(model.to_owned()).or_default().catalog;
        catalog.epoch += 1;
        Ok(Lease { model: model.to_owned(), epoch: catalog.epoch })
    }

    async fn catalog(&self, model: &str) -> Result<Catalog> {
        Ok(self.models().get(model).map(|model| model.catalog).unwrap_or_default())
    }

    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        self.change(lease, |model| {
            model.drop_building();
            model.created += 1;
            let generation = Generation { number: model.created, version, checkpoint: None };
            model.tables.insert(generation.number, Table::default());
            model.catalog.building = Some(generation);
            Ok(generation)
        })
    }

    async fn discard(&self, lease: &Lease) -> Result<()> {
        self.change(lease, |model| {
            model.drop_building();
            Ok(())
        })
    }

    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        self.change(lease, |model| {
            if model.catalog.building.is_none_or(|building| building.number != generation) {
                return Err(Error::NotFound {
                    what: format!("generation {generation} of `{}` to activate", lease.model),
                });
            }
            if let Some(old) = model.catalog.active.take() {
                model.drop_tables(old.number);
            }
            model.catalog.active = model.catalog.building.take();
            Ok(())
        })
    }

    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        self.change(lease, |model| {
            let epoch = model.catalog.epoch;
            match model.generation(step.generation) {
                Some(generation) if generation.checkpoint == step.from => {
                    generation.checkpoint = Some(step.to);
                }
                _ => return Err(lease.fenced(epoch)),
            }
            let table = Arc::make_mut(model.tables.entry(step.generation).or_default());
            for (key, row) in step.rows {
                match row {
                    Some(row) => table.insert(key, row),
                    None => table.remove(&key),
                };
            }
            let letters = model.letters.entry(step.generation).or_default();
            for (position, letter) in step.letters {
                match letter {
                    Some(letter) => letters.insert(position, letter),
                    None => letters.remove(&position),
                };
            }
            Ok(())
        })
    }

    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>> {
        let models = self.models();
        let letters = models.get(model).and_then(|model| model.letters.get(&generation));
        let later = letters.map(|letters| letters.range((Bound::Excluded(after), Bound::Unbounded)));
        Ok(later.into_iter().flatten().take(limit).map(|(at, letter)| (*at, letter.clone())).collect())
    }

    fn holds(&self) -> &dyn Holds {
        self
    }

    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        let models = self.models();
        let table = models.get(model).and_then(|model| model.tables.get(&generation));
        Ok(keys.iter().map(|key| table?.get(key).cloned()).collect())
    }

    async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
        let models = self.models();
        let Some(model) = models.get(model) else { return Ok(Snapshot::default()) };
        let row = model.active_table().and_then(|table| table.get_key_value(key));
        let rows = row.map(|(key, row)| (key.clone(), row.clone())).into_iter().collect();
        Ok(Snapshot { generation: model.catalog.active, rows })
    }

    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
        let models = self.models();
        let Some(model) = models.get(model) else { return Ok(Snapshot::default()) };
        let rows = model.active_table().map(|table| page(table, after, limit)).unwrap_or_default();
        Ok(Snapshot { generation: model.catalog.active, rows })
    }

    async fn scan(&self, model: &str) -> Result<Scan> {
        let models = self.models();
        let model = models.get(model);
        let table = model.and_then(Model::active_table).cloned().unwrap_or_default();
        Ok(Scan::new(model.and_then(|model| model.catalog.active), TablePages { table, after: None }))
    }
}

#[async_trait]
impl Holds for MemoryReads {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<Hold> {
        check_hold(name, holder)?;
        let (now, mut holds) = (Instant::now(), self.all_holds());
        let held = match holds.get(name) {
            Some((other, until)) if other != holder && *until > now => (other.clone(), *until),
            _ => (holder.to_owned(), now + ttl.min(LONGEST_HOLD)),
        };
        let hold = Hold { name: name.to_owned(), holder: held.0.clone(), left: held.1 - now };
        holds.insert(name.to_owned(), held);
        Ok(hold)
    }

    async fn let_go(&self, name: &str, holder: &str) -> Result<()> {
        let mut holds = self.all_holds();
        if holds.get(name).is_some_and(|(has, _)| has == holder) {
            holds.remove(name);
        }
        Ok(())
    }

    async fn held(&self, prefix: &str) -> Result<Vec<Hold>> {
        let now = Instant::now();
        let mut holds = self.all_holds();
        holds.retain(|_, (_, until)| *until > now);
        let named = holds.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let named = named.take_while(|(name, _)| name.starts_with(prefix));
        let hold = |(name, (holder, until)): (&String, &(String, Instant))| Hold {
            name: name.clone(),
            holder: holder.clone(),
            left: *until - now,
        };
        Ok(named.map(hold).collect())
    }
}

struct TablePages {
    table: Table,
    after: Option<String>,
}

#[async_trait]
impl Pages for TablePages {
    async fn next(&mut self) -> Result<Vec<(String, String)>> {
        let rows = page(&self.table, self.after.take(), PAGE);
        self.after = rows.last().map(|(key, _)| key.clone());
        if rows.is_empty() {
            self.table = Table::default();
        }
        Ok(rows)
    }
}

fn page(table: &Table, after: Option<String>, limit: usize) -> Vec<(String, String)> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range((start, Bound::Unbounded)).take(limit);
    rows.map(|(key, row)| (key.clone(), row.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["balances", "by_day", "a1", "logs", "big_g"] {
            assert!(check_model_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(49);
        for bad in [
            "",
            "Balances",
            "1st",
            "a-b",
            "a b",
            "a\"; DROP TABLE x",
            "sqlite_x",
            "factum_x",
            "x_g1",
            "é",
            &long,
        ] {
            assert!(check_model_name(bad).is_err(), "{bad}");
        }
    }
}
