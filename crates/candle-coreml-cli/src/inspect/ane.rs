//! `inspect --ane`: the estimate as text and JSON.

use std::fmt::Write;

use candle_coreml::format::model::Model;
use candle_coreml::format::program::Program;
use coreml_inspect::ane::{self, FunctionVerdict, VERDICTS, Verdict};
use serde_json::json;

use crate::{CommandResult, write};

/// Prints the estimate for one function or for all.
pub(super) fn report(model: &Model, program: &Program, function: Option<&str>, as_json: bool) -> CommandResult {
    let mut functions = ane::estimate(program, &model.description);
    if let Some(name) = function {
        let available: Vec<String> = functions.iter().map(|f| f.function.clone()).collect();
        functions.retain(|f| f.function == name);
        if functions.is_empty() {
            let name = name.to_owned();
            return Err(coreml_inspect::picture::UnknownFunction { name, available }.into());
        }
    }
    if as_json {
        let functions: Vec<_> = functions.iter().map(ane::Report::of).collect();
        let report = json!({ "path": model.path, "note": ane::DISCLAIMER, "functions": functions });
        return write::text(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    let mut out = format!("{}\n{}\n", model.path.display(), ane::DISCLAIMER);
    functions.iter().for_each(|f| text(f, &mut out));
    write::text(&out)
}

fn text(function: &FunctionVerdict, out: &mut String) {
    let all = function.operations.len();
    let _ = writeln!(out, "\nfunction {} ({all} operations; needs {})", function.function, function.needs);
    for verdict in VERDICTS {
        let share =
            function.share(verdict).map_or(String::new(), |s| format!(", {:.1}% of the multiplications", s * 100.0));
        let _ = writeln!(out, "  {:<8}{:>6} operations{share}", verdict.name(), function.count(verdict));
    }
    let _ = writeln!(out, "  execution would change {} times between refused operations and others", function.switches);
    let summary = function.summary();
    if !summary.is_empty() {
        let _ = writeln!(out, "\n  why");
    }
    for (reason, kinds) in summary {
        let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let _ = writeln!(out, "  {:<8} {:<15} {}", reason.verdict.name(), reason.rule, kinds.join(", "));
        let _ = writeln!(out, "           such as: {}", reason.message);
    }
    let doubtful: Vec<_> = function.operations.iter().filter(|o| o.verdict != Verdict::Likely).collect();
    if !doubtful.is_empty() {
        let _ = writeln!(out, "\n  operation by operation (all others: likely)");
    }
    for op in doubtful {
        let reasons: Vec<&str> = op.reasons.iter().map(|r| r.message.as_str()).collect();
        let _ = writeln!(out, "  {:<8} {:<18} {}: {}", op.verdict.name(), op.kind, op.name, reasons.join("; "));
    }
}
