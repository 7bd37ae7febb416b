//! `LinkedModel`: a model in another file.

use super::data_structures::StringParameter;

/// A reference to another model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkedModel {
    #[prost(message, optional, tag = "1")]
    pub linked_model_file: Option<LinkedModelFile>,
}

/// Location of the other model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkedModelFile {
    /// Name of a compiled model.
    #[prost(message, optional, tag = "1")]
    pub linked_model_file_name: Option<StringParameter>,
    /// Search path, separated by `:`, relative to this model or starting with a `$BUNDLE_…` variable.
    #[prost(message, optional, tag = "2")]
    pub linked_model_search_path: Option<StringParameter>,
}
