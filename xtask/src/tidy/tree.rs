//! What the rules look at: the tracked text files, and the packages as cargo knows them.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::shell::Stop;

/// Everything that the rules look at.
#[derive(Default)]
pub(super) struct Tree {
    /// Tracked text files, and those that are about to be; sorted by path.
    pub(super) files: Vec<File>,
    /// Packages of the workspace, and all that they depend on.
    pub(super) packages: Vec<Package>,
}

/// A text file.
pub(super) struct File {
    /// From the root of the workspace, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

/// A package.
#[derive(Default)]
pub(super) struct Package {
    pub(super) name: String,
    /// Its manifest, from the root of the workspace. `None`: a dependency from outside.
    pub(super) manifest: Option<String>,
    pub(super) licence: String,
    /// Where it comes from; empty for a package of the workspace.
    pub(super) source: String,
    pub(super) dependencies: Vec<Dependency>,
}

/// A dependency of a package.
#[derive(Default)]
pub(super) struct Dependency {
    pub(super) name: String,
    /// Only for its tests.
    pub(super) dev: bool,
    pub(super) features: Vec<String>,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(super) fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }
}

impl Tree {
    pub(super) fn load(root: &Path) -> Result<Self, Stop> {
        let list = output(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut paths: Vec<&str> = list.split('\0').filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths {
            // Deleted but not yet committed, or not text: nothing to look at.
            let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
            files.push(File { path: path.to_owned(), text });
        }
        Ok(Self { files, packages: packages(root)? })
    }

    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The packages of the workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.manifest.is_some())
    }
}

fn packages(root: &Path) -> Result<Vec<Package>, Stop> {
    let version = output(root, "rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let metadata = output(root, "cargo", &["metadata", "--format-version", "1", "--filter-platform", host])?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(Stop::at("cargo metadata"))?;
    // Packages for other platforms are in the list, but not in the graph.
    let used: Vec<&str> =
        array(&metadata["resolve"]["nodes"]).iter().filter_map(|node| node["id"].as_str()).collect();
    let wanted = |package: &&Value| used.contains(&text(&package["id"]));
    Ok(array(&metadata["packages"]).iter().filter(wanted).map(|package| package_of(package, root)).collect())
}

fn package_of(package: &Value, root: &Path) -> Package {
    let manifest = Path::new(text(&package["manifest_path"])).strip_prefix(root).ok();
    let local = package["source"].is_null();
    let dependency = |dependency: &Value| Dependency {
        name: text(&dependency["name"]).to_owned(),
        dev: dependency["kind"] == "dev",
        features: array(&dependency["features"]).iter().map(|f| text(f).to_owned()).collect(),
    };
    Package {
        name: text(&package["name"]).to_owned(),
        manifest: manifest.filter(|_| local).map(|path| path.to_string_lossy().into_owned()),
        licence: text(&package["license"]).to_owned(),
        source: text(&package["source"]).to_owned(),
        dependencies: array(&package["dependencies"]).iter().map(dependency).collect(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn output(root: &Path, program: &str, args: &[&str]) -> Result<String, Stop> {
    let text = format!("{program} {}", args.join(" "));
    let output =
        Command::new(program).args(args).current_dir(root).output().map_err(Stop::at(text.clone()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Stop::Failed(format!("`{text}` failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

#[cfg(test)]
impl Tree {
    pub(super) fn of_files<const N: usize>(files: [(&str, &str); N]) -> Self {
        let files =
            files.into_iter().map(|(path, text)| File { path: path.to_owned(), text: text.to_owned() });
        Self { files: files.collect(), packages: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_seen() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let tree = Tree::load(root).unwrap();
        assert!(
            tree.file("xtask/src/tidy/tree.rs")
                .is_some_and(|file| file.text.contains("this_workspace_is_seen"))
        );
        let own = tree.members().find(|package| package.name == "xtask").unwrap();
        assert_eq!(own.manifest.as_deref(), Some("xtask/Cargo.toml"));
        assert!(own.dependencies.iter().any(|dependency| dependency.name == "clap" && !dependency.dev));
        assert!(tree.packages.iter().any(|package| package.name == "clap" && package.manifest.is_none()));
    }
}
