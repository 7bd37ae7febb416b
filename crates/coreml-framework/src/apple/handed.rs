//! Outputs that stay in the framework's memory, as inputs of another model.

use candle_core::Tensor;
use coreml_format::description::FunctionDescription;
use objc2::rc::Retained;
use objc2_core_ml::MLMultiArray;

use super::array;
use super::features::declared;
use super::surface::SurfaceArray;
use crate::array::ArrayType;
use crate::error::NativeError;
use crate::shape;

/// An array of the framework, in a surface where one fits.
///
/// A model that wrote it for one prediction writes another one for the next as long as this one is held.
pub struct NativeArray {
    name: String,
    ty: ArrayType,
    shape: Vec<usize>,
    object: Retained<MLMultiArray>,
    surface: Option<SurfaceArray>,
}

// SAFETY: reference counts are atomic, and neither `MLMultiArray` nor the surface is tied to the thread that created it.
// It is written by a prediction of the model that owns it only while nobody else holds it, and read otherwise.
unsafe impl Send for NativeArray {}
// SAFETY: as above: what several threads can do at once is read.
unsafe impl Sync for NativeArray {}

/// How a prediction is part of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Handing<'a> {
    /// The input that the previous model made, if any.
    pub input: Option<(&'a str, &'a NativeArray)>,
    /// The output that is left where Core ML wrote it.
    pub output: &'a str,
}

impl std::fmt::Debug for NativeArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, ty, shape, .. } = self;
        write!(f, "NativeArray({name}: {} {shape:?})", ty.data_type().name())
    }
}

impl NativeArray {
    /// Creates an array for an output.
    pub(super) fn new(name: &str, ty: ArrayType, shape: &[usize], in_surface: bool) -> Result<Self, NativeError> {
        let surface = in_surface.then(|| SurfaceArray::new(name, ty, shape)).flatten();
        let object = match &surface {
            Some(surface) => surface.array().clone(),
            None => array::owned(name, ty, shape)?,
        };
        Ok(Self { name: name.to_owned(), ty, shape: shape.to_vec(), object, surface })
    }

    /// An array that the framework made for an output.
    pub(super) fn of(name: &str, object: Retained<MLMultiArray>) -> Result<Self, NativeError> {
        let (ty, shape) = array::kind(name, &object)?;
        Ok(Self { name: name.to_owned(), ty, shape, object, surface: None })
    }

    /// The framework's object.
    pub(super) fn object(&self) -> &Retained<MLMultiArray> {
        &self.object
    }

    /// Checks that the array can be this input.
    pub(super) fn check(&self, described: &FunctionDescription, input: &str) -> Result<(), NativeError> {
        let found = || format!("{} {:?}", self.ty.data_type().name(), self.shape);
        let feature = described.input(input).ok_or_else(|| NativeError::feature(input, "an input", "none"))?;
        let (ty, _) = declared(feature).ok_or_else(|| NativeError::feature(input, feature.ty.in_words(), found()))?;
        if ty != self.ty {
            return Err(NativeError::feature(input, format!("elements {}", ty.data_type().name()), found()));
        }
        Ok(shape::check(feature, &self.shape)?)
    }

    /// Number of elements along each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Copies the elements into a tensor.
    ///
    /// # Errors
    /// If the memory is not accessible, or its strides do not fit it.
    pub fn read(&self) -> Result<Tensor, NativeError> {
        let buffer = match &self.surface {
            Some(surface) => surface.read(&self.name)?,
            None => array::read(&self.name, &self.object)?.1,
        };
        Ok(buffer.into_tensor(self.shape.clone())?)
    }
}
