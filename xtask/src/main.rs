//! `cargo xtask check`: everything that continuous integration requires, in one command.
//!
//! | step | checks |
//! |---|---|
//! | fmt | formatting |
//! | tidy | length and headers of files, the map, figures, links |
//! | clippy | lints, all targets of all crates |
//! | apple | lints for `aarch64-apple-darwin` and `aarch64-apple-ios`, with and without `metal` |
//! | link | the native engine's tests and the command, linked for `aarch64-apple-darwin` against an allow-list |
//! | web | the crate of the web page compiles for browsers without warnings |
//! | docs | rustdoc without warnings |
//! | test | the test command of the README |
//!
//! Steps can be named: `cargo xtask check fmt clippy`. `cargo xtask web` builds the web page.

use std::process::{Command, ExitCode};

mod apple;
mod link;
mod tidy;
mod web;

const STEPS: [(&str, fn() -> Result<(), String>); 8] = [
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("clippy", clippy),
    ("apple", apple::run),
    ("link", link::run),
    ("web", web::check),
    ("docs", docs),
    ("test", test),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("web", rest)) = args.split_first().map(|(verb, rest)| (verb.as_str(), rest)) {
        return match web::build(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("web failed: {message}");
                ExitCode::FAILURE
            }
        };
    }
    let Some(("check", wanted)) = args.split_first().map(|(verb, rest)| (verb.as_str(), rest)) else {
        eprintln!("usage: cargo xtask check [{}], cargo xtask web [FOLDER]", STEPS.map(|s| s.0).join("|"));
        return ExitCode::from(2);
    };
    if let Some(unknown) = wanted.iter().find(|w| STEPS.iter().all(|s| s.0 != w.as_str())) {
        eprintln!("no step \"{unknown}\"; there are {}", STEPS.map(|s| s.0).join(", "));
        return ExitCode::from(2);
    }
    for (name, step) in STEPS {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        eprintln!("== {name}");
        if let Err(message) = step() {
            eprintln!("{name} failed: {message}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn fmt() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])
}

fn clippy() -> Result<(), String> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn docs() -> Result<(), String> {
    run(Command::new("cargo").args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn test() -> Result<(), String> {
    cargo(&["test", "--release", "--workspace"])
}

fn cargo(args: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(args))
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
