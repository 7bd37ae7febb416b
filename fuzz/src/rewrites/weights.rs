//! A weight file for the programs: engines keep large file constants in stored form, and pack them.

use std::path::PathBuf;
use std::sync::LazyLock;

use coreml_format::blob::BlobRef;
use coreml_format::dtype::DataType;
use coreml_format::program::{Program, Value};
use coreml_format::weights::Weights;
use coreml_format::write::PackageWriter;
use tempfile::TempDir;

use super::maker::{eighths, packed};

/// Outputs and inputs of the matrix.
pub const SHAPE: [usize; 2] = [72, 64];

struct Stored {
    _folder: TempDir,
    files: Weights,
    at: [(DataType, BlobRef); 2],
}

static STORED: LazyLock<Stored> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let root: PathBuf = folder.path().join("w.mlpackage");
    let mut writer = PackageWriter::create(&root).expect("a package");
    let values = eighths(SHAPE.iter().product(), 5);
    let at = [DataType::F32, DataType::F16].map(|dtype| {
        let bytes = packed(dtype, &values);
        (dtype, writer.blob(dtype, values.len(), [bytes.as_slice()]).expect("a blob"))
    });
    writer.finish(&Default::default(), &Program::default()).expect("written");
    let weights = std::fs::read_dir(root.join("Data")).expect("a folder").flatten().next().expect("an author").path();
    Stored { _folder: folder, files: Weights::folder(weights), at }
});

/// The matrix as a constant.
pub fn value(dtype: DataType) -> Value {
    let (_, at) = STORED.at.iter().find(|(found, _)| *found == dtype).expect("a float type");
    Value::blob(dtype, &SHAPE, at.clone())
}

/// The file that contains it.
pub fn files() -> Weights {
    STORED.files.clone()
}
