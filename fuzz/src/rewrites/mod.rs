//! Fuzz target `rewrites`: builds a program around the pattern of a rewrite and runs it with all rewrites, with none,
//! with each alone and with each disabled. Panics with the program if the results differ.
//!
//! Programs are consistent with their declared types; those the engine rejects without rewrites are skipped. Those it
//! runs without rewrites must also run with them.
//!
//! **Tolerance.** Floats are computed in f32 whatever the declared type, so a rewrite changes only the order of sums,
//! the approximation of a function, and (fp16) their effect on the final rounding of a result or state. Inputs and
//! weights are eighths of at most 2, whose short products are exact in f32; sums have at most a few hundred terms. In
//! fp32, 2⁻¹⁶ of relative and absolute error therefore covers hundreds of roundings; 2⁻⁸ in fp16 is four units in the
//! last place. NaN equals NaN and an infinity equals itself: rewrites preserve them wherever these patterns produce
//! them (fully masked rows, special values in activations and gates).
//!
//! `coreml-engine`'s tests replay the corpus and run random programs with the same functions.

use candle_core::{DType, Device, Tensor};
use coreml_engine::passes::{ALL, PassSet};
use coreml_engine::{EngineError, Executable, FeatureValue, Limits, Options, State};
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::program::{Function, Program, ValueType};
use coreml_format::verify::verify;

use bytes::Bytes;
use made::Made;
use maker::{Data, Input, Maker};
use patterns::Pattern;

mod attention;
mod bytes;
mod made;
mod maker;
mod patterns;
mod products;
mod rows;
mod weights;

const PATTERNS: [Pattern; 12] = [
    patterns::rotary,
    patterns::softmax,
    patterns::rms_norm,
    patterns::gate,
    patterns::hard_swish,
    products::finish,
    products::shared_input,
    patterns::permute,
    attention::attend,
    attention::cached,
    attention::states,
    rows::rows,
];

/// Number of consecutive predictions with the same states.
const RUNS: usize = 3;

/// Outcome counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Programs that ran.
    pub ran: usize,
    /// Choices that yield no program, and programs that the engine rejects without rewrites.
    pub refused: usize,
    /// Programs changed by each rewrite, with all rewrites and alone.
    pub changed: Vec<(&'static str, [usize; 2])>,
    /// Programs whose batch dimension was opened.
    pub opened: usize,
}

/// Runs the program built from these bytes.
///
/// # Panics
/// If a rewrite changes a result, or fails on a program that runs without it.
pub fn run(bytes: &[u8], tally: &mut Tally) {
    let Some(made) = make(bytes) else {
        tally.refused += 1;
        return;
    };
    if let Err(e) = verify(&made.program) {
        panic!("the generator makes sound programs: {e}\n{}", mil_text::print(&made.program));
    }
    let wanted = match runs(&made, &PassSet::none(), None) {
        Ok(wanted) => wanted.0,
        Err(e) => {
            tally.refused += 1;
            if std::env::var_os("REWRITES_SHOW").is_some() {
                eprintln!("{}\n{}", causes(&e), mil_text::print(&made.program));
            }
            return;
        }
    };
    tally.ran += 1;
    let source = &made.program.functions["main"];
    count(source, tally);
    let mut seen: Vec<Function> = Vec::new();
    let mut rest = Bytes::new(&made.rest);
    let some = ALL.iter().fold(PassSet::all(), |set, p| if rest.below(2) == 1 { set.without(p.name) } else { set });
    // Each alone first, so that a failure names the rewrite.
    let alone = ALL.iter().map(|p| (format!("only `{}`", p.name), PassSet::only(p.name)));
    let without = ALL.iter().map(|p| (format!("all but `{}`", p.name), PassSet::all().without(p.name)));
    let sets = alone.chain([("all".to_owned(), PassSet::all())]).chain(without).chain([("some".to_owned(), some)]);
    for (name, set) in sets {
        let mut function = source.clone();
        set.run(&mut function);
        if function == *source || seen.contains(&function) {
            continue;
        }
        seen.push(function.clone());
        let shown = || {
            let mut rewritten = Program::default();
            rewritten.functions.insert("main".to_owned(), function.clone());
            format!("{name} of\n{}\nwhich became\n{}", mil_text::print(&made.program), mil_text::print(&rewritten))
        };
        match runs(&made, &set, None) {
            Ok((found, _)) => compare(&wanted, &found, tolerance(&made), &shown),
            Err(e) => panic!("{}: {}", causes(&e), shown()),
        }
    }
    open(&made, &wanted, tally);
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn make(bytes: &[u8]) -> Option<Made> {
    let mut maker = Maker::new(bytes);
    let patterns = 1 + usize::from(maker.bytes.rare(3));
    for _ in 0..patterns {
        PATTERNS[maker.bytes.below(PATTERNS.len())](&mut maker)?;
    }
    Some(maker.finish())
}

/// Counts the rewrites that change the program.
fn count(source: &Function, tally: &mut Tally) {
    if tally.changed.is_empty() {
        tally.changed = ALL.iter().map(|p| (p.name, [0; 2])).collect();
    }
    let mut function = source.clone();
    for (pass, (_, counts)) in ALL.iter().zip(&mut tally.changed) {
        counts[0] += usize::from((pass.run)(&mut function) > 0);
        counts[1] += usize::from((pass.run)(&mut source.clone()) > 0);
    }
}

/// Results of consecutive predictions: outputs and state contents of each.
type Results = Vec<Vec<(String, Tensor)>>;

/// Runs predictions with the same states and all rows or fewer; also returns true if the batch was open.
fn runs(
    made: &Made,
    passes: &PassSet,
    rows: Option<(&[(String, usize)], usize)>,
) -> Result<(Results, bool), EngineError> {
    let limits = Limits { rounds: 1 << 8, memory: 1 << 28, ..Limits::default() };
    let open = rows.map_or_else(Vec::new, |(rows, _)| rows.to_vec());
    let options = Options { passes: passes.clone(), limits, rows: open, ..Options::default() };
    let executable = Executable::load(&made.program, &weights::files(), "main", &options)?;
    let opened = !executable.open_rows().is_empty();
    let mut state = executable.new_state()?;
    let mut results = Vec::new();
    if rows.is_some() && !opened {
        return Ok((results, false));
    }
    for run in 0..if made.program.functions["main"].inputs.len() > made.inputs.len() { RUNS } else { 1 } {
        let inputs = made.inputs.iter().map(|input| {
            let mut tensor = fed(input, run);
            if let Some((rows, count)) = rows
                && let Some((_, axis)) = rows.iter().find(|(name, _)| *name == input.name)
            {
                tensor = tensor.narrow(*axis, 0, count).expect("some of the rows");
            }
            (input.name.as_str(), tensor)
        });
        let inputs: Vec<(&str, Tensor)> = inputs.collect();
        results.push(predict(&executable, &inputs, &mut state)?);
    }
    Ok((results, opened))
}

fn predict(
    executable: &Executable,
    inputs: &[(&str, Tensor)],
    state: &mut State,
) -> Result<Vec<(String, Tensor)>, EngineError> {
    let outputs = executable.predict(inputs, Some(state))?;
    let float = |t: &Tensor| t.to_dtype(DType::F32).expect("floats");
    let mut all: Vec<(String, Tensor)> = outputs
        .iter()
        .filter_map(|(name, output)| match output {
            FeatureValue::Tensor(t) => Some((name.clone(), float(t))),
            _ => None,
        })
        .collect();
    all.extend(state.buffers().iter().map(|b| (b.spec().name.clone(), float(b.tensor()).copy().expect("a copy"))));
    Ok(all)
}

/// Data of an input in a run: numbers vary between runs, positions do not.
fn fed(input: &Input, run: usize) -> Tensor {
    let tensor = match &input.data {
        Data::Floats(data) => {
            let other = |(i, &v): (usize, &f32)| if v.abs() <= 2.0 && (i + run) % 3 == 1 && run > 0 { -v } else { v };
            Tensor::from_vec(data.iter().enumerate().map(other).collect(), input.shape.as_slice(), &Device::Cpu)
        }
        Data::Ints(data) => Tensor::from_vec(data.clone(), input.shape.as_slice(), &Device::Cpu),
    };
    tensor.expect("an input")
}

fn tolerance(made: &Made) -> f32 {
    let half = |ty: &ValueType| ty.tensor().is_some_and(|t| t.dtype == DataType::F16);
    let function = &made.program.functions["main"];
    let results = function.block.operations.iter().flat_map(|op| &op.outputs);
    let any = function.inputs.iter().chain(results).any(|named| half(&named.ty));
    if any { 1.0 / 256.0 } else { 1.0 / 65536.0 }
}

fn elements(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("elements")
}

fn compare(wanted: &Results, found: &Results, tolerance: f32, shown: &dyn Fn() -> String) {
    for (run, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        assert_eq!(wanted.len(), found.len(), "results of {}", shown());
        for ((name, wanted), (other, found)) in wanted.iter().zip(found) {
            assert_eq!((name, wanted.dims()), (other, found.dims()), "{}", shown());
            for (i, (w, f)) in elements(wanted).into_iter().zip(elements(found)).enumerate() {
                let same = w == f || (w.is_nan() && f.is_nan()) || (w - f).abs() <= tolerance * (1.0 + w.abs());
                assert!(same, "run {run}, `{name}` at {i}: {w} without rewrites, {f} with {}", shown());
            }
        }
    }
}

/// Opens the batch dimension where the program names it, or wherever extents match.
fn open(made: &Made, wanted: &Results, tally: &mut Tally) {
    let extent = |(name, axis): &(String, usize)| made.inputs.iter().find(|i| i.name == *name).map(|i| i.shape[*axis]);
    let rows = if made.rows.is_empty() {
        let extents = made.inputs.iter().flat_map(|i| &i.shape).copied().filter(|&n| n > 1);
        let Some(count) = extents.min() else { return };
        let place = |i: &Input| Some((i.name.clone(), i.shape.iter().position(|&n| n == count)?));
        made.inputs.iter().filter_map(place).collect()
    } else {
        made.rows.clone()
    };
    let Some(count) = rows.first().and_then(extent) else { return };
    let stateful = made.program.functions["main"].inputs.len() > made.inputs.len();
    // State contents beyond the given rows are not compared.
    let fewer = if stateful { count } else { 1 };
    for (passes, name) in [(PassSet::none(), "none"), (PassSet::all(), "all")] {
        for n in (fewer..=count).rev() {
            let shown = || format!("{n} of rows {rows:?}, {name} of {}", mil_text::print(&made.program));
            let (found, opened) = match runs(made, &passes, Some((&rows, n))) {
                Ok(found) => found,
                Err(e) => panic!("{}: {}", causes(&e), shown()),
            };
            if !opened {
                break;
            }
            tally.opened += usize::from(n == count);
            let first = |(wanted, found): (&(String, Tensor), &(String, Tensor))| {
                let axis = (0..wanted.1.rank()).find(|&d| Some(&wanted.1.dims()[d]) != found.1.dims().get(d));
                let part = axis.map(|d| wanted.1.narrow(d, 0, n).expect("some of the rows"));
                (wanted.0.clone(), part.unwrap_or_else(|| wanted.1.clone()))
            };
            let wanted: Results =
                wanted.iter().zip(&found).map(|(w, f)| w.iter().zip(f).map(first).collect()).collect();
            compare(&wanted, &found, tolerance(made), &shown);
        }
    }
}
