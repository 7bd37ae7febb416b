//! Errors of the native engine.

use crate::cache::CacheError;
use crate::completion::Abandoned;
use crate::convert::ConvertError;
use crate::pixels::PixelError;
use crate::shape::ShapeError;
use crate::strided::StrideError;
use crate::surface::SurfaceError;

/// What went wrong between Candle and Core ML. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// The system is too old for what was asked.
    #[error("{what} needs {needs} or later")]
    Unavailable {
        /// What was asked for.
        what: &'static str,
        /// Systems that have it.
        needs: &'static str,
    },
    /// Core ML reports an error.
    #[error("Core ML, {doing}: {message} ({domain} {code})")]
    Framework {
        /// What was being done, and with what.
        doing: String,
        /// The error's domain.
        domain: String,
        /// The error's code.
        code: isize,
        /// The error's own words, causes included.
        message: String,
    },
    /// Core ML dropped a request.
    #[error("Core ML, {doing}: {source}")]
    Abandoned {
        /// What was being done, and with what.
        doing: String,
        /// That there was no answer.
        source: Abandoned,
    },
    /// A value does not fit the declared type.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A shape that a feature does not take.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A buffer whose strides or length can't be right.
    #[error("`{feature}`: {source}")]
    Stride {
        /// Input, output or state.
        feature: String,
        /// What is wrong.
        source: StrideError,
    },
    /// An image whose samples or pixels can't be right.
    #[error("`{feature}`: {source}")]
    Pixels {
        /// Input or output.
        feature: String,
        /// What is wrong.
        source: PixelError,
    },
    /// Something about a feature is not what is needed there.
    #[error("`{feature}`: expected {expected}, found {found}")]
    Feature {
        /// Input, output or state.
        feature: String,
        /// What is needed.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A name that the model lacks.
    #[error("no {what} `{name}`; there are: {}", available.join(", "))]
    Unknown {
        /// Kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The cache of compiled models.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A path that can't be given to the framework.
    #[error("{}: not a path that Core ML can take", path.display())]
    Path {
        /// The path.
        path: std::path::PathBuf,
    },
    /// Candle reports a failure.
    #[error("a tensor can't be made or read: {0}")]
    Candle(#[from] candle_core::Error),
}

impl NativeError {
    /// Stable name of the kind of error.
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

    /// Rows of a surface that can't be right.
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
