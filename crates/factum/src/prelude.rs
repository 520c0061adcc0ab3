//! What a file of the domain needs: `use factum::prelude::*;`.

#[cfg(feature = "macros")]
pub use factum_macros::{Event, EventSet};
pub use serde::{Deserialize, Serialize};

pub use crate::{
    aggregate::{Aggregate, Command, Event, EventSet, Id, Recorded, refuse_if},
    decision::{Decide, Entity, Model, Writes},
    evolution::Evolution,
    handle::{Done, Factum, Failure},
    moment::At,
    position::{Position, Revision},
    process::{Effect, Input, ProcessManager},
    projection::{Projected, Projection},
    query::Query,
    snapshot::Snapshots,
    tagged::Tagged,
    time::Timestamp,
};
