//! Lints of code that only Apple platforms compile.

use std::process::Command;

use super::cargo;

/// Targets for which the native engine is checked.
const TARGETS: [&str; 2] = ["aarch64-apple-darwin", "aarch64-apple-ios"];

/// Installs targets; prints a note and returns false if that fails: contributors do not need them.
pub(super) fn install(targets: &[&str]) -> bool {
    let installed = Command::new("rustup").arg("target").arg("add").args(targets).status();
    let installed = installed.is_ok_and(|s| s.success());
    if !installed {
        eprintln!("!! THE APPLE TARGETS CAN'T BE INSTALLED: THE NATIVE ENGINE WAS NOT CHECKED");
    }
    installed
}

/// Without the feature `exceptions`, which compiles Objective-C: `cargo xtask check link` compiles that, where there is
/// a compiler for it.
pub(super) fn run() -> Result<(), String> {
    if !install(&TARGETS) {
        return Ok(());
    }
    for target in TARGETS {
        for features in ["hub,language", "hub,language,metal"] {
            let packages = ["-p", "coreml-framework", "-p", "candle-coreml"];
            // The framework's crate has no `hub`.
            let features = features.split(',').map(|f| format!("candle-coreml/{f}")).collect::<Vec<_>>().join(",");
            let mut args = vec!["clippy"];
            args.extend(packages);
            args.extend(["--no-default-features", "--features", &features, "--all-targets", "--target", target]);
            args.extend(["--", "-D", "warnings"]);
            cargo(&args)?;
        }
        // Predictions alone.
        let alone = ["clippy", "-p", "candle-coreml", "--no-default-features", "--lib", "--target", target];
        cargo(&[&alone[..], &["--", "-D", "warnings"]].concat())?;
    }
    Ok(())
}
