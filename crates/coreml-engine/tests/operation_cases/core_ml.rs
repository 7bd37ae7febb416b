//! Cases in which Core ML and PyTorch differ, or a definition decides: one test per row of the table in
//! `docs/conformance.md`.

use crate::text::{floats, run, run_with};

const NAN: f32 = f32::NAN;

fn same(found: &[f64], wanted: &[f64]) {
    let equal = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 1e-6 * b.abs();
    let all = found.len() == wanted.len() && found.iter().zip(wanted).all(|(&a, &b)| equal(a, b));
    assert!(all, "found {found:?}, wanted {wanted:?}");
}

fn pool(kind: &str, kernel: &str, strides: &str, rest: &str, shape: &str) -> String {
    format!(
        "tensor<fp32, {shape}> y = {kind}(x = x, kernel_sizes = tensor<int32, [2]>({kernel}), \
         strides = tensor<int32, [2]>({strides}), pad_type = string(\"valid\"), ceil_mode = bool(true){rest});"
    )
}

/// coremltools #2772 and #2844: both Core ML's and PyTorch's numbers.
#[test]
fn averages_that_hang_over_the_end_are_of_the_whole_kernel() {
    let x: Vec<f32> = (0..49).map(|i| i as f32).collect();
    let average = |rest| run("ios15", &x, &[1, 1, 7, 7], &pool("avg_pool", "[2, 2]", "[3, 3]", rest, "[1, 1, 3, 3]"));
    same(&average("").expect("it runs"), &[4.0, 7.0, 4.75, 25.0, 28.0, 15.25, 21.25, 22.75, 12.0]);
    let excluded = average(", exclude_padding_from_average = bool(true)").expect("it runs");
    same(&excluded, &[4.0, 7.0, 9.5, 25.0, 28.0, 30.5, 42.5, 45.5, 48.0]);
    // More taps than the kernel sums.
    let ones = [1.0; 13 * 13];
    let large = run("ios15", &ones, &[1, 1, 13, 13], &pool("avg_pool", "[12, 12]", "[2, 2]", "", "[1, 1, 2, 2]"));
    same(&large.expect("it runs"), &[1.0, 132.0 / 144.0, 132.0 / 144.0, 121.0 / 144.0]);
    let line = "tensor<fp32, [1, 1, 3]> y = avg_pool(x = x, kernel_sizes = tensor<int32, [1]>([2]), strides = \
                tensor<int32, [1]>([3]), pad_type = string(\"valid\"), ceil_mode = bool(true));";
    let seven: Vec<f32> = (0..7).map(|i| i as f32).collect();
    same(&run("ios15", &seven, &[1, 1, 7], line).expect("it runs"), &[0.5, 3.5, 3.0]);
}

/// Counts windows like coremltools' type inference.
#[test]
fn a_kernel_that_hangs_over_the_whole_image_has_one_window() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let one = |kind: &str, rest: &str| {
        let y = run("ios15", &x, &[1, 1, 3, 3], &pool(kind, "[4, 4]", "[2, 2]", rest, "[1, 1, 1, 1]"));
        y.expect("it runs")[0]
    };
    assert_eq!(one("max_pool", ""), 9.0);
    // The average of existing elements: Core ML's result is not reported, and the kernel of EfficientNet's last pooling
    // has as many rows as the image has channels.
    assert_eq!(one("avg_pool", ""), 5.0);
    assert_eq!(one("avg_pool", ", exclude_padding_from_average = bool(true)"), 5.0);
    assert!((one("l2_pool", "") - 285f64.sqrt()).abs() < 1e-5);
    let wide = pool("avg_pool", "[1280, 1280]", "[1280, 1280]", "", "[1, 1, 1, 1]");
    assert_eq!(run("ios15", &x, &[1, 1, 3, 3], &wide).expect("it runs"), [5.0]);
    for too_large in ["[5, 5]", "[2147483647, 1]"] {
        let body = pool("max_pool", too_large, "[2, 2]", "", "[1, 1, ?, ?]");
        assert!(run("ios15", &x, &[1, 1, 3, 3], &body).expect_err("no window").contains("does not fit"));
    }
    let floor = pool("max_pool", "[4, 4]", "[2, 2]", "", "[1, 1, ?, ?]").replace("bool(true)", "bool(false)");
    assert!(run("ios15", &x, &[1, 1, 3, 3], &floor).is_err());
    // Padding rejected and accepted by the definition.
    let padded = |padding: &str, shape: &str| {
        let body = pool("max_pool", "[2, 2]", "[2, 2]", "", shape).replace("pad_type = string(\"valid\")", padding);
        run("ios16", &x, &[1, 1, 3, 3], &body)
    };
    assert!(padded("pad_type = string(\"same\")", "[1, 1, ?, ?]").expect_err("refused").contains("`ceil_mode`"));
    let uneven = "pad_type = string(\"custom\"), pad = tensor<int32, [4]>([0, 1, 0, 1])";
    assert!(padded(uneven, "[1, 1, ?, ?]").expect_err("refused").contains("uneven"));
    assert_eq!(padded("pad_type = string(\"same_lower\")", "[1, 1, 2, 2]").expect("it runs"), [1.0, 3.0, 7.0, 9.0]);
    let even = "pad_type = string(\"custom\"), pad = tensor<int32, [4]>([1, 1, 1, 1])";
    assert_eq!(padded(even, "[1, 1, 2, 2]").expect("it runs"), [1.0, 3.0, 7.0, 9.0]);
    // Without padding, a window that begins past the image is counted.
    let behind = run("ios15", &x, &[1, 1, 3, 3], &pool("max_pool", "[1, 1]", "[3, 3]", "", "[1, 1, 2, 2]"));
    assert_eq!(behind.expect("it runs"), [1.0, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY]);
}

/// Bilinear interpolation of the image at a position, zero outside.
fn sample(image: &[f32], (h, w): (usize, usize), row: f64, column: f64) -> f64 {
    let weight = |at: f64, i: usize| (1.0 - (at - i as f64).abs()).max(0.0);
    (0..h * w).map(|i| f64::from(image[i]) * weight(row, i / w) * weight(column, i % w)).sum()
}

#[test]
fn affine_transforms_reach_centres_or_edges_of_the_outermost_pixels() {
    let (h, w, rows, columns) = (3, 4, 5, 2);
    let x: Vec<f32> = (0..h * w).map(|i| (i * i % 7) as f32 - 2.0).collect();
    let m = [0.9, 0.2, 0.1, -0.3, 1.1, -0.2];
    for align in [true, false] {
        let body = format!(
            "tensor<fp32, [1, 1, {rows}, {columns}]> y = affine(x = x, transform_matrix = tensor<fp32, [1, 6]>([{m:?}]), \
             output_height = int32({rows}), output_width = int32({columns}), sampling_mode = string(\"bilinear\"), \
             padding_mode = string(\"constant\"), padding_value = fp32(0), \
             coordinates_mode = string(\"normalized_minus_one_to_one\"), align_corners = bool({align}));"
        );
        let unit = |i: usize, n: usize| {
            if align { 2.0 * i as f64 / (n - 1) as f64 - 1.0 } else { (2 * i + 1) as f64 / n as f64 - 1.0 }
        };
        let pixel = |v: f64, n: usize| {
            if align { (v + 1.0) / 2.0 * (n - 1) as f64 } else { ((v + 1.0) * n as f64 - 1.0) / 2.0 }
        };
        let wanted: Vec<f64> = (0..rows * columns)
            .map(|i| {
                let (u, v) = (unit(i % columns, columns), unit(i / columns, rows));
                let at = |a: &[f64]| a[0] * u + a[1] * v + a[2];
                sample(&x, (h, w), pixel(at(&m[3..]), h), pixel(at(&m), w))
            })
            .collect();
        let found = run("ios15", &x, &[1, 1, h, w], &body).expect("it runs");
        assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{align}: {found:?} {wanted:?}");
        for (name, other) in [("bilinear", "nearest"), ("constant", "border"), ("minus_one", "zero")] {
            let changed = body.replace(name, other);
            let message = run("ios15", &x, &[1, 1, h, w], &changed).expect_err("not defined");
            assert!(message.contains("not one of the values"), "{message}");
        }
    }
}

#[test]
fn coordinates_of_all_modes_name_the_same_places() {
    let (h, w) = (3, 4);
    let x: Vec<f32> = (0..h * w).map(|i| (i * 5 % 11) as f32).collect();
    let pixels = [(0.0, 0.0), (2.5, 1.25), (3.0, 2.0), (-0.25, 2.25), (3.75, -1.5)];
    for (padding, align) in
        ["constant", "border", "reflection", "symmetric"].into_iter().flat_map(|p| [(p, true), (p, false)])
    {
        for sampling in ["bilinear", "nearest"] {
            let resample = |mode: &str, unit: &dyn Fn(f64, usize) -> f64| {
                let points: Vec<String> =
                    pixels.iter().map(|&(u, v)| format!("[{}, {}]", unit(u, w), unit(v, h))).collect();
                let body = format!(
                    "tensor<fp32, [1, 1, 1, 5]> y = resample(x = x, coordinates = tensor<fp32, [1, 1, 5, 2]>([[[{}]]]), \
                     sampling_mode = string(\"{sampling}\"), padding_mode = string(\"{padding}\"), padding_value = fp32(9), \
                     coordinates_mode = string(\"{mode}\"), align_corners = bool({align}));",
                    points.join(", ")
                );
                run("ios16", &x, &[1, 1, h, w], &body).expect("it runs")
            };
            let unit = |v: f64, n: usize| if align { v / (n - 1) as f64 } else { (v + 0.5) / n as f64 };
            let zero_to_one = resample("normalized_zero_to_one", &unit);
            let signed = resample("normalized_minus_one_to_one", &|v, n| 2.0 * unit(v, n) - 1.0);
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(close(&zero_to_one, &signed), "{padding} {align} {sampling}: {zero_to_one:?} {signed:?}");
            // The point of reflection depends on the convention for the ends.
            if padding != "reflection" || align {
                let plain = resample("unnormalized", &|v, _| v);
                assert!(close(&zero_to_one, &plain), "{padding} {align} {sampling}: {zero_to_one:?} {plain:?}");
            }
        }
    }
    let both = "tensor<fp32, [1, 1, 6, 8]> y = upsample_bilinear(x = x, scale_factor_height = fp32(2), \
                scale_factor_width = fp32(2), align_corners = bool(true), half_pixel_centers = bool(true));";
    assert!(run("ios16", &x, &[1, 1, h, w], both).expect_err("no such rule").contains("half_pixel_centers"));
}

/// stablehlo-coreml #70: Core ML's remainder has the sign of the dividend; `floor_div` rounds down.
#[test]
fn remainders_have_the_sign_of_the_dividend_and_quotients_are_rounded_down() {
    let (x, y) = ([7.0, -7.0, 7.0, -7.0, 0.5], "[2, 2, -2, -2, 2]");
    let op = |kind: &str| format!("tensor<fp32, [5]> y = {kind}(x = x, y = tensor<fp32, [5]>({y}));");
    same(&run("ios15", &x, &[5], &op("mod")).expect("it runs"), &[1.0, -1.0, 1.0, -1.0, 0.5]);
    same(&run("ios15", &x, &[5], &op("floor_div")).expect("it runs"), &[3.0, -4.0, -4.0, 3.0, 0.0]);
    same(&run("ios15", &x, &[5], "tensor<fp32, [5]> y = mod(x = x, y = fp32(0));").expect("it runs"), &[f64::NAN; 5]);
    let whole = |kind: &str, y: &str| {
        let body = format!(
            "tensor<int32, [4]> i = cast(x = x, dtype = string(\"int32\")); \
             tensor<int32, [4]> y = {kind}(x = i, y = tensor<int32, [4]>({y}));"
        );
        run("ios15", &x[..4], &[4], &body).expect("it runs")
    };
    same(&whole("mod", "[2, 2, -2, -2]"), &[1.0, -1.0, 1.0, -1.0]);
    same(&whole("floor_div", "[2, 2, -2, -2]"), &[3.0, -4.0, -4.0, 3.0]);
    same(&whole("real_div", "[2, 2, -2, -2]"), &[3.0, -3.0, -3.0, 3.0]);
    same(&whole("real_div", "[0, 0, 0, 0]"), &[0.0; 4]);
    let body = "tensor<fp32, [5]> y = real_div(x = x, y = fp32(0));";
    let infinities = [1.0, -1.0, 1.0, -1.0, 1.0].map(|s: f64| s * f64::INFINITY);
    same(&run("ios15", &x, &[5], body).expect("it runs"), &infinities);
}

#[test]
fn what_is_not_a_number_stays_so_in_extremes_and_activations() {
    let x = [NAN, 1.0, -1.0, 3.0];
    for (body, wanted) in [
        ("tensor<fp32, [4]> y = relu(x = x);", [f64::NAN, 1.0, 0.0, 3.0]),
        ("tensor<fp32, [4]> y = relu6(x = x);", [f64::NAN, 1.0, 0.0, 3.0]),
        ("tensor<fp32, [4]> y = clip(x = x, alpha = fp32(0), beta = fp32(2));", [f64::NAN, 1.0, 0.0, 2.0]),
        ("tensor<fp32, [4]> y = threshold(x = x, alpha = fp32(0));", [f64::NAN, 1.0, 0.0, 3.0]),
        ("tensor<fp32, [4]> y = clamped_relu(x = x, alpha = fp32(0.5), beta = fp32(2));", [f64::NAN, 1.0, -0.5, 2.0]),
        ("tensor<fp32, [4]> y = thresholded_relu(x = x, alpha = fp32(2));", [f64::NAN, 0.0, 0.0, 3.0]),
        ("tensor<fp32, [4]> y = sign(x = x);", [f64::NAN, 1.0, -1.0, 1.0]),
    ] {
        same(&run("ios15", &x, &[4], body).unwrap_or_else(|e| panic!("{e}: {body}")), &wanted);
    }
    // NaN in either operand.
    let parameters = "tensor<fp32, [2]> x, tensor<fp32, [2]> z";
    for kind in ["maximum", "minimum"] {
        let body = format!("tensor<fp32, [2]> y = {kind}(x = x, y = z);");
        let inputs = [("x", floats(&[NAN, 1.0], &[2])), ("z", floats(&[1.0, NAN], &[2]))];
        same(&run_with("ios15", parameters, &body, &inputs).expect("it runs"), &[f64::NAN; 2]);
    }
    for kind in ["reduce_max", "reduce_min"] {
        let body = format!("tensor<fp32, [2]> y = {kind}(x = x, axes = tensor<int32, [1]>([1]));");
        let found = run("ios15", &[1.0, 2.0, NAN, 3.0, 4.0, 5.0], &[2, 3], &body).expect("it runs");
        assert!(found[0].is_nan() && found[1] == if kind == "reduce_max" { 5.0 } else { 3.0 });
    }
    let body = pool("max_pool", "[2, 2]", "[2, 2]", "", "[1, 1, 1, 2]");
    let found = run("ios15", &[1.0, NAN, 5.0, 2.0, 3.0, 4.0, 9.0, 7.0], &[1, 1, 2, 4], &body).expect("it runs");
    same(&found, &[f64::NAN, 9.0]);
}

#[test]
fn the_first_of_equals_wins_and_nan_comes_last_but_is_the_extreme() {
    let arg = |kind: &str, x: &[f32]| {
        let body = format!("tensor<int32, []> y = {kind}(x = x, axis = int32(0), keep_dims = bool(false));");
        run("ios15", x, &[x.len()], &body).expect("it runs")[0]
    };
    assert_eq!(arg("reduce_argmin", &[0.0, 1.0, -5.0, 3.0, -5.0, 4.0]), 2.0);
    assert_eq!(arg("reduce_argmax", &[4.0, 1.0, 4.0]), 0.0);
    assert_eq!(arg("reduce_argmax", &[4.0, NAN, 9.0, NAN]), 1.0);
    assert_eq!(arg("reduce_argmin", &[NAN, -9.0]), 0.0);
    let sorted = |x: &[f32], ascending: bool| {
        let n = x.len();
        let body = format!("tensor<int32, [{n}]> y = argsort(x = x, axis = int32(0), ascending = bool({ascending}));");
        run("ios15", x, &[n], &body).expect("it runs")
    };
    same(&sorted(&[2.0, NAN, 0.0, -0.0, 2.0, -NAN], true), &[2.0, 3.0, 0.0, 4.0, 1.0, 5.0]);
    same(&sorted(&[2.0, NAN, 0.0, -0.0, 2.0, -NAN], false), &[0.0, 4.0, 2.0, 3.0, 1.0, 5.0]);
    let body = "tensor<fp32, [2]> v, tensor<int32, [2]> y = topk(x = x, k = int32(2), axis = int32(0), ascending = bool(false));";
    same(&run("ios15", &[NAN, 1.0, 5.0, 5.0], &[4], body).expect("it runs"), &[2.0, 3.0]);
}

#[test]
fn casts_truncate_and_end_where_the_type_ends() {
    let x = [1.9, -1.9, 3e9, -3e9, NAN, 300.0];
    let cast = |dtype: &str| {
        let body = format!("tensor<{dtype}, [6]> y = cast(x = x, dtype = string(\"{dtype}\"));");
        run("ios17", &x, &[6], &body).expect("it runs")
    };
    same(&cast("int32"), &[1.0, -1.0, 2147483647.0, -2147483648.0, 0.0, 300.0]);
    assert_eq!(cast("int8")[5], 44.0);
    assert_eq!(cast("bool")[..4], [1.0; 4]);
    let half = "tensor<fp16, [6]> y = cast(x = x, dtype = string(\"fp16\"));";
    let found = run("ios17", &[65504.0, 65519.0, 65520.0, -7e4, 2049.0, 2051.0], &[6], half).expect("it runs");
    same(&found, &[65504.0, 65504.0, f64::INFINITY, f64::NEG_INFINITY, 2048.0, 2052.0]);
}

/// Ties round to even on the CPU (WebNN #817), in `quantize` too.
#[test]
fn halves_are_rounded_to_even() {
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5];
    same(
        &run("ios15", &x, &[6], "tensor<fp32, [6]> y = round(x = x);").expect("it runs"),
        &[0.0, 2.0, 2.0, 0.0, -2.0, -2.0],
    );
    let body = "tensor<int8, [6]> y = quantize(input = x, scale = fp32(1), output_dtype = string(\"int8\"));";
    same(&run("ios17", &x, &[6], body).expect("it runs"), &[0.0, 2.0, 2.0, 0.0, -2.0, -2.0]);
}

/// coremltools #2773: results of `predict`.
#[test]
fn reciprocals_have_the_epsilon_of_the_definition() {
    let x = [1e-4, 1e-3, 1e-2, 0.25, 1.0];
    let found = run("ios15", &x, &[5], "tensor<fp32, [5]> y = inverse(x = x);").expect("it runs");
    for (a, b) in found.iter().zip([5.0000005e3, 9.0909094e2, 9.9009903e1, 3.9984009, 9.9990004e-1]) {
        assert!((a - b).abs() <= 1e-6 * b, "{a} {b}");
    }
}

/// coremltools #2669: a fully masked row is NaN.
#[test]
fn a_row_of_minus_infinity_has_no_softmax() {
    let inf = f32::NEG_INFINITY;
    let x = [inf, inf, inf, 0.0, inf, 0.0];
    let found =
        run("ios15", &x, &[2, 3], "tensor<fp32, [2, 3]> y = softmax(x = x, axis = int32(-1));").expect("it runs");
    same(&found, &[f64::NAN, f64::NAN, f64::NAN, 0.5, 0.0, 0.5]);
}

#[test]
fn indices_outside_are_taken_as_the_opset_says() {
    let x = [10.0, 20.0, 30.0];
    let gather = |opset: &str, kind: &str, index: &str, rest: &str| {
        let body =
            format!("tensor<fp32, [?]> y = {kind}(x = x, indices = tensor<int32, {index}, axis = int32(0){rest});");
        run(
            opset,
            &x,
            &[3],
            &body.replace(", axis = int32(0)", if kind == "gather_nd" { "" } else { ", axis = int32(0)" }),
        )
    };
    let kinds =
        [("gather", "[1]>([INDEX])"), ("gather_along_axis", "[1]>([INDEX])"), ("gather_nd", "[1, 1]>([[INDEX]])")];
    for (kind, shape) in kinds {
        let at = |index: &str| shape.replace("INDEX", index);
        for opset in ["ios15", "ios16", "ios17"] {
            same(&gather(opset, kind, &at("-1"), "").expect("it runs"), &[30.0]);
            assert!(gather(opset, kind, &at("3"), "").expect_err("outside").contains("index 3 of an extent of 3"));
        }
        let validated = ", validate_indices = bool(true)";
        same(&gather("ios17", kind, &at("2"), validated).expect("it runs"), &[30.0]);
        for outside in ["-1", "3"] {
            assert!(gather("ios17", kind, &at(outside), validated).expect_err("outside").contains("of an extent of 3"));
        }
        assert!(gather("ios16", kind, &at("2"), validated).expect_err("a later opset").contains("validate_indices"));
    }
    let one_hot =
        "tensor<fp32, [2, 2]> y = one_hot(indices = tensor<int32, [2]>([5, 1]), one_hot_vector_size = int32(2));";
    same(&run("ios15", &x, &[3], one_hot).expect("it runs"), &[0.0, 0.0, 0.0, 1.0]);
    let band = "tensor<fp32, [1, 3]> m = reshape(x = x, shape = tensor<int32, [2]>([1, 3])); \
                tensor<fp32, [1, 3]> y = band_part(x = m, lower = int32(0), upper = int32(-5));";
    same(&run("ios15", &x, &[3], band).expect("it runs"), &[10.0, 20.0, 30.0]);
}
