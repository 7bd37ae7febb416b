//! Programs that would run or grow without bound: prediction limits, cancellation, and planning in time proportional to
//! the program.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use coreml_engine::{Executable, Limits, Options};
use coreml_format::mil_text;
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

fn load(body: &str, limits: Limits) -> Result<Executable, String> {
    let text = format!("program(1.3) {{ func main<ios17>() {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).map_err(|e| e.to_string())?;
    verify(&program).map_err(|e| e.to_string())?;
    Executable::load(&program, &Weights::default(), "main", &Options { limits, ..Options::default() })
        .map_err(|e| e.to_string())
}

/// The error of a prediction, with causes.
fn failure(executable: &Executable) -> String {
    let mut error: Option<&dyn std::error::Error> =
        Some(&executable.predict::<Tensor>(&[], None).expect_err("it fails"));
    let mut message = String::new();
    while let Some(e) = error {
        message += &format!("{e}; ");
        error = e.source();
    }
    message
}

/// An infinite loop with this body.
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
    // Each alone stays within the limit; the outer loop has 40 rounds of 30.
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
    assert!(load(&outer(20), limits).expect("it loads").predict::<Tensor>(&[], None).is_ok());
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
    // Each takes a quarter of the limit and is too large to fold.
    let big =
        |n: &str| format!("tensor<fp32, [262145]> {n} = fill(shape = tensor<int32, [1]>([262145]), value = fp32(1));");
    let sum = |names: &[&str]| {
        let values = names.join(", ");
        format!("tensor<fp32, [?]> y = concat(values = ({values}), axis = int32(0), interleave = bool(false));")
    };
    let within = |body: String| load(&body, limits).expect("it loads").predict::<Tensor>(&[], None);
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
    // A list keeps the values written to it.
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
        // No elements, but an extent that later operations would iterate over.
        "tensor<fp32, [?, ?]> y = fill(shape = tensor<int64, [2]>([1099511627776, 0]), value = fp32(1));".to_owned(),
        format!("{x} tensor<fp32, [?]> y = tile(x = x, reps = tensor<int32, [1]>([2147483647]));"),
        format!("{x} tensor<fp32, [?]> y = pad(x = x, pad = tensor<int32, [2]>([2147483647, 2147483647]), mode = string(\"constant\"));"),
        format!("{x} tensor<fp32, [?, ?]> y = one_hot(indices = tensor<int32, [2]>([0, 1]), one_hot_vector_size = int32(2147483647));"),
        "tensor<int32, [?]> y = range_1d(start = int32(-2147483648), end = int32(2147483647), step = int32(1));".to_owned(),
        format!("{x} tensor<fp32, [?]> y = split(x = x, axis = int32(0), num_splits = int32(2147483647));"),
        "tensor<fp32, [?]> y = random_uniform(shape = tensor<int32, [2]>([2147483647, 2]), low = fp32(0), high = fp32(1), seed = int32(1));".to_owned(),
        // Number of positions is indices times slice elements; there are few updates.
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

/// A fill of this shape, as a variable.
fn filled(name: &str, shape: &[usize]) -> String {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    let (rank, extents) = (shape.len(), extents.join(", "));
    let ty = format!("tensor<fp32, [{extents}]>");
    format!("{ty} {name} = fill(shape = tensor<int32, [{rank}]>([{extents}]), value = fp32(1));")
}

/// Programs with few elements that request gigabytes: for results, and for intermediate positions, patches and copies.
#[test]
fn what_a_program_asks_for_is_refused_before_it_is_allocated() {
    const HUGE: usize = 1 << 30;
    let limits = Limits { memory: 1 << 24, ..Limits::default() };
    let doubled = |first: &str| {
        let step = |i: usize| {
            let before = if i == 0 { first.to_owned() } else { format!("c{}", i - 1) };
            format!(
                "tensor<fp32, [?]> c{i} = concat(values = ({before}, {before}), axis = int32(0), interleave = bool(false));"
            )
        };
        (0..30).map(step).collect::<String>() + "tensor<fp32, [?]> y = identity(x = c29);"
    };
    // Too large to fold, and within the limit.
    let row = filled("r", &[1 << 19]);
    let pixel = filled("q", &[1, 1, 1, 1]);
    let bodies = [
        ("fill", filled("y", &[HUGE])),
        ("tile", format!("{} tensor<fp32, [?]> y = tile(x = p, reps = tensor<int32, [1]>([{HUGE}]));", filled("p", &[1]))),
        ("concat", doubled("tensor<fp32, [1]>([1])")),
        ("pad", format!("{row} tensor<fp32, [?]> y = pad(x = r, pad = tensor<int32, [2]>([0, 536870912]), mode = string(\"constant\"));")),
        ("upsample_nearest_neighbor", format!("{pixel} tensor<fp32, [1, 1, ?, 1]> y = upsample_nearest_neighbor(x = q, scale_factor_height = fp32({HUGE}), scale_factor_width = fp32(1));")),
        ("upsample_bilinear", format!("{pixel} tensor<fp32, [1, 1, ?, 1]> y = upsample_bilinear(x = q, scale_factor_height = fp32({HUGE}), scale_factor_width = fp32(1));")),
        ("resize_nearest_neighbor", format!("{pixel} tensor<fp32, [1, 1, ?, 1]> y = resize_nearest_neighbor(x = q, target_size_height = int32({HUGE}), target_size_width = int32(1));")),
        ("one_hot", format!("tensor<fp32, [?, ?]> y = one_hot(indices = tensor<int32, [4]>([0, 1, 2, 3]), one_hot_vector_size = int32({}));", HUGE / 4)),
        ("range_1d", format!("tensor<int32, [?]> y = range_1d(start = int32(0), end = int32({HUGE}), step = int32(1));")),
        ("random_normal", "tensor<fp32, [?]> y = random_normal(shape = tensor<int32, [1]>([1073741824]), mean = fp32(0), stddev = fp32(1), seed = int32(1));".to_owned()),
        ("add", filled("l", &[32768, 1]) + &filled("k", &[1, 32768]) + "tensor<fp32, [?, ?]> y = add(x = l, y = k);"),
        ("einsum", filled("l", &[32768]) + &filled("k", &[32768]) + "tensor<fp32, [?, ?]> y = einsum(values = (l, k), equation = string(\"a,b->ab\"));"),
        // As large as the limit allows; the positions or the sort keys then exceed it.
        ("reverse", filled("a", &[3 << 20]) + "tensor<fp32, [?]> y = reverse(x = a, axes = tensor<int32, [1]>([0]));"),
        ("argsort", filled("a", &[3 << 20]) + "tensor<int32, [?]> y = argsort(x = a, axis = int32(0), ascending = bool(true));"),
        ("cumsum", filled("a", &[3 << 20]) + "tensor<fp32, [?]> y = cumsum(x = a, axis = int32(0), exclusive = bool(false), reverse = bool(false));"),
        ("non_zero", filled("a", &[3 << 20]) + "tensor<int32, [?, 1]> y = non_zero(x = a);"),
        ("sliding_windows", row.clone() + "tensor<fp32, [?, ?]> y = sliding_windows(x = r, axis = int32(0), size = int32(1024), stride = int32(1));"),
        ("conv", filled("a", &[1, 1, 1024, 1024]) + &filled("w", &[1, 1, 64, 64]) + "tensor<fp32, [1, 1, ?, ?]> y = conv(x = a, weight = w, pad_type = string(\"valid\"));"),
    ];
    for (op, body) in bodies {
        let started = Instant::now();
        let message = match load(&body, limits) {
            Err(message) => message,
            Ok(executable) => failure(&executable),
        };
        let named = message.contains(op) && message.contains("the limit is");
        assert!(named && started.elapsed() < Duration::from_secs(5), "{op}: {message}");
    }
}

/// Operations with little data and much work.
#[test]
fn an_operation_of_too_much_work_is_refused() {
    let limits = Limits { operation_work: 1 << 20, ..Limits::default() };
    let bodies = [
        (
            "matmul",
            filled("a", &[1024, 1024])
                + "tensor<fp32, [?, ?]> y = matmul(x = a, y = a, transpose_x = bool(false), transpose_y = bool(false));",
        ),
        (
            "einsum",
            filled("a", &[1024, 1024])
                + "tensor<fp32, [?, ?]> y = einsum(values = (a, a), equation = string(\"ab,bc->ac\"));",
        ),
        ("linear", filled("a", &[1024, 1024]) + "tensor<fp32, [?, ?]> y = linear(x = a, weight = a);"),
        (
            "conv",
            filled("a", &[1, 1, 1024, 1024])
                + &filled("w", &[1, 1, 512, 512])
                + "tensor<fp32, [1, 1, ?, ?]> y = conv(x = a, weight = w, pad_type = string(\"valid\"));",
        ),
        (
            "conv_transpose",
            filled("a", &[1, 1, 512, 512])
                + &filled("w", &[1, 1, 512, 512])
                + "tensor<fp32, [1, 1, ?, ?]> y = conv_transpose(x = a, weight = w, pad_type = string(\"valid\"));",
        ),
        (
            "max_pool",
            filled("a", &[1, 1, 1024, 1024])
                + "tensor<fp32, [1, 1, ?, ?]> y = max_pool(x = a, kernel_sizes = tensor<int32, [2]>([512, 512]), strides = tensor<int32, [2]>([1, 1]), pad_type = string(\"valid\"));",
        ),
        (
            "scaled_dot_product_attention",
            filled("a", &[4096, 128])
                + "tensor<fp32, [?, ?]> y = scaled_dot_product_attention(query = a, key = a, value = a);",
        ),
        (
            "local_response_norm",
            filled("a", &[1, 8192, 64])
                + "tensor<fp32, [?, ?, ?]> y = local_response_norm(x = a, size = int32(8191), alpha = fp32(1), beta = fp32(1), k = fp32(1));",
        ),
        (
            "gru",
            filled("a", &[512, 1, 512])
                + &filled("h", &[1, 512])
                + &filled("i", &[1536, 512])
                + "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?]> l = gru(x = a, initial_h = h, weight_ih = i, weight_hh = i);",
        ),
    ];
    for (op, body) in bodies {
        let text = format!("program(1.3) {{ func main<ios18>() {{ {body} }} -> (y); }}");
        let parsed = mil_text::parse(&text).expect("it parses");
        let options = Options { limits, ..Options::default() };
        let executable = Executable::load(&parsed, &Weights::default(), "main", &options).expect("it loads");
        let message = failure(&executable);
        assert!(message.contains(op) && message.contains("beyond the limit of work"), "{op}: {message}");
    }
}

#[test]
fn loops_end_after_the_work_that_they_share() {
    let limits = Limits { loop_work: 1 << 22, ..Limits::default() };
    let cases = [
        // Only steps; elements; products.
        forever("y", "int32 n = add(x = y_b, y = int32(1));"),
        forever(
            "y",
            "tensor<fp32, [65536]> f = fill(shape = tensor<int32, [1]>([65536]), value = fp32(1)); int32 n = add(x = y_b, y = int32(1));",
        ),
        forever(
            "y",
            &(filled("f", &[256, 256])
                + "tensor<fp32, [256, 256]> m = matmul(x = f, y = f, transpose_x = bool(false), transpose_y = bool(false)); int32 n = add(x = y_b, y = int32(1));"),
        ),
        forever("y", ""),
    ];
    for body in cases {
        let message = failure(&load(&body, limits).expect("it loads"));
        assert!(message.contains("loops go on beyond the limit of work"), "{message}");
    }
}

/// A recurrent network as a loop: thousands of rounds of a dozen steps.
#[test]
fn loops_of_thousands_of_rounds_run_by_default() {
    let step = |i: usize| {
        let from = if i == 0 { "h".to_owned() } else { format!("s{}", i - 1) };
        format!(
            "tensor<fp32, [1, 64]> m{i} = matmul(x = {from}, y = w, transpose_x = bool(false), transpose_y = bool(false)); tensor<fp32, [1, 64]> s{i} = tanh(x = m{i});"
        )
    };
    let steps: String = (0..4).map(step).collect();
    let body = format!(
        "tensor<fp32, [64, 64]> w = fill(shape = tensor<int32, [2]>([64, 64]), value = fp32(0.01)); \
         tensor<fp32, [1, 64]> z = fill(shape = tensor<int32, [2]>([1, 64]), value = fp32(1)); \
         int32 y, tensor<fp32, [1, 64]> out = while_loop(loop_vars = (int32(0), z)) \
         (int32 c, tensor<fp32, [1, 64]> g) {{ bool t = less(x = c, y = int32(5000)); }} -> (t) \
         (int32 b, tensor<fp32, [1, 64]> h) {{ {steps} int32 n = add(x = b, y = int32(1)); }} -> (n, s3);"
    );
    assert!(load(&body, Limits::default()).expect("it loads").predict::<Tensor>(&[], None).is_ok());
}

/// Memory freed by a step is available to later steps.
#[test]
fn memory_that_was_freed_can_be_used_again() {
    let limits = Limits { memory: 10 << 20, ..Limits::default() };
    let chain = |i: usize| {
        let from = if i == 0 { "a".to_owned() } else { format!("b{}", i - 1) };
        format!("tensor<fp32, [?]> b{i} = add(x = {from}, y = fp32(1));")
    };
    let body = filled("a", &[1 << 20])
        + &(0..50).map(chain).collect::<String>()
        + "fp32 y = reduce_max(x = b49, keep_dims = bool(false));";
    let executable = load(&body, limits).expect("it loads");
    for _ in 0..3 {
        assert!(executable.predict::<Tensor>(&[], None).is_ok());
    }
}

#[test]
fn states_are_within_the_limit() {
    let text = "program(1.3) { func main<ios18>(state<tensor<fp16, [1024, 1024, 1024]>> s, state<tensor<fp16, [8]>> t) \
                { tensor<fp16, [8]> y = read_state(input = t); } -> (y); }";
    let program = mil_text::parse(text).expect("it parses");
    let load = |memory: usize| {
        let options = Options { limits: Limits { memory, ..Limits::default() }, ..Options::default() };
        Executable::load(&program, &Weights::default(), "main", &options).expect("it loads")
    };
    let error = load(1 << 20).new_state().expect_err("two gigabytes");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(error.to_string().contains("state") && cause.contains("2147483648 bytes"), "{error}: {cause}");
}

/// Constants expanded during loading are counted, by name.
#[test]
fn constants_that_are_expanded_are_within_the_limit() {
    let ones = |n: usize| vec!["1"; n].join(", ");
    let body = format!(
        "tensor<fp32, [8192]> w = constexpr_blockwise_shift_scale(data = tensor<int8, [8192]>([{}]), scale = tensor<fp32, [1]>([2]))[name = string(\"packed\")]; fp32 y = reduce_max(x = w, keep_dims = bool(false));",
        ones(8192)
    );
    let text = format!("program(1.3) {{ func main<ios18>() {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).expect("it parses");
    let load = |memory: usize| {
        let options = Options { limits: Limits { memory, ..Limits::default() }, ..Options::default() };
        Executable::load(&program, &Weights::default(), "main", &options)
    };
    let error = load(90_000).expect_err("decoded, they take more");
    assert!(error.to_string().contains("packed"), "{error}");
    assert!(load(1 << 20).is_ok());
}

/// Many sibling blocks: planning must not rescan all names for each.
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
    assert!(executable.predict::<Tensor>(&[], None).is_ok());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Constants small in the file and large in memory are not all kept.
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
    assert!(executable.predict::<Tensor>(&[], None).is_ok());
}
