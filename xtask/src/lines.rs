//! How long a program is, and how much of it is there only for a library's sake: the same rules for everybody's.

use std::path::PathBuf;

use crate::shell::Stop;

/// What is counted, and how: it is printed with the figures, so that they can be argued with.
const RULES: &str = "\
A line counts unless it is blank, a comment, or in a `#[cfg(test)]` module. Of Markdown, the ```rust blocks are read.
Ceremony is what would stand there whatever the domain is:
  - `use`, `mod` and `extern`, with all of their lines;
  - attributes and derives, but for `#[error(…)]` and what else stands on a field;
  - `impl Trait for Type {`, and in it `type … = …;` and `const … = …;`.
The rest (data, rules, functions, closing braces, `main`) is not.";

/// Lines of one program or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    lines: usize,
    ceremony: usize,
}

/// Counts these files, and their sum.
pub(crate) fn run(files: &[PathBuf]) -> Result<String, Stop> {
    let mut told = format!("{RULES}\n\n{:>6} {:>9}\n", "lines", "ceremony");
    let mut sum = Count::default();
    for path in files {
        let text =
            std::fs::read_to_string(path).map_err(Stop::at(format!("cannot read {}", path.display())))?;
        let markdown = path.extension().is_some_and(|extension| extension == "md");
        let count = count(&if markdown { rust_of(&text) } else { text });
        told += &line(count, &path.display().to_string());
        sum = Count { lines: sum.lines + count.lines, ceremony: sum.ceremony + count.ceremony };
    }
    if files.len() > 1 {
        told += &line(sum, "in all");
    }
    Ok(told.trim_end().to_owned())
}

fn line(count: Count, name: &str) -> String {
    format!("{:>6} {:>9} {name}\n", count.lines, count.ceremony)
}

/// The Rust blocks of a page, indented ones too; what rustdoc hides (`# `) is part of the program.
fn rust_of(markdown: &str) -> String {
    let mut rust = String::new();
    let mut inside = None;
    for line in markdown.lines().map(str::trim_start) {
        match (line.strip_prefix("```"), inside) {
            (Some(language), None) => inside = Some(language.starts_with("rust")),
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                rust += line.strip_prefix("# ").unwrap_or(line);
                rust.push('\n');
            }
            (None, _) => {}
        }
    }
    rust
}

fn count(rust: &str) -> Count {
    let mut count = Count::default();
    let mut lines = rust.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let mut in_impl = false;
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            break;
        }
        count.lines += 1;
        let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
        let (opens, closes) = match line {
            _ if begins(&["use ", "pub use ", "pub(crate) use ", "mod ", "pub mod ", "extern "]) => {
                ('{', '}')
            }
            _ if begins(&["#[", "#!["]) && !begins(&["#[error(", "#[id]"]) => ('[', ']'),
            _ => {
                if begins(&["impl"]) {
                    in_impl = line.contains(" for ");
                }
                let associated = begins(&["type ", "const "]) && line.ends_with(';');
                count.ceremony += usize::from(in_impl && (begins(&["impl"]) || associated));
                continue;
            }
        };
        count.ceremony += 1;
        let mut open = depth(line, opens, closes);
        while open > 0 {
            let Some(next) = lines.next() else { break };
            count.lines += 1;
            count.ceremony += 1;
            open += depth(next, opens, closes);
        }
    }
    count
}

/// How many more of these brackets a line opens than it closes.
fn depth(line: &str, opens: char, closes: char) -> isize {
    line.chars().map(|c| isize::from(c == opens) - isize::from(c == closes)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceremony_is_what_any_domain_would_need() {
        let program = "\
use a::{
    b,
};
mod c;

// said
#[derive(Debug)]
enum E {
    #[error(\"no\")]
    No,
}
impl Event for E {
    const NAME: &str = \"e\";
    type X = Y;
    fn tags(&self) {
    }
}
impl E {
    const OWN: u8 = 1;
}
#[tokio::main] async fn main() {
    let a = 1;
}
#[cfg(test)]
mod tests {
    use super::*;
}
";
        assert_eq!(count(program), Count { lines: 21, ceremony: 9 });
    }

    /// What others' programs come to is of the day that stands there; ours is of today.
    #[test]
    fn our_own_rows_in_the_table_are_true() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let table = read("docs/peers.md");
        for example in ["examples/first-hour/src/main.rs", "examples/users/src/main.rs"] {
            let row = table.lines().find(|line| line.starts_with('|') && line.contains(example)).unwrap();
            let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('*')).collect();
            let count = count(&read(example));
            assert_eq!(
                (cells[3], cells[5]),
                (&*count.lines.to_string(), &*count.ceremony.to_string()),
                "{row}"
            );
        }
    }

    #[test]
    fn blocks_of_a_page_are_read_also_where_they_are_indented_or_hidden() {
        let page = "Say\n```rust,ignore\nlet a = 1;\n# let b = 2;\n```\n1. so:\n    ```rust\n    let c = 3;\n    ```\n```toml\nx = 1\n```\n";
        assert_eq!(rust_of(page), "let a = 1;\nlet b = 2;\nlet c = 3;\n");
    }
}
