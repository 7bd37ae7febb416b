//! Programs that would run or grow without end: the limits of a prediction, its cancellation, and work in proportion to
//! the program.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coreml_format::mil_text;
use coreml_format::verify::verify;
use mil_engine::{Executable, Limits, Options};

use crate::cases::model;

fn load(body: &str, limits: Limits) -> Result<Executable, String> {
    let text = format!("program(1.3) {{ func main<ios17>() {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).map_err(|e| e.to_string())?;
    verify(&program).map_err(|e| e.to_string())?;
    Executable::load(&model(program), None, &Options { limits, ..Options::default() }).map_err(|e| e.to_string())
}

/// What is wrong with a prediction, causes included.
fn failure(executable: &Executable) -> String {
    let mut error: Option<&dyn std::error::Error> = Some(&executable.predict(&[], None).expect_err("it fails"));
    let mut message = String::new();
    while let Some(e) = error {
        message += &format!("{e}; ");
        error = e.source();
    }
    message
}

/// A loop that goes on forever, with this in its body.
fn forever(name: &str, body: &str) -> String {
    format!(
        "int32 {name} = while_loop(loop_vars = int32(0)) \
         (int32 {name}_c) {{ bool {name}_t = const()[val = bool(true)]; }} -> ({name}_t) \
         (int32 {name}_b) {{ {body} }} -> ({name}_b);"
    )
}

#[test]
fn endless_loops_end_after_the_rounds_that_all_loops_share() {
    let limits = Limits { rounds: 1000, ..Limits::default() };
    // Alone each of these stays within the limit; the outer one has 40 rounds of 30.
    let inner = "int32 i = while_loop(loop_vars = int32(0)) \
                 (int32 ic) { bool it = less(x = ic, y = int32(30)); } -> (it) \
                 (int32 ib) { int32 next = add(x = ib, y = int32(1)); } -> (next);";
    let outer = |rounds: usize| {
        format!(
            "int32 y = while_loop(loop_vars = int32(0)) \
             (int32 c) {{ bool t = less(x = c, y = int32({rounds})); }} -> (t) \
             (int32 b) {{ {inner} int32 after = add(x = b, y = int32(1)); }} -> (after);"
        )
    };
    for body in [forever("y", ""), outer(40)] {
        let message = failure(&load(&body, limits).expect("it loads"));
        assert!(message.contains("1000 rounds") && message.contains("while_loop"), "{message}");
    }
    assert!(load(&outer(20), limits).expect("it loads").predict(&[], None).is_ok());
}

#[test]
fn a_loop_can_be_cancelled() {
    let executable = load(&forever("y", "int32 n = add(x = y_b, y = int32(1));"), Limits::default()).expect("it loads");
    let flag = executable.cancel_flag();
    std::thread::scope(|s| {
        let run = s.spawn(|| failure(&executable));
        std::thread::sleep(Duration::from_millis(50));
        flag.store(true, Ordering::Relaxed);
        let message = run.join().expect("no panic");
        assert!(message.contains("cancelled"), "{message}");
    });
}

#[test]
fn values_that_are_kept_count_together_and_views_count_once() {
    let limits = Limits { memory: 1 << 22, ..Limits::default() };
    // Each a quarter of the limit, larger than what is folded when the model is loaded.
    let big =
        |n: &str| format!("tensor<fp32, [262145]> {n} = fill(shape = tensor<int32, [1]>([262145]), value = fp32(1));");
    let sum = |names: &[&str]| {
        let values = names.join(", ");
        format!("tensor<fp32, [?]> y = concat(values = ({values}), axis = int32(0), interleave = bool(false));")
    };
    let within = |body: String| load(&body, limits).expect("it loads").predict(&[], None);
    let views: String = (0..8)
        .map(|i| format!("tensor<fp32, [?]> v{i} = slice_by_index(x = a, begin = tensor<int32, [1]>([{i}]), end = tensor<int32, [1]>([262145]));"))
        .collect();
    let two: String = (0..8).map(|i| format!("fp32 m{i} = reduce_max(x = v{i}, keep_dims = bool(false));")).collect();
    let shapes: Vec<String> = (0..8).map(|i| format!("m{i}")).collect();
    let shapes: Vec<&str> = shapes.iter().map(String::as_str).collect();
    assert!(within(format!("{}{views}{two}{}", big("a"), sum(&shapes))).is_ok());
    let five = ["a", "b", "c", "d", "e"];
    let body = format!("{}{}", five.map(big).concat(), sum(&five));
    let message = failure(&load(&body, limits).expect("it loads"));
    assert!(message.contains("the limit is 4194304"), "{message}");
    // A list keeps what is written to it.
    let grow = format!(
        "list<tensor<fp32, [?]>, ?> ls = make_list(init_length = int32(1), elem_shape = tensor<int32, [1]>([1]), dtype = string(\"fp32\")); \
         int32 y, list<tensor<fp32, [?]>, ?> all = while_loop(loop_vars = (int32(0), ls)) \
         (int32 c, list<tensor<fp32, [?]>, ?> cl) {{ bool t = less(x = c, y = int32(100)); }} -> (t) \
         (int32 i, list<tensor<fp32, [?]>, ?> l) {{ {} list<tensor<fp32, [?]>, ?> w = list_write(ls = l, index = i, value = big); \
         int32 n = add(x = i, y = int32(1)); }} -> (n, w);",
        big("big")
    );
    let message = failure(&load(&grow, limits).expect("it loads"));
    assert!(message.contains("the limit is 4194304"), "{message}");
}

#[test]
fn parameters_that_ask_for_too_much_are_refused_before_anything_is_made() {
    let x = "tensor<fp32, [2]> x = fill(shape = tensor<int32, [1]>([2]), value = fp32(1));";
    for body in [
        "tensor<fp32, [?, ?]> y = fill(shape = tensor<int32, [2]>([100000, 100000]), value = fp32(1));".to_owned(),
        // No elements, but an extent that what follows would walk along.
        "tensor<fp32, [?, ?]> y = fill(shape = tensor<int64, [2]>([1099511627776, 0]), value = fp32(1));".to_owned(),
        format!("{x} tensor<fp32, [?]> y = tile(x = x, reps = tensor<int32, [1]>([2147483647]));"),
        format!("{x} tensor<fp32, [?]> y = pad(x = x, pad = tensor<int32, [2]>([2147483647, 2147483647]), mode = string(\"constant\"));"),
        format!("{x} tensor<fp32, [?, ?]> y = one_hot(indices = tensor<int32, [2]>([0, 1]), one_hot_vector_size = int32(2147483647));"),
        "tensor<int32, [?]> y = range_1d(start = int32(-2147483648), end = int32(2147483647), step = int32(1));".to_owned(),
        format!("{x} tensor<fp32, [?]> y = split(x = x, axis = int32(0), num_splits = int32(2147483647));"),
        "tensor<fp32, [?]> y = random_uniform(shape = tensor<int32, [2]>([2147483647, 2]), low = fp32(0), high = fp32(1), seed = int32(1));".to_owned(),
        // As many positions as indices times the elements of a slice; the updates are few.
        "tensor<fp32, [?, ?]> z = fill(shape = tensor<int32, [2]>([4, 65536]), value = fp32(0)); \
         tensor<int32, [?]> i = fill(shape = tensor<int32, [1]>([131072]), value = int32(1)); \
         tensor<fp32, [?, ?]> y = scatter(data = z, indices = i, updates = tensor<fp32, [1]>([1]), axis = int32(0));"
            .to_owned(),
    ] {
        let started = Instant::now();
        let failed = match load(&body, Limits::default()) {
            Err(message) => message,
            Ok(executable) => failure(&executable),
        };
        assert!(!failed.is_empty() && started.elapsed() < Duration::from_secs(2), "{body}: {failed}");
    }
}

/// Blocks without end one beside the other: planning must not look at all names anew for each.
#[test]
fn many_blocks_and_many_names_are_planned_in_time() {
    const N: usize = 20_000;
    let consts: String = (0..N).map(|i| format!("int32 k{i} = const()[val = int32({i})];\n")).collect();
    let conds: String = (0..N)
        .map(|i| format!("int32 c{i} = cond(pred = bool(true)) {{ int32 s = const()[val = int32(1)]; }} -> (k{i}) {{ }} -> (k0);\n"))
        .collect();
    let started = Instant::now();
    let executable =
        load(&format!("{consts}{conds} int32 y = identity(x = c7);"), Limits::default()).expect("it loads");
    assert!(executable.predict(&[], None).is_ok());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Constants that are small in the file and large in memory are not all kept.
#[test]
fn folded_results_are_kept_up_to_a_limit() {
    let text: String = (0..200)
        .map(|i| format!("tensor<fp32, [262144]> f{i} = fill(shape = tensor<int32, [1]>([262144]), value = fp32({i})); fp32 m{i} = reduce_max(x = f{i}, keep_dims = bool(false));\n"))
        .collect();
    let all: Vec<String> = (0..200).map(|i| format!("m{i}")).collect();
    let join = format!("tensor<fp32, [200]> y = concat(values = ({}), axis = int32(0));", all.join(", "));
    let executable = load(&format!("{text}{join}"), Limits::default());
    let executable = executable.expect("it loads");
    assert!(executable.places().iter().any(|p| p.kind == "fill"), "some are computed in the prediction");
    assert!(executable.predict(&[], None).is_ok());
}
