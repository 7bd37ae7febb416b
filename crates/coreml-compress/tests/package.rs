//! Compressed packages: what they store decodes to what the report says, and forms that don't fit are refused by name.

use std::path::Path;

use coreml_compress::{Options, Scheme, Sparsity, compress, kmeans};
use coreml_format::dtype::DataType::F16;
use coreml_format::model::Model;
use coreml_format::program::Opset;
use coreml_write::builder::{FunctionBuilder, PackageBuilder, check};
use coreml_write::edit::{self, Constants, packed};

const ROWS: usize = 64;
const COLUMNS: usize = 80;

fn numbers() -> Vec<f32> {
    let number = |i: usize| half::f16::from_f32(((i * 7919 % 1009) as f32 / 504.5 - 1.0).powi(3)).to_f32();
    (0..ROWS * COLUMNS).map(number).collect()
}

fn model(folder: &Path, opset: Opset) -> Model {
    let path = folder.join("dense.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let bytes = packed::floats(F16, &numbers()).expect("floats");
    let weight = package.weight(F16, &[ROWS, COLUMNS], [bytes]).expect("a weight");
    let mut f = FunctionBuilder::new(opset);
    let x = f.input("x", F16, [1, COLUMNS]).expect("an input");
    let w = f.constant("w", weight).expect("a constant");
    let y = f.op("linear").named("y").arg("x", &x).arg("weight", &w).done().expect("a product");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    Model::open(&path).expect("it opens")
}

/// Decoded weight and squared error after compression.
fn compressed(scheme: Scheme, opset: Opset) -> (Vec<f32>, f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let dense = model(folder.path(), opset);
    let to = folder.path().join("small.mlpackage");
    let report = compress(&dense, &Options::new(scheme), &to).unwrap_or_else(|e| panic!("{scheme:?}: {e}"));
    let [layer] = report.layers.as_slice() else { panic!("one layer") };
    assert!(report.after < report.before && layer.after == report.after, "{report:?}");
    let small = Model::open(&to).expect("it opens");
    let program = edit::program(&small).expect("a program");
    let wrong = check(program);
    assert!(wrong.is_empty(), "{scheme:?}: {wrong:?}");
    let decoded = Constants::of(&program.functions["main"].block, &small.weights).decode("w").expect("it decodes");
    assert_eq!(decoded.shape, [ROWS, COLUMNS]);
    let error = numbers().iter().zip(&decoded.data).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    assert!(
        (error - layer.squared_error).abs() <= 1e-6 * error.max(1e-9),
        "{scheme:?}: {error}, {}",
        layer.squared_error
    );
    (decoded.data, error)
}

#[test]
fn every_form_decodes_to_what_the_report_says() {
    let mut last = f64::INFINITY;
    for bits in [1, 2, 3, 4, 6, 8] {
        let (data, error) = compressed(Scheme::Palette { bits, group: None, vector: 1 }, Opset::Ios18);
        let mut distinct: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() <= 1 << bits && error <= last, "{bits}: {error} after {last}");
        let (_, grouped) = compressed(Scheme::Palette { bits, group: Some(8), vector: 1 }, Opset::Ios18);
        assert!(grouped <= error, "{bits}: {grouped} with groups, {error} without");
        last = error;
    }
    // The optimum for these numbers, before the entries are rounded to fp16.
    let table = kmeans::optimal(&numbers(), None, 16);
    let at = kmeans::nearest(&numbers(), &table);
    let best: f64 =
        numbers().iter().zip(at).map(|(v, i)| (f64::from(*v) - f64::from(table[usize::from(i)])).powi(2)).sum();
    let (_, found) = compressed(Scheme::Palette { bits: 4, group: None, vector: 1 }, Opset::Ios18);
    assert!(found <= best * 1.001, "{found} > {best}");
    compressed(Scheme::Palette { bits: 4, group: Some(16), vector: 2 }, Opset::Ios18);
    let (_, int8) = compressed(Scheme::Linear { bits: 8, block: None, symmetric: true }, Opset::Ios18);
    let (_, blocks) = compressed(Scheme::Linear { bits: 8, block: Some(16), symmetric: true }, Opset::Ios18);
    assert!(blocks < int8);
    for (bits, block, symmetric) in [(4, Some(16), true), (4, None, false), (8, None, false)] {
        compressed(Scheme::Linear { bits, block, symmetric }, Opset::Ios18);
    }
    let (data, _) = compressed(Scheme::Prune(Sparsity::Fraction(0.75)), Opset::Ios18);
    assert_eq!(data.iter().filter(|v| **v == 0.0).count(), ROWS * COLUMNS * 3 / 4);
    let sparsity = Sparsity::Structured { zeros: 2, of: 4 };
    let (data, _) = compressed(Scheme::PrunePalette { sparsity, bits: 4, group: Some(8) }, Opset::Ios18);
    assert!(data.chunks(4).all(|run| run.iter().filter(|v| **v == 0.0).count() >= 2));
}

#[test]
fn forms_of_ios16_and_those_that_do_not_fit() {
    compressed(Scheme::Palette { bits: 4, group: None, vector: 1 }, Opset::Ios16);
    compressed(Scheme::Linear { bits: 8, block: None, symmetric: true }, Opset::Ios16);
    compressed(Scheme::Linear { bits: 8, block: None, symmetric: false }, Opset::Ios16);
    compressed(Scheme::Prune(Sparsity::Fraction(0.5)), Opset::Ios16);
    let folder = tempfile::tempdir().expect("a folder");
    for (scheme, opset, part) in [
        (Scheme::Palette { bits: 4, group: Some(8), vector: 1 }, Opset::Ios16, "ios18 for this form"),
        (Scheme::Palette { bits: 4, group: None, vector: 1 }, Opset::Ios15, "found ios15"),
        (Scheme::Palette { bits: 5, group: None, vector: 1 }, Opset::Ios18, "1, 2, 3, 4, 6 or 8, found 5"),
        (Scheme::Palette { bits: 4, group: Some(7), vector: 1 }, Opset::Ios18, "a multiple of 7 output channels"),
        (Scheme::Linear { bits: 4, block: Some(7), symmetric: true }, Opset::Ios18, "a multiple of 7 input channels"),
        (Scheme::Prune(Sparsity::Fraction(1.0)), Opset::Ios18, "a fraction below 1"),
    ] {
        let case = tempfile::tempdir_in(folder.path()).expect("a folder");
        let dense = model(case.path(), opset);
        let to = case.path().join("small.mlpackage");
        let options = Options { layers: vec![("w".to_owned(), Some(scheme))], ..Options::new(scheme) };
        let error = compress(&dense, &options, &to).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(std::fs::read_dir(case.path()).expect("a folder").count(), 1, "nothing is left");
    }
    // A common form leaves weights that it does not fit.
    let common = Options::new(Scheme::Palette { bits: 4, group: Some(7), vector: 1 });
    let case = tempfile::tempdir_in(folder.path()).expect("a folder");
    let report = compress(&model(case.path(), Opset::Ios18), &common, &case.path().join("small.mlpackage"));
    let report = report.expect("written");
    assert_eq!((report.layers.len(), report.skipped), (0, vec!["w".to_owned()]));
    let options = Options {
        layers: vec![("w".to_owned(), None)],
        ..Options::new(Scheme::Linear { bits: 8, block: None, symmetric: true })
    };
    let dense = model(folder.path(), Opset::Ios18);
    let report = compress(&dense, &options, &folder.path().join("same.mlpackage")).expect("written");
    assert!(report.layers.is_empty() && report.before == report.after);
}

#[test]
fn elements_count_as_much_as_they_are_said_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let dense = model(folder.path(), Opset::Ios18);
    let scheme = Scheme::Palette { bits: 2, group: None, vector: 1 };
    // Four numbers count: they are the table.
    let kept = [0.25f32, -0.125, 0.5, -0.75].map(|v| {
        let near = |i: &usize| (numbers()[*i] - v).abs();
        (0..ROWS * COLUMNS).min_by(|a, b| near(a).total_cmp(&near(b))).expect("a number")
    });
    let mut importance = vec![0f32; ROWS * COLUMNS];
    kept.iter().for_each(|&i| importance[i] = 3.0);
    let options = |name: &str, importance: Vec<f32>, scheme| {
        let mut options = Options::new(scheme);
        options.importance.insert(name.to_owned(), importance);
        options
    };
    let to = folder.path().join("small.mlpackage");
    compress(&dense, &options("w", importance.clone(), scheme), &to).expect("compressed");
    let small = Model::open(&to).expect("it opens");
    let program = edit::program(&small).expect("a program");
    let found = Constants::of(&program.functions["main"].block, &small.weights).decode("w").expect("it decodes").data;
    kept.iter().for_each(|&i| assert_eq!(found[i], numbers()[i]));
    importance[7] = f32::NAN;
    let linear = Scheme::Linear { bits: 8, block: None, symmetric: true };
    for (options, part) in [
        (options("v", vec![1.0], scheme), "the importance of `v`: expected the name of a weight"),
        (options("w", vec![1.0], scheme), "weight `w`: expected 5120 importances, found 1"),
        (options("w", importance, scheme), "finite and not negative, found NaN"),
        (options("w", vec![1.0; ROWS * COLUMNS], linear), "tables of numbers where"),
    ] {
        let to = folder.path().join("none.mlpackage");
        let error = compress(&dense, &options, &to).expect_err(part).to_string();
        assert!(error.contains(part) && !to.exists(), "{error}");
    }
}
