//! Chains of models: what one hands on to the next stays in the engine's memory where it can.

use indexmap::IndexMap;

use super::{CoreMLModel, FeatureValue};
use crate::engine::Handed;
use crate::error::Result;
use crate::state::CoreMLState;

impl CoreMLModel {
    /// Predicts as one of a chain: `handed` is what the model before handed on, with the name of its input; `output` is
    /// handed on. Other outputs are dropped.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::predict_values`]; [`Error::Output`] if `output` is no tensor.
    pub(crate) fn predict_handing(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: Option<(&str, Handed)>,
        state: Option<&mut CoreMLState>,
        output: &str,
    ) -> Result<Handed> {
        self.check_chain(inputs, handed.as_ref())?;
        match self.engine.predict_handing(inputs, handed, state.map(|s| &mut *s.inner), output)? {
            Handed::Tensor(tensor) => self.finished(output, tensor, inputs).map(Handed::Tensor),
            #[cfg(any(test, target_vendor = "apple"))]
            array @ Handed::Array(_) => Ok(array),
        }
    }

    /// The last prediction of a chain.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::predict_values`].
    pub(crate) fn predict_handed(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: (&str, Handed),
        state: Option<&mut CoreMLState>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.check_chain(inputs, Some(&handed))?;
        let mut outputs = self.engine.predict_handed(inputs, Some(handed), state.map(|s| &mut *s.inner))?;
        self.finish_outputs(&mut outputs, inputs)?;
        Ok(outputs)
    }

    fn check_chain(&self, inputs: &[(&str, FeatureValue)], handed: Option<&(&str, Handed)>) -> Result<()> {
        let name = handed.map(|(name, _)| *name);
        self.check_names(inputs.iter().map(|(name, _)| *name).chain(name))?;
        inputs.iter().try_for_each(|(name, value)| self.check_tensor(name, value))?;
        match handed {
            Some((name, handed)) => self.check_shape(name, handed.shape(), || format!("{:?}", handed.shape())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::engine::EngineArray;

    /// Memory of some engine, which counts how often it is copied.
    #[derive(Debug)]
    struct Counted(Tensor, Arc<AtomicUsize>);

    impl EngineArray for Counted {
        fn shape(&self) -> &[usize] {
            self.0.dims()
        }

        fn read(&self) -> Result<Tensor> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Ok(self.0.clone())
        }
    }

    /// The head of the small model, its input, and hidden states for it.
    fn head() -> (CoreMLModel, String, Tensor) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3");
        let path = folder.join("qwen_lm_head_lut8.mlpackage");
        let model = CoreMLModel::builder(path).engine(crate::EngineChoice::Portable).load().expect("it loads");
        let name = model.input_names()[0].clone();
        let shape = match &model.function_description().inputs[0].ty {
            coreml_format::description::FeatureType::MultiArray { shape, .. } => shape.clone(),
            other => panic!("{other:?}"),
        };
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| (i % 7) as f32 / 7.0).collect();
        let hidden = Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(DType::F16));
        (model, name, hidden.expect("hidden states"))
    }

    fn floats(value: Option<&FeatureValue>) -> Vec<f32> {
        let tensor = value.and_then(FeatureValue::tensor).expect("a tensor");
        tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
    }

    #[test]
    fn another_engines_memory_is_copied_once() {
        let (model, name, hidden) = head();
        let output = model.output_names()[0].clone();
        let want = model.predict(&[(&name, hidden.clone())], None).expect("logits");
        let copies = Arc::new(AtomicUsize::new(0));
        let array = || Handed::Array(Box::new(Counted(hidden.clone(), copies.clone())));
        let got = model.predict_handed(&[], (&name, array()), None).expect("logits");
        assert_eq!(floats(got.get(&output)), floats(want.get(&output)));
        assert_eq!(copies.load(Ordering::SeqCst), 1);
        let got = model.predict_handing(&[], Some((&name, array())), None, &output).expect("logits");
        let got = FeatureValue::Tensor(got.into_tensor().expect("a tensor"));
        assert_eq!(floats(Some(&got)), floats(want.get(&output)));
        assert_eq!(copies.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let (model, name, hidden) = head();
        let output = model.output_names()[0].clone();
        let refused = |input: &str, tensor: &Tensor, output: &str| {
            let handed = Some((input, Handed::Tensor(tensor.clone())));
            model.predict_handing(&[], handed, None, output).expect_err("it does not fit").to_string()
        };
        assert!(refused("no_such_input", &hidden, &output).contains("no_such_input"));
        assert!(refused(&name, &hidden, "no_such_output").contains("no_such_output"));
        let long = Tensor::cat(&[&hidden, &hidden], hidden.rank() - 1).expect("twice as long");
        assert!(refused(&name, &long, &output).contains(&name));
        let missing = model.predict_handing(&[], None, None, &output).expect_err("no input").to_string();
        assert!(missing.contains(&name), "{missing}");
        let twice = [(name.as_str(), FeatureValue::Tensor(hidden.clone()))];
        assert!(model.predict_handed(&twice, (&name, Handed::Tensor(hidden.clone())), None).is_err());
        assert!(model.predict(&[(&name, hidden.clone()), (&name, hidden)], None).is_err());
    }
}
