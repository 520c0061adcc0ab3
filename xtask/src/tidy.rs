//! Rules that run: what would be said twice in review, and what no compiler knows.

mod docs;
mod packages;
mod sources;
mod tree;

use std::path::Path;

use self::tree::Tree;
use crate::shell::Stop;

/// One rule, over everything that is tracked.
struct Rule {
    /// What must be so.
    says: &'static str,
    /// What is not so, and where.
    check: fn(&Tree) -> Vec<Finding>,
}

/// Something against a rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    /// A file, with the line where there is one; or a package.
    place: String,
    /// What is wrong there, and what would be right.
    problem: String,
}

impl Finding {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }

    fn at(path: &str, line_index: usize, problem: impl Into<String>) -> Self {
        Self::new(format!("{path}:{}", line_index + 1), problem)
    }
}

const RULES: &[Rule] = &[
    Rule { says: "crates depend on each other in one direction only", check: packages::direction },
    Rule {
        says: "what a crate must know nothing of does not come in as a dependency",
        check: packages::ignorance,
    },
    Rule {
        says: "every package is MIT OR Apache-2.0 and takes the workspace's lints",
        check: packages::manifests,
    },
    Rule {
        says: "every dependency has a licence that deny.toml allows, and comes from crates.io",
        check: packages::licences,
    },
    Rule { says: "only factum-log writes files", check: sources::disk_writes },
    Rule { says: "a source file has at most 900 lines", check: sources::long_files },
    Rule { says: "nothing is left unfinished, and no debugging is left in", check: sources::unfinished },
    Rule { says: "no merge is left unfinished", check: sources::merges },
    Rule { says: "a test that is ignored says why", check: sources::ignored_tests },
    Rule { says: "no file names a path of somebody's machine", check: sources::machine_paths },
    Rule { says: "configuration names no host but the public ones", check: sources::hosts },
    Rule { says: "links between documents lead somewhere", check: docs::links },
    Rule { says: "the changelog has an Unreleased section", check: docs::changelog },
    Rule { says: "a decision has its Context, Options, Choice and Rejected", check: docs::decisions },
    Rule { says: "the README is short, and its example is the one that is compiled", check: docs::readme },
    Rule { says: "the map names every package", check: docs::map },
];

/// Checks all rules.
pub(crate) fn run(root: &Path) -> Result<String, Stop> {
    let tree = Tree::load(root)?;
    let mut problems = 0;
    for rule in RULES {
        let findings = (rule.check)(&tree);
        if !findings.is_empty() {
            println!("rule: {}", rule.says);
        }
        for Finding { place, problem } in &findings {
            println!("  {place}: {problem}");
        }
        problems += findings.len();
    }
    if problems > 0 {
        return Err(Stop::Failed(format!("{problems} things are against the rules")));
    }
    Ok(format!("{} rules hold over {} files", RULES.len(), tree.files.len()))
}

/// Prints what is checked.
pub(crate) fn print_rules() {
    for rule in RULES {
        println!("- {}", rule.says);
    }
}
