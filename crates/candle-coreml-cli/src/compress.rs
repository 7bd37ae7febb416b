//! `candle-coreml compress` and `decompress`: packages with smaller weights, and dense ones again.

use std::path::PathBuf;

use candle_coreml::compress::{Options, Report, Scheme, Sparsity};
use candle_coreml::format::model::Model;
use candle_coreml::write::edit;

use crate::{CommandResult, format};

mod sensitivity;

const EXAMPLES: &str = "\
Examples:
  candle-coreml compress model.mlpackage --out small.mlpackage --bits 4 --group 8     tables for 8 channels each
  candle-coreml compress model.mlpackage --out small.mlpackage --bits 6 --report
  candle-coreml compress model.mlpackage --out small.mlpackage --bits 2 --group 16 --vector 2
  candle-coreml compress model.mlpackage --out small.mlpackage --linear 8
  candle-coreml compress model.mlpackage --out small.mlpackage --linear 4 --block 32 --layer embed=none
  candle-coreml compress model.mlpackage --out small.mlpackage --sparsity 0.5 --bits 4
  candle-coreml compress model.mlpackage --out small.mlpackage --average-bits 4.5 --data a.safetensors --data b.safetensors --report";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: an ML Program.
    model: PathBuf,
    /// The new package.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    by_data: sensitivity::ByData,
    /// Another form for weights whose names contain TEXT: `TEXT=none`, `TEXT=6` (bits of tables), `TEXT=int8`, `TEXT=int4`.
    #[arg(long, value_name = "TEXT=FORM", value_parser = super::edit::pair)]
    layer: Vec<(String, String)>,
    /// How much elements count in tables: tensors by the names and of the shapes of weights, such as mean squared
    /// gradients or activations (safetensors or .npz).
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// Leave weights with fewer elements as they are.
    #[arg(long, value_name = "N", default_value_t = 2049)]
    smallest: usize,
    /// Show size and error of every layer.
    #[arg(long)]
    report: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Form {
    /// Tables with indices of this many bits: 1, 2, 3, 4, 6 or 8.
    #[arg(long, value_name = "N", conflicts_with = "linear")]
    bits: Option<usize>,
    /// Output channels that share a table.
    #[arg(long, value_name = "N", conflicts_with = "linear")]
    group: Option<usize>,
    /// Length of the vectors in tables.
    #[arg(long, value_name = "N", requires = "bits", conflicts_with = "sparsity")]
    vector: Option<usize>,
    /// Integers of 8 or 4 bits with a scale for each output channel.
    #[arg(long, value_name = "BITS", conflicts_with = "sparsity")]
    linear: Option<usize>,
    /// Input channels that share a scale.
    #[arg(long, value_name = "N", requires = "linear")]
    block: Option<usize>,
    /// Integers from the least number to the largest one, instead of symmetric ones.
    #[arg(long, requires = "linear")]
    asymmetric: bool,
    /// Fraction of the elements that become zero, or `N:M`: N of M neighbours.
    #[arg(long, value_name = "F|N:M", value_parser = sparsity)]
    sparsity: Option<Sparsity>,
}

fn sparsity(text: &str) -> Result<Sparsity, String> {
    let wrong = || "expected a fraction such as 0.5, or zeros and length such as 2:4".to_owned();
    match text.split_once(':') {
        Some((zeros, of)) => {
            let number = |s: &str| s.parse::<usize>().map_err(|_| wrong());
            Ok(Sparsity::Structured { zeros: number(zeros)?, of: number(of)? })
        }
        None => text.parse().map(Sparsity::Fraction).map_err(|_| wrong()),
    }
}

impl Form {
    fn scheme(&self) -> Result<Scheme, String> {
        Ok(match (self.sparsity, self.bits, self.linear) {
            (Some(sparsity), Some(bits), None) => Scheme::PrunePalette { sparsity, bits, group: self.group },
            (Some(sparsity), None, None) => Scheme::Prune(sparsity),
            (None, Some(bits), None) => Scheme::Palette { bits, group: self.group, vector: self.vector.unwrap_or(1) },
            (None, None, Some(bits)) => Scheme::Linear { bits, block: self.block, symmetric: !self.asymmetric },
            _ => return Err("expected --bits, --linear, --sparsity or --average-bits".to_owned()),
        })
    }

    /// The form of a single layer.
    fn layer(&self, text: &str) -> Result<Option<Scheme>, String> {
        let palette = |bits| Scheme::Palette { bits, group: self.group, vector: self.vector.unwrap_or(1) };
        let linear = |bits| Scheme::Linear { bits, block: self.block, symmetric: !self.asymmetric };
        match text {
            "none" => Ok(None),
            "int8" => Ok(Some(linear(8))),
            "int4" => Ok(Some(linear(4))),
            bits => bits
                .parse()
                .map(|bits| Some(palette(bits)))
                .map_err(|_| format!("`{text}`: expected none, int8, int4 or bits")),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let form = &arguments.form;
    let average = arguments.by_data.average_bits;
    let scheme = match average {
        // Every weight gets a form of its own.
        Some(_) => Scheme::Palette { bits: 8, group: form.group, vector: 1 },
        None => form.scheme()?,
    };
    let mut options = Options::new(scheme);
    options.smallest = arguments.smallest;
    for (part, text) in &arguments.layer {
        options.layers.push((part.clone(), form.layer(text)?));
    }
    if let Some(path) = &arguments.importance {
        let limits = candle_coreml::tensors::Limits::default();
        for (name, tensor) in candle_coreml::tensors::read(path, &limits)? {
            let numbers = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
            options.importance.insert(name, numbers);
        }
    }
    let measured = average.map(|bits| sensitivity::set(&arguments, &mut options, bits)).transpose()?;
    let report = candle_coreml::compress::compress(&Model::open(&arguments.model)?, &options, &arguments.out)?;
    if arguments.json {
        let mut value = serde_json::to_value(&report)?;
        if let Some((measured, _)) = &measured {
            value["sensitivity"] = serde_json::to_value(measured)?;
        }
        return crate::write::text(&format!("{value}\n"));
    }
    let table = measured.filter(|_| arguments.report).map(|(m, chosen)| sensitivity::show(&m, &chosen));
    crate::write::text(&(table.unwrap_or_default() + &show(&report, arguments.report)))
}

/// A form in a few letters.
fn name(scheme: Scheme) -> String {
    match scheme {
        Scheme::Palette { bits, .. } => format!("{bits} bits"),
        Scheme::Linear { bits, .. } => format!("int{bits}"),
        Scheme::Prune(_) => "sparse".to_owned(),
        Scheme::PrunePalette { bits, .. } => format!("sparse {bits} bits"),
    }
}

fn show(report: &Report, layers: bool) -> String {
    let mut text = String::new();
    if layers {
        let width = report.layers.iter().map(|l| l.name.chars().count()).max().unwrap_or(0);
        text +=
            &format!("{:width$}  {:>9}  {:>9}  {:>9}  {:>9}  form\n", "weight", "before", "after", "error", "largest");
        for l in &report.layers {
            let (before, after) = (format::bytes(l.before), format::bytes(l.after));
            // Root of the relative squared error, in percent.
            let error = 100.0 * l.relative_error.sqrt();
            text += &format!(
                "{:width$}  {before:>9}  {after:>9}  {error:>8.2}%  {:>9.2e}  {}\n",
                l.name,
                l.largest_error,
                name(l.scheme)
            );
        }
    }
    if !report.skipped.is_empty() {
        text += &format!("left as they are, by their shape: {}\n", report.skipped.join(", "));
    }
    let (before, after) = (format::bytes(report.before), format::bytes(report.after));
    text + &format!("{} weights compressed: {before} before, {after} after\n", report.layers.len())
}

/// `candle-coreml decompress`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  candle-coreml decompress small.mlpackage --out dense.mlpackage")]
pub(crate) struct Decompress {
    /// The model: an ML Program.
    model: PathBuf,
    /// The new package.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

pub(crate) fn decompress(arguments: Decompress) -> CommandResult {
    let (before, after) = edit::decompress(&Model::open(&arguments.model)?, &arguments.out)?;
    out!("{} before, {} after, in {}", format::bytes(before), format::bytes(after), arguments.out.display())?;
    Ok(())
}
