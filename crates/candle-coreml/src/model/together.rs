//! Predictions that read the weights once for several states.

use indexmap::IndexMap;

use super::{CoreMLModel, FeatureValue};
use crate::error::Result;
use crate::state::CoreMLState;

impl CoreMLModel {
    /// Predictions that read the weights once for all of them, each with the state at its index: outputs in order, the same
    /// as those of [`predict_values`](Self::predict_values), to the bit, if no row of a state reads what a later one of it
    /// writes. `None` on engines that can't.
    ///
    /// # Errors
    /// The error of one of them. States then hold what some of them wrote.
    pub(crate) fn predict_together(
        &self,
        rows: &[(Vec<(&str, FeatureValue)>, usize)],
        states: &mut [&mut CoreMLState],
    ) -> Option<Result<Vec<IndexMap<String, FeatureValue>>>> {
        if let Err(error) = rows.iter().try_for_each(|(inputs, _)| self.check_inputs(inputs)) {
            return Some(Err(error));
        }
        let mut inner: Vec<_> = states.iter_mut().map(|s| &mut *s.inner).collect();
        let finish = |mut all: Vec<IndexMap<String, FeatureValue>>| {
            for (outputs, (inputs, _)) in all.iter_mut().zip(rows) {
                self.finish_outputs(outputs, inputs)?;
            }
            Ok(all)
        };
        Some(self.engine.predict_together(rows, &mut inner)?.and_then(finish))
    }
}
