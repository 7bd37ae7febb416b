//! Runs every operation of the table under small memory limits with a counting allocator: each allocation that grows
//! with operands or results must have been claimed, or the prediction is refused.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use coreml_engine::backend::Backend;
use coreml_engine::{Executable, Limits, Options};
use coreml_format::mil_text;
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

mod rows;

/// The system allocator with a count of allocated bytes.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is forwarded unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        add(size);
        // SAFETY: guaranteed by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Serialises the tests, which share the count.
static COUNT: Mutex<()> = Mutex::new(());

/// Peak of bytes allocated by `f` in addition to those before, and its result. Includes probes of larger allocations,
/// which take an eighth more.
fn peak<R>(f: impl FnOnce() -> R) -> (usize, R) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = f();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), result)
}

/// Allowance for memory other than tensors, and small tensors: shapes, names, tasks.
const SLACK: usize = 1 << 18;

/// Operand extents of a row.
#[derive(Clone, Copy)]
pub(crate) struct Extents {
    /// Number of planes, and rows and columns of each.
    pub(crate) a: usize,
    pub(crate) h: usize,
}

impl Extents {
    fn count(self) -> usize {
        self.a * self.h * self.h
    }

    /// Side of a square matrix with as many elements.
    fn side(self) -> usize {
        self.count().isqrt()
    }

    /// Substitutes extents for `$A`, `$H`, `$M` (a side), `$N` (all elements) and some multiples.
    fn fill(self, text: &str) -> String {
        let Self { a, h } = self;
        let n = self.count();
        let all = [
            ("$2H", 2 * h),
            ("$A4", a / 4),
            ("$H1", h - 1),
            ("$H2", h / 2),
            ("$NH", n / h),
            ("$N4", n / 4),
            ("$N2", n / 2),
            ("$A", a),
            ("$H", h),
            ("$M", self.side()),
            ("$N", n),
        ];
        all.iter().fold(text.to_owned(), |text, (name, n)| text.replace(name, &n.to_string()))
    }
}

/// An operand: parameter name, type and shape.
const OPERANDS: &[(&str, &str, &str)] = &[
    ("x", "fp32", "$A, $H, $H"),
    ("im", "fp32", "1, $A, $H, $H"),
    ("ib", "fp32", "4, $A4, $H, $H"),
    ("i", "int32", "$A, $H, $H"),
    ("q8", "int8", "$A, $H, $H"),
    ("b", "bool", "$A, $H, $H"),
    ("v", "fp32", "$N"),
    ("iv", "int32", "$N"),
    ("m", "fp32", "$M, $M"),
    ("im2", "int32", "$M, $M"),
    ("left", "fp32", "$M, 1"),
    ("right", "fp32", "1, $M"),
    ("s", "fp32", "4"),
    ("one", "fp32", "1, 1, 1"),
    ("pixel", "fp32", "1, 1, 1, 1"),
    ("ch", "fp32", "$H"),
    ("ca", "fp32", "$A"),
    ("hv", "int32", "$H"),
    ("av", "int32", "$A"),
    ("nd", "int32", "$A, 1"),
    ("nd3", "int32", "$N4, 3"),
    ("bm", "bool", "$H, $H"),
    ("boxes", "fp32", "1, $N4, 4"),
    ("scores", "fp32", "1, $N4, 2"),
    ("rois", "fp32", "8, 4"),
    ("which", "int32", "8"),
    ("grid", "fp32", "1, $M, $M, 2"),
    ("six", "fp32", "1, 6"),
    ("kernel", "fp32", "8, $A, 3, 3"),
    ("back", "fp32", "$A, 8, 3, 3"),
    ("hidden", "fp32", "$H, 8"),
    ("wide", "fp32", "$H, 16"),
    ("w1", "fp32", "8, $H"),
    ("r1", "fp32", "8, 8"),
    ("w3", "fp32", "24, $H"),
    ("r3", "fp32", "24, 8"),
    ("w4", "fp32", "32, $H"),
    ("r4", "fp32", "32, 8"),
];

/// The program of a row with the operands it uses.
fn program(body: &str, extents: Extents) -> (String, Vec<(&'static str, &'static str, Vec<usize>)>) {
    let words: HashSet<&str> = body.split(|c: char| !c.is_alphanumeric()).collect();
    let mut inputs = Vec::new();
    let mut declared = Vec::new();
    for &(name, dtype, shape) in OPERANDS.iter().filter(|(name, ..)| words.contains(name)) {
        let shape = extents.fill(shape);
        declared.push(format!("tensor<{dtype}, [{shape}]> {name}"));
        let dims = shape.split(", ").map(|n| n.parse().expect("an extent")).collect();
        inputs.push((name, dtype, dims));
    }
    if words.contains("st") {
        declared.push(extents.fill("state<tensor<fp16, [$A, $H, $H]>> st"));
    }
    let (opset, body) = body.split_once(": ").filter(|(opset, _)| opset.len() == 5).unwrap_or(("ios18", body));
    let body = extents.fill(body);
    (format!("program(1.3) {{ func main<{opset}>({}) {{ {body} }} -> (y); }}", declared.join(", ")), inputs)
}

/// Outcome of a row.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Result,
    Refused,
}

/// Runs a row; fails on errors other than limits.
fn run(body: &str, extents: Extents, memory: usize, operand: impl Fn(&str, &[usize]) -> Tensor) -> (End, usize) {
    let (text, inputs) = program(body, extents);
    let program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify(&program).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let limits = Limits { memory, ..Limits::default() };
    let given: Vec<(&str, Tensor)> = inputs.iter().map(|(name, dtype, dims)| (*name, operand(dtype, dims))).collect();
    let refused = |error: &dyn std::error::Error| {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(e) = cause {
            message += &format!("; {e}");
            cause = e.source();
        }
        let by_limit = ["the limit is", "exceeds the limit"].iter().any(|part| message.contains(part));
        assert!(by_limit, "{message}\n{text}");
        End::Refused
    };
    let options = Options { limits, internal_ops: true, ..Options::default() };
    // Loading, states and predictions are each below the limit.
    let (loading, executable) =
        peak(|| Executable::load(&program, &Weights::default(), "main", &options).map_err(|e| refused(&e)));
    let executable = match executable {
        Ok(executable) => executable,
        Err(end) => return (end, loading),
    };
    let (states, state) = peak(|| executable.new_state().map_err(|e| refused(&e)));
    let mut state = match state {
        Ok(state) => state,
        Err(end) => return (end, loading.max(states)),
    };
    let (predicting, end) = peak(|| match executable.predict(&given, Some(&mut state)) {
        Ok(_) => End::Result,
        Err(e) => refused(&e),
    });
    (end, loading.max(states).max(predicting))
}

fn dtype(name: &str) -> DType {
    match name {
        "fp32" => DType::F32,
        "bool" => DType::U8,
        _ => DType::I64,
    }
}

/// A view of a single element, in any shape.
fn view(name: &str, shape: &[usize]) -> Tensor {
    let one = Tensor::zeros((), dtype(name), &Device::Cpu).expect("a scalar");
    one.broadcast_as(shape).expect("a view")
}

/// Distinct elements; indices are in range for all extents.
fn values(name: &str, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let all: Vec<f32> = (0..count).map(|i| (i * 7 % 4) as f32 * if name == "fp32" { 0.25 } else { 1.0 }).collect();
    let t = Tensor::from_vec(all, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype(name))).expect("a tensor");
    if name == "bool" { t.ne(0u8).expect("booleans") } else { t }
}

#[test]
fn operations_of_the_table_are_all_here() {
    let named: BTreeSet<&str> = rows::ROWS.iter().flat_map(|row| row.0.split(' ')).collect();
    let cpu = Backend::cpu();
    let known = cpu.operations().map(|op| op.name);
    let missing: Vec<&str> = known.filter(|op| !named.contains(op) && !rows::ELSEWHERE.contains(op)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Operands of one stored element each that claim 2²⁶: operations must refuse before allocating.
#[test]
fn operands_that_are_large_by_shape_alone_are_refused_or_stay_views() {
    let (extents, memory) = (Extents { a: 64, h: 1024 }, 16 << 20);
    let _count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for &(ops, body, views) in rows::ROWS {
        for op in ops.split(' ') {
            let body = body.replace("$OP", op);
            let (end, peak) = run(&body, extents, memory, view);
            if peak > memory + memory / 8 + SLACK || (end == End::Result) != views {
                wrong.push(format!("{op}: {end:?} with a peak of {peak}: {body}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them\n{}", wrong.len(), wrong.join("\n"));
}

/// Operands of one megabyte under increasing limits from a quarter of it: the peak stays below each limit until one
/// suffices.
#[test]
fn temporaries_and_results_never_exceed_the_limit() {
    let extents = Extents { a: 4, h: 256 };
    let _count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for &(ops, body, _) in rows::ROWS {
        for op in ops.split(' ') {
            let body = body.replace("$OP", op);
            // The first run allocates thread-local buffers.
            let (end, most) = run(&body, extents, 1 << 30, values);
            if end != End::Result {
                wrong.push(format!("{op}: no result: {body}"));
            }
            let mut memory = extents.count();
            loop {
                let (end, peak) = run(&body, extents, memory, values);
                // Inputs count towards the limit but were allocated before.
                if peak > memory + memory / 8 + SLACK {
                    wrong.push(format!("{op}: a peak of {peak} within {memory}: {body}"));
                }
                if end == End::Result {
                    break;
                }
                memory += memory / 3;
            }
            // The limit must not be far above the actual need either.
            if memory > 3 * most + 16 * extents.count() {
                wrong.push(format!("{op}: a peak of {most}, but {memory} needed: {body}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them\n{}", wrong.len(), wrong.join("\n"));
}
