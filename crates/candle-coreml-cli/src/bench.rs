//! `candle-coreml bench`: speed of a model on this machine, per-operation costs, and an HTML report.

use std::fmt::Write;
use std::path::PathBuf;

use candle_coreml::engine::EngineOptions;
use serde_json::json;

use crate::engine::EngineArguments;
use crate::model::Consent;
use crate::{CommandResult, format, model, write};

mod charts;
mod language;
mod measure;
mod profile;
mod report;
mod single;

use measure::{Measured, memory};

const EXAMPLES: &str = "\
Examples:
  candle-coreml bench --model demo                       a language model: prefill, decode, memory
  candle-coreml bench --model demo --profile             and where the time goes, by operation
  candle-coreml bench --model demo --report bench.html   charts in one file, for any browser
  candle-coreml bench --model model.mlpackage            any other model, on made-up inputs";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder with the components of a language model, a model on the Hub (org/name[@revision]), `demo`, or any model file
    /// (.mlpackage, .mlmodelc, .mlmodel), which gets random inputs where it is not given others. No tokenizer is needed.
    #[arg(long)]
    model: PathBuf,
    /// Run this function of a model file instead of the default one.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Prefill this many tokens; decoding starts after them.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Decode this many tokens, or run this many predictions of other models.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Repeat each measurement this often. Rates and charts over the context are those of the best run, profiles medians;
    /// distributions cover all runs.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Decode this many conversations of a language model together, and report the tokens of all of them per second.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    streams: Option<u8>,
    /// Predict with the inputs in this file, for a model file: .safetensors, .npz, .npy, .json or .csv. Inputs that are not
    /// in it are random.
    #[arg(long, value_name = "FILE", conflicts_with = "rows")]
    inputs: Option<PathBuf>,
    /// Predict this many rows in one call, for models of tables: a prediction is then all of them.
    #[arg(long, value_name = "COUNT")]
    rows: Option<usize>,
    #[command(flatten)]
    engine: EngineArguments,
    #[command(flatten)]
    consent: Consent,
    /// Measure each operation in separate runs (portable engine).
    #[arg(long)]
    profile: bool,
    /// Write a self-contained HTML report with charts: latencies, speed over the context, operations.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(mut arguments: Arguments) -> CommandResult {
    let path = model::folder(&arguments.model, arguments.consent)?;
    arguments.runs = arguments.runs.max(1);
    arguments.tokens = arguments.tokens.max(1);
    let options = EngineOptions {
        choice: arguments.engine.engine,
        compute_units: arguments.engine.compute_units,
        ..EngineOptions::default()
    };
    let profiled = arguments.profile || arguments.report.is_some();
    if arguments.rows.is_some() && !single::is_one_model(&path) {
        return Err("--rows is for a model file, not for a language model".into());
    }
    if arguments.inputs.is_some() && !single::is_one_model(&path) {
        return Err("--inputs is for a model file, not for a language model".into());
    }
    if arguments.streams.is_some() && single::is_one_model(&path) {
        return Err("--streams is for a language model, not for a model file".into());
    }
    let busy = busy();
    if let Some(busy) = &busy {
        note!("warning: {busy}: what is measured is less than this machine can do");
    }
    let measured = if single::is_one_model(&path) {
        single::measure(&path, &arguments, &options, profiled)?
    } else {
        language::measure(&path, &arguments, &options, profiled)?
    };
    if arguments.profile && measured.profiles.is_empty() {
        return Err("Core ML does not report per-operation costs; use --engine portable".into());
    }
    if let Some(file) = &arguments.report {
        write::bytes(file, report::html(&path, &measured)?.as_bytes())?;
    }
    if arguments.json {
        return write::text(&format!("{}\n", object(&measured, busy.as_deref())));
    }
    let mut out = text(&measured);
    if arguments.profile {
        measured.profiles.iter().for_each(|p| p.text(&mut out));
    }
    write::text(&out)
}

/// Says that other programs compute, by the load of the last minute.
fn busy() -> Option<String> {
    let load = sysinfo::System::load_average().ok()?.one;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A core that computes for others half of the time is felt by every parallel region.
    (load > 0.5).then(|| format!("this machine is busy (load {load:.1} on {cores} cores)"))
}

fn object(m: &Measured, busy: Option<&str>) -> serde_json::Value {
    let memory = memory();
    let mut report = json!({
        "engine": m.engine,
        "busy": busy,
        "load_seconds": m.load_seconds,
        "peak_resident_bytes": memory.map(|m| m.0),
        "anonymous_bytes": memory.map(|m| m.1),
        "latency_seconds": m.latency(),
        "profiles": m.profiles,
    });
    let more = match &m.language {
        Some(l) => json!({
            "dimensions": l.dimensions,
            "first_token_seconds": l.first_token_seconds,
            "prompt": l.prompt,
            "prefill_tokens_per_second": l.prefill_rate,
            "decode_tokens_per_second": l.decode_rate,
            "next_turn_seconds": l.turn_seconds,
            "streams": l.streams.map(|(count, rate)| json!({ "count": count, "tokens_per_second": rate })),
            "decode_by_position": l.by_position,
        }),
        None => json!({ "inputs": m.inputs, "rows": m.rows, "first_prediction_seconds": m.first_seconds }),
    };
    if let (Some(all), serde_json::Value::Object(more)) = (report.as_object_mut(), more) {
        all.extend(more);
    }
    report
}

fn text(m: &Measured) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "engine         {:>10}", m.engine);
    let _ = writeln!(out, "load           {:>10.3} s", m.load_seconds);
    if let Some(l) = &m.language {
        let _ = writeln!(out, "first token    {:>10.3} s", l.first_token_seconds);
        let _ = writeln!(out, "prefill        {:>10.1} tokens/s ({} tokens)", l.prefill_rate, l.prompt);
        let _ = writeln!(out, "decode         {:>10.1} tokens/s (from position {})", l.decode_rate, l.prompt);
        if let Some((count, rate)) = l.streams {
            let _ = writeln!(out, "together       {rate:>10.1} tokens/s (of {count} conversations)");
        }
        let _ = writeln!(out, "next turn      {:>10.3} s (back to position {}, one token)", l.turn_seconds, l.prompt);
    } else {
        for (name, shape) in &m.inputs {
            let _ = writeln!(out, "input          {name} {shape:?}");
        }
        let _ = writeln!(out, "first          {:>10.3} ms", m.first_seconds * 1e3);
    }
    let l = m.latency();
    let what = match m.rows {
        _ if m.language.is_some() => "token".to_owned(),
        Some(rows) => format!("{rows} rows"),
        None => "prediction".to_owned(),
    };
    let _ = writeln!(
        out,
        "latency        {:>10.3} ms per {what} (median; 90%: {:.3}, 99%: {:.3}, best {:.3}, worst {:.3}; {} measured)",
        l.median * 1e3,
        l.p90 * 1e3,
        l.p99 * 1e3,
        l.least * 1e3,
        l.most * 1e3,
        l.count
    );
    if let Some((peak, anonymous)) = memory() {
        let (peak, anonymous) = (format::bytes(peak), format::bytes(anonymous));
        let _ = writeln!(out, "peak memory    {peak:>10} resident, {anonymous} beside the mapped files");
    }
    out
}
