//! Switching a model on and off: filled while appends go on, and then the rest while none does.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{ClientWrapper, Object};
use factum::{
    Error, EventId, MultiProjection, Position, Read, ReadStore, Result, Token,
    batch::Batch,
    consumer::Form,
    documents::{Documents, Fold},
    reads::{Generation, Holds as _, Lease},
};
use tokio::{sync::Mutex, time::Instant};

use super::{REGISTERED, Registered};
use crate::{
    PostgresStore, epoch,
    fault::Fault,
    models::{Names, PostgresReads, catalog},
    read,
    schema::in_schema,
};

/// How long a switch waits for the appends that are on their way; those that come meanwhile wait as long.
pub(super) const HOLD_UP: &str = "10s";

/// For how long a switch has the model's name without keeping it: longer than it holds up appends.
const NAME_TTL: Duration = Duration::from_secs(30);
/// How often it keeps it.
const NAME_KEPT: Duration = Duration::from_secs(3);
/// How often it takes the name from whoever has it, before it does without.
const NAME_TRIES: u32 = 16;

/// How far a model is.
pub(super) enum Progress {
    Inline,
    UpTo(Option<Token>),
}

/// Has the model of these documents kept inline.
pub(super) async fn on<P: MultiProjection>(store: &PostgresStore, documents: &Documents<P>) -> Result<()> {
    let (name, version) = (documents.model(), documents.version());
    let known = registered(store, name).await?;
    if known.is_some_and(|known| known.version == version) {
        return Ok(());
    }
    let switch = Switch::begin(store, name).await?;
    // Another process may have been quicker.
    match registered(store, name).await? {
        Some(known) if known.version == version => Ok(()),
        Some(newer) if newer.version > version => Err(kept_by_newer(documents, newer.version)),
        _ => {
            let name = switch.take_name(documents).await?;
            let made = switch.make(documents, &name).await;
            name.let_go().await;
            made
        }
    }
}

/// As what the model is registered, if it is.
async fn registered(store: &PostgresStore, model: &str) -> Result<Option<Registered>> {
    let look = |inner: Arc<crate::Inner>, client: Object| async move {
        let select = in_schema(&format!("SELECT {REGISTERED}"), &inner.schema);
        let row = client.query_one(&select, &[]).await?;
        Ok(Registered::of(&row.try_get::<_, Vec<&str>>(0)?)?)
    };
    Ok(store.run(look).await?.into_iter().find(|registered| registered.name == model))
}

/// Has it kept in the background again.
pub(super) async fn off(store: &PostgresStore, model: &str) -> Result<bool> {
    let model = model.to_owned();
    let off = |inner: Arc<crate::Inner>, client: Object| async move {
        let off = in_schema("SELECT factum.make_asynchronous($1)", &inner.schema);
        Ok(client.query_one(&off, &[&model]).await?.try_get(0)?)
    };
    store.run(off).await
}

pub(super) async fn progress(store: &PostgresStore, model: &str) -> Result<Progress> {
    let (model, names) = (model.to_owned(), store.names());
    let look = |_, client: Object| async move {
        let (catalog, inline) = catalog::with_inline(&client, &names, &model).await?;
        let at = catalog.active.and_then(|active| active.checkpoint);
        Ok(if inline { Progress::Inline } else { Progress::UpTo(at) })
    };
    store.run(look).await
}

fn kept_by_newer<P: MultiProjection>(documents: &Documents<P>, newer: u32) -> Error {
    let what = format!("the read model `{}`", documents.model());
    let why = format!(
        "it is kept by a program of version {newer}, and this one has version {}: start the newer program",
        documents.version()
    );
    Error::invalid(what, why)
}

/// A switch in the making, of which there is one at a time for each model. It has all the connections that it will need: while
/// appends are held up, they may have all of the pool's.
struct Switch {
    store: PostgresStore,
    /// It holds the lock on the switch, and then the transaction that holds up the appends.
    gate: ClientWrapper,
    filling: Filling,
}

/// The name by which workers agree on who keeps the model. Whoever kept it in the background stands by meanwhile, else it would claim
/// it again.
struct Name {
    model: String,
    holder: String,
    reads: PostgresReads,
    kept: Mutex<Instant>,
}

impl Name {
    /// Keeps it, if that has not been done for a while. One that is lost all the same is for the lease to notice.
    async fn keep(&self) -> Result<()> {
        let mut kept = self.kept.lock().await;
        if kept.elapsed() >= NAME_KEPT {
            let asked = Instant::now();
            self.reads.hold(&self.model, &self.holder, NAME_TTL).await?;
            *kept = asked;
        }
        Ok(())
    }

    async fn let_go(self) {
        // Where that fails, it is over in a while.
        let _ = self.reads.let_go(&self.model, &self.holder).await;
    }
}

/// What reads the log and fills a generation, each on a connection of its own.
struct Filling {
    store: PostgresStore,
    log: ClientWrapper,
    reads: PostgresReads,
}

impl Switch {
    async fn begin(store: &PostgresStore, model: &str) -> Result<Self> {
        let reads = store.reads();
        let (gate, log, rows) = (reads.alone().await?, reads.alone().await?, reads.alone().await?);
        let reads = reads.on(Arc::new(Mutex::new(rows)));
        // It ends with its connection.
        let alone = "SELECT pg_advisory_lock('factum.generations'::regclass::oid::integer, hashtext($1))";
        let locked = gate.query(&in_schema(alone, &store.inner.schema), &[&model]).await;
        locked.map_err(|error| Fault::from(error).explain(reads.place()))?;
        let filling = Filling { store: store.clone(), log, reads };
        Ok(Self { store: store.clone(), gate, filling })
    }

    /// Takes the model's name, from whoever has it.
    async fn take_name<P: MultiProjection>(&self, documents: &Documents<P>) -> Result<Name> {
        let (reads, model) = (self.filling.reads.clone(), documents.model().to_owned());
        let holder = format!("inline-{}/v{}", EventId::new(), documents.version());
        let mut asked = Instant::now();
        for _ in 0..NAME_TRIES {
            let hold = reads.hold(&model, &holder, NAME_TTL).await?;
            if hold.holder == holder {
                break;
            }
            reads.let_go(&model, &hold.holder).await?;
            asked = Instant::now();
        }
        Ok(Name { model, holder, reads, kept: Mutex::new(asked) })
    }

    async fn make<P: MultiProjection>(self, documents: &Documents<P>, name: &Name) -> Result<()> {
        let Self { store, mut gate, filling } = self;
        let (reads, model, version) = (&filling.reads, documents.model(), documents.version());
        let catalog = reads.catalog(model).await?;
        if let Some(newer) = catalog.active.filter(|active| active.version > version) {
            return Err(kept_by_newer(documents, newer.version));
        }
        let lease = reads.take_over(model).await?;
        // What it was kept in the background to, or a new one.
        let active = reads.catalog(model).await?.active.filter(|active| active.version == version);
        let parked = match active {
            Some(active) => !reads.letters(model, active.number, Position::START, 1).await?.is_empty(),
            None => false,
        };
        let mut generation = match active {
            // One that lacks what is parked is not what an append can go on with.
            Some(active) if !parked => active,
            _ => reads.create(&lease, version).await?,
        };
        let form = documents.kept_in(Arc::new(reads.clone()));
        // Nearly all of it, while appends go on.
        filling.fill(&form, &lease, &mut generation, name).await?;
        let held_up = async {
            let held_up = gate.transaction().await?;
            let off = in_schema("SELECT factum.keep_appends_off($1)", &store.inner.schema);
            held_up.query(&off, &[&HOLD_UP]).await?;
            Ok(held_up)
        };
        let explained = |fault: Fault| fault.explain(reads.place());
        let mut held_up = held_up.await.map_err(explained)?;
        // All that was appended is committed by now: the rest.
        filling.fill(&form, &lease, &mut generation, name).await?;
        let switched = async {
            catalog::make_inline(&mut held_up, &store.names(), &lease, generation.number.into()).await?;
            held_up.commit().await.map_err(|error| Fault::from(error).of_a_change())
        };
        switched.await.map_err(explained)
    }
}

impl Filling {
    /// Fills up to where the log is now.
    async fn fill(
        &self,
        form: &impl Form,
        lease: &Lease,
        generation: &mut Generation,
        name: &Name,
    ) -> Result<()> {
        let mut filler = form.filler(generation.number);
        let all = Read::query(form.query()?);
        let mut next = Some(match generation.checkpoint {
            Some(at) => {
                // It may be of a former epoch that goes on.
                let at = epoch::locate(&self.log, &self.store.inner.schema, at).await;
                all.beyond(at.map_err(|fault| fault.explain(self.reads.place()))?)
            }
            None => all,
        });
        while let Some(read) = next.take() {
            name.keep().await?;
            let page = read::page(&self.log, &self.store.inner.read, &read).await;
            let page = page.map_err(|fault| fault.explain(self.reads.place()))?;
            let filled =
                filler.fill(lease, Batch::new(generation.checkpoint, page.token, page.events)).await?;
            generation.checkpoint = filled.checkpoint;
            filled.problem.map_or(Ok(()), Err)?;
            next = page.next.map(|start| Read { start, ..read });
        }
        Ok(())
    }
}

impl PostgresStore {
    fn names(&self) -> Names {
        Names::Schema(self.inner.schema.clone())
    }
}
