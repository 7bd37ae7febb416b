//! Made-up inputs, for measuring a model and for a first look at what it returns.

use candle_core::{DType, Device, Tensor};
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, ShapeConstraint};
use coreml_format::dtype::DataType;

use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureRow, FeatureValue};

/// Largest number of elements of an input.
const MOST: usize = 1 << 30;

/// How inputs are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros, empty strings and lists.
    Zeros,
    /// Floats in −1..1, pixels in 0..256, integers of 0 and 1, which are valid indices into any table and valid mask
    /// values. The same for the same seed.
    Random(u64),
}

/// Kind of a made-up input.
#[derive(Debug)]
enum Kind {
    Floats(Vec<usize>),
    Pixels(Vec<usize>),
    Ints(Vec<usize>),
    Bools(Vec<usize>),
    Double,
    Int,
    Text,
    Texts,
    Numbers,
    Dictionary,
}

/// What the required inputs of a model are.
#[derive(Debug)]
pub struct Inputs(Vec<(String, Kind)>);

/// Random numbers: Xorshift of 64 bits (Marsaglia 2003), started by the finalizer of SplitMix64.
struct Rng(u64);

impl Rng {
    fn new(seed: u64, input: usize) -> Self {
        let mut z = seed.wrapping_add((input as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)) | 1)
    }

    /// The upper 24 bits of the next number.
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as u32
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 23) as f32 - 1.0
    }
}

impl Inputs {
    /// The required inputs for which `wanted` is true.
    ///
    /// # Errors
    /// If the model does not say the shape of one, or one is too large.
    pub fn of(model: &CoreMLModel, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let described = model.function_description();
        let program = coreml_lower::lower(model.package()).ok();
        let program = program.as_ref().and_then(|p| p.functions.get(model.function()));
        let mut inputs = Vec::new();
        for name in model.input_names() {
            let feature = described.input(&name);
            if feature.is_some_and(|f| f.optional) || !wanted(&name) {
                continue;
            }
            let declared = program.and_then(|f| f.inputs.iter().find(|i| i.name == name)).and_then(|i| i.ty.tensor());
            let kind = match feature.map(|f| &f.ty) {
                Some(FeatureType::Double) => Kind::Double,
                Some(FeatureType::Int64) => Kind::Int,
                Some(FeatureType::String) => Kind::Text,
                Some(FeatureType::Sequence { ints: false }) => Kind::Texts,
                Some(FeatureType::Sequence { ints: true }) => Kind::Numbers,
                Some(FeatureType::Dictionary { .. }) => Kind::Dictionary,
                Some(FeatureType::Image { layout, width, height, .. }) => {
                    let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
                    Kind::Pixels(vec![1, channels, *height, *width])
                }
                _ => {
                    let shape = feature.and_then(shape).or_else(|| declared?.fixed_shape());
                    let shape = shape
                        .ok_or_else(|| Error::Request(format!("input `{name}`: the model does not say its shape")))?;
                    let dtype = match (declared, feature.map(|f| &f.ty)) {
                        (Some(t), _) => t.dtype,
                        (None, Some(FeatureType::MultiArray { dtype, .. })) => *dtype,
                        _ => DataType::F32,
                    };
                    match dtype {
                        DataType::Bool => Kind::Bools(shape),
                        d if d.is_float() => Kind::Floats(shape),
                        _ => Kind::Ints(shape),
                    }
                }
            };
            if let Kind::Floats(shape) | Kind::Pixels(shape) | Kind::Ints(shape) | Kind::Bools(shape) = &kind {
                let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n <= MOST);
                count.ok_or_else(|| Error::Request(format!("input `{name}`: {shape:?} is too large to make up")))?;
            }
            inputs.push((name, kind));
        }
        Ok(Self(inputs))
    }

    /// Values for them.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn values(&self, fill: Fill) -> Result<FeatureRow> {
        self.0.iter().enumerate().map(|(i, (name, kind))| Ok((name.clone(), value(kind, fill, i)?))).collect()
    }
}

/// A value of this kind, for the input with this number.
fn value(kind: &Kind, fill: Fill, input: usize) -> Result<FeatureValue> {
    let mut rng = match fill {
        Fill::Zeros => None,
        Fill::Random(seed) => Some(Rng::new(seed, input)),
    };
    let mut float = || rng.as_mut().map_or(0.0, Rng::float);
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let here = &Device::Cpu;
    Ok(match kind {
        Kind::Floats(shape) => {
            Tensor::from_vec((0..count(shape)).map(|_| float()).collect::<Vec<f32>>(), shape.as_slice(), here)?.into()
        }
        Kind::Pixels(shape) => {
            let pixel = |x: f32| if fill == Fill::Zeros { 0.0 } else { ((x + 1.0) * 128.0).floor() };
            let pixels: Vec<f32> = (0..count(shape)).map(|_| pixel(float())).collect();
            Tensor::from_vec(pixels, shape.as_slice(), here)?.into()
        }
        Kind::Ints(shape) | Kind::Bools(shape) => {
            let ones: Vec<i64> = (0..count(shape)).map(|_| i64::from(float() > 0.0)).collect();
            let tensor = Tensor::from_vec(ones, shape.as_slice(), here)?;
            if matches!(kind, Kind::Bools(_)) { tensor.to_dtype(DType::U8)?.into() } else { tensor.into() }
        }
        Kind::Double => f64::from(float()).into(),
        Kind::Int => i64::from(float() > 0.0).into(),
        Kind::Text => FeatureValue::String(String::new()),
        Kind::Texts => FeatureValue::Strings(Vec::new()),
        Kind::Numbers => FeatureValue::Int64s(Vec::new()),
        Kind::Dictionary => FeatureValue::Dictionary(Vec::new()),
    })
}

/// The default shape of a feature, or the smallest that it accepts.
fn shape(feature: &FeatureDescription) -> Option<Vec<usize>> {
    let FeatureType::MultiArray { shape, constraint, .. } = &feature.ty else { return None };
    match constraint {
        _ if !shape.is_empty() => Some(shape.clone()),
        ShapeConstraint::Enumerated(shapes) => shapes.first().cloned(),
        ShapeConstraint::Ranges(ranges) if !ranges.is_empty() => Some(ranges.iter().map(|r| r.min.max(1)).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(kind: &Kind, fill: Fill, input: usize) -> Vec<f32> {
        let FeatureValue::Tensor(t) = value(kind, fill, input).expect("a value") else { panic!("a tensor") };
        t.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("numbers")
    }

    #[test]
    fn a_seed_repeats_and_values_stay_in_their_range() {
        let floats = Kind::Floats(vec![50, 20]);
        let all = numbers(&floats, Fill::Random(7), 0);
        assert_eq!(all, numbers(&floats, Fill::Random(7), 0));
        assert_ne!(all, numbers(&floats, Fill::Random(8), 0));
        assert_ne!(all, numbers(&floats, Fill::Random(7), 1), "inputs differ");
        assert!(all.iter().all(|x| (-1.0..1.0).contains(x)));
        // Mean and variance of a uniform distribution on −1..1 are 0 and 1/3; three standard errors of 1,000 numbers.
        let mean = all.iter().sum::<f32>() / 1000.0;
        let variance = all.iter().map(|x| x * x).sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.055 && (variance - 1.0 / 3.0).abs() < 0.03, "{mean} {variance}");
        let pixels = numbers(&Kind::Pixels(vec![1, 3, 20, 20]), Fill::Random(1), 0);
        assert!(pixels.iter().all(|p| (0.0..256.0).contains(p) && p.fract() == 0.0));
        let ints = numbers(&Kind::Ints(vec![100]), Fill::Random(1), 0);
        assert!(ints.contains(&0.0) && ints.contains(&1.0) && ints.iter().all(|i| *i == 0.0 || *i == 1.0));
        for kind in [floats, Kind::Pixels(vec![1, 1, 2, 2]), Kind::Ints(vec![3]), Kind::Bools(vec![3])] {
            assert!(numbers(&kind, Fill::Zeros, 0).iter().all(|x| *x == 0.0));
        }
    }
}
