//! Models from memory, such as encrypted or downloaded ones that never reach the disk.

use objc2::rc::{Retained, autoreleasepool};
use objc2_core_ml::{MLModel, MLModelAsset};
use objc2_foundation::{NSData, NSDictionary, NSString, NSURL};

use super::available::{Api, require};
use super::configuration::configuration;
use super::exception::guarded;
use super::foundation::failure;
use super::future::{Loaded, load_handler};
use super::model::NativeModel;
use crate::completion::pair;
use crate::error::NativeError;
use crate::options::Options;

impl NativeModel {
    /// Loads a model from its specification, the content of a `.mlmodel`, and its weight files by the names that the
    /// specification has for them (`@model_path/weights/weight.bin`). Core ML compiles it for this process; nothing is
    /// cached. Blocks; must not be called on the main thread of a program whose run loop serves Core ML's handlers.
    ///
    /// # Errors
    /// If the system is too old (weight files need macOS 15 or iOS 18), a name is no URL, or Core ML refuses the model.
    pub fn from_memory(
        specification: Vec<u8>,
        weights: Vec<(String, Vec<u8>)>,
        options: &Options,
    ) -> Result<Self, NativeError> {
        require(Api::Engine)?;
        let doing = || "loading a model from memory".to_owned();
        let completion = autoreleasepool(|_| {
            let configuration = configuration(options)?;
            let data = NSData::from_vec(specification);
            let asset = if weights.is_empty() {
                // SAFETY: rule 1; the asset retains the data.
                guarded(doing, || unsafe { MLModelAsset::modelAssetWithSpecificationData_error(&data) })?
            } else {
                require(Api::AssetWithWeights)?;
                let (urls, blobs) = files(weights)?;
                let urls: Vec<&NSURL> = urls.iter().map(|url| &**url).collect();
                let mapping = NSDictionary::from_retained_objects(&urls, &blobs);
                // SAFETY: rules 1 and 3.
                let asset =
                    || unsafe { MLModelAsset::modelAssetWithSpecificationData_blobMapping_error(&data, &mapping) };
                guarded(doing, asset)?
            };
            let asset = asset.map_err(|e| failure(doing(), &e))?;
            let (completer, completion) = pair();
            let handler = load_handler(doing(), completer);
            // SAFETY: rule 1; the framework copies the handler, which may run on any thread because its captures are
            // `Send`.
            let load =
                || unsafe { MLModel::loadModelAsset_configuration_completionHandler(&asset, &configuration, &handler) };
            guarded(doing, load)?;
            Ok::<_, NativeError>(completion)
        })?;
        let Loaded(model) = completion.wait().map_err(|source| NativeError::Abandoned { doing: doing(), source })??;
        autoreleasepool(|_| Self::finish(model, "memory".as_ref(), std::path::PathBuf::new(), options))
    }
}

/// Weight files by URL.
type Files = (Vec<Retained<NSURL>>, Vec<Retained<NSData>>);

fn files(weights: Vec<(String, Vec<u8>)>) -> Result<Files, NativeError> {
    let (mut urls, mut blobs) = (Vec::new(), Vec::new());
    for (name, bytes) in weights {
        let url = NSURL::URLWithString(&NSString::from_str(&name));
        urls.push(url.ok_or_else(|| NativeError::Path { path: name.into() })?);
        blobs.push(NSData::from_vec(bytes));
    }
    Ok((urls, blobs))
}
