//! Makes one program of the guide: the Rust blocks of each page, in order, are a module.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The pages, as they are read. A page begins where those above it, by its depth, have ended: what they define is there.
const PAGES: &[(usize, &str)] = &[
    (0, "first-hour"),
    (1, "modelling"),
    (2, "consistency"),
    (3, "changing-events"),
    (3, "projections"),
    (4, "handlers"),
    (4, "processes"),
    (4, "testing"),
    (4, "privacy"),
    (4, "migrating"),
    (4, "user-interface"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let guide = Path::new("../../docs/guide");
    println!("cargo::rerun-if-changed={}", guide.display());
    check_that_all_are_read(guide)?;
    let mut program = String::new();
    let mut open = 0;
    for (depth, page) in PAGES {
        while open > *depth {
            program.push_str("}\n");
            open -= 1;
        }
        let text = fs::read_to_string(guide.join(format!("{page}.md")))?;
        let parent = if *depth == 0 { "" } else { "use super::*;" };
        let module = page.replace('-', "_");
        writeln!(program, "mod {module} {{\n#[allow(unused_imports)] {parent}\n{}", rust_of(&text))?;
        open += 1;
    }
    program.push_str(&"}\n".repeat(open));
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("pages.rs");
    #[allow(clippy::disallowed_methods, reason = "a build script writes where cargo tells it to")]
    fs::write(out, program)?;
    Ok(())
}

/// A page that is not in the list would not be compiled.
fn check_that_all_are_read(guide: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(guide)? {
        let name = entry?.file_name().into_string().map_err(|name| format!("{name:?} is no UTF-8"))?;
        let known = PAGES.iter().any(|(_, page)| name == format!("{page}.md"));
        let has_rust = !rust_of(&fs::read_to_string(guide.join(&name))?).is_empty();
        if has_rust && !known {
            return Err(format!("docs/guide/{name} has Rust in it: name it in PAGES, in build.rs").into());
        }
    }
    Ok(())
}

/// The ```rust blocks of a page.
fn rust_of(markdown: &str) -> String {
    let mut lines = markdown.lines();
    let mut rust = String::new();
    while let Some(line) = lines.next() {
        if line == "```rust" {
            for code in lines.by_ref().take_while(|line| *line != "```") {
                rust.push_str(code);
                rust.push('\n');
            }
            rust.push('\n');
        }
    }
    rust
}
