//! Tensors passed by position.

use candle_core::Tensor;

/// Tensors passed by position: `&tensor`, `&[&a, &b]`, `&vec_of_references`.
pub trait ModelInputs {
    /// The tensors, in order.
    fn tensors(&self) -> Vec<&Tensor>;
}

impl ModelInputs for Tensor {
    fn tensors(&self) -> Vec<&Tensor> {
        vec![self]
    }
}

impl ModelInputs for [&Tensor] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.to_vec()
    }
}

impl<const N: usize> ModelInputs for [&Tensor; N] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.to_vec()
    }
}

impl ModelInputs for Vec<&Tensor> {
    fn tensors(&self) -> Vec<&Tensor> {
        self.clone()
    }
}

impl ModelInputs for [Tensor] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.iter().collect()
    }
}

impl ModelInputs for Vec<Tensor> {
    fn tensors(&self) -> Vec<&Tensor> {
        self.iter().collect()
    }
}
