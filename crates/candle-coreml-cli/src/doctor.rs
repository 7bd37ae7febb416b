//! `candle-coreml doctor`: checks this installation.

use std::time::Instant;

use candle_coreml::backend::{BackendDevice, availability};
use candle_coreml::engine::proof;
use candle_coreml::generation::{Message, Options, Step};
use candle_coreml::settings;
use candle_coreml::{CacheManager, LanguageModel};
use serde::Serialize;
use serde_json::json;

use crate::{CommandResult, demo, format, write};

mod machine;

const EXAMPLES: &str = "\
Examples:
  candle-coreml doctor              everything that needs no network
  candle-coreml doctor --online     and whether the hub can be reached
  candle-coreml doctor --json       for bug reports and scripts

Exit code 1 means that something essential is broken; warnings do not change it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Also check the connection to the Hugging Face Hub.
    #[arg(long)]
    online: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Broken,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    area: &'static str,
    status: Status,
    detail: String,
}

fn check(area: &'static str, status: Status, detail: impl Into<String>) -> Check {
    Check { area, status, detail: detail.into() }
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let machine = machine::Machine::here();
    let mut checks = vec![version()];
    checks.extend(devices());
    checks.push(configuration());
    checks.push(cache());
    checks.extend(native());
    if arguments.online {
        checks.push(hub());
    }
    checks.push(self_test());
    let broken: Vec<&str> = checks.iter().filter(|c| c.status == Status::Broken).map(|c| c.area).collect();
    if arguments.json {
        let report = json!({ "machine": machine, "checks": checks, "broken": broken });
        write::text(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        let mut out = String::new();
        for (area, detail) in machine.lines() {
            out += &format!("         {area:<14} {detail}\n");
        }
        for c in &checks {
            let mark = match c.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Broken => "BROKEN",
            };
            out += &format!("{mark:<8} {:<14} {}\n", c.area, c.detail);
        }
        write::text(&out)?;
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("broken: {}", broken.join(", ")).into()) }
}

fn version() -> Check {
    let features = [
        ("hub", cfg!(feature = "hub")),
        ("hub-ring", cfg!(feature = "hub-ring")),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    let on: Vec<&str> = features.iter().filter(|f| f.1).map(|f| f.0).collect();
    let profile = if cfg!(debug_assertions) { ", built without optimisation: slow" } else { "" };
    let status = if cfg!(debug_assertions) { Status::Warning } else { Status::Ok };
    let features = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
    check("version", status, format!("{}, features: {features}{profile}", env!("CARGO_PKG_VERSION")))
}

/// An unusable device is not a failure; having no usable device is.
fn devices() -> Vec<Check> {
    BackendDevice::ALL
        .into_iter()
        .map(availability)
        .map(|a| {
            let absent = if a.usable() { "" } else { "not used: " };
            check("device", Status::Ok, format!("{}: {absent}{}", a.device, a.detail))
        })
        .collect()
}

fn configuration() -> Check {
    let Some((path, _)) = settings::location(None) else {
        return check("settings", Status::Warning, "the system names no folder for configurations");
    };
    if !path.exists() {
        return check("settings", Status::Ok, format!("{}: not there, defaults apply", path.display()));
    }
    match settings::load(None, settings::Layer::default()) {
        Ok((_, warnings)) if warnings.is_empty() => check("settings", Status::Ok, path.display().to_string()),
        Ok((_, warnings)) => {
            let text: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            check("settings", Status::Warning, text.join("; "))
        }
        Err(e) => check("settings", Status::Broken, crate::chain(&e)),
    }
}

fn cache() -> Check {
    let manager = CacheManager::from_environment();
    match manager.entries() {
        Ok(entries) => {
            let bytes = entries.iter().map(|e| e.bytes).sum();
            let place = manager.models().map_or_else(|| "no folder".to_owned(), |p| p.display().to_string());
            let detail = format!("{place}: {} entries, {}", entries.len(), format::bytes(bytes));
            check("cache", Status::Ok, detail)
        }
        Err(e) => check("cache", Status::Broken, crate::chain(&e)),
    }
}

/// Models that Core ML ran or refused in a trial.
fn native() -> Vec<Check> {
    let records = match proof::recorded(None) {
        Ok(records) => records,
        Err(e) => return vec![check("Core ML", Status::Warning, crate::chain(&e))],
    };
    let proved = records.iter().filter(|r| r.refused.is_none()).count();
    let mut checks = Vec::new();
    if proved > 0 {
        checks.push(check("Core ML", Status::Ok, format!("{proved} models proved")));
    }
    let refused = records.iter().filter_map(|r| Some((r, r.refused.as_ref()?)));
    checks.extend(refused.map(|(r, reason)| {
        let function = r.function.as_ref().map(|f| format!(", function {f}")).unwrap_or_default();
        let (model, units, system) = (r.model.display(), &r.compute_units, &r.system);
        let detail = format!(
            "{model} ({units}{function}, system {system}) runs on the portable engine: {reason}; remove {} to try again",
            r.file.display()
        );
        check("Core ML", Status::Warning, detail)
    }));
    checks
}

#[cfg(feature = "hub")]
fn hub() -> Check {
    use candle_coreml::hub::{Hub, RetryPolicy};
    // No such repository exists: any response proves the connection.
    let nobody = "candle-coreml/this-repository-does-not-exist";
    let folder = tempfile::tempdir();
    let asked = folder.map_err(|e| e.to_string()).and_then(|folder| {
        let hub = Hub::from_environment().map_err(|e| e.to_string())?;
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        match hub.retry(retry).download_to(nobody, &folder.path().join("x")) {
            Ok(_) => Ok(()),
            Err(e) if ["not-found", "denied"].contains(&e.kind()) => Ok(()),
            Err(e) => Err(crate::chain(&e)),
        }
    });
    match asked {
        Ok(()) => check("hub", Status::Ok, "it answers"),
        Err(e) => check("hub", Status::Warning, e),
    }
}

#[cfg(not(feature = "hub"))]
fn hub() -> Check {
    check("hub", Status::Warning, "this build has no hub; build with the feature hub")
}

/// Prompt, and the answer that the shipped model was trained to give.
const QUESTION: (&str, &str) = ("What is the capital of Peru?", "Lima");

/// Prompts the demo model.
fn self_test() -> Check {
    let folder = match demo::folder() {
        Ok(folder) => folder,
        Err(e) => return check("self-test", Status::Warning, e),
    };
    let ask = || -> Result<(String, f64, f64), candle_coreml::Error> {
        let started = Instant::now();
        let mut model = LanguageModel::load_from_directory(&folder, None)?;
        let load = started.elapsed().as_secs_f64();
        let text = model.chat_text(&[Message::user(QUESTION.0)])?;
        let prompt = model.tokenize(&text)?;
        let summary =
            model.generate_tokens(&prompt, Options { max_tokens: 16, ..Options::default() }, &mut |_: &Step| {})?;
        let rate = summary.decode_rate();
        Ok((summary.text, load, rate))
    };
    match ask() {
        Ok((answer, load, rate)) if answer.trim() == QUESTION.1 => check(
            "self-test",
            Status::Ok,
            format!("{} {}: loaded in {:.0} ms, {rate:.0} tokens/s", QUESTION.0, QUESTION.1, load * 1e3),
        ),
        Ok((answer, ..)) => {
            check("self-test", Status::Broken, format!("{} expected {}, found {answer:?}", QUESTION.0, QUESTION.1))
        }
        Err(e) => check("self-test", Status::Broken, crate::chain(&e)),
    }
}
