//! Rules about documents.

use std::collections::BTreeSet;

use super::{
    Finding,
    tree::{File, Tree},
};
use crate::readme::blocks;

const README_LINES: usize = 150;
const EXAMPLE_LINES: usize = 60;
/// The program that stands in the README, and its test.
const EXAMPLE: &str = "examples/first-hour/src/main.rs";
const EXAMPLE_TEST: &str = "examples/first-hour/tests/rules.rs";
const HEADINGS: &[&str] = &["## Context", "## Options", "## Choice", "## Rejected"];

pub(super) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_markdown()) {
        for (n, target) in links_of(&file.text) {
            if let Some(problem) = broken(tree, file, target) {
                findings.push(Finding::at(&file.path, n, problem));
            }
        }
    }
    findings
}

/// The targets of links within the repository, with the index of their line; code is not looked at.
fn links_of(markdown: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (n, line) in markdown.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        let targets =
            line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        links.extend(
            targets
                .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
                .map(|t| (n, t)),
        );
    }
    links
}

fn broken(tree: &Tree, from: &File, target: &str) -> Option<String> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { from.path.clone() } else { resolved(&from.path, path) };
    let directory = format!("{}/", path.trim_end_matches('/'));
    let Some(file) = tree.file(&path) else {
        let exists = tree.files.iter().any(|file| file.path.starts_with(&directory));
        return (!exists).then(|| format!("the link to `{target}` leads nowhere"));
    };
    let found = anchor.is_none_or(|anchor| anchors(&file.text).contains(anchor));
    (!found).then(|| format!("`{path}` has no heading `#{}`", anchor.unwrap_or_default()))
}

/// `target` as seen from the file `from`, from the root.
fn resolved(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What headings are called in links: lower case, dashes for blanks, nothing else.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let headings =
        markdown.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let letter = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
        _ => None,
    };
    headings.map(|heading| heading.to_lowercase().chars().filter_map(letter).collect()).collect()
}

pub(super) fn changelog(tree: &Tree) -> Vec<Finding> {
    let found =
        tree.file("CHANGELOG.md").is_some_and(|file| file.text.lines().any(|line| line == "## Unreleased"));
    if found { Vec::new() } else { vec![Finding::new("CHANGELOG.md", "it needs a section `## Unreleased`")] }
}

pub(super) fn decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut numbers = BTreeSet::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix("docs/decisions/") else { continue };
        if name == "README.md" {
            continue;
        }
        let number = name.split('-').next().unwrap_or_default();
        if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) || !numbers.insert(number) {
            findings.push(Finding::new(
                &file.path,
                "its name begins with a four-digit number of its own, as in 0007-some-words.md",
            ));
        }
        let missing: Vec<_> = HEADINGS
            .iter()
            .filter(|heading| !file.text.lines().any(|line| line == **heading))
            .copied()
            .collect();
        if !missing.is_empty() {
            findings.push(Finding::new(&file.path, format!("it lacks {}", missing.join(", "))));
        }
    }
    findings
}

pub(super) fn readme(tree: &Tree) -> Vec<Finding> {
    let Some(readme) = tree.file("README.md") else {
        return vec![Finding::new("README.md", "it is missing")];
    };
    let mut findings = Vec::new();
    if readme.text.lines().count() > README_LINES {
        findings.push(Finding::new(
            "README.md",
            format!("it has more than {README_LINES} lines; move some into docs/"),
        ));
    }
    let Some(program) = tree.file(EXAMPLE) else {
        findings.push(Finding::new(EXAMPLE, "the README's example is not there"));
        return findings;
    };
    let blocks = blocks(&readme.text);
    let mut shown = blocks.iter().filter(|block| block.language == "rust").map(|block| block.text.as_str());
    if shown.next() != Some(&program.text) {
        let problem = format!("its first ```rust block is not {EXAMPLE}, word for word");
        findings.push(Finding::new("README.md", problem));
    }
    let test = tree.file(EXAMPLE_TEST).map(|file| file.text.as_str()).unwrap_or_default();
    if !shown.all(|block| test.contains(block)) {
        let problem = format!("a later ```rust block is not in {EXAMPLE_TEST}, word for word");
        findings.push(Finding::new("README.md", problem));
    }
    let lines = program.text.lines().count();
    if lines > EXAMPLE_LINES {
        findings.push(Finding::new(
            EXAMPLE,
            format!("{lines} lines; the README promises at most {EXAMPLE_LINES}"),
        ));
    }
    findings
}

pub(super) fn map(tree: &Tree) -> Vec<Finding> {
    let map = tree.file("ARCHITECTURE.md").map(|file| file.text.as_str()).unwrap_or_default();
    let missing = tree.members().filter(|package| !map.contains(&format!("`{}`", package.name)));
    missing
        .map(|package| {
            Finding::new("ARCHITECTURE.md", format!("it does not say what `{}` knows", package.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tree::Package, *};

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let page = "[a](../README.md) [b](b.md#the-end-of-it) [c](https://x.y/z) [d](#here)\n# Here\n[x](gone.md)\n\
                    [y](b.md#gone) [z](../docs)\n```\n[code](gone.md)\n```\n";
        let tree =
            Tree::of_files([("README.md", ""), ("docs/a.md", page), ("docs/b.md", "## The end, of *it*\n")]);
        let found = links(&tree);
        let places: Vec<_> = found.iter().map(|f| (f.place.as_str(), f.problem.contains("gone"))).collect();
        assert_eq!(places, [("docs/a.md:3", true), ("docs/a.md:4", true)], "{found:?}");
    }

    #[test]
    fn a_changelog_without_unreleased_is_found() {
        assert_eq!(changelog(&Tree::of_files([("CHANGELOG.md", "# Changelog\n## 1.0\n")])).len(), 1);
        assert_eq!(changelog(&Tree::of_files([("CHANGELOG.md", "## Unreleased\n")])), []);
    }

    #[test]
    fn a_decision_without_its_parts_or_number_is_found() {
        let whole = "# A\n## Context\n## Options\n## Choice\n## Rejected\n";
        let tree = Tree::of_files([
            ("docs/decisions/0001-a.md", whole),
            ("docs/decisions/0001-b.md", whole),
            ("docs/decisions/0002-c.md", "# C\n## Context\n## Choice\n"),
            ("docs/decisions/other.md", whole),
        ]);
        let places: Vec<_> = decisions(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(
            places,
            ["docs/decisions/0001-b.md", "docs/decisions/0002-c.md", "docs/decisions/other.md"]
        );
    }

    #[test]
    fn an_example_that_is_long_or_not_the_compiled_one_is_found() {
        let tree = |program: &str, shown: &str| {
            Tree::of_files([("README.md", &*format!("```rust\n{shown}```\n")), (EXAMPLE, program)])
        };
        let with_test = |test: &str| {
            Tree::of_files([
                ("README.md", "```rust\na\n```\n```rust\nfn t() {}\n```\n"),
                (EXAMPLE, "a\n"),
                (EXAMPLE_TEST, test),
            ])
        };
        assert_eq!(readme(&with_test("use a;\nfn t() {}\n")), []);
        assert_eq!(readme(&with_test("fn u() {}\n")).len(), 1);
        let long = "x\n".repeat(EXAMPLE_LINES + 1);
        assert_eq!(readme(&tree("a\n", "a\n")), []);
        assert_eq!(readme(&tree("a\n", "b\n")).len(), 1);
        assert_eq!(readme(&tree(&long, &long)).len(), 1);
        assert_eq!(readme(&Tree::of_files([("README.md", &"x\n".repeat(README_LINES + 1))])).len(), 2);
    }

    #[test]
    fn a_package_that_is_not_on_the_map_is_found() {
        let mut tree = Tree::of_files([("ARCHITECTURE.md", "`a` knows all\n")]);
        for name in ["a", "b"] {
            let (name, manifest) = (name.to_owned(), Some(String::new()));
            tree.packages.push(Package { name, manifest, ..Package::default() });
        }
        let found = map(&tree);
        assert!(found.len() == 1 && found[0].problem.contains("`b`"), "{found:?}");
    }
}
