//! Buffers of dropped results are reused, and never while in use.

use candle_core::{Device, Tensor, Var};
use coreml_engine::passes::PassSet;
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::mil_text;
use coreml_format::weights::Weights;

/// A program whose values share memory in every possible way: views of views, results that are views, a value both
/// returned and used, one returned twice, a returned input.
const PROGRAM: &str = "program(1.3) { func main<ios18>(tensor<fp32, [64, 128]> x) {
    tensor<fp32, [64, 128]> a = add(x = x, y = fp32(1));
    tensor<fp32, [8192]> b = reshape(x = a, shape = tensor<int32, [1]>([-1]));
    tensor<fp32, [64, 128]> c = mul(x = a, y = fp32(2));
    tensor<fp32, [32, 128]> d = slice_by_index(x = c, begin = tensor<int32, [2]>([32, 0]), end = tensor<int32, [2]>([64, 128]));
    tensor<fp32, [64, 128]> e = sub(x = c, y = x);
    tensor<fp32, [128, 64]> f = transpose(x = e, perm = tensor<int32, [2]>([1, 0]));
    tensor<fp32, [64, 128]> g = exp(x = x);
    tensor<fp32, [64, 128]> h = add(x = g, y = e);
    tensor<fp32, [8192]> i = add(x = b, y = fp32(3));
    tensor<fp32, [128, 64]> j = mul(x = f, y = f);
    tensor<fp32, [32, 128]> k = add(x = d, y = fp32(0.5));
    tensor<fp32, [64, 128]> l = identity(x = h);
    tensor<fp32, [64, 128]> m = relu(x = l);
    tensor<fp32, [64, 128]> n = square(x = m);
    tensor<fp32, [64, 128]> o = add(x = n, y = fp32(1));
    tensor<fp32, [128, 64]> p = transpose(x = o, perm = tensor<int32, [2]>([1, 0]));
    tensor<fp32, [64, 64]> q = slice_by_index(x = p, begin = tensor<int32, [2]>([64, 0]), end = tensor<int32, [2]>([128, 64]));
} -> (b, i, j, k, h, l, n, x, p, q, f); }";

fn executable(text: &str) -> Executable {
    let program = mil_text::parse(text).expect("it parses");
    let options = Options { passes: PassSet::none(), ..Options::default() };
    Executable::load(&program, &Weights::default(), "main", &options).expect("it loads")
}

fn input(seed: usize) -> Tensor {
    let values: Vec<f32> = (0..64 * 128).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 25.0 - 2.0).collect();
    Tensor::from_vec(values, (64, 128), &Device::Cpu).expect("a tensor")
}

/// Expected outputs of the program, element by element.
fn expected(x: &[f32]) -> Vec<Vec<f32>> {
    let all = |f: &dyn Fn(f32) -> f32| x.iter().map(|&x| f(x)).collect::<Vec<f32>>();
    let e = |x: f32| (x + 1.0) * 2.0 - x;
    let h = all(&|x| x.exp() + e(x));
    let turned = |f: &dyn Fn(f32) -> f32| (0..x.len()).map(|at| f(x[at % 64 * 128 + at / 64])).collect::<Vec<f32>>();
    let (j, p) = (turned(&|x| e(x).powi(2)), turned(&|x| (x.exp() + e(x)).max(0.0).powi(2) + 1.0));
    let q = p[64 * 64..].to_vec();
    let k = x[32 * 128..].iter().map(|x| (x + 1.0) * 2.0 + 0.5).collect();
    let n = all(&|x| (x.exp() + e(x)).max(0.0).powi(2));
    vec![all(&|x| x + 1.0), all(&|x| x + 4.0), j, k, h.clone(), h, n, x.to_vec(), p, q, turned(&e)]
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().expect("flat").to_vec1().expect("floats")
}

#[test]
fn values_keep_their_memory_while_a_view_or_a_caller_has_it() {
    let executable = executable(PROGRAM);
    let inputs: Vec<Tensor> = (0..4).map(input).collect();
    // All are kept, so that reuse by a later prediction would corrupt earlier results.
    let mut results = Vec::new();
    for x in &inputs {
        let outputs = executable.predict(&[("x", x.clone())], None).expect("a prediction");
        results.push(outputs.values().map(|o| o.tensor().expect("a tensor").clone()).collect::<Vec<_>>());
    }
    for (x, results) in inputs.iter().zip(&results) {
        for (number, (got, want)) in results.iter().zip(expected(&flat(x))).enumerate() {
            let got = flat(got);
            assert_eq!(got.len(), want.len());
            let close = got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * w.abs().max(1.0));
            assert!(close, "result {number}: {:?} != {:?}", &got[..4], &want[..4]);
        }
    }
}

#[test]
fn results_are_inputs_again() {
    let executable = executable(
        "program(1.3) { func main<ios18>(tensor<fp32, [64, 128]> x) {
            tensor<fp32, [64, 128]> a = mul(x = x, y = fp32(0.5));
            tensor<fp32, [64, 128]> b = add(x = a, y = fp32(1));
            tensor<fp32, [64, 128]> y = add(x = b, y = a);
         } -> (y); }",
    );
    let mut value = input(5);
    let mut want = flat(&value);
    for _ in 0..10 {
        let outputs = executable.predict(&[("x", value.clone())], None).expect("a prediction");
        value = outputs["y"].tensor().expect("a tensor").clone();
        want.iter_mut().for_each(|x| *x += 1.0);
        assert_eq!(flat(&value).len(), want.len());
        assert!(flat(&value).iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-4));
    }
}

#[test]
fn lists_and_loops_keep_what_they_hold() {
    let executable = executable(
        "program(1.3) { func main<ios18>(tensor<fp32, [64, 128]> x) {
            tensor<fp32, [64, 128]> a = add(x = x, y = fp32(1));
            list<tensor<fp32, [64, 128]>, 2> e = make_list(init_length = int32(2), elem_shape = (int32(64), int32(128)), dtype = string(\"fp32\"), dynamic_length = bool(false));
            list<tensor<fp32, [64, 128]>, 2> f = list_write(ls = e, index = int32(0), value = a);
            tensor<fp32, [64, 128]> b = mul(x = x, y = fp32(3));
            list<tensor<fp32, [64, 128]>, 2> g = list_write(ls = f, index = int32(1), value = b);
            tensor<fp32, [64, 128]> c = mul(x = x, y = fp32(7));
            tensor<fp32, [64, 128]> d = mul(x = c, y = fp32(2));
            tensor<fp32, [64, 128]> p = list_read(ls = g, index = int32(0));
            tensor<fp32, [64, 128]> q = list_read(ls = g, index = int32(1));
            tensor<fp32, [64, 128]> r = add(x = p, y = q);
            tensor<fp32, [64, 128]> y = add(x = r, y = d);
         } -> (y); }",
    );
    let x = input(9);
    for _ in 0..3 {
        let outputs = executable.predict(&[("x", x.clone())], None).expect("a prediction");
        let got = flat(outputs["y"].tensor().expect("a tensor"));
        assert!(got.iter().zip(flat(&x)).all(|(g, x)| (g - (x + 1.0 + 3.0 * x + 14.0 * x)).abs() < 1e-4));
    }
}

#[test]
fn what_gradients_follow_is_left_alone() {
    let executable = executable(PROGRAM);
    let x = Var::from_tensor(&input(3)).expect("a variable");
    for _ in 0..2 {
        let outputs = executable.predict(&[("x", x.as_tensor().clone())], None).expect("a prediction");
        let Some(FeatureValue::Tensor(h)) = outputs.get("h") else { panic!("a tensor") };
        assert!(flat(h).iter().zip(&expected(&flat(x.as_tensor()))[4]).all(|(g, w)| (g - w).abs() < 1e-3));
    }
}
