//! Neural networks: layers over named blobs.
//!
//! A blob may be written more than once, by loops and by `copy`. All values are floats. Axes of older layers are
//! counted from the end: width −1, height −2, channel −3, batch −4, sequence −5.
//!
//! `layer` lists the layers, one file per chapter holds their parameters, `weights` the tensors inside the file.

pub mod activation;
pub mod constant;
pub mod control_flow;
pub mod convolution;
pub mod custom;
pub mod elementwise;
pub mod layer;
pub mod linear;
pub mod normalization;
pub mod pooling;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod scatter_gather;
pub mod shape;
pub mod slice;
pub mod weights;

use prost::bytes::Bytes;

use super::data_structures::ClassLabels;
use layer::Layer;

/// A network that returns the blobs named by its description.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetwork {
    #[prost(message, repeated, tag = "1")]
    pub layers: Vec<NeuralNetworkLayer>,
    /// Preprocessing of image inputs.
    #[prost(message, repeated, tag = "2")]
    pub preprocessing: Vec<NeuralNetworkPreprocessing>,
    /// A value of [`ArrayShapeMapping`].
    #[prost(int32, tag = "5")]
    pub array_input_shape_mapping: i32,
    /// A value of [`ImageShapeMapping`].
    #[prost(int32, tag = "6")]
    pub image_input_shape_mapping: i32,
    /// Training parameters, a serialized `NetworkUpdateParameters`.
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub update_params: Option<Bytes>,
}

/// A network whose scores determine a label.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetworkClassifier {
    #[prost(message, repeated, tag = "1")]
    pub layers: Vec<NeuralNetworkLayer>,
    /// Preprocessing of image inputs.
    #[prost(message, repeated, tag = "2")]
    pub preprocessing: Vec<NeuralNetworkPreprocessing>,
    /// A value of [`ArrayShapeMapping`].
    #[prost(int32, tag = "5")]
    pub array_input_shape_mapping: i32,
    /// A value of [`ImageShapeMapping`].
    #[prost(int32, tag = "6")]
    pub image_input_shape_mapping: i32,
    /// Training parameters, a serialized `NetworkUpdateParameters`.
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub update_params: Option<Bytes>,
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
    /// Blob with the scores; if empty, the output of the last layer.
    #[prost(string, tag = "200")]
    pub label_probability_layer_name: String,
}

/// A network that returns a number.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetworkRegressor {
    #[prost(message, repeated, tag = "1")]
    pub layers: Vec<NeuralNetworkLayer>,
    /// Preprocessing of image inputs.
    #[prost(message, repeated, tag = "2")]
    pub preprocessing: Vec<NeuralNetworkPreprocessing>,
    /// A value of [`ArrayShapeMapping`].
    #[prost(int32, tag = "5")]
    pub array_input_shape_mapping: i32,
    /// A value of [`ImageShapeMapping`].
    #[prost(int32, tag = "6")]
    pub image_input_shape_mapping: i32,
    /// Training parameters, a serialized `NetworkUpdateParameters`.
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub update_params: Option<Bytes>,
}

/// Arithmetic applied to an image input before the first layer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetworkPreprocessing {
    /// Name of the input; if empty, the only image input.
    #[prost(string, tag = "1")]
    pub feature_name: String,
    #[prost(oneof = "Preprocessor", tags = "10, 11")]
    pub preprocessor: Option<Preprocessor>,
}

/// Kinds of preprocessing.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Preprocessor {
    #[prost(message, tag = "10")]
    Scaler(NeuralNetworkImageScaler),
    #[prost(message, tag = "11")]
    MeanImage(NeuralNetworkMeanImage),
}

/// scale · x + bias of the color channel.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NeuralNetworkImageScaler {
    #[prost(float, tag = "10")]
    pub channel_scale: f32,
    #[prost(float, tag = "20")]
    pub blue_bias: f32,
    #[prost(float, tag = "21")]
    pub green_bias: f32,
    #[prost(float, tag = "22")]
    pub red_bias: f32,
    #[prost(float, tag = "30")]
    pub gray_bias: f32,
}

/// An image to subtract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetworkMeanImage {
    /// Packed little-endian f32, `[channels, height, width]`; read with [`floats`](weights::floats).
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub mean_image: Vec<Bytes>,
}

/// A layer with its blobs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NeuralNetworkLayer {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Names of the input blobs.
    #[prost(string, repeated, tag = "2")]
    pub input: Vec<String>,
    /// Names of the output blobs.
    #[prost(string, repeated, tag = "3")]
    pub output: Vec<String>,
    /// Declared ranks and shapes of the inputs, if any.
    #[prost(message, repeated, tag = "4")]
    pub input_tensor: Vec<Tensor>,
    /// Declared ranks and shapes of the outputs, if any.
    #[prost(message, repeated, tag = "5")]
    pub output_tensor: Vec<Tensor>,
    /// The weights can be trained on device.
    #[prost(bool, tag = "10")]
    pub is_updatable: bool,
    #[prost(
        oneof = "Layer",
        tags = "100, 120, 130, 140, 150, 160, 165, 170, 175, 180, 190, 200, 210, 211, 212, 220, 230, 231, 240, 245, 250, 260, 261, 270, 280, 290, 300, 301, 310, 320, 330, 340, 345, 350, 400, 410, 420, 430, 500, 600, 605, 615, 620, 625, 635, 640, 660, 665, 670, 680, 685, 700, 710, 715, 720, 730, 735, 740, 750, 755, 760, 770, 775, 780, 790, 795, 815, 820, 825, 827, 830, 832, 840, 845, 850, 855, 865, 870, 875, 880, 885, 890, 895, 900, 905, 920, 925, 930, 935, 940, 945, 950, 952, 954, 960, 965, 975, 980, 985, 995, 1000, 1005, 1015, 1020, 1025, 1040, 1045, 1065, 1070, 1080, 1085, 1090, 1100, 1105, 1110, 1120, 1125, 1130, 1135, 1140, 1145, 1150, 1155, 1170, 1175, 1180, 1190, 1195, 1200, 1210, 1215, 1220, 1230, 1250, 1255, 1260, 1265, 1270, 1275, 1280, 1285, 1290, 1295, 1313, 1315, 1320, 1325, 1330, 1350, 1400, 1450, 1455, 1460, 1461, 1465, 1466, 1470, 1471"
    )]
    pub layer: Option<Layer>,
}

/// Rank and shape of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    #[prost(uint32, tag = "1")]
    pub rank: u32,
    /// Extents; −1 is unknown.
    #[prost(int64, repeated, tag = "2")]
    pub dim_value: Vec<i64>,
}

/// Blob shape of array inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ArrayShapeMapping {
    /// `[C]` as `[1, 1, C, 1, 1]`, `[C, H, W]` as `[1, 1, C, H, W]`.
    Rank5 = 0,
    /// The shape of the description.
    Exact = 1,
}

/// Blob shape of image inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ImageShapeMapping {
    /// `[1, 1, C, H, W]`.
    Rank5 = 0,
    /// `[1, C, H, W]`.
    Rank4 = 1,
}
