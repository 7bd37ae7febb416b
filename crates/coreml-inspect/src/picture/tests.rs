//! Content of pictures, on programs written here.

use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::program::{Argument, Binding, Block, NamedType, Operation, Opset, Program, TensorType, ValueType};

use super::*;

fn picture(text: &str, options: &Options) -> String {
    let program = mil_text::parse(text).unwrap_or_else(|e| panic!("{e}"));
    draw(&program, &ModelDescription::default(), options).expect("the function is there")
}

fn main_of(inputs: &str, body: &str, outputs: &str) -> String {
    format!("program(1.3)\n{{ func main<ios18>({inputs}) {{ {body} }} -> ({outputs}); }}")
}

fn weight(name: &str, shape: &str) -> String {
    format!(
        "tensor<fp16, [{shape}]> {name} = const()[name = string(\"{name}\"), val = tensor<fp16, [{shape}]>(BLOBFILE(\
         path = string(\"@model_path/w\"), offset = uint64(64)))]; "
    )
}

/// A network of `count` layers, each a product and an activation.
fn network(count: usize, name: impl Fn(usize) -> String) -> String {
    let mut body = String::new();
    for i in 0..count {
        let (w, from) = (name(i), if i == 0 { "x".to_owned() } else { format!("v{}", i - 1) });
        body += &weight(&w, "16, 16");
        body += &format!("tensor<fp16, [1, 16]> p{i} = linear(x = {from}, weight = {w})[name = string(\"p{i}\")]; ");
        body += &format!("tensor<fp16, [1, 16]> v{i} = relu(x = p{i})[name = string(\"v{i}\")]; ");
    }
    main_of("tensor<fp16, [1, 16]> x", &body, &format!("v{}", count - 1))
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn layers_that_are_alike_are_drawn_once() {
    let text = network(28, |i| format!("model_layers_{i}_w"));
    let folded = picture(&text, &Options::default());
    assert_eq!(count(&folded, ">linear<"), 1);
    assert!(folded.contains("layers 0 – 27") && folded.contains("× 28"), "{folded}");
    let all = picture(&text, &Options { unfold: true, ..Options::default() });
    assert_eq!(count(&all, ">linear<"), 28);
    assert!(all.contains(">layers 13<"));
    // Two are too few to fold.
    assert_eq!(count(&picture(&network(2, |i| format!("layers_{i}_w")), &Options::default()), ">linear<"), 2);
}

#[test]
fn what_repeats_itself_is_folded_without_names() {
    let folded = picture(&network(24, |i| format!("w{i}")), &Options::default());
    assert_eq!(count(&folded, ">linear<"), 4, "the shortest layer that is looked for has eight operations");
    assert!(folded.contains("repetition 0 – 5"), "{folded}");
}

#[test]
fn another_layer_in_the_middle_ends_a_fold() {
    let text = network(9, |i| format!("layers_{i}_w")).replacen(
        "tensor<fp16, [1, 16]> v4 = relu",
        "tensor<fp16, [1, 16]> v4 = silu",
        1,
    );
    let folded = picture(&text, &Options::default());
    assert_eq!(count(&folded, ">linear<"), 3);
    assert!(folded.contains("layers 0 – 3") && folded.contains(">layers 4<") && folded.contains("layers 5 – 8"));
}

#[test]
fn branches_that_are_alike_are_drawn_once() {
    let mut body = String::new();
    for i in 0..16 {
        body += &weight(&format!("w{i}"), "17, 16");
        body += &format!("tensor<fp16, [1, 17]> logits{i} = linear(x = x, weight = w{i})[name = string(\"l{i}\")]; ");
    }
    let outputs: Vec<String> = (0..16).map(|i| format!("logits{i}")).collect();
    let text = main_of("tensor<fp16, [1, 16]> x", &body, &outputs.join(", "));
    let drawn = picture(&text, &Options::default());
    assert_eq!(count(&drawn, ">linear<"), 1);
    assert!(drawn.contains("logits0 … logits15") && drawn.contains("× 16"), "{drawn}");
}

#[test]
fn inputs_outputs_states_and_weights_are_shown() {
    let body = weight("w", "8, 16")
        + "tensor<fp16, [1, 16]> s = read_state(input = cache)[name = string(\"s\")]; \
           tensor<fp16, [1, 16]> a = add(x = x, y = s)[name = string(\"a\")]; \
           write_state(data = a, input = cache)[name = string(\"u\")]; \
           tensor<fp16, [1, 4]> t = slice_by_index(x = a, begin = tensor<int32, [2]>([0, 2]), end = \
           tensor<int32, [2]>([1, 6]), end_mask = tensor<bool, [2]>([true, false]))[name = string(\"t\")]; \
           tensor<fp16, [1, 8]> y = linear(x = a, weight = w)[name = string(\"y\")];";
    let text = main_of("tensor<fp16, [1, 16]> x, state<tensor<fp16, [1, 16]>> cache", &body, "y, t");
    let drawn = picture(&text, &Options::default());
    for part in [
        "class=\"input\"",
        "class=\"output\"",
        "class=\"state\"",
        ">x<",
        ">y<",
        ">cache<",
        "w: dense",
        "fp16 [8, 16]",
        "[:, 2:6]",
        "inputs: x: fp16 [1, 16]",
        "states: cache: fp16 [1, 16]",
    ] {
        assert!(drawn.contains(part), "{part} in {drawn}");
    }
    // Only the first access has the state above it; the second follows the first.
    assert_eq!(count(&drawn, "<title>cache</title>"), 1);
    // Reads of a state are never equivalent.
    let reads: Vec<String> = (0..4)
        .map(|i| format!("tensor<fp16, [1, 16]> s{i} = read_state(input = cache)[name = string(\"s{i}\")]; "))
        .collect();
    let text = main_of("state<tensor<fp16, [1, 16]>> cache", &reads.concat(), "s0, s1, s2, s3");
    assert_eq!(count(&picture(&text, &Options::default()), ">read_state<"), 4);
}

/// A function of one operation `kind`, called `y`, with nested blocks of one operation each.
fn by_hand(kind: &str, nested: &[&str]) -> Program {
    let named =
        |n: &str| NamedType { name: n.to_owned(), ty: ValueType::Tensor(TensorType::fixed(DataType::F16, &[4])) };
    let op = |kind: &str, output: &str, blocks| Operation {
        kind: kind.to_owned(),
        name: output.to_owned(),
        inputs: [("x".to_owned(), Argument::One(Binding::Name("x".to_owned())))].into_iter().collect(),
        outputs: vec![named(output)],
        blocks,
        attributes: Default::default(),
    };
    let block = |operation: Operation| {
        let outputs = vec![operation.name.clone()];
        Block { inputs: Vec::new(), operations: vec![operation], outputs }
    };
    let blocks = nested.iter().map(|k| block(op(k, &format!("inner_{k}"), Vec::new()))).collect();
    let function = Function {
        opset: Opset::Ios18,
        inputs: vec![named("x")],
        block: block(op(kind, "y", blocks)),
        attributes: Default::default(),
    };
    Program { functions: [("main".to_owned(), function)].into_iter().collect(), ..Program::default() }
}

#[test]
fn nested_blocks_have_frames_of_their_own() {
    let drawn = picture(&mil_text::print(&by_hand("cond", &["relu", "silu"])), &Options::default());
    assert!(drawn.contains("block 1 of cond `y`") && drawn.contains("block 2 of cond `y`"), "{drawn}");
    assert!(drawn.contains(">relu<") && drawn.contains(">silu<"));
}

#[test]
fn huge_and_hostile_models_give_small_and_safe_pictures() {
    // 5,000 operations in a row without layer names or repetition: their lengths differ.
    let mut body = String::new();
    for i in 0..5000 {
        let from = if i == 0 { "x".to_owned() } else { format!("v{}", i - 1) };
        let n = i + 1;
        body += &format!("tensor<fp16, [{n}]> v{i} = identity(x = {from})[name = string(\"v{i}\")]; ");
    }
    let drawn = picture(&main_of("tensor<fp16, [1]> x", &body, "v4999"), &Options::default());
    assert!(drawn.contains("5000 operations, too many to draw") && drawn.len() < 20_000, "{}", drawn.len());
    let many = picture(&network(4000, |i| format!("layers_{i}_w")), &Options { unfold: true, ..Options::default() });
    assert!(many.len() < 12_000_000, "{}", many.len());
    // Operation names in a file are arbitrary.
    let program = by_hand("<script>alert(1)</script>", &[]);
    let options = Options { title: "<b>.mlpackage".to_owned(), ..Options::default() };
    let drawn = draw(&program, &ModelDescription::default(), &options).expect("drawn");
    assert!(!drawn.contains("<script") && !drawn.contains("<b>") && drawn.contains("&lt;script&gt;"), "{drawn}");
}

#[test]
fn a_function_can_be_chosen_and_missed() {
    let program = mil_text::parse(&network(1, |_| "w".to_owned())).expect("a program");
    let draw = |f: &str| {
        let options = Options { function: Some(f.to_owned()), ..Options::default() };
        super::draw(&program, &ModelDescription::default(), &options)
    };
    assert!(draw("main").is_ok_and(|p| p.contains("function main")));
    let error = draw("infer").expect_err("there is none").to_string();
    assert!(error.contains("`infer`") && error.contains("main"), "{error}");
}
