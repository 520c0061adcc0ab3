//! The read model, in either of the ways in which it can be kept: in the background, or inline, which is in the transaction of each
//! append, as only a database can do.

use factum::{Projected, Rows, projection::Difference};
use factum_postgres::Inlined;

use crate::{
    balances::{Balance, Balances},
    exit::Exit,
};

/// How the read model is kept from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Changed with each append, in its own transaction; only in PostgreSQL
    Inline,
    /// Changed soon after each append
    Background,
}

/// The balances.
#[derive(Debug)]
pub(crate) enum Kept {
    Background(Projected<Balances>),
    Inline(Inlined<Balances>),
}

impl Kept {
    /// All rows, as they are at one moment.
    pub(crate) async fn all(&self) -> Result<Vec<(String, Balance)>, Exit> {
        Ok(match self {
            Self::Background(kept) => kept.all().await?,
            Self::Inline(kept) => kept.all().await?,
        })
    }

    /// The same, one after another.
    pub(crate) async fn rows(&self) -> Result<Rows<Balances>, Exit> {
        Ok(match self {
            Self::Background(kept) => kept.rows().await?,
            Self::Inline(kept) => kept.rows().await?,
        })
    }

    /// Compares it with what the log makes.
    pub(crate) async fn verify(&self) -> Result<Vec<Difference>, Exit> {
        Ok(match self {
            Self::Background(kept) => kept.verify().await?,
            Self::Inline(kept) => kept.verify().await?,
        })
    }

    pub(crate) fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(_))
    }
}
