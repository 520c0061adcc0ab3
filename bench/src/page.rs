//! The page: bars met and missed, and a plot for each workload, in one file that needs nothing else.

use std::fmt::Write;

use crate::{
    bars::{Verdict, judge},
    report::{number, time},
    results::{Results, Summary, Work},
};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2330; --dim: #5d6778; --paper: #fff; --line: #d9dee7; --own: #b4471f; --other: #7d8ba3; --limit: #c9a227; --good: #1d7a46; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #9aa5b8; --paper: #14181f; --line: #2d3542; --own: #e8794b; --other: #66758f; --good: #57c785; --bad: #ff8a80 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .2rem } p { margin: .3rem 0 } .dim { color: var(--dim) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top } th { color: var(--dim); font-weight: 500 }
td.n, th.n { text-align: right } .met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
svg { display: block; width: 100%; height: auto; margin: .4rem 0 } svg text { fill: var(--ink); font-size: 13px } svg .dim { fill: var(--dim) }
.own { fill: var(--own) } .other { fill: var(--other) } .limit { fill: var(--limit) } .whisker { stroke: var(--ink); stroke-width: 1.5 }
code { font-size: .92em } details { margin-top: .3rem } summary { cursor: pointer; color: var(--dim) }";

/// The whole page.
pub fn html(results: &Results) -> String {
    let m = &results.machine;
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>factum beside its peers</title><style>{STYLE}</style><h1>factum beside its peers</h1>\
         <p>{} on {} × {}, Linux {}, factum <code>{}</code>, <code>{}</code>.</p>\
         <p class=dim>Files on {}; writing 4 KiB and syncing it took {}; load when it began {}; seed {}; {} s for each \
         open-ended measurement. All stores in one process, one after another in each round, each append synced before it was \
         answered. Bars and ratios are middles over rounds, each ratio within its round; whiskers show the least and the most.</p>",
        escaped(&results.when),
        m.cores,
        escaped(&m.processor),
        escaped(&m.kernel),
        escaped(&m.commit),
        escaped(if results.asked.is_empty() { "--quick" } else { &results.asked }),
        escaped(&m.file_system),
        time(m.sync_us),
        escaped(&m.load),
        results.seed,
        results.seconds,
    );
    verdicts(&mut out, &judge(results));
    for work in &results.works {
        workload(&mut out, results, work);
    }
    out.push_str("<h2>The stores</h2><div class=wide><table>");
    for (name, about) in &results.peers {
        let _ = write!(out, "<tr><td><b>{}</b><td>{}", escaped(name), escaped(about));
    }
    out.push_str(
        "<tr><td><b>limit</b><td>the writes and syncs of factum's own run, done again by one thread that does nothing else\
         <tr><td><b>limit-zeros</b><td>the same in files that were filled with zeros before, so that a sync changes no metadata\
         </table></div></html>\n",
    );
    out
}

fn verdicts(out: &mut String, verdicts: &[Verdict]) {
    out.push_str("<h2>Bars</h2><div class=wide><table><tr><th>Work<th>beside<th class=n>bar<th class=n>factum is<th class=n>rounds<th>");
    for v in verdicts {
        let (ratio, range) = match (v.ratio, v.range) {
            (Some(ratio), Some((least, most))) => {
                (format!("{ratio:.2} ×"), format!("{least:.2} – {most:.2}"))
            }
            _ => ("–".to_owned(), String::new()),
        };
        let word = match v.is_met() {
            Some(true) => "<span class=met>met</span>",
            Some(false) => "<span class=missed>missed</span>",
            None => "<span class=dim>not measured</span>",
        };
        let _ = write!(
            out,
            "<tr><td><a href='#{}'>{}</a><td>{}<td class=n>{:.2} ×<td class=n>{ratio}<td class=n>{range}<td>{word}",
            escaped(&v.workload),
            escaped(&v.work),
            escaped(&v.beside),
            v.bar
        );
    }
    out.push_str("</table></div>");
}

fn workload(out: &mut String, results: &Results, work: &Work) {
    let summaries = results.summaries(&work.id);
    if summaries.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<h2 id='{0}'>{1}</h2><p class=dim><code>{0}</code></p>",
        escaped(&work.id),
        escaped(&work.about)
    );
    plot(out, results, work, &summaries);
    out.push_str(
        "<details><summary>figures</summary><div class=wide><table><tr><th><th class=n>rate<th class=n>factum is<th class=n>p50\
         <th class=n>p99<th class=n>p99.9<th class=n>CPU each<th class=n>written each<th class=n>read each",
    );
    for s in &summaries {
        let ratio =
            s.factum_is.filter(|_| s.peer != "factum").map(|r| format!("{r:.2} ×")).unwrap_or_default();
        let v = &s.sample;
        let _ = write!(out, "<tr><td>{}<td class=n>{}<td class=n>{ratio}", escaped(&s.peer), number(v.rate));
        for figure in [v.p50_us, v.p99_us, v.p999_us, v.cpu_us].map(time) {
            let _ = write!(out, "<td class=n>{figure}");
        }
        let _ = write!(out, "<td class=n>{} B<td class=n>{} B", number(v.written), number(v.fetched));
    }
    for (peer, _) in &results.peers {
        if let Some(why) = results.why_not(&work.id, peer) {
            let _ = write!(out, "<tr><td>{}<td colspan=8 class=dim>{}", escaped(peer), escaped(why));
        }
    }
    out.push_str("</table></div></details>");
}

/// A bar for each store, with the least and the most of its rounds.
fn plot(out: &mut String, results: &Results, work: &Work, summaries: &[Summary]) {
    const LEFT: f64 = 130.0;
    const WIDTH: f64 = 520.0;
    const ROW: f64 = 26.0;
    let rates = |peer: &str| results.samples(&work.id, peer).into_iter().map(|s| s.rate).collect::<Vec<_>>();
    let ends = |peer: &str| {
        let rates = rates(peer);
        (rates.iter().copied().fold(f64::MAX, f64::min), rates.into_iter().fold(0.0, f64::max))
    };
    let most = summaries.iter().map(|s| ends(&s.peer).1).fold(1.0, f64::max);
    let _ = write!(
        out,
        "<svg viewBox='0 0 800 {:.0}' role=img aria-label='{}'>",
        summaries.len() as f64 * ROW + 4.0,
        escaped(&work.about)
    );
    for (row, s) in summaries.iter().enumerate() {
        let y = row as f64 * ROW;
        let (low, high) = ends(&s.peer);
        let x = |rate: f64| LEFT + rate / most * WIDTH;
        let class = match s.peer.as_str() {
            "factum" => "own",
            "limit" | "limit-zeros" => "limit",
            _ => "other",
        };
        let _ = write!(
            out,
            "<text x='{:.0}' y='{:.0}' text-anchor=end>{}</text>\
             <rect class={class} x='{LEFT}' y='{:.0}' width='{:.1}' height='{:.0}' rx=2 />\
             <line class=whisker x1='{:.1}' x2='{:.1}' y1='{m:.0}' y2='{m:.0}' />\
             <text x='{:.1}' y='{:.0}'>{}/s</text>",
            LEFT - 8.0,
            y + 17.0,
            escaped(&s.peer),
            y + 4.0,
            x(s.sample.rate) - LEFT,
            ROW - 8.0,
            x(low),
            x(high),
            x(high.max(s.sample.rate)) + 8.0,
            y + 17.0,
            number(s.sample.rate),
            m = y + ROW / 2.0,
        );
    }
    out.push_str("</svg>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}
