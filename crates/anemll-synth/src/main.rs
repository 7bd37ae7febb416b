//! `anemll-synth --out DIR [--lut 6]`: writes a benchmark model.

use std::path::PathBuf;

use clap::Parser;

/// Write a model in ANEMLL's layout with random weights; the defaults are Qwen3-0.6B's dimensions.
#[derive(Parser)]
struct Arguments {
    /// Folder to write to; must not contain a model yet.
    #[arg(long)]
    out: PathBuf,
    /// Index bits of the lookup tables: 4, 6 or 8; without it, weights are fp16.
    #[arg(long)]
    lut: Option<u32>,
    /// Context length.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Tokens per prefill call.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Number of transformer layers.
    #[arg(long, default_value_t = 28)]
    layers: usize,
}

fn main() -> std::io::Result<()> {
    let a = Arguments::parse();
    let dimensions = anemll_synth::Dimensions {
        lut: a.lut,
        context: a.context,
        batch: a.batch,
        layers: a.layers,
        ..anemll_synth::Dimensions::qwen3_0_6b()
    };
    anemll_synth::write(&a.out, &dimensions)
}
