//! What a file of domain code needs: `use factum::prelude::*;`.

pub use serde::{Deserialize, Serialize};

pub use crate::{
    aggregate::{Aggregate, Command, Entity, Event, Id, Recorded, refuse_if},
    decide::{Decide, Model, Models, Writes},
    handle::{At, Done, Factum, Failure},
    position::{Position, Revision},
    projection::{Projected, Projection},
    query::Query,
    time::Timestamp,
};
