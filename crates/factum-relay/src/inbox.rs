//! What a receiver does to take each message once: it remembers, per key, how far it has come.

use std::{collections::HashMap, convert::Infallible};

use factum::{Error, Position, Result};
use uuid::Uuid;

use crate::message::{Message, MessageId};

/// What a received message says of where it comes from.
///
/// Each broker's module reads it from what its client delivers: [`RedisStreams::stamp`](crate::RedisStreams::stamp) and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What the message is known by.
    pub id: MessageId,
    /// The epoch of the log as it was published.
    pub epoch: u64,
    /// Former epochs that have gone on without a loss, and in which the same event was at the same place.
    pub former_epochs: Vec<u64>,
    /// The relay that published it.
    pub relay: String,
    /// Whose order it keeps.
    pub key: String,
}

impl Stamp {
    /// Reads it from a message, by a function that gives the value of an attribute: of `id`, `epoch`, `relay` and `partitionkey`,
    /// without the prefix that the broker's headers have; of `formerepochs` too, which most messages do not have.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the attribute that is missing or not what it should be.
    pub fn read(attribute: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| {
            let missing = || {
                Error::invalid(
                    "the message",
                    format!("it has no attribute `{name}`: no relay of factum has published it"),
                )
            };
            attribute(name).ok_or_else(missing)
        };
        let epoch = |text: &str| {
            let invalid = || Error::invalid(format!("the message's epoch `{text}`"), "it is no number");
            text.parse().map_err(|_| invalid())
        };
        let former = attribute("formerepochs").unwrap_or_default();
        let former = former.split(',').filter(|epoch| !epoch.is_empty());
        Ok(Self {
            id: get("id")?.parse()?,
            epoch: epoch(&get("epoch")?)?,
            former_epochs: former.map(epoch).collect::<Result<_>>()?,
            relay: get("relay")?,
            key: get("partitionkey")?,
        })
    }

    /// Of whom it is a message: what a receiver remembers a place for.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { log: self.id.log, relay: self.relay.clone(), key: self.key.clone() }
    }

    /// Where it is in its lane.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen { epoch: self.epoch, position: self.id.position }
    }

    /// Whether it is new to a receiver who has seen `last` of its lane.
    #[must_use]
    pub fn after(&self, last: Option<Seen>) -> Arrival {
        let Some(last) = last else { return Arrival::New };
        let later = self.id.position > last.position;
        match self.epoch.cmp(&last.epoch) {
            std::cmp::Ordering::Equal if later => Arrival::New,
            std::cmp::Ordering::Equal => Arrival::Repeat,
            // What was appended since the other epoch began, or what was always there: nobody has seen it.
            std::cmp::Ordering::Greater if later => Arrival::New,
            // The same event in the epoch that the last one was of, when it was seen or what comes after it was.
            std::cmp::Ordering::Greater if self.former_epochs.contains(&last.epoch) => Arrival::Repeat,
            // Published before the log was rewound, and seen.
            std::cmp::Ordering::Less if !later => Arrival::Repeat,
            _ => Arrival::Rewound,
        }
    }
}

impl From<&Message> for Stamp {
    fn from(message: &Message) -> Self {
        let Message { id, epoch, former_epochs, relay, key, .. } = message;
        let former_epochs = former_epochs.clone();
        Self { id: *id, epoch: *epoch, former_epochs, relay: relay.clone(), key: key.clone() }
    }
}

/// What a receiver remembers a place for: a key of a relay of a log. Two relays are not in order with each other, even about the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The log.
    pub log: Uuid,
    /// The relay.
    pub relay: String,
    /// The key.
    pub key: String,
}

/// The last message of a lane that a receiver has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The epoch that it was published in.
    pub epoch: u64,
    /// The event's position.
    pub position: Position,
}

/// What a message is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was not taken before: act on it.
    New,
    /// It was: pass it over, and acknowledge it.
    Repeat,
    /// Its log was rewound (a restore, a failover) between it and the last one, and nobody has said that nothing was lost up to its place
    /// (`continue_epoch`; then it is a repeat). Stop, and let a person decide, as for [`LogRewound`](factum::Error::LogRewound): what was
    /// received of the history that is gone must be undone, and the lane's row deleted.
    Rewound,
}

/// Where a receiver remembers how far it has come. Implement it for a transaction of the database in which the receiver's own
/// changes are made, so that both are committed or neither.
///
/// ```
/// use factum_relay::{Arrival, Inbox, Lane, Seen, Stamp};
/// # mod db {
/// #     use factum_relay::{Lane, Seen};
/// #     use std::collections::HashMap;
/// #     #[derive(Default)] pub struct Database { pub rows: HashMap<Lane, Seen>, pub total: u64 }
/// #     pub struct Transaction<'d> { pub db: &'d mut Database, pub rows: HashMap<Lane, Seen>, pub total: u64 }
/// #     impl Database { pub fn begin(&mut self) -> Transaction<'_> { let (rows, total) = (self.rows.clone(), self.total); Transaction { db: self, rows, total } } }
/// #     impl Transaction<'_> {
/// #         pub async fn commit(self) -> std::io::Result<()> { (self.db.rows, self.db.total) = (self.rows, self.total); Ok(()) }
/// #         pub async fn select(&self, lane: &Lane) -> std::io::Result<Option<Seen>> { Ok(self.rows.get(lane).copied()) }
/// #         pub async fn upsert(&mut self, lane: &Lane, seen: Seen) -> std::io::Result<()> { self.rows.insert(lane.clone(), seen); Ok(()) }
/// #     }
/// # }
/// # use db::{Database, Transaction};
///
/// // CREATE TABLE inbox (log uuid, relay text, key text, epoch bigint, position bigint, PRIMARY KEY (log, relay, key))
/// impl Inbox for Transaction<'_> {
///     type Error = std::io::Error;
///
///     async fn last(&mut self, lane: &Lane) -> Result<Option<Seen>, Self::Error> {
///         // SELECT epoch, position FROM inbox WHERE log = $1 AND relay = $2 AND key = $3 FOR UPDATE
///         self.select(lane).await
///     }
///
///     async fn remember(&mut self, lane: &Lane, seen: Seen) -> Result<(), Self::Error> {
///         // INSERT INTO inbox VALUES ($1, $2, $3, $4, $5) ON CONFLICT (log, relay, key) DO UPDATE SET …
///         self.upsert(lane, seen).await
///     }
/// }
///
/// async fn receive(db: &mut Database, stamp: Stamp, amount: u64) -> Result<(), Box<dyn std::error::Error>> {
///     let mut transaction = db.begin();
///     match transaction.arrive(&stamp).await? {
///         Arrival::New => {
///             transaction.total += amount;
///             transaction.commit().await?;
///         }
///         Arrival::Repeat => {}
///         Arrival::Rewound => return Err(format!("{} is of another history: what now?", stamp.id).into()),
///     }
///     Ok(()) // and now acknowledge the message to the broker
/// }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let read = |position: u64| Stamp::read(move |name| Some(match name {
/// #     "id" => format!("00000000-0000-0000-0000-000000000007:{position}"), "epoch" => "1".to_owned(), "formerepochs" => String::new(), name => name.to_owned() }));
/// let mut db = Database::default();
/// for position in [1, 2, 1, 2, 3] {
///     receive(&mut db, read(position)?, 10).await?;
/// }
/// assert_eq!(db.total, 30);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Inbox: Send {
    /// What the database says when it fails.
    type Error;

    /// The last message of the lane that was taken. Two receivers of one lane at the same time must not both get it: lock the row
    /// (`FOR UPDATE`, or a serializable transaction).
    ///
    /// # Errors
    /// The database's.
    fn last(&mut self, lane: &Lane) -> impl Future<Output = Result<Option<Seen>, Self::Error>> + Send;

    /// Remembers it, in place of what was remembered of the lane.
    ///
    /// # Errors
    /// The database's.
    fn remember(&mut self, lane: &Lane, seen: Seen) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// What the message is to this receiver. A new one is remembered, so that it will be a repeat once the transaction is committed.
    ///
    /// # Errors
    /// The database's.
    fn arrive(&mut self, stamp: &Stamp) -> impl Future<Output = Result<Arrival, Self::Error>> + Send {
        async {
            let lane = stamp.lane();
            let arrival = stamp.after(self.last(&lane).await?);
            if arrival == Arrival::New {
                self.remember(&lane, stamp.seen()).await?;
            }
            Ok(arrival)
        }
    }
}

/// An [`Inbox`] in memory: for tests, and for receivers whose state is in memory too, and is built up anew from the first message
/// when they start.
#[derive(Clone, Debug, Default)]
pub struct MemoryInbox {
    lanes: HashMap<Lane, Seen>,
}

impl Inbox for MemoryInbox {
    type Error = Infallible;

    async fn last(&mut self, lane: &Lane) -> Result<Option<Seen>, Infallible> {
        Ok(self.lanes.get(lane).copied())
    }

    async fn remember(&mut self, lane: &Lane, seen: Seen) -> Result<(), Infallible> {
        self.lanes.insert(lane.clone(), seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::message;

    fn stamp(key: &str, epoch: u64, position: u64) -> Stamp {
        Stamp { epoch, ..Stamp::from(&message(key, position)) }
    }

    #[tokio::test]
    async fn repeats_are_told_from_what_is_new_per_key() {
        let mut inbox = MemoryInbox::default();
        let mut arrivals = Vec::new();
        for (key, position) in
            [("a", 1), ("b", 9), ("a", 3), ("a", 1), ("a", 3), ("a", 4), ("b", 9), ("b", 10)]
        {
            arrivals.push(inbox.arrive(&stamp(key, 1, position)).await.unwrap() == Arrival::New);
        }
        assert_eq!(arrivals, [true, true, true, false, false, true, false, true]);
        let other = Stamp { relay: "other".to_owned(), ..stamp("a", 1, 2) };
        assert_eq!(inbox.arrive(&other).await, Ok(Arrival::New), "relays are not in order with each other");
    }

    #[test]
    fn a_history_that_was_rewound_is_never_passed_over_in_silence() {
        let last = Some(Seen { epoch: 2, position: Position(10) });
        for (epoch, position, arrival) in [
            (2, 10, Arrival::Repeat),
            (2, 11, Arrival::New),
            (3, 11, Arrival::New),
            (3, 10, Arrival::Rewound),
            (3, 2, Arrival::Rewound),
            (1, 10, Arrival::Repeat),
            (1, 11, Arrival::Rewound),
        ] {
            assert_eq!(stamp("a", epoch, position).after(last), arrival, "{epoch}:{position}");
        }
    }

    #[test]
    fn a_history_that_has_gone_on_without_a_loss_goes_on() {
        let last = Some(Seen { epoch: 2, position: Position(10) });
        for (former, position, arrival) in [
            (&[1, 2][..], 10, Arrival::Repeat),
            (&[1, 2], 3, Arrival::Repeat),
            (&[1, 2], 11, Arrival::New),
            (&[], 11, Arrival::New),
            // Another epoch has, and this one has not.
            (&[1], 10, Arrival::Rewound),
        ] {
            let stamp = Stamp { former_epochs: former.to_vec(), ..stamp("a", 5, position) };
            assert_eq!(stamp.after(last), arrival, "{former:?} {position}");
        }
    }

    #[test]
    fn a_stamp_is_read_from_a_messages_attributes() {
        let mut message = message("order-1", 42);
        message.former_epochs = vec![1, 1_763_000_000_000];
        let attributes: HashMap<_, _> = message.attributes().into_iter().collect();
        assert_eq!(Stamp::read(|name| attributes.get(name).cloned()), Ok(Stamp::from(&message)));
        for missing in ["id", "epoch", "relay", "partitionkey"] {
            let read = Stamp::read(|name| attributes.get(name).filter(|_| name != missing).cloned());
            assert!(read.unwrap_err().to_string().contains(&format!("`{missing}`")));
        }
        for broken in ["epoch", "formerepochs"] {
            let read =
                Stamp::read(|name| Some(if name == broken { "x" } else { &attributes[name] }.to_owned()));
            assert!(read.unwrap_err().to_string().contains("epoch `x`"));
        }
    }
}
