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
    /// Core ML raised an Objective-C exception.
    #[error("Core ML, {doing}: exception {name}: {reason}")]
    Exception {
        /// Failed action and its subject.
        doing: String,
        /// Name of the exception.
        name: String,
        /// Its reason.
        reason: String,
    },
    /// The load was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::progress::Cancelled),
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
            Self::Exception { .. } => "exception",
            Self::Cancelled(_) => "cancelled",
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

    /// Returns true if Core ML itself refused the model or the request. Trying again gives the same, unlike after a
    /// full disk or a lock held by another process.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Framework { .. } | Self::Exception { .. } | Self::Abandoned { .. } | Self::Feature { .. })
    }

    /// Returns true if Core ML may have refused the output backings before it ran anything, so that the same request
    /// without them repeats no update of a state: a code of its own domain for features, or a text that speaks of them
    /// (`MLModelError.h`, `MLPredictionOptions.h`).
    #[cfg_attr(not(target_vendor = "apple"), allow(dead_code, reason = "only Core ML takes backings"))]
    pub(crate) fn refuses_backings(&self) -> bool {
        const FEATURE_TYPE: isize = 1;
        match self {
            Self::Framework { domain, code, message, .. } => {
                domain == "com.apple.CoreML" && (*code == FEATURE_TYPE || message.to_lowercase().contains("backing"))
            }
            Self::Exception { reason, .. } => reason.to_lowercase().contains("backing"),
            _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_what_may_pass() {
        let framework = |domain: &str, code, message: &str| NativeError::Framework {
            doing: "predicting".to_owned(),
            domain: domain.to_owned(),
            code,
            message: message.to_owned(),
        };
        let core_ml = |code, message| framework("com.apple.CoreML", code, message);
        let exception = |reason: &str| NativeError::Exception {
            doing: "predicting".to_owned(),
            name: "NSInvalidArgumentException".to_owned(),
            reason: reason.to_owned(),
        };
        assert!(core_ml(0, "no").is_refusal() && exception("no").is_refusal());
        assert!(!NativeError::Cancelled(crate::progress::Cancelled).is_refusal());
        let full = CacheError::Io { path: "x".into(), source: std::io::ErrorKind::StorageFull.into() };
        assert!(!NativeError::Cache(full).is_refusal());

        for (error, backings) in [
            (core_ml(1, "the type differs"), true),
            (core_ml(0, "Output backing of y has another shape"), true),
            (core_ml(0, "Unable to compute the prediction"), false),
            (framework("NSCocoaErrorDomain", 1, "backing"), false),
            (exception("the outputBackings are bad"), true),
            (exception("MLE5BindEmptyMemoryObjectToPort"), false),
            (NativeError::Cancelled(crate::progress::Cancelled), false),
        ] {
            assert_eq!(error.refuses_backings(), backings, "{error}");
        }
    }
}
