//! `cargo xtask web [FOLDER]`: the web page with its module and the small language model, in `target/web` or another folder.
//! `WEB_PROFILE=release` builds faster, and a larger module.
//! `check web`: the crate behind it compiles for browsers without warnings.

use std::path::Path;
use std::process::Command;

use super::{cargo, run};

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGE: &str = "candle-coreml-web";

/// True if the compiler has the standard library for browsers; says so if not.
fn is_installed() -> bool {
    let known = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let folder = known.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let there = !folder.is_empty() && Path::new(&folder).is_dir();
    if !there {
        eprintln!(
            "!! THE TARGET {TARGET} IS NOT INSTALLED: THE WEB PAGE WAS NOT CHECKED (`rustup target add {TARGET}`)"
        );
    }
    there
}

/// Checks the crate, with warnings as errors.
pub(super) fn check() -> Result<(), String> {
    if !is_installed() {
        return Ok(());
    }
    // Those of the standard configuration and the warnings; a variable would replace the former.
    let denied = r#"target.wasm32-unknown-unknown.rustflags=["-D", "warnings"]"#;
    cargo(&["check", "--config", denied, "-p", PACKAGE, "--target", TARGET])
}

/// Builds the page.
pub(super) fn build(arguments: &[String]) -> Result<(), String> {
    let folder = match arguments {
        [] => "target/web",
        [folder] => folder,
        _ => return Err("usage: cargo xtask web [FOLDER]".to_owned()),
    };
    if !is_installed() {
        return Err(format!("the target {TARGET} is missing"));
    }
    if !cfg!(feature = "web") {
        let mut again = Command::new("cargo");
        return run(again.args(["run", "--quiet", "--package", "xtask", "--features", "web", "--", "web", folder]));
    }
    let profile = std::env::var("WEB_PROFILE").unwrap_or_else(|_| "web".to_owned());
    cargo(&["build", "--profile", &profile, "-p", PACKAGE, "--target", TARGET])?;
    page::assemble(Path::new(folder), &profile)
}

#[cfg(not(feature = "web"))]
mod page {
    pub(super) fn assemble(_folder: &std::path::Path, _profile: &str) -> Result<(), String> {
        Err("built without the feature `web`".to_owned())
    }
}

#[cfg(feature = "web")]
mod page {
    use std::fs;
    use std::path::{Path, PathBuf};

    use wasm_bindgen_cli_support::Bindgen;

    use super::TARGET;

    /// The model that the page offers.
    const MODEL: &str = "tiny-qwen3";

    fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, String> {
        result.map_err(|e| format!("{}: {e}", path.display()))
    }

    /// All files below a folder, relative to it, sorted.
    fn files(root: &Path, folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in at(folder, fs::read_dir(folder))? {
            paths.push(at(folder, entry)?.path());
        }
        paths.sort();
        for path in paths {
            if path.is_dir() {
                files(root, &path, into)?;
            } else if let Ok(relative) = path.strip_prefix(root) {
                into.push(relative.to_owned());
            }
        }
        Ok(())
    }

    fn copy(from: &Path, to: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, String> {
        let mut all = Vec::new();
        files(from, from, &mut all)?;
        all.retain(|file| keep(file));
        for file in &all {
            let target = to.join(file);
            let folder = target.parent().unwrap_or(to);
            at(folder, fs::create_dir_all(folder))?;
            at(&target, fs::copy(from.join(file), &target))?;
        }
        Ok(all)
    }

    /// A list of paths as JSON. Those in this repository need no escapes.
    fn list(paths: &[PathBuf]) -> String {
        let quoted = paths.iter().map(|p| format!("  \"{}\"", p.to_string_lossy().replace('\\', "/")));
        format!("[\n{}\n]\n", quoted.collect::<Vec<_>>().join(",\n"))
    }

    pub(super) fn assemble(folder: &Path, profile: &str) -> Result<(), String> {
        if folder.exists() {
            at(folder, fs::remove_dir_all(folder))?;
        }
        let built = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let module = built.join(TARGET).join(profile).join("candle_coreml_web.wasm");
        let mut bindings = Bindgen::new();
        bindings.input_path(&module).out_name("candle_coreml").typescript(false);
        bindings.web(true).and_then(|b| b.generate(folder)).map_err(|e| format!("{}: {e:#}", module.display()))?;
        copy(Path::new("crates/candle-coreml-web/page"), folder, |_| true)?;
        let model = folder.join("models").join(MODEL);
        let read = |file: &Path| !matches!(file.to_str(), Some("README.md" | "heldout.jsonl"));
        let parts = copy(&Path::new("models").join(MODEL), &model, read)?;
        let index = folder.join("models").join(format!("{MODEL}.json"));
        at(&index, fs::write(&index, list(&parts)))?;
        // What a browser keeps to work offline.
        let mut all = Vec::new();
        files(folder, folder, &mut all)?;
        let index = folder.join("files.json");
        at(&index, fs::write(&index, list(&all)))?;
        let size = at(&module, fs::metadata(folder.join("candle_coreml_bg.wasm")))?.len();
        eprintln!("{}: the page; its module has {size} bytes", folder.display());
        Ok(())
    }
}
