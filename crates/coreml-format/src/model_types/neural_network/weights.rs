//! Layer weights: ranges of the decoded buffer, in their stored form.

use prost::bytes::Bytes;

use crate::spec::SpecError;

/// A tensor in one of four forms; the layer determines its shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WeightParams {
    /// Packed little-endian f32; read with [`floats`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub float_value: Vec<Bytes>,
    /// Little-endian f16.
    #[prost(bytes = "bytes", tag = "2")]
    pub float16_value: Bytes,
    /// Quantized values; below 8 bits, packed from the most significant bit. `quantization` describes them.
    #[prost(bytes = "bytes", tag = "30")]
    pub raw_value: Bytes,
    /// i8 values, for products with dynamic quantization.
    #[prost(bytes = "bytes", tag = "31")]
    pub int8_raw_value: Bytes,
    #[prost(message, optional, boxed, tag = "40")]
    pub quantization: Option<Box<QuantizationParams>>,
    /// The tensor can be trained on device.
    #[prost(bool, tag = "50")]
    pub is_updatable: bool,
}

/// Encoding of quantized values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuantizationParams {
    /// 1 to 8.
    #[prost(uint64, tag = "1")]
    pub number_of_bits: u64,
    #[prost(oneof = "Quantization", tags = "101, 102")]
    pub quantization: Option<Quantization>,
}

/// Forms of quantization.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Quantization {
    #[prost(message, tag = "101")]
    Linear(LinearQuantizationParams),
    #[prost(message, tag = "102")]
    LookUpTable(LookUpTableQuantizationParams),
}

/// scale · q + bias, with one scale and bias, or one per output channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinearQuantizationParams {
    /// Packed little-endian f32; read with [`floats`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub scale: Vec<Bytes>,
    /// Packed little-endian f32; read with [`floats`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub bias: Vec<Bytes>,
}

/// A table of 2^bits numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookUpTableQuantizationParams {
    /// Packed little-endian f32; read with [`floats`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub float_value: Vec<Bytes>,
}

/// Joins the parts of a packed float field: consecutive little-endian f32.
///
/// A single part, as all known writers produce, is returned without copying; several are copied.
///
/// # Errors
/// [`SpecError::Invalid`] if the length of a part is not a multiple of 4.
pub fn floats(parts: &[Bytes]) -> Result<Bytes, SpecError> {
    if let Some(part) = parts.iter().find(|part| part.len() % 4 != 0) {
        return Err(SpecError::invalid("packed floats", "a multiple of 4 bytes", part.len()));
    }
    match parts {
        [] => Ok(Bytes::new()),
        [part] => Ok(part.clone()),
        parts => Ok(parts.concat().into()),
    }
}
