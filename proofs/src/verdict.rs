//! What remains, checked against what the clients were told.

use std::{ops::AddAssign, path::PathBuf};

use clap::Args;
use factum_conformance::{
    FinalLog, History, check as violations,
    history::{Answer, Call, Operation},
};

use crate::{Stop, report::Report, writer};

/// Where to find what remains.
#[derive(Args, Clone, Debug)]
pub(crate) struct Remains {
    /// The directory of the log
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// The file in which every call was recorded
    #[arg(long)]
    pub(crate) history: PathBuf,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checked {
    pub(crate) operations: usize,
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) events: usize,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.events += other.events;
    }
}

impl Checked {
    pub(crate) fn into_report(self) -> Report {
        self.add_to(Report::default())
    }

    /// The figures, after others.
    pub(crate) fn add_to(self, report: Report) -> Report {
        let Self { operations, acknowledged, unknown, events } = self;
        report
            .with("operations_checked", operations)
            .with("appends_acknowledged", acknowledged)
            .with("appends_unknown", unknown)
            .with("events", events)
            .with("violations", 0)
    }
}

/// Opens the log, reads all of it, and compares.
pub(crate) async fn check(remains: &Remains) -> Result<Checked, Stop> {
    let store = writer::options(&remains.log).open().map_err(Stop::at("what remains does not open"))?;
    let log = FinalLog::read(&store).await.map_err(Stop::at("what remains cannot be read"))?;
    store.close().await.map_err(Stop::at("what remains cannot be closed"))?;
    drop(store);
    let history = match remains.history.exists() {
        true => History::load(&remains.history).map_err(Stop::at("the history cannot be read"))?,
        // The writer never came to open the log.
        false => History::default(),
    };
    let found = violations(&history, &log);
    if !found.is_empty() {
        let shown: Vec<String> = found.iter().take(20).map(ToString::to_string).collect();
        return Err(Stop::Failed(format!("{} broken promises:\n{}", found.len(), shown.join("\n"))));
    }
    let appends =
        || history.operations.iter().filter(|operation| matches!(operation.call, Call::Append { .. }));
    Ok(Checked {
        operations: history.operations.len(),
        acknowledged: appends().filter(|operation| is_acknowledged(operation)).count(),
        unknown: appends().filter(|operation| is_unknown(operation)).count(),
        events: log.len(),
    })
}

fn is_acknowledged(operation: &Operation) -> bool {
    matches!(operation.answer, Some(Answer::Appended { replayed: false, .. }))
}

fn is_unknown(operation: &Operation) -> bool {
    matches!(operation.answer, None | Some(Answer::Unknown(_)))
}
