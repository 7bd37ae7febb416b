//! Predictions that are watched: stopped on the way, or shown value by value to find where they go wrong.

use candle_core::{DType, Tensor};
use indexmap::IndexMap;
use serde::Serialize;

use super::{CoreMLModel, FeatureValue};
use crate::engine::InnerValue;
use crate::error::Result;
use crate::state::CoreMLState;

/// Largest finite number of 16 bits.
const LARGEST_HALF: f64 = 65504.0;

/// Range of the elements of a tensor, and what is no number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueStats {
    /// Shape.
    pub shape: Vec<usize>,
    /// Smallest finite element; `None` without one.
    pub min: Option<f64>,
    /// Largest finite element; `None` without one.
    pub max: Option<f64>,
    /// Mean of the finite elements; `None` without one.
    pub mean: Option<f64>,
    /// Number of elements that are NaN.
    pub nan: usize,
    /// Number of elements that are infinite.
    pub infinite: usize,
    /// Number of finite elements that 16 bits can't hold: beyond ±65,504.
    pub beyond_half: usize,
}

impl ValueStats {
    /// Statistics of a tensor.
    ///
    /// # Errors
    /// If its elements can't be read.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let numbers: Vec<f64> = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        let (mut nan, mut infinite, mut beyond_half, mut sum) = (0, 0, 0, 0.0);
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for &x in &numbers {
            if x.is_nan() {
                nan += 1;
            } else if x.is_infinite() {
                infinite += 1;
            } else {
                beyond_half += usize::from(x.abs() > LARGEST_HALF);
                (min, max, sum) = (min.min(x), max.max(x), sum + x);
            }
        }
        let count = numbers.len() - nan - infinite;
        let some = |x: f64| (count > 0).then_some(x);
        let mean = some(sum / count.max(1) as f64);
        Ok(Self { shape: tensor.dims().to_vec(), min: some(min), max: some(max), mean, nan, infinite, beyond_half })
    }

    /// True if every element is a finite number.
    pub fn is_finite(&self) -> bool {
        self.nan == 0 && self.infinite == 0
    }
}

impl std::fmt::Display for ValueStats {
    /// `[1, 3, 4]: -1.5 to 2, mean 0.25, 2 NaN, 1 infinite`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.shape)?;
        if let (Some(min), Some(max), Some(mean)) = (self.min, self.max, self.mean) {
            write!(f, ": {min:.6} to {max:.6}, mean {mean:.6}")?;
        }
        for (count, what) in [(self.nan, "NaN"), (self.infinite, "infinite"), (self.beyond_half, "beyond 16 bits")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl CoreMLModel {
    /// [`predict_values`](Self::predict_values) that can be stopped: `go_on` is asked before every operation, on the
    /// caller's thread, and should answer fast. Core ML can't be stopped, and asks at the start only.
    ///
    /// # Errors
    /// Same as [`predict_values`](Self::predict_values); [`Error::Cancelled`](crate::Error::Cancelled) if `go_on` answered `false`. A state then holds
    /// what the operations before wrote.
    pub fn predict_values_while(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut CoreMLState>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.check_inputs(inputs)?;
        let mut outputs = self.engine.predict_while(inputs, state.map(|s| &mut *s.inner), go_on)?;
        self.finish_outputs(&mut outputs, inputs)?;
        Ok(outputs)
    }

    /// [`predict_values`](Self::predict_values) that shows what every operation computes, in order: `each` gets every
    /// result, those of nested blocks once for each time they run. Names are those of the program where the model was
    /// built without passes ([`PassSet::none`](super::PassSet::none)). Constants that were computed when the model was
    /// loaded are not shown.
    ///
    /// # Errors
    /// Same as [`predict_values`](Self::predict_values); [`Error::Unavailable`](crate::Error::Unavailable) on the native
    /// engine, which shows no inner values.
    pub fn predict_traced(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut CoreMLState>,
        each: &dyn Fn(&InnerValue<'_>),
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.check_inputs(inputs)?;
        let mut outputs = self.engine.predict_traced(inputs, state.map(|s| &mut *s.inner), each)?;
        self.finish_outputs(&mut outputs, inputs)?;
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::model::{EngineChoice, PassSet};

    #[test]
    fn statistics_leave_out_what_is_no_number() {
        let t = Tensor::new(&[1.0f32, 70000.0, f32::NAN, f32::NEG_INFINITY], &Device::Cpu).expect("a tensor");
        let stats = ValueStats::of(&t).expect("statistics");
        assert_eq!((stats.min, stats.max, stats.mean), (Some(1.0), Some(70000.0), Some(35000.5)));
        assert_eq!((stats.nan, stats.infinite, stats.beyond_half), (1, 1, 1));
        assert!(!stats.is_finite());
        let none = ValueStats::of(&Tensor::zeros(0, DType::F32, &Device::Cpu).expect("empty")).expect("statistics");
        assert_eq!((none.min, none.to_string().as_str()), (None, "[0]"));
    }

    #[test]
    fn every_operation_shows_its_results_and_outputs_stay_the_same() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-intent/intent.mlpackage");
        let load = |passes| CoreMLModel::builder(&path).engine(EngineChoice::Portable).passes(passes).load();
        let model = load(PassSet::none()).expect("it loads");
        let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu).expect("ids");
        let mask = ids.ones_like().expect("a mask");
        let inputs = [("input_ids", ids.into()), ("attention_mask", mask.into())];
        let seen = RefCell::new(Vec::new());
        let each = |v: &InnerValue<'_>| seen.borrow_mut().push((v.name.to_owned(), v.tensor.clone()));
        let traced = model.predict_traced(&inputs, None, &each).expect("traced");
        let plain = model.predict_values(&inputs, None).expect("predicted");
        let numbers = |v: &FeatureValue| -> Vec<f32> {
            let t = v.tensor().expect("a tensor");
            t.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
        };
        assert_eq!(numbers(&traced["logits"]), numbers(&plain["logits"]));
        let seen = seen.into_inner();
        // One of the last operations makes the output, whatever it is called.
        let wanted = numbers(&plain["logits"]).len();
        let (_, last) = seen.iter().rfind(|(_, t)| t.elem_count() == wanted).expect("an operation");
        let last: Vec<f32> = last.flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
        let near = |a: f32, b: &f32| (a - b).abs() <= 1e-3 * b.abs().max(1.0);
        assert!(last.iter().zip(&numbers(&plain["logits"])).all(|(a, b)| near(*a, b)), "{last:?}");
        assert!(seen.len() > 20, "{}", seen.len());
    }
}
