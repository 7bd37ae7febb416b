//! Errors of the native engine.

use crate::cache::CacheError;
use crate::completion::Abandoned;
use crate::convert::ConvertError;
use crate::pixels::PixelError;
use crate::shape::ShapeError;
use crate::strided::StrideError;
use crate::surface::SurfaceError;

/// Error between Candle and Core ML. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// The system is too old for a feature.
    #[error("{what} needs {needs} or later")]
    Unavailable {
        /// The feature.
        what: &'static str,
        /// Systems that have it.
        needs: &'static str,
    },
    /// Core ML returned an error.
    #[error("Core ML, {doing}: {message} ({domain} {code})")]
    Framework {
        /// Failed action and its subject.
        doing: String,
        /// Error domain.
        domain: String,
        /// Error code.
        code: isize,
        /// Error message, including causes.
        message: String,
    },
    /// Core ML dropped a request.
    #[error("Core ML, {doing}: {source}")]
    Abandoned {
        /// Dropped action and its subject.
        doing: String,
        /// Cause.
        source: Abandoned,
    },
    /// A value does not fit the declared type.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A shape that a feature does not accept.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A buffer with invalid strides or length.
    #[error("`{feature}`: {source}")]
    Stride {
        /// Input, output or state.
        feature: String,
        /// Cause.
        source: StrideError,
    },
    /// An image with invalid samples or pixels.
    #[error("`{feature}`: {source}")]
    Pixels {
        /// Input or output.
        feature: String,
        /// Cause.
        source: PixelError,
    },
    /// A feature of the wrong kind, type or value.
    #[error("`{feature}`: expected {expected}, found {found}")]
    Feature {
        /// Input, output or state.
        feature: String,
        /// Expected value or type.
        expected: String,
        /// Value or type found.
        found: String,
    },
    /// A name unknown to the model.
    #[error("no {what} `{name}`; available: {}", available.join(", "))]
    Unknown {
        /// Kind of object.
        what: &'static str,
        /// The name.
        name: String,
        /// Available names.
        available: Vec<String>,
    },
    /// Error of the compiled-model cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A path that cannot be passed to the framework.
    #[error("{}: not a path that Core ML can take", path.display())]
    Path {
        /// The path.
        path: std::path::PathBuf,
    },
    /// Error from Candle.
    #[error("cannot create or read a tensor: {0}")]
    Candle(#[from] candle_core::Error),
}

impl NativeError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Framework { .. } => "framework",
            Self::Abandoned { .. } => "abandoned",
            Self::Convert(_) => "value",
            Self::Shape(_) => "shape",
            Self::Stride { .. } => "stride",
            Self::Pixels { .. } => "pixels",
            Self::Feature { .. } => "feature",
            Self::Unknown { .. } => "unknown",
            Self::Cache(_) => "cache",
            Self::Path { .. } => "path",
            Self::Candle(_) => "candle",
        }
    }

    /// Invalid rows of a surface.
    #[cfg_attr(not(target_vendor = "apple"), allow(dead_code, reason = "surfaces are Apple's"))]
    pub(crate) fn surface(feature: &str, source: SurfaceError) -> Self {
        let feature = feature.to_owned();
        match source {
            SurfaceError::Rows(source) => Self::Pixels { feature, source },
            SurfaceError::Stride(source) => Self::Stride { feature, source },
        }
    }

    pub(crate) fn feature(feature: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Feature { feature: feature.to_owned(), expected: expected.into(), found: found.into() }
    }
}
