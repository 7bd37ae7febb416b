//! `candle-coreml cache`: lists and cleans the caches.

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, SystemTime};

use candle_coreml::CacheManager;
use candle_coreml::cache::{CleanMode, CleanReport, CleanRule, EntryKind};
use serde_json::json;

use crate::{CommandResult, format, write};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show all entries with sizes and ages; the default of `cache`.
    Info {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Delete entries. Without --yes, ask on a terminal; elsewhere only show what would be deleted.
    Clean(Clean),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("rule").required(true).args(["older_than", "max_size", "pattern", "all"]))]
struct Clean {
    /// Delete entries not used for this long: 30d, 12h, 2w.
    #[arg(long, value_name = "TIME", value_parser = format::parse_duration)]
    older_than: Option<Duration>,
    /// Delete the least recently used entries until the rest has at most this size: 20GB, 500MiB.
    #[arg(long, value_name = "SIZE", value_parser = format::parse_bytes)]
    max_size: Option<u64>,
    /// Delete entries whose name matches: 'org/*'.
    #[arg(long, value_name = "GLOB")]
    pattern: Option<String>,
    /// Delete everything.
    #[arg(long)]
    all: bool,
    /// Show what would be deleted without deleting it.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Delete without asking.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.action {
        None => info(false),
        Some(Action::Info { json }) => info(json),
        Some(Action::Clean(arguments)) => clean(arguments),
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Model => "model",
        EntryKind::Unfinished => "unfinished",
        EntryKind::Runtime => "runtime",
    }
}

fn info(as_json: bool) -> CommandResult {
    let manager = CacheManager::from_environment();
    let entries = manager.entries()?;
    let bytes: u64 = entries.iter().map(|e| e.bytes).sum();
    if as_json {
        out!("{}", json!({ "models": manager.models(), "bytes": bytes, "entries": entries }))?;
        return Ok(());
    }
    if let Some(root) = manager.models() {
        out!("models in {}", root.display())?;
    }
    let now = SystemTime::now();
    for e in &entries {
        let (size, age) = (format::bytes(e.bytes), format::age(e.age(now)));
        out!("{:10}  {size:>9}  used {age:>4} ago  {}", kind(e.kind), e.name)?;
    }
    out!("{} entries, {}", entries.len(), format::bytes(bytes))?;
    Ok(())
}

fn clean(arguments: Clean) -> CommandResult {
    let rule = match arguments {
        Clean { older_than: Some(age), .. } => CleanRule::OlderThan(age),
        Clean { max_size: Some(bytes), .. } => CleanRule::Budget(bytes),
        Clean { pattern: Some(pattern), .. } => CleanRule::Matching(pattern),
        _ => CleanRule::All,
    };
    let manager = CacheManager::from_environment();
    if arguments.yes {
        return show(&manager.clean(&rule, CleanMode::Delete)?, CleanMode::Delete);
    }
    let plan = manager.clean(&rule, CleanMode::DryRun)?;
    show(&plan, CleanMode::DryRun)?;
    if arguments.dry_run || plan.removed.is_empty() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        out!("nothing was deleted; --yes deletes")?;
        return Ok(());
    }
    if confirmed()? {
        // Delete exactly what was shown, even if more entries match by now.
        return show(&manager.delete(plan.removed, CleanMode::Delete), CleanMode::Delete);
    }
    Ok(())
}

fn confirmed() -> Result<bool, Box<dyn std::error::Error>> {
    write::text("Delete these? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Prints a report; the command fails if an entry could not be deleted.
pub(crate) fn show(report: &CleanReport, mode: CleanMode) -> CommandResult {
    let verb = if mode == CleanMode::Delete { "deleted" } else { "would delete" };
    for e in &report.removed {
        out!("{verb} {:>9}  {:10}  {}  {}", format::bytes(e.bytes), kind(e.kind), e.name, e.path.display())?;
    }
    out!("{verb} {} entries, {}", report.removed.len(), format::bytes(report.bytes()))?;
    complete(report)
}

/// Prints a report as JSON; the command fails if an entry could not be deleted.
pub(crate) fn show_json(report: &CleanReport, mode: CleanMode) -> CommandResult {
    let kept: Vec<_> = report.kept.iter().map(|(e, why)| json!({ "entry": e, "error": why.to_string() })).collect();
    let dry_run = mode == CleanMode::DryRun;
    out!("{}", json!({ "dry_run": dry_run, "removed": report.removed, "bytes": report.bytes(), "kept": kept }))?;
    complete(report)
}

/// An error if an entry is left.
fn complete(report: &CleanReport) -> CommandResult {
    match report.kept.first() {
        None => Ok(()),
        Some((_, e)) => Err(format!("{} entries could not be deleted; the first: {e}", report.kept.len()).into()),
    }
}
