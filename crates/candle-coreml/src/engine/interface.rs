//! The interface of both engines.

use std::any::Any;

use candle_core::Tensor;
use coreml_engine::state::StateSpec;
use coreml_format::description::ModelDescription;
use coreml_format::dtype::DataType;
use coreml_framework::report::{BackingUse, OperationReport};
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::model::{FeatureRow, RowOutputs};

/// What an operation computed in a prediction.
#[derive(Debug, Clone)]
pub struct InnerValue<'a> {
    /// Kind of the operation, such as `conv`.
    pub operator: &'a str,
    /// Its name in the program.
    pub name: &'a str,
    /// Which of its results this is, from 0.
    pub output: usize,
    /// The values: floats of 32 bits (of 64 in classic models), integers, booleans as bytes.
    pub tensor: Tensor,
    /// Their declared type, to which Core ML may round them.
    pub dtype: DataType,
}

/// One function of a model, loaded by one engine.
pub(crate) trait Engine: std::fmt::Debug + Send + Sync {
    /// Name of the engine.
    fn name(&self) -> &'static str;

    /// Name of the function.
    fn function(&self) -> &str;

    /// The engine's own description of the model, if any.
    fn description(&self) -> Option<&ModelDescription>;

    /// Names of the inputs without states, in the engine's order.
    fn inputs(&self) -> Vec<&str>;

    /// States required by predictions.
    fn states(&self) -> &[StateSpec];

    /// A zeroed state with these buffers, a superset of the engine's own.
    fn new_state(&self, specs: &[StateSpec]) -> Result<Box<dyn EngineState>>;

    /// Predicts. Names and shapes of `inputs` match the description; tensors may be on any device: the engine copies
    /// what it cannot read in place, or returns an error.
    fn predict(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>>;

    /// Predicts as one of a chain of models: takes what the one before handed on as the input that it names, and hands on
    /// one output, in the engine's own memory if it can.
    fn predict_handing(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: Option<(&str, Handed)>,
        state: Option<&mut (dyn EngineState + 'static)>,
        output: &str,
    ) -> Result<Handed> {
        let mut outputs = self.predict_handed(inputs, handed, state)?;
        match outputs.swap_remove(output) {
            Some(FeatureValue::Tensor(tensor)) => Ok(Handed::Tensor(tensor)),
            Some(other) => Err(Error::Output {
                name: output.to_owned(),
                expected: "a tensor".to_owned(),
                found: other.kind().to_owned(),
            }),
            None => Err(Error::Output {
                name: output.to_owned(),
                expected: "an output of the model".to_owned(),
                found: "none".to_owned(),
            }),
        }
    }

    /// Predicts with what another model handed on as one of the inputs.
    fn predict_handed(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: Option<(&str, Handed)>,
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        let Some((name, handed)) = handed else { return self.predict(inputs, state) };
        let mut all = inputs.to_vec();
        all.push((name, FeatureValue::Tensor(handed.into_tensor()?)));
        self.predict(&all, state)
    }

    /// [`predict`](Self::predict) that asks on its way, on the caller's thread, if it is to go on; an engine that can't be
    /// stopped asks once, at the start.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if it was not to go on.
    fn predict_while(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<IndexMap<String, FeatureValue>> {
        if go_on() { self.predict(inputs, state) } else { Err(Error::Cancelled) }
    }

    /// [`predict`](Self::predict) that shows what every operation computes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the engine shows no inner values.
    fn predict_traced(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
        each: &dyn Fn(&InnerValue<'_>),
    ) -> Result<IndexMap<String, FeatureValue>> {
        let _ = (inputs, state, each);
        Err(Error::Unavailable(format!("the {} engine shows no inner values; the portable one does", self.name())))
    }

    /// Returns true if the engine takes several sets of inputs in one request.
    fn takes_batches(&self) -> bool {
        false
    }

    /// Predicts for several sets of inputs, without states.
    fn predict_batch(&self, batch: &[Vec<(&str, FeatureValue)>]) -> Result<Vec<IndexMap<String, FeatureValue>>> {
        batch.iter().map(|inputs| self.predict(inputs, None)).collect()
    }

    /// Returns true if several predictions at once are faster than one by one.
    fn takes_rows(&self) -> bool {
        false
    }

    /// Several predictions at once, on this thread: outputs in order, the same as one by one. `None` where that is not
    /// possible, or one of them fails: predicted one by one they tell which.
    fn predict_rows(&self, _rows: &[FeatureRow]) -> Option<Vec<RowOutputs>> {
        None
    }

    /// Predictions that read the weights once for all of them, each with the state at its index: outputs in order, the same as
    /// one by one, to the bit, if no row of a state reads what a later one of it writes. `None` where that is not possible.
    ///
    /// # Errors
    /// The error of one of them. States then hold what some of them wrote.
    fn predict_together(
        &self,
        _rows: &[(Vec<(&str, FeatureValue)>, usize)],
        _states: &mut [&mut (dyn EngineState + 'static)],
    ) -> Option<Result<Vec<IndexMap<String, FeatureValue>>>> {
        None
    }

    /// What became of the arrays that outputs are to be written into; `None` on engines without them.
    fn backings_in_use(&self) -> Option<BackingUse> {
        None
    }

    /// The framework's model.
    #[cfg(target_vendor = "apple")]
    fn native(&self) -> Option<&coreml_framework::NativeModel> {
        None
    }

    /// Inputs, with the dimension, whose number of rows may differ from the declared one.
    fn open_rows(&self) -> &[(String, usize)] {
        &[]
    }

    /// Placement of each operation.
    fn placement(&self) -> Result<Vec<OperationReport>>;

    /// Starts profiling from zero, or stops it. Returns true if the engine supports it.
    fn set_profiling(&self, _on: bool) -> bool {
        false
    }

    /// Costs of the operations since profiling started.
    fn costs(&self) -> Vec<OperationCost> {
        Vec::new()
    }
}

/// An output on its way to the next model.
#[derive(Debug)]
pub(crate) enum Handed {
    /// In a tensor, of the type that the model declares.
    Tensor(Tensor),
    /// In the memory of an engine.
    #[cfg(any(test, target_vendor = "apple"))]
    Array(Box<dyn EngineArray>),
}

/// An array in the memory of one engine.
#[cfg(any(test, target_vendor = "apple"))]
pub(crate) trait EngineArray: std::fmt::Debug + Any {
    /// Number of elements along each dimension.
    fn shape(&self) -> &[usize];

    /// Copies the elements.
    fn read(&self) -> Result<Tensor>;
}

impl Handed {
    /// Number of elements along each dimension.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            #[cfg(any(test, target_vendor = "apple"))]
            Self::Array(array) => array.shape(),
        }
    }

    /// The elements.
    ///
    /// # Errors
    /// If the engine's memory is not accessible.
    pub(crate) fn into_tensor(self) -> Result<Tensor> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            #[cfg(any(test, target_vendor = "apple"))]
            Self::Array(array) => array.read(),
        }
    }
}

/// Cost of one operation, summed over predictions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OperationCost {
    /// Function of the model.
    pub function: String,
    /// Type of the operation; the engine's fused types cover several operations of the program.
    pub operator: String,
    /// Its name.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Time in nanoseconds, nested blocks included.
    pub nanoseconds: u64,
    /// Bytes of weights per call, as stored.
    pub weight_bytes: u64,
    /// Bytes of all results.
    pub output_bytes: u64,
}

/// States of one conversation, in the memory of one engine.
pub(crate) trait EngineState: std::fmt::Debug + Send + Sync + Any {
    /// Name of the engine.
    fn engine(&self) -> &'static str;

    /// Names of the states.
    fn names(&self) -> Vec<&str>;

    /// Copies an existing state.
    fn get(&self, name: &str) -> Result<Tensor>;

    /// Overwrites an existing state.
    fn set(&mut self, name: &str, value: &Tensor) -> Result<()>;

    /// Zeroes all states.
    fn reset(&mut self) -> Result<()>;
}

/// Downcasts the state to the type of one engine.
///
/// # Errors
/// [`Error::StateEngine`] if the state belongs to another engine.
pub(super) fn downcast<'a, T: EngineState>(
    state: &'a mut (dyn EngineState + 'static),
    engine: &'static str,
) -> Result<&'a mut T> {
    let found = state.engine();
    let any: &mut dyn Any = state;
    any.downcast_mut().ok_or(Error::StateEngine { expected: engine, found })
}

#[cfg(test)]
mod tests {
    use super::super::{empty_state, portable};
    use super::*;

    /// A state that claims to be the other engine's.
    #[derive(Debug)]
    pub(crate) struct Foreign;

    impl EngineState for Foreign {
        fn engine(&self) -> &'static str {
            "foreign"
        }
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn get(&self, name: &str) -> Result<Tensor> {
            Err(Error::Request(name.to_owned()))
        }
        fn set(&mut self, name: &str, _: &Tensor) -> Result<()> {
            Err(Error::Request(name.to_owned()))
        }
        fn reset(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn states_of_another_engine_are_refused() {
        let mut own = empty_state().expect("no buffers");
        assert!(downcast::<portable::PortableState>(&mut *own, "portable").is_ok());
        let error = downcast::<portable::PortableState>(&mut Foreign, "portable").expect_err("not its own");
        assert!(matches!(error, Error::StateEngine { expected: "portable", found: "foreign" }));
    }
}
