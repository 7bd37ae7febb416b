//! Networks of rank 5 for batches, and for sequences of unlike lengths: `[sequence, batch, C, H, W]` where `[C, H, W]` is
//! described. Such a network is lowered once more, as if the shapes of these arrays were those of its description.

use std::sync::{Arc, Mutex, PoisonError};

use coreml_format::description::{FeatureType, ModelDescription, ShapeConstraint};
use coreml_format::model::Model;
use coreml_lower::neural_network::ranked_shape;
use coreml_values::FeatureValue;

use super::Portable;
use crate::engine::EngineOptions;
use crate::error::Result;

/// Names and shapes of the arrays that are not as described.
type Shapes = Vec<(String, [usize; 5])>;

/// What it takes to lower the network again, and the last network so made.
#[derive(Debug)]
pub(super) struct Shaped {
    package: Arc<Model>,
    options: EngineOptions,
    last: Mutex<Option<(Shapes, Arc<Portable>)>>,
}

impl Shaped {
    pub(super) fn new(package: Arc<Model>, options: EngineOptions) -> Self {
        Self { package, options, last: Mutex::default() }
    }

    /// The network for arrays of these shapes, and the arrays in rank 5; `None` where `plain` takes them as they are.
    pub(super) fn network<'n>(
        &self,
        plain: &Portable,
        inputs: &[(&'n str, FeatureValue)],
    ) -> Result<Option<(Arc<Portable>, Vec<(&'n str, FeatureValue)>)>> {
        let mut shapes: Shapes = Vec::new();
        let mut ready = Vec::with_capacity(inputs.len());
        let mut taken = true;
        for (name, value) in inputs {
            let described = plain.described.input(name).map(|f| &f.ty);
            let (FeatureValue::Tensor(tensor), Some(FeatureType::MultiArray { shape, .. })) = (value, described) else {
                ready.push((*name, value.clone()));
                continue;
            };
            let Some(ranked) = ranked_shape(shape, tensor.dims()) else {
                ready.push((*name, value.clone()));
                continue;
            };
            let declared = plain.executable.inputs().iter().find(|i| i.name == *name).and_then(|i| i.ty.tensor());
            taken &= declared.is_some_and(|ty| plain.sequence(name, tensor.dims(), &ty.shape).is_some())
                || ranked[..2] == [1, 1];
            shapes.push(((*name).to_owned(), ranked));
            ready.push((*name, FeatureValue::Tensor(tensor.reshape(&ranked[..])?)));
        }
        if taken {
            return Ok(None);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, network)) = &*last
            && *known == shapes
        {
            return Ok(Some((network.clone(), ready)));
        }
        let description = self.described(&shapes);
        let network = Arc::new(super::plan(&self.package, &description, None, &self.options, &[])?);
        *last = Some((shapes, network.clone()));
        Ok(Some((network, ready)))
    }

    /// The description with these shapes, and results of whatever shape the layers give.
    fn described(&self, shapes: &Shapes) -> ModelDescription {
        let mut description = self.package.description.clone();
        for function in description.functions.values_mut() {
            for feature in &mut function.inputs {
                let Some((_, found)) = shapes.iter().find(|(name, _)| *name == feature.name) else { continue };
                if let FeatureType::MultiArray { shape, constraint, .. } = &mut feature.ty {
                    (*shape, *constraint) = (found.to_vec(), ShapeConstraint::Fixed);
                }
            }
            for feature in &mut function.outputs {
                if let FeatureType::MultiArray { shape, constraint, .. } = &mut feature.ty {
                    (*shape, *constraint) = (Vec::new(), ShapeConstraint::Unspecified);
                }
            }
        }
        description
    }
}
