//! `SoundAnalysisPreprocessing`: features of a waveform.

use super::data_structures::Empty;

/// Extracts the input features of a sound classifier.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SoundAnalysisPreprocessing {
    /// The logarithmic mel spectrogram of VGGish: 15,600 samples at 16 kHz to `[1, 96, 64]`.
    #[prost(message, optional, tag = "20")]
    pub vggish: Option<Empty>,
}
