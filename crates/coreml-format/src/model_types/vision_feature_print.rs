//! `VisionFeaturePrint`: a feature extractor for images, built into the system.

/// Identifies the network; its weights are part of the system, not of the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VisionFeaturePrint {
    #[prost(oneof = "VisionFeaturePrintKind", tags = "20, 21")]
    pub kind: Option<VisionFeaturePrintKind>,
}

/// Subject of the network.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum VisionFeaturePrintKind {
    #[prost(message, tag = "20")]
    Scene(Scene),
    #[prost(message, tag = "21")]
    Objects(Objects),
}

/// Features of a whole scene.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Scene {
    /// A value of [`SceneVersion`].
    #[prost(int32, tag = "1")]
    pub version: i32,
}

/// Features of the objects in an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Objects {
    /// A value of [`ObjectsVersion`].
    #[prost(int32, tag = "1")]
    pub version: i32,
    /// Names of the outputs.
    #[prost(string, repeated, tag = "100")]
    pub output: Vec<String>,
}

/// Versions of the network for scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SceneVersion {
    Invalid = 0,
    V1 = 1,
    V2 = 2,
}

/// Versions of the network for objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ObjectsVersion {
    Invalid = 0,
    V1 = 1,
}
