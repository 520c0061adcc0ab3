//! What a run tells in the terminal.

use std::fmt::Write;

use crate::{bars::judge, measure::Sample, results::Results};

/// A number as people read it.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 10e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 100e3 => format!("{:.0} k", v / 1e3),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Microseconds as people read them.
pub fn time(us: f64) -> String {
    match us {
        v if v >= 1e6 => format!("{:.2} s", v / 1e6),
        v if v >= 10e3 => format!("{:.1} ms", v / 1e3),
        v if v >= 1e3 => format!("{:.2} ms", v / 1e3),
        v if v >= 10.0 => format!("{v:.0} µs"),
        v if v > 0.0 => format!("{v:.2} µs"),
        _ => "–".to_owned(),
    }
}

/// A measurement in a line, while it goes on.
pub fn progress(peer: &str, unit: &str, outcome: &Result<Sample, String>) -> String {
    match outcome {
        Ok(s) => format!("{peer} {}{unit}/s", number(s.rate)),
        Err(why) => format!("{peer} – ({why})"),
    }
}

/// All of a run.
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    let m = &results.machine;
    let _ = writeln!(
        out,
        "\n{} on {} × {}, Linux {}, factum {}",
        results.when, m.cores, m.processor, m.kernel, m.commit
    );
    let _ = writeln!(
        out,
        "files on {}; write 4 KiB and sync: {}; load at the beginning {}; seed {}",
        m.file_system,
        time(m.sync_us),
        m.load,
        results.seed
    );
    for work in &results.works {
        table(&mut out, results, work);
    }
    let _ = writeln!(
        out,
        "\nBars (middle of the rounds, each a ratio within its round; only calm rounds, if there are three)"
    );
    for verdict in judge(results).iter().filter(|verdict| verdict.ratio.is_some()) {
        let _ = writeln!(out, "  {:<52} {:<34} {}", verdict.work, verdict.beside, verdict.words());
    }
    let _ = writeln!(
        out,
        "  (`others`: processors kept busy by other programs while it was measured, in the middle of the rounds)"
    );
    let missing = judge(results).iter().filter(|verdict| verdict.ratio.is_none()).count();
    if missing > 0 {
        let _ = writeln!(out, "  {missing} bars were not measured in this run");
    }
    out
}

fn table(out: &mut String, results: &Results, work: &crate::results::Work) {
    let summaries = results.summaries(&work.id);
    if summaries.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}: {} ({} /s)", work.id, work.about, work.unit);
    let _ = writeln!(
        out,
        "  {:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  note",
        "", "rate", "factum is", "p50", "p99", "p99.9", "CPU each", "written"
    );
    for s in &summaries {
        let ratio = match s.factum_is {
            Some(ratio) if s.peer != "factum" => format!("{ratio:.2} ×"),
            _ => String::new(),
        };
        let (sample, mut note) = (&s.sample, s.sample.note.clone());
        if sample.conflicts > 0 {
            let _ = write!(note, " {} conflicts", number(sample.conflicts as f64));
        }
        if let Some(syncs) = sample.syncs {
            let _ = write!(
                note,
                " {:.1} {} a sync",
                sample.done as f64 / s.rounds as f64 / syncs as f64,
                work.unit
            );
        }
        if sample.others >= 0.05 {
            let _ = write!(note, " others {:.1}", sample.others);
        }
        if sample.fetched >= 1.0 {
            let _ = write!(note, " {} B from the disk each", number(sample.fetched));
        }
        if sample.open_ms >= 100.0 {
            let _ = write!(note, " opened in {}", time(sample.open_ms * 1e3));
        }
        let _ = writeln!(
            out,
            "  {:<16} {:>9} {ratio:>9} {:>9} {:>9} {:>9} {:>9} {:>7} B  {}",
            s.peer,
            number(sample.rate),
            time(sample.p50_us),
            time(sample.p99_us),
            time(sample.p999_us),
            time(sample.cpu_us),
            number(sample.written),
            note.trim()
        );
    }
    for (peer, _) in &results.peers {
        if let Some(why) = results.why_not(&work.id, peer) {
            let _ = writeln!(out, "  {peer:<16} –  {why}");
        }
    }
}
