//! Destinations.

use std::fmt;

use crate::message::Message;

/// Where a message goes to at its broker: one place for all, or one that follows from the message.
pub(crate) struct Route(Box<dyn Fn(&Message) -> String + Send + Sync>);

impl Route {
    pub(crate) fn to(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::by(move |_| name.clone())
    }

    pub(crate) fn by(route: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self(Box::new(route))
    }

    pub(crate) fn of(&self, message: &Message) -> String {
        (self.0)(message)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Route")
    }
}
