//! A Core ML language model in a training loop: it scores answers by log-probability, and it teaches a model whose
//! parameters Candle trains. Core ML's own weights are constant; gradients belong to Candle.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example student
//! cargo run --release -p candle-coreml --example student -- --save student.mlpackage
//! ```
//!
//! With `--save` the trained model becomes an ML Program, which Core ML and this crate load.

use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Tensor, Var};
use candle_coreml::anemll::Pipeline;
use candle_coreml::description::DimRange;
use candle_coreml::format::{dtype::DataType, program::Opset};
use candle_coreml::generation::{Message, Tokenizer};
use candle_coreml::write::{self, Extents, FunctionBuilder, PackageBuilder};
use candle_coreml::{CoreMLModel, CoreMLModelWrapper, Error, Result};
use clap::Parser;

/// Use a Core ML language model in a training loop.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// Number of optimiser steps.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Learning rate.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Write the trained model to this package.
    #[arg(long, value_name = "PATH")]
    save: Option<PathBuf>,
}

/// Questions with a correct and a wrong answer.
const PAIRS: [(&str, &str, &str); 3] = [
    ("What is the capital of Japan?", "Tokyo", "Oslo"),
    ("2 + 2 =", "4", "7"),
    ("Spell \"cat\" backwards.", "tac", "dog"),
];

/// Log softmax over the vocabulary.
fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// A batch of sequences: ids `[batch, longest]`, zero-padded, with the length of every prompt and sequence.
struct Batch {
    ids: Tensor,
    ends: Vec<(usize, usize)>,
}

impl Batch {
    fn new(tokenizer: &Tokenizer, rows: &[(&str, &str)]) -> Result<Self> {
        let mut all = Vec::new();
        for (question, answer) in rows {
            let prompt = match tokenizer.chat_template() {
                Some(template) => template.render(&[Message::user(*question)], None)?,
                None => format!("{question} "),
            };
            let mut ids = tokenizer.encode(&prompt)?;
            let end = ids.len();
            ids.extend(tokenizer.encode(answer)?);
            all.push((ids, end));
        }
        let longest = all.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let ends = all.iter().map(|(ids, end)| (*end, ids.len())).collect();
        let padded = all.into_iter().flat_map(|(mut ids, _)| {
            ids.resize(longest, 0);
            ids
        });
        Ok(Self { ids: Tensor::from_iter(padded, &Device::Cpu)?.reshape((rows.len(), longest))?, ends })
    }

    /// Log-probability of each answer given its prompt, `[batch]`.
    fn scores(&self, model: &CoreMLModelWrapper) -> Result<Vec<f32>> {
        let logarithms = log_softmax(&model.forward(&self.ids)?)?;
        // Row i predicts token i + 1.
        let length = self.ids.dim(1)?;
        let next = self.ids.narrow(1, 1, length - 1)?.contiguous()?.unsqueeze(2)?;
        let chosen =
            logarithms.narrow(1, 0, length - 1)?.contiguous()?.gather(&next, 2)?.squeeze(2)?.to_vec2::<f32>()?;
        Ok(chosen.iter().zip(&self.ends).map(|(row, &(from, to))| row[from - 1..to - 1].iter().sum()).collect())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tokenizer = Tokenizer::load(&args.model)?;
    let sizes = Pipeline::load(&args.model)?.dimensions();
    let model = CoreMLModelWrapper::load(&args.model, sizes.vocab, sizes.context)?;

    // As a reward: the correct answer should be more likely than the wrong one.
    let rows: Vec<(&str, &str)> = PAIRS.iter().flat_map(|&(q, right, wrong)| [(q, right), (q, wrong)]).collect();
    let batch = Batch::new(&tokenizer, &rows)?;
    let scores = batch.scores(&model)?;
    for ((question, right, wrong), score) in PAIRS.iter().zip(scores.chunks(2)) {
        println!("{question:<32} log p({right}) = {:7.2}   log p({wrong}) = {:7.2}", score[0], score[1]);
    }
    let table = distil(&model, &batch.ids, sizes.vocab, &args)?;
    let Some(path) = &args.save else { return Ok(()) };
    save(&table, sizes.context, path)?;
    let saved = CoreMLModel::builder(path).load()?;
    let ids = batch.ids.narrow(0, 0, 1)?.to_dtype(DType::I32)?;
    let logits = saved.forward_all(&[&ids])?["logits"].to_dtype(DType::F32)?;
    let expected = table.index_select(&ids.flatten_all()?.to_dtype(DType::U32)?, 0)?.reshape(logits.shape())?;
    let worst = (logits - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("{}: at most {worst:.4} from the trained model", path.display());
    Ok(())
}

/// The trained model as an ML Program: `ids` `[1, 1..=context]` to `logits` `[1, tokens, vocab]`.
fn save(table: &Tensor, context: usize, path: &Path) -> Result<()> {
    let mut package = PackageBuilder::create(path)?;
    let table = write::weight(&mut package, table, DType::F16)?;
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let ranges = vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 1, max: Some(context) }];
    let ids = f.input("ids", DataType::I32, Extents::Ranges(ranges, vec![1, 1]))?;
    let table = f.constant("table", table)?;
    let logits = f.op("gather").arg("x", &table).arg("indices", &ids).arg("axis", 0).done()?;
    f.output("logits", &logits)?;
    package.add("main", f)?;
    Ok(package.finish()?)
}

/// As a teacher: one logits row per token, trained by gradient descent to match the teacher's predictions.
///
/// The loss is the cross entropy with the teacher's distribution, averaged over all positions. Returns the trained
/// table `[vocab, vocab]`.
fn distil(teacher: &CoreMLModelWrapper, ids: &Tensor, vocab: usize, args: &Args) -> Result<Tensor> {
    // The teacher is constant: compute its distributions `[tokens, vocab]` once.
    let goal = log_softmax(&teacher.forward(ids)?)?.exp()?.reshape(((), vocab))?.detach();
    let tokens = ids.flatten_all()?;
    let table = Var::zeros((vocab, vocab), DType::F32, &Device::Cpu)?;
    for step in 0..=args.steps {
        let predicted = log_softmax(&table.index_select(&tokens, 0)?)?;
        let loss = (&goal * predicted)?.sum(D::Minus1)?.mean_all()?.neg()?;
        if step % 5 == 0 || step == args.steps {
            println!("step {step:>3}: loss {:.4}", loss.to_scalar::<f32>()?);
        }
        let gradients = loss.backward()?;
        let gradient =
            gradients.get(&table).ok_or_else(|| Error::Request("the loss does not depend on the table".to_owned()))?;
        table.set(&(table.as_tensor() - (gradient * args.rate)?)?)?;
    }
    Ok(table.as_detached_tensor())
}
