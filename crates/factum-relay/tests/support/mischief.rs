//! Mistakes that a relay or a broker's module could make. A storm must notice each of them.
//!
//! In memory that is seen in every run (`tests/storms.rs`). With `FACTUM_TEST_BUG=NAME` the storm of any broker has the bug; all five were
//! noticed on each of Redis, RabbitMQ, NATS and Kafka's mock (21 November 2026), by what was received: `Early` and `Unordered` as messages
//! that came late, the others as messages that were lost or invented.

use std::{fmt, sync::Arc};

use factum::{Stuck, async_trait};
use factum_relay::{Broker, Message};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The checkpoint moves before the broker has confirmed.
    Early,
    /// Each attempt has an id of its own.
    NewIds,
    /// What comes later is on its way before what comes earlier, of the same keys.
    Unordered,
    /// A confirmation is taken for that of the message after it.
    Mistaken,
    /// A refusal is taken for a confirmation.
    NackIsAck,
}

impl Bug {
    pub(crate) const ALL: [Self; 5] =
        [Self::Early, Self::NewIds, Self::Unordered, Self::Mistaken, Self::NackIsAck];

    /// The one that `FACTUM_TEST_BUG` names: to see that the storms of each broker notice it.
    pub(crate) fn seeded() -> Option<Self> {
        let name = std::env::var("FACTUM_TEST_BUG").ok()?;
        let known = Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
        Some(known.unwrap_or_else(|| panic!("FACTUM_TEST_BUG={name} is none of {:?}", Self::ALL)))
    }
}

/// A broker, with a mistake or without.
pub(crate) struct Mischief<B> {
    broker: Arc<B>,
    bug: Option<Bug>,
}

impl<B> Mischief<B> {
    pub(crate) fn new(broker: B, bug: Option<Bug>) -> Self {
        Self { broker: Arc::new(broker), bug }
    }
}

impl<B> fmt::Debug for Mischief<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mischief({:?})", self.bug)
    }
}

#[async_trait]
impl<B: Broker> Broker for Mischief<B> {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        let Some(bug) = self.bug else { return self.broker.publish(messages).await };
        match bug {
            Bug::Early => {
                let (broker, messages) = (Arc::clone(&self.broker), messages.to_vec());
                tokio::spawn(async move { broker.publish(&messages).await });
                Ok(())
            }
            Bug::NewIds => {
                let mut messages = messages.to_vec();
                let attempt = factum::EventId::new().0;
                messages.iter_mut().for_each(|message| message.id.log = attempt);
                self.broker.publish(&messages).await
            }
            Bug::Unordered => {
                let (earlier, later) = messages.split_at(messages.len() / 2);
                if !later.is_empty() {
                    self.broker.publish(later).await.map_err(|stuck| Stuck { done: 0, ..stuck })?;
                }
                match earlier {
                    [] => Ok(()),
                    earlier => self.broker.publish(earlier).await,
                }
            }
            Bug::Mistaken => match self.broker.publish(messages).await {
                Err(stuck) if stuck.done + 1 < messages.len() => Err(Stuck { done: stuck.done + 1, ..stuck }),
                _ => Ok(()),
            },
            Bug::NackIsAck => {
                let _ = self.broker.publish(messages).await;
                Ok(())
            }
        }
    }
}
