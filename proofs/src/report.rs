//! What a proof has to show: figures with names, in the order in which they are told.

use std::fmt;

use serde_json::{Map, Value, json};

/// What came of a proof.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(&'static str, Value)>,
    skipped: Option<String>,
}

impl Report {
    /// One that was not run.
    pub(crate) fn skipped(why: String) -> Self {
        Self { skipped: Some(why), ..Self::default() }
    }

    /// The same, with one figure more.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, figure: impl Into<Value>) -> Self {
        self.figures.push((name, figure.into()));
        self
    }

    /// For another program.
    pub(crate) fn json(&self) -> Value {
        match &self.skipped {
            Some(why) => json!({ "skipped": why }),
            None => self
                .figures
                .iter()
                .map(|(name, figure)| ((*name).to_owned(), figure.clone()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.skipped {
            Some(why) => write!(f, "skipped: {why}"),
            None => {
                let told: Vec<String> =
                    self.figures.iter().map(|(name, figure)| format!("{name}: {figure}")).collect();
                f.write_str(&told.join(", "))
            }
        }
    }
}
