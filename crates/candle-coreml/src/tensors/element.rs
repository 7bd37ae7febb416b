//! Element types of files, and decoding of elements.

use std::io::Read;

use bytemuck::Pod;
use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};

use super::{Budget, TensorsCause};

/// Maximum rank of a tensor, as in NumPy 1.
const MOST_DIMENSIONS: usize = 32;

/// Element types supported in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    BF16,
    F32,
    F64,
}

/// Names of all types, for messages.
pub(super) const NAMES: &str = "BOOL, U8, I8, I16, U16, I32, U32, I64, U64, F16, BF16, F32 or F64";

/// Memory layout of a tensor in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// Big-endian.
    pub(super) big_endian: bool,
    /// Column-major.
    pub(super) fortran: bool,
}

impl Order {
    /// Little-endian, row-major.
    pub(super) const C: Self = Self { big_endian: false, fortran: false };
}

impl Element {
    /// Size of one element in a file, in bytes.
    fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Bytes per element while reading: in the file's type and, if different, in the tensor's.
    fn bytes_read(self) -> u64 {
        match self {
            Self::I8 => 1 + 2,
            Self::U16 => 2 + 4,
            Self::U64 => 8 + 8,
            _ => self.bytes(),
        }
    }

    /// Size of a tensor of this shape in a file, in bytes.
    ///
    /// # Errors
    /// If the rank is too high, or sizes overflow.
    pub(super) fn size(self, shape: &[usize]) -> Result<u64, TensorsCause> {
        if shape.len() > MOST_DIMENSIONS {
            let found = format!("{} dimensions", shape.len());
            return Err(TensorsCause::content(format!("at most {MOST_DIMENSIONS} dimensions"), found));
        }
        // Strides are products too; empty dimensions count as 1 in them.
        let fits = |most: u64, &n: &usize| most.checked_mul(n.max(1) as u64).filter(|&n| i64::try_from(n).is_ok());
        shape
            .iter()
            .try_fold(self.bytes(), fits)
            .filter(|&most| usize::try_from(most).is_ok())
            .map(|most| if shape.contains(&0) { 0 } else { most })
            .ok_or_else(|| TensorsCause::content("a shape whose size can be counted", format!("{shape:?}")))
    }

    /// Reads a tensor. The caller has checked that the source claims [`size`](Self::size) bytes.
    ///
    /// # Errors
    /// If the budget is exceeded, the source is truncated, or the tensor's type can't represent a value.
    pub(super) fn read(
        self,
        source: &mut impl Read,
        shape: &[usize],
        order: Order,
        budget: &mut Budget,
    ) -> Result<Tensor, TensorsCause> {
        let count = self.size(shape)? / self.bytes();
        budget.take(count.saturating_mul(self.bytes_read()))?;
        let n = usize::try_from(count).map_err(|_| out_of_memory())?;
        let order = (order, shape);
        match self {
            Self::Bool => {
                let bytes: Vec<u8> = elements(source, n, order.0)?;
                match bytes.iter().find(|&&b| b > 1) {
                    Some(b) => Err(TensorsCause::content("booleans of 0 or 1", format!("the byte {b}"))),
                    None => tensor(bytes, order),
                }
            }
            Self::U8 => tensor(elements::<u8>(source, n, order.0)?, order),
            Self::I8 => tensor(widened::<i8, i16>(elements(source, n, order.0)?)?, order),
            Self::I16 => tensor(elements::<i16>(source, n, order.0)?, order),
            Self::U16 => tensor(widened::<u16, i32>(elements(source, n, order.0)?)?, order),
            Self::I32 => tensor(elements::<i32>(source, n, order.0)?, order),
            Self::U32 => tensor(elements::<u32>(source, n, order.0)?, order),
            Self::I64 => tensor(elements::<i64>(source, n, order.0)?, order),
            Self::U64 => tensor(widened::<u64, i64>(elements(source, n, order.0)?)?, order),
            Self::F16 => tensor(elements::<f16>(source, n, order.0)?, order),
            Self::BF16 => tensor(elements::<bf16>(source, n, order.0)?, order),
            Self::F32 => tensor(elements::<f32>(source, n, order.0)?, order),
            Self::F64 => tensor(elements::<f64>(source, n, order.0)?, order),
        }
    }
}

fn out_of_memory() -> TensorsCause {
    std::io::Error::from(std::io::ErrorKind::OutOfMemory).into()
}

/// Allocates capacity for `n` elements.
fn room<T>(n: usize) -> Result<Vec<T>, TensorsCause> {
    let mut room = Vec::new();
    room.try_reserve_exact(n).map_err(|_| out_of_memory())?;
    Ok(room)
}

fn elements<T: Pod>(source: &mut impl Read, n: usize, order: Order) -> Result<Vec<T>, TensorsCause> {
    let mut data = room(n)?;
    data.resize(n, T::zeroed());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
    source.read_exact(bytes)?;
    if order.big_endian != cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    }
    Ok(data)
}

fn widened<S: Copy + std::fmt::Display, T: TryFrom<S>>(from: Vec<S>) -> Result<Vec<T>, TensorsCause> {
    let mut out = room(from.len())?;
    for x in from {
        let same = T::try_from(x);
        out.push(same.map_err(|_| TensorsCause::content("integers of 64 bits with a sign", format!("the value {x}")))?);
    }
    Ok(out)
}

fn tensor<T: WithDType>(data: Vec<T>, (order, shape): (Order, &[usize])) -> Result<Tensor, TensorsCause> {
    let made = || match order.fortran {
        true => {
            let reversed: Vec<usize> = shape.iter().rev().copied().collect();
            let axes: Vec<usize> = (0..shape.len()).rev().collect();
            Tensor::from_vec(data, reversed, &Device::Cpu)?.permute(axes)?.contiguous()
        }
        false => Tensor::from_vec(data, shape, &Device::Cpu),
    };
    made().map_err(|e| TensorsCause::content("elements that make a tensor", e))
}
