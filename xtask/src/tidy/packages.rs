//! Rules about packages: who may know whom.

use super::{
    Finding,
    tree::{Dependency, Package, Tree},
};

const LICENCE: &str = "MIT OR Apache-2.0";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What each crate of the product may use of the others. Nothing points back.
const MAY_USE: &[(&str, &[&str])] = &[
    ("factum-macros", &[]),
    ("factum", &["factum-macros"]),
    ("factum-cli", &["factum", "factum-log", "factum-postgres", "factum-sqlite"]),
    ("factum-log", &["factum"]),
    ("factum-sqlite", &["factum"]),
    ("factum-conformance", &["factum"]),
    ("factum-postgres", &["factum"]),
    ("factum-relay", &["factum"]),
];

/// What a crate may use besides in its own tests: the suite, and a store to run on.
const IN_TESTS: &[&str] = &["factum-conformance", "factum-log", "factum-sqlite"];

/// What only tests may see from below: derives are tried where they are used.
const IN_TESTS_OF: (&str, &str) = ("factum-macros", "factum");

/// The only packages that may know these from outside, directly.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("anyhow", &[]),
    ("async-nats", &["factum-relay"]),
    ("clap", &["bank", "factum-cli", "proofs", "xtask"]),
    ("crc32c", &["factum-log"]),
    ("indicatif", &["bank", "factum-cli"]),
    ("lapin", &["factum-relay"]),
    ("metrics", &["factum", "factum-log", "factum-postgres"]),
    ("rdkafka", &["factum-relay"]),
    ("redis", &["factum-relay"]),
    ("rusqlite", &["factum-sqlite"]),
    ("rustix", &["factum-log", "proofs", "xtask"]),
    ("rustls", &["factum-postgres", "factum-relay"]),
];

/// Features of tokio that bring disk, network or processes into the crate that knows none.
const WORLDLY: &[&str] = &["fs", "full", "io-std", "net", "process", "signal"];

pub(super) fn direction(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in tree.members() {
        let rules = MAY_USE.iter().find(|(name, _)| *name == package.name).map(|(_, may_use)| *may_use);
        let crates = |path: &String| path.starts_with("crates/");
        if rules.is_none() && package.manifest.as_ref().is_some_and(crates) {
            findings.push(Finding::new(
                &package.name,
                "say in MAY_USE, in xtask/src/tidy/packages.rs, what it may use",
            ));
        }
        for dependency in product(package) {
            let allowed = match rules {
                // The examples may use the whole product, the workshop nothing of it: it checks from outside.
                None => package.name != "xtask",
                Some(may_use) => {
                    let from_above = package.name != "factum" && package.name != "factum-macros";
                    may_use.contains(&dependency.name.as_str())
                        || dependency.dev
                            && (from_above && IN_TESTS.contains(&dependency.name.as_str())
                                || (&*package.name, &*dependency.name) == IN_TESTS_OF)
                }
            };
            if !allowed {
                findings
                    .push(Finding::new(&package.name, format!("it must not depend on {}", dependency.name)));
            }
        }
    }
    findings
}

fn product(package: &Package) -> impl Iterator<Item = &Dependency> {
    package.dependencies.iter().filter(|d| MAY_USE.iter().any(|(name, _)| *name == d.name))
}

pub(super) fn ignorance(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in tree.members() {
        for dependency in package.dependencies.iter().filter(|dependency| !dependency.dev) {
            let only = ONLY_IN.iter().find(|(name, _)| *name == dependency.name);
            if only.is_some_and(|(_, packages)| !packages.contains(&package.name.as_str())) {
                findings.push(Finding::new(
                    &package.name,
                    format!("it must know nothing of {}", dependency.name),
                ));
            }
            let worldly = dependency.features.iter().find(|feature| WORLDLY.contains(&feature.as_str()));
            if let ("factum", "tokio", Some(feature)) = (&*package.name, &*dependency.name, worldly) {
                findings.push(Finding::new("factum", format!("it must not use tokio's feature `{feature}`")));
            }
        }
    }
    findings
}

pub(super) fn manifests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in tree.members() {
        if package.licence != LICENCE {
            findings
                .push(Finding::new(&package.name, format!("write `license.workspace = true` ({LICENCE})")));
        }
        let manifest = package.manifest.as_deref().and_then(|path| tree.file(path));
        // These are newcomers' programs.
        if !["first-hour", "users"].contains(&&*package.name)
            && !manifest.is_some_and(|file| file.text.contains("[lints]\nworkspace = true"))
        {
            findings.push(Finding::new(&package.name, "write `[lints]` with `workspace = true`"));
        }
    }
    findings
}

pub(super) fn licences(tree: &Tree) -> Vec<Finding> {
    let allowed = tree.file("deny.toml").map(|file| allowed_licences(&file.text)).unwrap_or_default();
    let mut findings = Vec::new();
    for package in tree.packages.iter().filter(|package| package.manifest.is_none()) {
        if !is_allowed(&package.licence, &allowed) {
            findings.push(Finding::new(
                &package.name,
                format!("its licence `{}` is not allowed by deny.toml", package.licence),
            ));
        }
        if package.source != CRATES_IO {
            findings.push(Finding::new(
                &package.name,
                format!("it comes from `{}`, not from crates.io", package.source),
            ));
        }
    }
    findings
}

/// The quoted names in `allow = [ … ]`.
fn allowed_licences(deny: &str) -> Vec<&str> {
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map(|(list, _)| list.split('"').skip(1).step_by(2).collect()).unwrap_or_default()
}

/// Whether one alternative of a licence expression consists of allowed licences only.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    // `A OR B AND C` binds AND first; `(A OR B) AND C` is an AND of groups.
    if let Some((group, rest)) = expression.strip_prefix('(').and_then(|rest| rest.split_once(") AND ")) {
        return is_allowed(group, allowed) && is_allowed(rest, allowed);
    }
    let alternatives = expression.split(" OR ").flat_map(|alternative| alternative.split('/'));
    alternatives.into_iter().any(|all| all.split(" AND ").all(|one| allowed.contains(&one.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, manifest: &str, dependencies: Vec<Dependency>) -> Package {
        let (name, manifest) = (name.to_owned(), Some(manifest.to_owned()));
        Package { name, manifest, licence: LICENCE.to_owned(), source: String::new(), dependencies }
    }

    fn on(name: &str) -> Dependency {
        Dependency { name: name.to_owned(), ..Dependency::default() }
    }

    fn tree(packages: Vec<Package>) -> Tree {
        Tree { packages, ..Tree::default() }
    }

    #[test]
    fn a_dependency_that_points_back_is_found() {
        let back = package("factum", "crates/factum/Cargo.toml", vec![on("factum-log")]);
        let sideways =
            package("factum-log", "crates/factum-log/Cargo.toml", vec![on("factum"), on("factum-sqlite")]);
        let inside = package("xtask", "xtask/Cargo.toml", vec![on("factum")]);
        assert_eq!(direction(&tree(vec![back, sideways, inside])).len(), 3);
        let suite = Dependency { dev: true, ..on("factum-conformance") };
        let fine = package("factum-log", "crates/factum-log/Cargo.toml", vec![on("factum"), suite]);
        let example = package("bank", "examples/bank/Cargo.toml", vec![on("factum"), on("factum-log")]);
        let tested = Dependency { dev: true, ..on("factum") };
        let derives = package("factum-macros", "crates/factum-macros/Cargo.toml", vec![tested]);
        assert_eq!(direction(&tree(vec![fine, example, derives])), []);
        let down = package("factum-macros", "crates/factum-macros/Cargo.toml", vec![on("factum")]);
        assert_eq!(direction(&tree(vec![down])).len(), 1);
    }

    #[test]
    fn a_new_crate_must_say_what_it_may_use() {
        let findings = direction(&tree(vec![package("factum-new", "crates/factum-new/Cargo.toml", vec![])]));
        assert!(findings.len() == 1 && findings[0].problem.contains("MAY_USE"));
    }

    #[test]
    fn what_a_crate_must_not_know_is_found() {
        let tokio = Dependency { features: vec!["sync".to_owned(), "net".to_owned()], ..on("tokio") };
        let package = package("factum", "crates/factum/Cargo.toml", vec![on("rusqlite"), tokio]);
        let problems: Vec<_> = ignorance(&tree(vec![package])).into_iter().map(|f| f.problem).collect();
        assert_eq!(problems, ["it must know nothing of rusqlite", "it must not use tokio's feature `net`"]);
    }

    #[test]
    fn a_package_without_licence_or_lints_is_found() {
        let bare = Package { licence: String::new(), ..package("a", "crates/a/Cargo.toml", vec![]) };
        assert_eq!(manifests(&tree(vec![bare])).len(), 2);
        let files =
            Tree::of_files([("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n")]).files;
        assert_eq!(
            manifests(&Tree { files, packages: vec![package("a", "crates/a/Cargo.toml", vec![])] }),
            []
        );
    }

    #[test]
    fn a_dependency_of_another_licence_or_origin_is_found() {
        let outside = |licence: &str, source: &str| Package {
            name: "x".to_owned(),
            licence: licence.to_owned(),
            source: source.to_owned(),
            ..Package::default()
        };
        let packages = vec![
            outside("MIT", CRATES_IO),
            outside("GPL-3.0", CRATES_IO),
            outside("MIT", "git+https://example.org/x"),
        ];
        let files = Tree::of_files([("deny.toml", "[licenses]\nallow = [\n  \"MIT\",\n]\n")]).files;
        assert_eq!(licences(&Tree { files, packages }).len(), 2);
    }

    #[test]
    fn licence_expressions_are_understood() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for fine in [
            "MIT",
            "GPL-3.0 OR MIT",
            "Unlicense/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "MIT AND Apache-2.0",
        ] {
            assert!(is_allowed(fine, &allowed), "{fine}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR X) AND MIT", "(MIT OR X) AND GPL-3.0"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
