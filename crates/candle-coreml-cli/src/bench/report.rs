//! HTML report of a benchmark: one self-contained file with inline charts.

use std::fmt::Write;
use std::path::Path;

use coreml_inspect::escape;

use super::charts;
use super::measure::{Measured, memory};
use super::profile::Phase;
use crate::format;

const STYLE: &str = "\
body{font-family:system-ui,'DejaVu Sans',Verdana,sans-serif;color:#1f2937;max-width:860px;margin:24px auto;padding:0 16px}\
h1{font-size:22px}h2{font-size:17px;margin-top:28px}table{border-collapse:collapse;width:100%;font-size:13px}\
td,th{padding:4px 8px;border-bottom:1px solid #e2e8f0;text-align:right}td:first-child,th:first-child{text-align:left}\
.cards{display:flex;flex-wrap:wrap;gap:12px}.card{border:1px solid #cbd5e1;border-radius:8px;padding:10px 14px}\
.card b{display:block;font-size:20px}.s{color:#4b5563;font-size:13px}svg{max-width:100%;height:auto}";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Renders the report as an HTML page.
pub(super) fn html(model: &Path, m: &Measured) -> Result<String> {
    let name = model.file_name().map_or_else(|| model.display().to_string(), |n| n.to_string_lossy().into_owned());
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\n\
         <body><h1>{0}</h1>\n",
        escape(&name)
    );
    let _ = writeln!(
        out,
        "<p class=\"s\">candle-coreml {}, {} engine, {} on {}, {} threads</p>",
        env!("CARGO_PKG_VERSION"),
        escape(&m.engine),
        std::env::consts::ARCH,
        std::env::consts::OS,
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    cards(m, &mut out);
    let latency = m.latency();
    let what = if m.language.is_some() { "token" } else { "prediction" };
    let _ = writeln!(out, "<h2>Latency per {what}</h2>\n{}", charts::histogram(&m.seconds)?);
    let _ = writeln!(
        out,
        "<p class=\"s\">{} measured: median {:.3} ms, 90% within {:.3} ms, 99% within {:.3} ms, worst {:.3} ms</p>",
        latency.count,
        latency.median * 1e3,
        latency.p90 * 1e3,
        latency.p99 * 1e3,
        latency.most * 1e3
    );
    let points: Vec<(f64, f64)> = m.seconds.iter().enumerate().map(|(i, s)| (i as f64, s * 1e3)).collect();
    let _ = writeln!(out, "<h2>In the order of measurement</h2>\n{}", charts::curve(&points, what, "ms")?);
    if let Some(l) = &m.language {
        let points: Vec<(f64, f64)> = l.by_position.iter().map(|p| (p.position as f64, p.tokens_per_second)).collect();
        let chart = charts::curve(&points, "tokens in the cache", "tokens/s")?;
        let _ = writeln!(out, "<h2>Decoding over the context</h2>\n{chart}");
    }
    for phase in &m.profiles {
        operations(phase, &mut out)?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

fn cards(m: &Measured, out: &mut String) {
    let mut cards = vec![(format!("{:.3} s", m.load_seconds), "load")];
    if let Some(l) = &m.language {
        let d = &l.dimensions;
        cards.push((format!("{:.1} tokens/s", l.decode_rate), "decode"));
        cards.push((format!("{:.1} tokens/s", l.prefill_rate), "prefill"));
        cards.push((format!("{:.3} s", l.first_token_seconds), "load to first token"));
        cards.push((format!("{} / {} / {}", d.context, d.hidden, d.vocab), "context / width / vocabulary"));
    } else {
        let shapes: Vec<String> = m.inputs.iter().map(|(n, s)| format!("{n} {s:?}")).collect();
        cards.push((format!("{:.3} ms", m.latency().median * 1e3), "median latency"));
        cards.push((shapes.join(", "), "inputs"));
    }
    if let Some((peak, _)) = memory() {
        cards.push((format::bytes(peak), "peak resident memory"));
    }
    out.push_str("<div class=\"cards\">");
    for (value, label) in cards {
        let value = escape(&value);
        let _ = write!(out, "<div class=\"card\"><b>{value}</b><span class=\"s\">{label}</span></div>");
    }
    out.push_str("</div>\n");
}

fn operations(phase: &Phase, out: &mut String) -> Result<()> {
    let unit = &phase.unit;
    let bars: Vec<(String, f64, String)> = phase
        .rows
        .iter()
        .map(|r| (r.operator.clone(), r.seconds, format!("{:.3} ms · {:.1}%", phase.each(r.seconds), r.share * 100.0)))
        .collect();
    let _ = writeln!(out, "<h2>Operations: {}</h2>\n{}", escape(&phase.phase), charts::bars(&bars)?);
    let _ = writeln!(
        out,
        "<table><tr><th>operation</th><th>calls</th><th>ms per {unit}</th><th>share</th><th>weights</th></tr>"
    );
    for row in &phase.rows {
        let rate = row.weight_bytes_per_second.map_or(String::new(), |r| format!("{:.1} GB/s", r / 1e9));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.1}%</td><td>{rate}</td></tr>",
            escape(&row.operator),
            row.calls,
            phase.each(row.seconds),
            row.share * 100.0
        );
    }
    out.push_str("</table>\n<p class=\"s\">The single operations that cost most:</p>\n<table><tr><th>name</th>");
    let _ = writeln!(out, "<th>operation</th><th>function</th><th>ms per {unit}</th></tr>");
    for cost in &phase.worst {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.4}</td></tr>",
            escape(&cost.name),
            escape(&cost.operator),
            escape(&cost.function),
            phase.each(cost.nanoseconds as f64 / 1e9)
        );
    }
    out.push_str("</table>\n");
    Ok(())
}
