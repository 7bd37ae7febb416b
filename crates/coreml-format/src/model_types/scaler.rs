//! `Scaler`: shifts and scales numbers.

/// scale · (x + shift).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scaler {
    /// One value, or one per element.
    #[prost(double, repeated, tag = "1")]
    pub shift_value: Vec<f64>,
    /// One value, or one per element.
    #[prost(double, repeated, tag = "2")]
    pub scale_value: Vec<f64>,
}
