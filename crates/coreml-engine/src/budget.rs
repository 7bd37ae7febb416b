//! Memory and work budget of a prediction, charged before use.
//!
//! Candle tensors and kernels allocate on their own, and a failed allocation aborts the process. Every allocation whose
//! size depends on the program is therefore preceded by a [`claim`] of its bytes, which fails if the total exceeds the
//! limit or the system lacks the memory. [`room`] and [`collect`] claim and allocate; [`Counted`] wraps Candle's
//! allocating operations with claims.
//!
//! The count belongs to the predicting thread and is opened by [`Scope`]. It is an upper bound: it grows with claims
//! and shrinks when the executor recounts what values hold ([`crate::frame::Frame`]), which happens periodically and
//! before it gives up. Consecutive temporaries within one step are [`lent`] instead.
//!
//! Work is measured in approximate nanoseconds: one per element produced or per [`PRODUCTS`] products summed.

use std::cell::Cell;

use candle_core::{DType, Tensor, WithDType};

use crate::error::OpError;
use crate::limits::Limits;

/// Minimum size of an allocation that is probed first. Smaller ones cost less than the probe, and every probe leaves
/// headroom for them.
const TRIED: usize = 1 << 20;

/// Products of floats that cost as much as one element.
const PRODUCTS: usize = 32;

/// Work of one step of a loop, independent of the operation.
pub(crate) const STEP: u64 = 1000;

struct Counters {
    limits: Cell<Option<Limits>>,
    /// Upper bound of the bytes in use.
    used: Cell<usize>,
    /// Work of loops so far, and number of open loops.
    looped: Cell<u64>,
    loops: Cell<u32>,
}

thread_local! {
    static NOW: Counters = const {
        Counters { limits: Cell::new(None), used: Cell::new(0), looped: Cell::new(0), loops: Cell::new(0) }
    };
}

/// A new count, active until dropped; the previous count then resumes.
pub(crate) struct Scope {
    before: (Option<Limits>, usize, u64, u32),
}

impl Scope {
    /// Opens a count with nothing in use.
    pub(crate) fn open(limits: Limits) -> Self {
        NOW.with(|now| {
            let before = (now.limits.take(), now.used.take(), now.looped.take(), now.loops.take());
            now.limits.set(Some(limits));
            Self { before }
        })
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        NOW.with(|now| {
            let (limits, used, looped, loops) = self.before;
            now.limits.set(limits);
            now.used.set(used);
            now.looped.set(looped);
            now.loops.set(loops);
        });
    }
}

/// Upper bound of the bytes in use.
pub(crate) fn used() -> usize {
    NOW.with(|now| now.used.get())
}

/// Replaces the count of bytes in use.
pub(crate) fn set_used(bytes: usize) {
    NOW.with(|now| now.used.set(bytes));
}

/// Charges bytes about to be allocated.
///
/// # Errors
/// If the total exceeds the limit or the system cannot provide them.
pub(crate) fn claim(bytes: usize) -> Result<(), OpError> {
    keep(bytes)?;
    if bytes >= TRIED { attempt(bytes) } else { Ok(()) }
}

/// Charges bytes that are already allocated.
///
/// # Errors
/// If the total exceeds the limit.
pub(crate) fn keep(bytes: usize) -> Result<(), OpError> {
    NOW.with(|now| {
        let used = now.used.get();
        let limit = now.limits.get().map_or(usize::MAX, |limits| limits.memory);
        match used.checked_add(bytes).filter(|&sum| sum <= limit) {
            Some(sum) => now.used.set(sum),
            None => return Err(OpError::TooMuchMemory { bytes, used, limit }),
        }
        Ok(())
    })
}

/// Probes an allocation with some headroom and frees it untouched, which is cheap compared with its use.
fn attempt(bytes: usize) -> Result<(), OpError> {
    let mut trial: Vec<u8> = Vec::new();
    trial.try_reserve_exact(bytes.saturating_add(bytes / 8)).map_err(|_| OpError::OutOfMemory { bytes })?;
    // Keeps the compiler from eliding the allocation.
    std::hint::black_box(&mut trial);
    Ok(())
}

/// [`claim`] for elements of a type.
pub(crate) fn claim_of<T>(count: usize) -> Result<(), OpError> {
    claim(count.saturating_mul(size_of::<T>()))
}

/// Bytes released on drop, for temporaries that follow one another.
pub(crate) struct Lent(usize);

impl Drop for Lent {
    fn drop(&mut self) {
        // A recount in the meantime may have left them out.
        set_used(used().saturating_sub(self.0));
    }
}

/// [`claim`]s bytes for the lifetime of the returned guard.
pub(crate) fn lent(bytes: usize) -> Result<Lent, OpError> {
    claim(bytes)?;
    Ok(Lent(bytes))
}

/// Runs a function with temporaries; only `kept` bytes stay charged afterwards.
pub(crate) fn temporary<R>(kept: usize, f: impl FnOnce() -> Result<R, OpError>) -> Result<R, OpError> {
    let before = used();
    let result = f();
    set_used(before.saturating_add(kept));
    result
}

/// Allocates an empty vector with this capacity.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, OpError> {
    claim_of::<T>(count)?;
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| OpError::OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) })?;
    Ok(out)
}

/// Allocates `count` copies of a value.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, OpError> {
    claim_of::<T>(count)?;
    Ok(vec![value; count])
}

/// Collects an iterator of known length.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn collect<I: IntoIterator<IntoIter: ExactSizeIterator>>(elements: I) -> Result<Vec<I::Item>, OpError> {
    let elements = elements.into_iter();
    let mut out = room(elements.len())?;
    out.extend(elements);
    Ok(out)
}

/// Collects at most `most` elements of an iterator.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn collect_most<T>(most: usize, elements: impl Iterator<Item = T>) -> Result<Vec<T>, OpError> {
    let mut out = room(most)?;
    out.extend(elements.take(most));
    Ok(out)
}

/// Collects an iterator of known length, stopping at the first error.
///
/// # Errors
/// Same as [`claim`], and the iterator's first error.
pub(crate) fn try_collect<T, I>(elements: I) -> Result<Vec<T>, OpError>
where
    I: IntoIterator<IntoIter: ExactSizeIterator, Item = Result<T, OpError>>,
{
    let elements = elements.into_iter();
    let mut out = room(elements.len())?;
    for element in elements {
        out.push(element?);
    }
    Ok(out)
}

/// Charges the products an operation is about to sum.
///
/// # Errors
/// If they exceed the limit of one operation or the remaining budget of loops.
pub(crate) fn products(extents: &[usize]) -> Result<(), OpError> {
    let all = extents.iter().fold(1u128, |all, &n| all.saturating_mul(n as u128));
    work(u64::try_from(all / PRODUCTS as u128).unwrap_or(u64::MAX))
}

/// Charges the work of an operation, in elements.
///
/// # Errors
/// Same as [`products`].
pub(crate) fn work(amount: u64) -> Result<(), OpError> {
    NOW.with(|now| {
        let Some(limits) = now.limits.get() else { return Ok(()) };
        if amount > limits.operation_work {
            return Err(OpError::TooMuchWork { work: amount, limit: limits.operation_work, loops: false });
        }
        if now.loops.get() > 0 { looped(amount) } else { Ok(()) }
    })
}

/// Charges work of loops.
///
/// # Errors
/// If it exceeds the limit for the loops of a prediction.
pub(crate) fn looped(amount: u64) -> Result<(), OpError> {
    NOW.with(|now| {
        let work = now.looped.get().saturating_add(amount);
        now.looped.set(work);
        match now.limits.get() {
            Some(limits) if work > limits.loop_work => {
                Err(OpError::TooMuchWork { work, limit: limits.loop_work, loops: true })
            }
            _ => Ok(()),
        }
    })
}

/// An open loop; closed on drop.
pub(crate) struct Loop;

impl Loop {
    pub(crate) fn open() -> Self {
        NOW.with(|now| now.loops.set(now.loops.get() + 1));
        Self
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        NOW.with(|now| now.loops.set(now.loops.get().saturating_sub(1)));
    }
}

/// True if a loop is open.
pub(crate) fn in_loop() -> bool {
    NOW.with(|now| now.loops.get() > 0)
}

/// Candle's allocating operations, preceded by claims.
pub(crate) trait Counted: Sized {
    /// `to_dtype`.
    fn counted_to_dtype(&self, dtype: DType) -> Result<Tensor, OpError>;
    /// `contiguous`.
    fn counted_contiguous(&self) -> Result<Tensor, OpError>;
    /// `force_contiguous`.
    fn counted_copy(&self) -> Result<Tensor, OpError>;
    /// `reshape`, which copies tensors that are not contiguous.
    fn counted_reshape<S: Into<candle_core::Shape>>(&self, shape: S) -> Result<Tensor, OpError>;
    /// Copies the elements in row-major order.
    fn counted_elements<T: WithDType>(&self) -> Result<Vec<T>, OpError>;
    /// `zeros_like`.
    fn counted_zeros_like(&self) -> Result<Tensor, OpError>;
    /// A broadcast operation on two tensors, such as `broadcast_add`, with `bytes` bytes per result element.
    fn counted_broadcast(
        &self,
        other: &Tensor,
        apply: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, OpError>;
}

/// Size of a tensor's elements in bytes.
pub(crate) fn bytes_of(t: &Tensor) -> usize {
    t.elem_count().saturating_mul(t.dtype().size_in_bytes())
}

/// A tensor of zeros.
///
/// # Errors
/// Same as [`claim`].
pub(crate) fn zeros<S: Into<candle_core::Shape>>(
    shape: S,
    dtype: DType,
    device: &candle_core::Device,
) -> Result<Tensor, OpError> {
    let shape = shape.into();
    claim(shape.elem_count().saturating_mul(dtype.size_in_bytes()))?;
    Ok(Tensor::zeros(shape, dtype, device)?)
}

/// Concatenates tensors with Candle.
///
/// # Errors
/// Same as [`claim`], and errors of Candle.
pub(crate) fn cat<T: AsRef<Tensor>>(parts: &[T], dim: usize) -> Result<Tensor, OpError> {
    // Candle transposes to concatenate along a dimension other than the first.
    let all: usize = parts.iter().map(|p| bytes_of(p.as_ref())).fold(0, usize::saturating_add);
    claim(all.saturating_mul(if dim == 0 { 1 } else { 3 }))?;
    Ok(Tensor::cat(parts, dim)?)
}

/// Applies a Candle elementwise function that keeps the type.
///
/// # Errors
/// Same as [`claim`], and errors of Candle.
pub(crate) fn mapped(
    t: &Tensor,
    apply: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor, OpError> {
    claim(bytes_of(t))?;
    Ok(apply(t)?)
}

impl Counted for Tensor {
    fn counted_to_dtype(&self, dtype: DType) -> Result<Tensor, OpError> {
        if self.dtype() != dtype {
            claim(self.elem_count().saturating_mul(dtype.size_in_bytes()))?;
        }
        Ok(self.to_dtype(dtype)?)
    }

    fn counted_contiguous(&self) -> Result<Tensor, OpError> {
        if !self.is_contiguous() {
            claim(bytes_of(self))?;
        }
        Ok(self.contiguous()?)
    }

    fn counted_copy(&self) -> Result<Tensor, OpError> {
        claim(bytes_of(self))?;
        Ok(self.force_contiguous()?)
    }

    fn counted_reshape<S: Into<candle_core::Shape>>(&self, shape: S) -> Result<Tensor, OpError> {
        if !self.is_contiguous() {
            claim(bytes_of(self))?;
        }
        Ok(self.reshape(shape.into())?)
    }

    fn counted_elements<T: WithDType>(&self) -> Result<Vec<T>, OpError> {
        claim(bytes_of(self))?;
        if !self.is_contiguous() {
            claim(bytes_of(self))?;
        }
        Ok(self.flatten_all()?.to_vec1()?)
    }

    fn counted_zeros_like(&self) -> Result<Tensor, OpError> {
        claim(bytes_of(self))?;
        Ok(self.zeros_like()?)
    }

    fn counted_broadcast(
        &self,
        other: &Tensor,
        apply: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, OpError> {
        let shape = self.shape().broadcast_shape_binary_op(other.shape(), "broadcast")?;
        claim(shape.elem_count().saturating_mul(self.dtype().size_in_bytes()))?;
        Ok(apply(self, other)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory: usize) -> Limits {
        Limits { memory, ..Limits::default() }
    }

    #[test]
    fn claims_add_up_until_the_limit_and_scopes_nest() {
        let _outer = Scope::open(limits(100));
        claim(60).expect("within the limit");
        {
            let _inner = Scope::open(limits(10));
            assert!(matches!(claim(11), Err(OpError::TooMuchMemory { bytes: 11, used: 0, limit: 10 })));
            claim(10).expect("to the limit");
        }
        assert_eq!(used(), 60);
        drop(lent(40).expect("for a while"));
        assert!(matches!(claim(41), Err(OpError::TooMuchMemory { used: 60, .. })));
        let kept = temporary(5, || filled(0u8, 30));
        assert_eq!((kept.expect("room").len(), used()), (30, 65));
        assert!(room::<u64>(usize::MAX).is_err());
    }

    #[test]
    fn what_the_system_lacks_is_an_error() {
        // Without an open count only the system limits allocations.
        assert!(matches!(claim(isize::MAX as usize), Err(OpError::OutOfMemory { .. })));
        assert!(matches!(claim(1 << 46), Err(OpError::OutOfMemory { .. })));
        set_used(0);
    }

    #[test]
    fn work_is_limited_for_one_operation_and_for_all_loops() {
        let _scope = Scope::open(Limits { operation_work: 1000, loop_work: 1500, ..Limits::default() });
        products(&[32, 1000]).expect("as much as one may have");
        products(&[32, 1000]).expect("another operation");
        assert!(matches!(products(&[32, 1001]), Err(OpError::TooMuchWork { work: 1001, loops: false, .. })));
        assert!(matches!(products(&[usize::MAX; 4]), Err(OpError::TooMuchWork { work: u64::MAX, .. })));
        let open = Loop::open();
        work(1000).expect("within the limit of loops");
        assert!(matches!(work(501), Err(OpError::TooMuchWork { loops: true, .. })));
        drop(open);
        assert!(!in_loop());
        work(1000).expect("after the loop");
    }
}
