//! The C example, compiled by the system's C compiler and run, with the shared and with the static library.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The newest library beside this test, or in the folder above it.
fn library(extensions: &[&str]) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let folders = [here.parent()?.to_owned(), here.parent()?.parent()?.to_owned()];
    let files = folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten().map(|e| e.path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.starts_with("libcandle_coreml_c") && extensions.iter().any(|e| name.ends_with(e))
    };
    files.filter(fits).max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
}

fn run(with: &str, link: &[&std::ffi::OsStr], search: Option<&Path>) {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("predict");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]);
    compile.arg(root().join("crates/candle-coreml-c/include"));
    compile.arg(root().join("crates/candle-coreml-c/examples/predict.c"));
    compile.args(link).arg("-o").arg(&program);
    let compiled = compile.output().expect("cc runs");
    assert!(compiled.status.success(), "{with}: {}", String::from_utf8_lossy(&compiled.stderr));
    let mut example = Command::new(&program);
    example.arg(root().join("models/tiny-intent/intent.mlpackage")).arg(root().join("models/tiny-qwen3"));
    if let Some(search) = search {
        example.env("LD_LIBRARY_PATH", search).env("DYLD_LIBRARY_PATH", search);
    }
    let output = example.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{with}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in
        ["logits of type 7: 1 8", "refused: input, input attention_mask", "refused: not-found, state no such state"]
    {
        assert!(text.contains(line), "{with}: no \"{line}\" in\n{text}");
    }
    let answer = text.lines().last().unwrap_or_default();
    assert!(answer.contains("82") && !answer.contains("in 0 pieces"), "{with}: {answer}");
}

#[test]
#[cfg(unix)]
fn the_example_compiles_and_answers() {
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("NOT TESTED: there is no C compiler (cc)");
        return;
    }
    let shared = library(&[".so", ".dylib"]).expect("the shared library is built with the tests");
    let search = shared.parent().expect("a folder").to_owned();
    run("shared", &[shared.as_os_str()], Some(&search));
    if cfg!(target_os = "linux") {
        let archive = library(&[".a"]).expect("the static library is built with the tests");
        let system = ["-lpthread", "-ldl", "-lm", "-lrt", "-lutil"].map(std::ffi::OsStr::new);
        run("static", &[&[archive.as_os_str()], &system[..]].concat(), None);
    }
}
