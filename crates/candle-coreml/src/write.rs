//! Core ML models written from Candle tensors, and models edited: `coreml-write` with a door for tensors.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_coreml::CoreMLModel;
//! use candle_coreml::format::{dtype::DataType, program::Opset};
//! use candle_coreml::write::{self, FunctionBuilder, PackageBuilder};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("double.mlpackage");
//! let weight = Tensor::new(&[[2f32, 0.0], [0.0, 2.0]], &Device::Cpu)?;
//!
//! let mut package = PackageBuilder::create(&path)?;
//! let weight = write::weight(&mut package, &weight, DType::F16)?;
//! let mut f = FunctionBuilder::new(Opset::Ios18);
//! let x = f.input("x", DataType::F16, [1, 2])?;
//! let weight = f.constant("weight", weight)?;
//! let y = f.op("linear").arg("x", &x).arg("weight", &weight).done()?;
//! f.output("y", &y)?;
//! package.add("main", f)?;
//! package.finish()?;
//!
//! let model = CoreMLModel::builder(&path).load()?;
//! let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?.to_dtype(DType::F16)?;
//! let y = model.forward_all(&[&x])?["y"].to_dtype(DType::F32)?;
//! assert_eq!(y.to_vec2::<f32>()?, [[6.0, 8.0]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod evaluate;

use candle_core::{DType, Tensor};
use coreml_format::dtype::DataType;
use coreml_format::program::Value;

pub use coreml_write::builder::{self, BuildError, Extents, FunctionBuilder, PackageBuilder, Var};
pub use coreml_write::edit::{self, EditError};
pub use coreml_write::{batch, compile, passes};
pub use evaluate::{edit_model, evaluate, finish_optimized};

use crate::error::{Error, Result};

/// Stores a tensor in the weight file of a package, as `dtype`: f16, f32, u8 or i32; returns the constant.
///
/// # Errors
/// [`Error::Request`] for another element type, and for floats that are not finite as f16; [`Error::Build`] if writing
/// fails.
pub fn weight(package: &mut PackageBuilder, tensor: &Tensor, dtype: DType) -> Result<Value> {
    let flat = tensor.to_device(&candle_core::Device::Cpu)?.to_dtype(dtype)?.flatten_all()?;
    let (stored, bytes) = match dtype {
        DType::F16 => {
            let values = flat.to_vec1::<half::f16>()?;
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let text = format!(
                    "a weight of shape {:?}: expected finite numbers in fp16, found {} at {at}",
                    tensor.dims(),
                    values[at]
                );
                return Err(Error::Request(text));
            }
            (DataType::F16, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
        }
        DType::F32 => (DataType::F32, flat.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::U8 => (DataType::U8, flat.to_vec1::<u8>()?),
        DType::I32 => (DataType::I32, flat.to_vec1::<i32>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        other => {
            return Err(Error::Request(format!("expected a weight of f16, f32, u8 or i32, found {}", other.as_str())));
        }
    };
    Ok(package.weight(stored, tensor.dims(), [bytes])?)
}
