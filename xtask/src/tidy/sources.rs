//! Rules about the text of files.

use super::{
    Finding,
    tree::{File, Tree},
};

const LINES: usize = 900;

/// Ways to change what is on a disk.
const WRITES: &[&str] = &[
    "File::create",
    "OpenOptions",
    "fs::copy",
    "fs::create_dir",
    "fs::hard_link",
    "fs::remove_",
    "fs::rename",
    "fs::set_permissions",
    "fs::write",
];

/// Macros that say that something is not done, or was only looked at.
const UNFINISHED: &[&str] = &["dbg", "todo", "unimplemented"];

/// Directories that belong to a machine.
const MACHINE: &[&str] = &["home", "root", "tmp", "work"];

/// The hosts that configuration may name.
const HOSTS: &[&str] = &["crates.io", "docs.rs", "github.com"];

/// Writes no data, but a file of the source tree, `events.lock`, when a test is asked to.
const LOCK: &str = "crates/factum/src/lock/file.rs";

pub(super) fn disk_writes(tree: &Tree) -> Vec<Finding> {
    let ours = |file: &&File| {
        let product = file.path.starts_with("crates/") || file.path.starts_with("examples/");
        let data = !file.path.starts_with("crates/factum-log/") && file.path != LOCK;
        product && file.path.contains("/src/") && data
    };
    in_code(tree.files.iter().filter(ours), |line| {
        let write = WRITES.iter().find(|write| line.contains(**write))?;
        Some(format!("`{write}` writes to the disk; only factum-log does that, through its `Disk`"))
    })
}

pub(super) fn long_files(tree: &Tree) -> Vec<Finding> {
    let lines = |file: &File| file.text.lines().count();
    let long = tree.files.iter().filter(|file| file.is_rust() && lines(file) > LINES);
    long.map(|file| {
        Finding::new(&file.path, format!("{} lines: a file is one noun, make it two", lines(file)))
    })
    .collect()
}

pub(super) fn unfinished(tree: &Tree) -> Vec<Finding> {
    in_rust(tree, |line| {
        let code = line.split("//").next().unwrap_or_default();
        let found = UNFINISHED.iter().find(|name| calls(code, name))?;
        Some(format!("`{found}!` is left over; finish it or take it out"))
    })
}

/// Whether the macro `name` is called, and not one whose name ends alike.
fn calls(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}!"))
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

pub(super) fn ignored_tests(tree: &Tree) -> Vec<Finding> {
    in_rust(tree, |line| {
        let bare = line.trim() == concat!("#[", "ignore]");
        bare.then(|| "say why: `#[ignore = \"reason\"]`, and how it is run all the same".to_owned())
    })
}

pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (n, line) in file.text.lines().enumerate() {
            if let Some(found) = machine_path(line) {
                let problem =
                    format!("`{found}` is a place on one machine; name a path within the repository");
                findings.push(Finding::at(&file.path, n, problem));
            }
        }
    }
    findings
}

fn machine_path(line: &str) -> Option<String> {
    MACHINE.iter().map(|directory| format!("/{directory}/")).find(|path| {
        // `../some/x` and `https://host/home/` are not absolute paths.
        let within = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '}');
        line.match_indices(path.as_str()).any(|(at, _)| !line[..at].ends_with(within))
    })
}

/// The lines that a merge leaves where two sides differ.
const MARKERS: [&str; 2] = ["<<<<<<<", ">>>>>>>"];

pub(super) fn merges(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (n, line) in file.text.lines().enumerate() {
            if MARKERS.iter().any(|marker| line.starts_with(marker)) {
                findings.push(Finding::at(&file.path, n, "a merge was left unfinished: keep what is right"));
            }
        }
    }
    findings
}

pub(super) fn hosts(tree: &Tree) -> Vec<Finding> {
    let configuration = |file: &&File| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        file.path.starts_with(".ci/")
            || [".toml", ".lock", ".json", ".yml", ".yaml"].iter().any(|end| name.ends_with(end))
    };
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(configuration) {
        for (n, line) in file.text.lines().enumerate() {
            if let Some(host) = line.split("://").skip(1).map(host_of).find(|host| !HOSTS.contains(host)) {
                findings.push(Finding::at(
                    &file.path,
                    n,
                    format!("the host `{host}` is not one of {}", HOSTS.join(", ")),
                ));
            }
        }
    }
    findings
}

fn host_of(rest: &str) -> &str {
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '@' | '_'))
        .unwrap_or(rest.len());
    rest[..end].rsplit('@').next().unwrap_or_default()
}

/// What `problem` finds in the lines of Rust files.
fn in_rust(tree: &Tree, problem: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().enumerate();
        findings.extend(lines.filter_map(|(n, line)| Some(Finding::at(&file.path, n, problem(line)?))));
    }
    findings
}

/// The same without comments, and only up to a file's own tests.
fn in_code<'a>(
    files: impl Iterator<Item = &'a File>,
    problem: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.filter(|file| file.is_rust()) {
        let code = file.text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
        let code = code.map(|(n, line)| (n, line.split("//").next().unwrap_or_default()));
        findings.extend(code.filter_map(|(n, line)| Some(Finding::at(&file.path, n, problem(line)?))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.place.as_str()).collect()
    }

    #[test]
    fn a_crate_that_writes_files_is_found() {
        let write = "fn f() {\n    std::fs::write(a, b);\n}\n";
        let in_test = "// fs::write\n#[cfg(test)]\nmod tests { fs::write }\n";
        let tree = Tree::of_files([
            ("crates/factum/src/a.rs", write),
            ("examples/bank/src/a.rs", write),
            ("crates/factum/src/b.rs", in_test),
            ("crates/factum/tests/c.rs", write),
            ("crates/factum-log/src/disk.rs", write),
            ("xtask/src/main.rs", write),
        ]);
        assert_eq!(places(&disk_writes(&tree)), ["crates/factum/src/a.rs:2", "examples/bank/src/a.rs:2"]);
    }

    #[test]
    fn a_long_file_is_found() {
        let (fits, long) = ("x\n".repeat(LINES), "x\n".repeat(LINES + 1));
        let tree = Tree::of_files([("a.rs", &fits), ("b.rs", &long), ("c.md", &long)]);
        assert_eq!(places(&long_files(&tree)), ["b.rs"]);
    }

    #[test]
    fn what_is_unfinished_is_found() {
        for name in UNFINISHED {
            let text =
                format!("fn a() {{}}\nfn f() {{ {name}!() }} // no\n// {name}!\nfn g() {{ my_{name}!() }}\n");
            assert_eq!(places(&unfinished(&Tree::of_files([("a.rs", &text)]))), ["a.rs:2"]);
        }
    }

    #[test]
    fn a_test_ignored_without_reason_is_found() {
        let text = format!("    {}ignore]\n    #[ignore = \"needs root\"]\n", "#[");
        assert_eq!(places(&ignored_tests(&Tree::of_files([("a.rs", &text)]))), ["a.rs:1"]);
    }

    #[test]
    fn an_unfinished_merge_is_found() {
        let left = format!("a\n{} HEAD\nb\n=======\nc\n{} other\n", MARKERS[0], MARKERS[1]);
        let tree = Tree::of_files([("docs/a.md", left.as_str()), ("docs/b.md", "a\n=======\n")]);
        assert_eq!(places(&merges(&tree)), ["docs/a.md:2", "docs/a.md:6"]);
    }

    #[test]
    fn a_path_of_a_machine_is_found() {
        for directory in MACHINE {
            let text = format!("a\n\"/{directory}/x\"\n");
            assert_eq!(places(&machine_paths(&Tree::of_files([("docs/a.md", &text)]))), ["docs/a.md:2"]);
            let fine = format!("https://host/{directory}/ and ../{directory}/x and {directory}/x\n");
            assert_eq!(machine_paths(&Tree::of_files([("docs/a.md", &fine)])), []);
        }
    }

    #[test]
    fn a_private_host_is_found() {
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                    source = \"registry+http://user@mirror.example:8080/index\"\n";
        let tree = Tree::of_files([("Cargo.lock", lock), ("a.md", lock)]);
        let findings = hosts(&tree);
        assert_eq!(places(&findings), ["Cargo.lock:2"]);
        assert!(findings[0].problem.contains("`mirror.example`"));
    }
}
