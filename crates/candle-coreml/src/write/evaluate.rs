//! Constants computed by the portable engine, for rewrites that fold them.

use candle_core::{DType, Tensor};
use coreml_engine::{Executable, Options};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Program, Value};
use coreml_format::weights::Weights;
use coreml_write::builder::PackageBuilder;
use coreml_write::edit::{self, Changes};
use coreml_write::passes::{Passes, Report};
use indexmap::IndexMap;
use std::path::Path;

use crate::error::Result;

/// Runs the function `main` of a program without inputs; returns its results as constants of their declared types.
///
/// # Errors
/// Why it can't be loaded or run, or a result is no tensor of numbers.
pub fn evaluate(program: &Program) -> std::result::Result<IndexMap<String, Value>, String> {
    let main = program.functions.get("main").ok_or("expected a function `main`")?;
    let run = Executable::load(program, &Weights::default(), "main", &Options::default()).map_err(|e| e.to_string())?;
    let none: [(&str, Tensor); 0] = [];
    let results = run.predict(&none, None).map_err(|e| e.to_string())?;
    let made = main.block.operations.iter().flat_map(|op| &op.outputs);
    let made: IndexMap<&str, _> = made.map(|o| (o.name.as_str(), &o.ty)).collect();
    let mut values = IndexMap::new();
    for name in &main.block.outputs {
        let tensor =
            results.get(name).and_then(|v| v.tensor()).ok_or_else(|| format!("`{name}`: expected a tensor"))?;
        let ty =
            made.get(name.as_str()).and_then(|t| t.tensor()).ok_or_else(|| format!("`{name}`: expected a type"))?;
        let bytes = packed(tensor, ty.dtype).map_err(|e| format!("`{name}`: {e}"))?;
        let bytes = bytes.ok_or_else(|| format!("`{name}`: expected numbers that fit {}", ty.dtype))?;
        values.insert(name.clone(), Value::tensor(ty.dtype, tensor.dims(), bytes));
    }
    Ok(values)
}

/// Packed elements of a tensor in a declared type; `None` if one does not fit.
fn packed(tensor: &Tensor, dtype: DataType) -> candle_core::Result<Option<Vec<u8>>> {
    let flat = tensor.flatten_all()?;
    macro_rules! whole {
        ($t:ty) => {{
            let all = flat.to_dtype(DType::I64)?.to_vec1::<i64>()?;
            let each = all.into_iter().map(|v| Some(<$t>::try_from(v).ok()?.to_le_bytes()));
            each.collect::<Option<Vec<_>>>().map(|all| all.concat())
        }};
    }
    Ok(match dtype {
        DataType::F16 => {
            Some(flat.to_dtype(DType::F16)?.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        DataType::F32 => {
            Some(flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        DataType::Bool => Some(flat.to_dtype(DType::U8)?.to_vec1::<u8>()?.iter().map(|&v| u8::from(v != 0)).collect()),
        DataType::I8 => whole!(i8),
        DataType::U8 => whole!(u8),
        DataType::I16 => whole!(i16),
        DataType::U16 => whole!(u16),
        DataType::I32 => whole!(i32),
        _ => None,
    })
}

/// [`coreml_write::edit::edit()`] with constants that the portable engine computes, for
/// [`Passes::fold`](coreml_write::passes::Passes::fold). Returns what the rewrites did.
///
/// ```no_run
/// use candle_coreml::format::model::Model;
/// use candle_coreml::write::{edit::Changes, edit_model, passes::{Half, Passes}};
///
/// let passes = Passes { half: Some(Half::default()), ..Passes::usual() };
/// let changes = Changes { passes, ..Changes::default() };
/// let report = edit_model(&Model::open("single.mlpackage".as_ref())?, &changes, "half.mlpackage".as_ref())?;
/// println!("{} operations compute in fp16", report.halved);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Edit`](crate::Error::Edit).
pub fn edit_model(model: &Model, changes: &Changes, to: &Path) -> Result<Report> {
    Ok(edit::edit_with(model, changes, Some(&mut evaluate), to)?)
}

/// [`PackageBuilder::finish_optimized`](coreml_write::builder::PackageBuilder::finish_optimized) with constants that the portable
/// engine computes. Returns what the rewrites did.
///
/// ```no_run
/// use candle_coreml::format::{dtype::DataType, program::Opset};
/// use candle_coreml::write::{self, FunctionBuilder, PackageBuilder, passes::{Half, Passes}};
///
/// let mut package = PackageBuilder::create("scaled.mlpackage".as_ref())?;
/// let mut f = FunctionBuilder::new(Opset::Ios17);
/// let x = f.input("x", DataType::F32, [1, 8])?;
/// let y = f.op("mul").arg("x", &x).arg("y", 2.0).done()?;
/// f.output("y", &y)?;
/// package.add("main", f)?;
/// let report = write::finish_optimized(package, &Passes { half: Some(Half::default()), ..Passes::usual() })?;
/// assert_eq!(report.halved, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Edit`](crate::Error::Edit).
pub fn finish_optimized(package: PackageBuilder, passes: &Passes) -> Result<Report> {
    Ok(package.finish_optimized(passes, Some(&mut evaluate))?)
}
