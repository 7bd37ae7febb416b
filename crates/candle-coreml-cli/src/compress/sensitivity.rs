//! Bits for each layer by what they cost on given data.

use std::io::IsTerminal;
use std::path::PathBuf;

use candle_coreml::Task;
use candle_coreml::compress::{Options, Scheme, Sensitivity, choose};
use candle_coreml::sensitivity::{Sample, measure};
use candle_coreml::tensors::{self, Limits};

use super::{Arguments, name};
use crate::progress;

#[derive(Debug, clap::Args)]
pub(super) struct ByData {
    /// Choose the bits of each layer, so that weights take at most this many bits an element on average, by the errors
    /// of the outputs for --data.
    #[arg(long, value_name = "F", requires = "data", conflicts_with_all = ["bits", "linear", "sparsity", "vector"])]
    pub(super) average_bits: Option<f64>,
    /// Inputs of a prediction (repeatable): safetensors or .npz, by name.
    #[arg(long, value_name = "FILE", requires = "average_bits")]
    data: Vec<PathBuf>,
    /// Bits of tables to choose from.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "2,3,4,6,8")]
    candidates: Vec<usize>,
    /// Measure this function of a model with several.
    #[arg(long, value_name = "NAME", requires = "average_bits")]
    function: Option<String>,
}

/// Sets the form of each weight; returns what was measured and the choice.
pub(super) fn set(
    a: &Arguments,
    options: &mut Options,
    bits: f64,
) -> Result<(Vec<Sensitivity>, Vec<usize>), Box<dyn std::error::Error>> {
    let samples: Vec<Sample> = a
        .by_data
        .data
        .iter()
        .map(|path| Ok::<_, tensors::TensorsError>(tensors::read(path, &Limits::default())?.into_iter().collect()))
        .collect::<Result<_, _>>()?;
    let palette = |&bits: &usize| Scheme::Palette { bits, group: a.form.group, vector: 1 };
    let forms: Vec<Scheme> = a.by_data.candidates.iter().map(palette).collect();
    let terminal = std::io::stderr().is_terminal();
    let task = Task::with_progress(move |step| progress::show(terminal, step));
    let function = a.by_data.function.as_deref();
    let measured = task.run(|| measure(&a.model, function, options, &forms, &samples));
    if terminal {
        progress::show(terminal, "");
    }
    let measured = measured?;
    let chosen = choose(&measured, bits).ok_or_else(|| {
        let least = |w: &Sensitivity| w.measures.iter().map(|m| m.bytes).min().unwrap_or(0);
        let (bytes, elements) =
            (measured.iter().map(least).sum::<u64>(), measured.iter().map(|w| w.elements).sum::<usize>());
        let found = bytes as f64 * 8.0 / elements.max(1) as f64;
        format!("--average-bits {bits}: the smallest of --candidates take {found:.2} with their tables")
    })?;
    for (weight, &at) in measured.iter().zip(&chosen) {
        options.named.insert(weight.name.clone(), Some(weight.measures[at].scheme));
    }
    Ok((measured, chosen))
}

/// Errors of every form in percent (the root of the relative squared error), the chosen one marked.
pub(super) fn show(measured: &[Sensitivity], chosen: &[usize]) -> String {
    let width = measured.iter().map(|w| w.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (weight, &at) in measured.iter().zip(chosen) {
        text += &format!("{:width$}", weight.name);
        for (i, m) in weight.measures.iter().enumerate() {
            let mark = if i == at { "*" } else { " " };
            text += &format!("  {}{mark} {:>7.3}%", name(m.scheme), 100.0 * m.error.sqrt());
        }
        text.push('\n');
    }
    text
}
