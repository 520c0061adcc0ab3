//! The README is believed, so it is run: its example prints what it says, and its commands work.

use crate::{
    lanes::Pass,
    proofs,
    shell::{Shell, Stop},
    year::Scratch,
};

/// The package whose program stands in the README, word for word (a rule of tidy).
const EXAMPLE: &str = "first-hour";

/// Runs the README's example twice, as the README says to, and then its commands.
pub(crate) async fn run(shell: &mut Shell) -> Result<Pass, Stop> {
    let readme =
        std::fs::read_to_string(shell.root().join("README.md")).map_err(Stop::at("cannot read README.md"))?;
    let blocks = blocks(&readme);
    let promised: Vec<&str> =
        blocks.iter().filter(|b| b.language == "text").map(|b| b.text.as_str()).collect();
    if promised.is_empty() {
        return Err(Stop::Failed("README.md has no ```text block with what its example prints".to_owned()));
    }
    let scratch = Scratch::new(shell, "readme")?;
    for promise in &promised {
        let manifest = shell.root().join("Cargo.toml");
        let mut example = shell.cargo(&["run", "--quiet", "-p", EXAMPLE, "--manifest-path"]);
        example.arg(manifest).current_dir(&scratch.0);
        let printed = shell.output(example).await?;
        if printed.trim_end() != promise.trim_end() {
            return Err(Stop::Failed(format!(
                "README.md says that its example prints\n{promise}\nbut it printed\n{printed}"
            )));
        }
    }
    let printed = newcomer(shell, &blocks, &scratch).await?;
    if printed.trim_end() != promised[0].trim_end() {
        return Err(Stop::Failed(format!("in a project of its own the README's example printed\n{printed}")));
    }
    let commands = commands(&blocks);
    if commands.is_empty() {
        return Err(Stop::Failed("README.md has no ```sh block with a `cargo run` line to try".to_owned()));
    }
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        shell.run(shell.cargo(&words)).await?;
    }
    let told = format!(
        "the example {} times, once in a project of its own, {} of its commands",
        promised.len(),
        commands.len()
    );
    Ok(Pass::Done(told))
}

/// What somebody does who has only the README: an empty project outside of the workspace, the dependencies and the program as they
/// stand there. Returns what it printed.
async fn newcomer(shell: &mut Shell, blocks: &[Block], scratch: &Scratch) -> Result<String, Stop> {
    let block = |language: &str| {
        let found = blocks.iter().find(|block| block.language == language).map(|block| block.text.clone());
        found.ok_or_else(|| {
            Stop::Failed(format!("README.md has no ```{language} block for a newcomer's project"))
        })
    };
    let root = shell.root().to_owned();
    let dependencies = block("toml")?.replace("\"../factum/", &format!("\"{}/", root.display()));
    let manifest = format!(
        "[workspace]\n[package]\nname = \"newcomer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{dependencies}"
    );
    let project = scratch.0.join("newcomer");
    let lock =
        std::fs::read_to_string(root.join("Cargo.lock")).map_err(Stop::at("cannot read Cargo.lock"))?;
    std::fs::create_dir_all(project.join("src")).map_err(Stop::at("cannot begin a newcomer's project"))?;
    for (file, text) in [("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", block("rust")?)] {
        proofs::write(&project.join(file), &text).map_err(Stop::at(format!("cannot write {file}")))?;
    }
    let mut run = shell.cargo(&["run", "--quiet", "--target-dir"]);
    run.arg(shell.target()).current_dir(&project);
    shell.output(run).await
}

/// A fenced block of Markdown.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

/// The fenced blocks, in order.
pub(crate) fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let text: String =
            lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
        blocks.push(Block { language: language.trim().to_owned(), text });
    }
    blocks
}

/// The `cargo run …` lines of the shell blocks, without their comments.
fn commands(blocks: &[Block]) -> Vec<String> {
    let lines = blocks.iter().filter(|b| b.language == "sh").flat_map(|b| b.text.lines());
    let commands = lines.map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
    commands.filter(|line| line.starts_with("cargo run ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_commands_are_found() {
        let blocks = blocks(
            "a\n```sh\ncargo run -p x -- demo   # shows\ncargo xtask test\n```\nb\n```text\n1\n\n2\n```\n",
        );
        assert_eq!(commands(&blocks), ["cargo run -p x -- demo"]);
        assert_eq!((blocks[1].language.as_str(), blocks[1].text.as_str()), ("text", "1\n\n2\n"));
    }
}
