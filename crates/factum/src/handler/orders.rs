//! What an operator asks of a consumer about what it has set aside.
//!
//! An order is an event in the stream `$consumer-NAME` of the log: so it reaches the worker wherever that runs, is obeyed once,
//! in order, and stays there with who gave it and why.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    aggregate::Event,
    append::Append,
    codec,
    error::{Error, Result},
    event::RecordedEvent,
    handle::Factum,
    handler::{
        DeadLetter, PartitionStatus,
        letters::stored,
        partitions::Layout,
        processor::{look, look_at},
    },
    name::StreamName,
    position::{Position, Token},
    reads::{Generation, ReadStore, check_model_name},
};

/// What somebody has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// To try what is set aside again: all of it, or that of one key. What waits behind it follows, in order.
    RetryAsked {
        /// The key. `None`: each.
        key: Option<String>,
    },
    /// Not to handle one event at all, and to go on with what waits behind it.
    SkipAsked {
        /// Where the event is.
        position: Position,
        /// Why.
        why: String,
    },
    /// Not to handle anything that is set aside under a key.
    DiscardAsked {
        /// The key.
        key: String,
        /// Up to and with the event at this place: what is set aside later was not known to whoever asked.
        through: Position,
        /// Why.
        why: String,
    },
}

impl Event for Order {
    const CATEGORY: &'static str = "$consumer";
}

/// The stream of what is asked of a consumer.
pub(crate) fn stream(consumer: &str) -> Result<StreamName> {
    StreamName::new(format!("{}-{consumer}", Order::CATEGORY))
}

/// The order in a record, if it is one that this program knows.
pub(crate) fn order_in(record: &RecordedEvent) -> Option<Order> {
    let mut order = None;
    if let Err(error) = codec::decode_each::<Order>(record, &mut |found| order = Some(found)) {
        tracing::warn!(position = record.position.0, %error, "an order that this program does not know is passed over");
    }
    order
}

/// What a consumer has set aside: to look at, and to decide on. The consumer need not run in this process, nor at all: it obeys
/// when it comes to where the order is in the log.
///
/// What a projection has parked can be looked at in the same way. It takes no orders: see [`OnFailure`](crate::OnFailure).
#[derive(Clone, Debug)]
pub struct Parked {
    factum: Factum,
    reads: Arc<dyn ReadStore>,
    consumer: String,
}

impl Factum {
    /// What the consumer of this name has set aside, in the store where its checkpoint is kept.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that no consumer has.
    pub fn parked(&self, consumer: &str, reads: Arc<dyn ReadStore>) -> Result<Parked> {
        check_model_name(consumer)?;
        Ok(Parked { factum: self.clone(), reads, consumer: consumer.to_owned() })
    }
}

/// What a store of read models knows by a name.
enum Known {
    Handler(Layout),
    Projection(Generation),
}

impl Parked {
    /// The same, for what this actor asks: the log says so.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self { factum: self.factum.acting_as(actor), ..self.clone() }
    }

    async fn known(&self) -> Result<Known> {
        let unknown = |more| Error::NotFound {
            what: format!("consumer `{}` in this store of read models{more}", self.consumer),
        };
        let active = self.reads.catalog(&self.consumer).await?.active;
        let Some(active) = active else { return Err(unknown(String::new())) };
        if let Some((whole, number)) = self.consumer.rsplit_once("_p")
            && number.parse::<u32>().is_ok()
            && Layout::stored(&*self.reads, whole).await?.is_some()
        {
            return Err(unknown(format!(" but as a partition of `{whole}`; ask for that")));
        }
        // Where a handler keeps how it is divided, nothing ever moves; a projection may have a row that is called the same.
        if active.checkpoint.is_some_and(|at| at.position > Position::START) {
            return Ok(Known::Projection(active));
        }
        match Layout::stored(&*self.reads, &self.consumer).await {
            Ok(Some(layout)) => Ok(Known::Handler(layout)),
            // Those in SQL have no such rows at all.
            Ok(None) | Err(Error::InvalidInput { .. }) => Ok(Known::Projection(active)),
            Err(error) => Err(error),
        }
    }

    /// Whether it is a projection, whose events are of no order's concern.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was such a consumer, and failures of the store.
    pub async fn is_projection(&self) -> Result<bool> {
        Ok(matches!(self.known().await?, Known::Projection(_)))
    }

    /// How far each partition of the consumer has come, who keeps it, and how much it has set aside. A projection is one partition.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was such a consumer, and failures of the store.
    pub async fn partitions(&self) -> Result<Vec<PartitionStatus>> {
        let partitions = match self.known().await? {
            Known::Handler(layout) => look(&*self.reads, &self.consumer, &layout).await?,
            Known::Projection(_) => {
                let held = self.reads.holds().held(&self.consumer).await?;
                vec![look_at(&*self.reads, 0, &self.consumer, &self.consumer, &held).await?]
            }
        };
        Ok(partitions.into_iter().map(|(status, _)| status).collect())
    }

    /// All of it, in the order of positions.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was such a consumer, and failures of the store.
    pub async fn list(&self) -> Result<Vec<DeadLetter>> {
        let layout = match self.known().await? {
            Known::Handler(layout) => layout,
            Known::Projection(shown) => return stored(&*self.reads, &self.consumer, shown.number).await,
        };
        let mut letters = Vec::new();
        for model in layout.models() {
            if let Some(active) = self.reads.catalog(&model).await?.active {
                letters.extend(stored(&*self.reads, &model, active.number).await?);
            }
        }
        letters.sort_by_key(|letter| letter.position);
        Ok(letters)
    }

    /// Nothing, if it obeys orders.
    async fn check_obeys(&self) -> Result<()> {
        if !self.is_projection().await? {
            return Ok(());
        }
        let why = "it is a projection, which takes no orders: mend it and start it again, or call its `retry_parked`, and what is parked is tried again in order; to give an event up, hide it (truncate or delete its stream) and rebuild";
        Err(Error::invalid(format!("the consumer `{}`", self.consumer), why))
    }

    /// The letter of the event at this place.
    ///
    /// # Errors
    /// [`Error::NotFound`] if that event is not set aside, and those of [`list`](Self::list).
    pub async fn at(&self, position: Position) -> Result<DeadLetter> {
        let letters = self.list().await?;
        letters.into_iter().find(|letter| letter.position == position).ok_or_else(|| self.none(position))
    }

    /// Whether some partition is yet to come to this place of the log.
    async fn is_ahead(&self, position: Position) -> Result<bool> {
        let head = self.factum.store().head().await?.token.position;
        let partitions = self.partitions().await?;
        Ok(position <= head && partitions.iter().any(|partition| partition.position < position))
    }

    fn none(&self, position: Position) -> Error {
        Error::NotFound {
            what: format!(
                "event at position {position} that `{}` has set aside or waits before",
                self.consumer
            ),
        }
    }

    /// Has the events of a key tried again, in order, and then what waits behind them. The consumer has obeyed when it has come to
    /// the place that is answered: `wait_for` it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is set aside under this key, [`Error::InvalidInput`] for a projection, those of [`list`](Self::list) and
    /// of an append.
    pub async fn retry(&self, key: &str) -> Result<Token> {
        self.check_obeys().await?;
        self.last_of(key).await?;
        self.ask(Order::RetryAsked { key: Some(key.to_owned()) }).await
    }

    /// As [`retry`](Self::retry), for all keys.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was such a consumer, [`Error::InvalidInput`] for a projection, and those of an append.
    pub async fn retry_all(&self) -> Result<Token> {
        self.check_obeys().await?;
        self.ask(Order::RetryAsked { key: None }).await
    }

    /// Gives one event up, and goes on with what waits behind it. Who asked (`acting_as`) and why stays in the log.
    ///
    /// Also one that is not set aside, but before which a partition waits, since its handler says that its surroundings are at fault
    /// ([`PartitionStatus::state`] names its position). If they are well again before the order is seen, it is handled all the same.
    ///
    /// # Errors
    /// [`Error::NotFound`] if that event is not set aside and every partition has passed it, [`Error::InvalidInput`] without a reason or for a projection, those of [`list`](Self::list) and
    /// of an append.
    pub async fn skip(&self, position: Position, why: &str) -> Result<Token> {
        self.check_obeys().await?;
        check_reason(why)?;
        let set_aside = self.list().await?.iter().any(|letter| letter.position == position);
        if !set_aside && !self.is_ahead(position).await? {
            return Err(self.none(position));
        }
        self.ask(Order::SkipAsked { position, why: why.to_owned() }).await
    }

    /// Gives up all events that are set aside under a key. Who asked (`acting_as`) and why stays in the log.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is set aside under this key, [`Error::InvalidInput`] without a reason or for a projection, those of
    /// [`list`](Self::list) and of an append.
    pub async fn discard(&self, key: &str, why: &str) -> Result<Token> {
        self.check_obeys().await?;
        check_reason(why)?;
        let through = self.last_of(key).await?;
        self.ask(Order::DiscardAsked { key: key.to_owned(), through, why: why.to_owned() }).await
    }

    /// The last event that is set aside under a key.
    async fn last_of(&self, key: &str) -> Result<Position> {
        let letters = self.list().await?;
        let last = letters.iter().filter(|letter| letter.key == key).map(|letter| letter.position).max();
        last.ok_or_else(|| Error::NotFound {
            what: format!("event of the key `{key}` that `{}` has set aside", self.consumer),
        })
    }

    async fn ask(&self, order: Order) -> Result<Token> {
        let mut event = codec::encode(&order)?;
        event.metadata = self.factum.work_metadata()?;
        let appended = self.factum.store().append(Append::to(stream(&self.consumer)?, [event])).await?;
        Ok(appended.token)
    }
}

fn check_reason(why: &str) -> Result<()> {
    if why.trim().is_empty() {
        return Err(Error::invalid("the reason", "it is empty; say why the event is not to be handled"));
    }
    Ok(())
}
