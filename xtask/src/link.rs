//! Links the native engine's tests and the command for `aarch64-apple-darwin` on any system with Python.
//!
//! The linker is Zig's, from PyPI; it brings the libraries of the system itself. Apple's frameworks are stubs made of
//! `link/symbols.txt`, an allow-list: a symbol that is not in it does not link. So a new framework is noticed here, and a
//! symbol that the oldest supported system lacks, which would keep the whole program from starting there. Nothing is
//! run: selectors, types and behaviour are not checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{apple, run as run_command};

const TARGET: &str = "aarch64-apple-darwin";

/// The oldest system on which the program starts.
const OLDEST: &str = "13.0";

/// Version of the wheel.
const ZIG: &str = "0.17.1";

/// `library` lines name a framework or a library; the symbols below it are its.
const SYMBOLS: &str = include_str!("link/symbols.txt");

/// Links. Without the tools, prints a note and continues.
pub(super) fn run() -> Result<(), String> {
    if !apple::install(&[TARGET]) {
        return Ok(());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = std::path::absolute(target.join("link")).map_err(|e| e.to_string())?;
    let io = |e: std::io::Error| format!("{}: {e}", folder.display());
    fs::create_dir_all(&folder).map_err(io)?;
    let Some(zig) = zig(&folder) else {
        eprintln!("!! ZIG CAN'T BE HAD FROM PYPI: NOTHING WAS LINKED FOR MACS");
        return Ok(());
    };
    for (place, text) in stubs(SYMBOLS)? {
        let path = folder.join("stubs").join(place);
        fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(io)?;
        fs::write(&path, text).map_err(io)?;
    }
    let linker = script(&folder, "linker", &wrapper(&zig, &folder.join("stubs"), true)).map_err(io)?;
    let compiler = script(&folder, "cc", &wrapper(&zig, &folder.join("stubs"), false)).map_err(io)?;
    let archiver = script(&folder, "ar", &format!("#!/bin/sh\nexec {zig} ar \"$@\"\n")).map_err(io)?;
    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(args).args(["--target", TARGET]);
        command.env("MACOSX_DEPLOYMENT_TARGET", OLDEST);
        command.env("CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER", &linker);
        command.env("CC_aarch64_apple_darwin", &compiler).env("AR_aarch64_apple_darwin", &archiver);
        // The build script asks for Apple's tools otherwise.
        command.env("SDKROOT", folder.join("stubs"));
        run_command(&mut command)
    };
    cargo(&["test", "--no-run", "-p", "coreml-framework", "--lib", "--test", "core_ml"])?;
    cargo(&["build", "-p", "candle-coreml-cli"])
}

/// Command line of Zig: that of Python here, else of one installed for this step.
fn zig(folder: &Path) -> Option<String> {
    let works = |line: &str| {
        let run = Command::new("sh").args(["-c", &format!("{line} version")]).output();
        run.is_ok_and(|o| o.status.success())
    };
    let own = format!("PYTHONPATH={} python3 -m ziglang", folder.join("python").display());
    let known = ["zig".to_owned(), "python3 -m ziglang".to_owned(), format!("env {own}")];
    if let Some(found) = known.iter().find(|line| works(line)) {
        return Some(found.clone());
    }
    let installed = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", &format!("ziglang=={ZIG}"), "--target"])
        .arg(folder.join("python"))
        .status();
    let line = format!("env {own}");
    (installed.is_ok_and(|s| s.success()) && works(&line)).then_some(line)
}

fn script(folder: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// Calls Zig without the arguments that it decides itself.
fn wrapper(zig: &str, stubs: &Path, link: bool) -> String {
    let places =
        if link { format!("-F{0}/System/Library/Frameworks -L{0}/usr/lib", stubs.display()) } else { String::new() };
    format!(
        r#"#!/bin/bash
args=()
while [ $# -gt 0 ]; do
  case "$1" in
    -arch|-isysroot|-target) shift ;;
    --target=*|-mmacosx-version-min=*|-mmacos-version-min=*|-lSystem|-lc|-lm) ;;
    *) args+=("$1") ;;
  esac
  shift
done
exec {zig} cc -target aarch64-macos.{OLDEST} {places} "${{args[@]}}"
"#
    )
}

/// Files of the stub libraries, by their place in an SDK.
fn stubs(symbols: &str) -> Result<Vec<(String, String)>, String> {
    let mut libraries: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in symbols.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match (line.strip_prefix("library "), libraries.last_mut()) {
            (Some(path), _) => libraries.push((path, Vec::new())),
            (None, Some((_, symbols))) => symbols.push(line),
            (None, None) => return Err(format!("symbols.txt: `{line}` has no library")),
        }
    }
    let stub = |(path, symbols): (&str, Vec<&str>)| {
        let (classes, plain): (Vec<&str>, Vec<&str>) =
            symbols.into_iter().partition(|s| s.starts_with("_OBJC_EHTYPE_$_"));
        let eh: Vec<String> = classes.iter().map(|s| s.trim_start_matches("_OBJC_EHTYPE_$_").to_owned()).collect();
        let file = match path.strip_suffix(".framework") {
            Some(framework) => {
                let name = framework.rsplit('/').next().unwrap_or(framework);
                format!("{path}/{name}.tbd").trim_start_matches('/').to_owned()
            }
            // `libobjc.A.dylib` is linked as `-lobjc`.
            None => {
                let (folder, name) = path.trim_start_matches('/').rsplit_once('/').unwrap_or(("", path));
                format!("{folder}/{}.tbd", name.split('.').next().unwrap_or(name))
            }
        };
        let install = match path.strip_suffix(".framework") {
            Some(framework) => format!("{path}/Versions/A/{}", framework.rsplit('/').next().unwrap_or(framework)),
            None => path.to_owned(),
        };
        let text = format!(
            "--- !tapi-tbd\ntbd-version:     4\ntargets:         [ arm64-macos ]\ninstall-name:    '{install}'\n\
             exports:\n  - targets:         [ arm64-macos ]\n    symbols:         [ {} ]\n    objc-eh-types:   [ {} ]\n...\n",
            plain.join(", "),
            eh.join(", "),
        );
        (file, text)
    };
    Ok(libraries.into_iter().map(stub).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_have_the_symbols_of_their_library_and_no_others() {
        let files = stubs(
            "# note\nlibrary /System/Library/Frameworks/A.framework\n_a\n_b\nlibrary /usr/lib/libx.A.dylib\n_x\n",
        );
        let files = files.expect("two libraries");
        assert_eq!(files[0].0, "System/Library/Frameworks/A.framework/A.tbd");
        assert!(files[0].1.contains("A.framework/Versions/A/A'") && files[0].1.contains("[ _a, _b ]"));
        assert_eq!(files[1].0, "usr/lib/libx.tbd");
        assert!(files[1].1.contains("'/usr/lib/libx.A.dylib'") && !files[1].1.contains("_a"));
        assert!(stubs("_lost\n").is_err());
        assert!(stubs(SYMBOLS).expect("our list").len() > 4);
    }
}
