//! `AudioFeaturePrint`: a feature extractor for sounds, built into the system.

/// Identifies the network; its weights are part of the system, not of the file.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AudioFeaturePrint {
    #[prost(message, optional, tag = "20")]
    pub sound: Option<Sound>,
}

/// Features of a sound.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Sound {
    /// A value of [`SoundVersion`].
    #[prost(int32, tag = "1")]
    pub version: i32,
}

/// Versions of the network for sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SoundVersion {
    Invalid = 0,
    V1 = 1,
}
