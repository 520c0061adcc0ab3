//! Uniqueness: whether anything has happened under a tag.

use crate::{
    aggregate::{EventSet, Recorded},
    decision::Model,
    error::Result,
    event::RecordedEvent,
    query::Query,
};

/// A model that knows whether there are events with a tag, whatever they are: what makes an e-mail address, a seat or an
/// invoice number unique, in three lines of a decision.
///
/// ```
/// # use factum::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// enum UserEvent { Registered { email: String } }
///
/// impl Event for UserEvent {
///     const CATEGORY: &'static str = "user";
///     fn tags(&self) -> Vec<String> {
///         match self { Self::Registered { email } => vec![format!("email:{email}")] }
///     }
/// }
/// # #[derive(Default)] struct User;
/// # impl Aggregate for User { type Event = UserEvent; fn apply(&mut self, _: &UserEvent) {} }
/// # #[derive(Debug)] struct EmailTaken;
/// # impl std::fmt::Display for EmailTaken { fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result { Ok(()) } }
/// # impl std::error::Error for EmailTaken {}
/// struct Register { user: Id<User>, email: String }
///
/// impl Decide for Register {
///     type Models = Tagged;                                                          // one
///     type Error = EmailTaken;
///
///     fn models(&self) -> Tagged {
///         Tagged::with(format!("email:{}", self.email))                              // two
///     }
///
///     fn decide(&self, email: &Tagged) -> Result<Writes, EmailTaken> {
///         refuse_if(email.exists(), EmailTaken)?;                                    // three
///         Ok(Writes::to(&self.user, [UserEvent::Registered { email: self.email.clone() }]))
///     }
/// }
/// ```
///
/// However many register an address at once, one of them does. The others are decided again, and then refused. Where a name
/// can become free again, write a [`Model`] of a line or two more that follows the events that free it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    tag: String,
    count: u64,
}

impl Tagged {
    /// The events with this tag, `key:value`, before they are counted.
    pub fn with(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), count: 0 }
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.count > 0
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Model for Tagged {
    type Event = Whatever;

    fn query(&self) -> Result<Query> {
        Query::tags([&self.tag])
    }

    fn apply(&mut self, _: &Recorded<Whatever>) {
        self.count += 1;
    }
}

/// Events of every kind, taken as they are: nothing of them is decoded but their record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whatever;

impl EventSet for Whatever {
    fn query() -> Result<Query> {
        Ok(Query::all())
    }

    fn is_for(_: &RecordedEvent) -> bool {
        true
    }

    fn decode_each(_: &RecordedEvent, each: &mut dyn FnMut(Self)) -> Result<()> {
        each(Self);
        Ok(())
    }
}
