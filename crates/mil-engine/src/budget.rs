//! Memory and work of a prediction, counted before they are used.
//!
//! Candle's tensors and the kernels allocate by themselves, and a failed allocation ends the process. So whatever sizes
//! an allocation by a number of the program [`claim`]s its bytes first: the claim fails with an error when what is in
//! use and what is wanted exceed the limit, or when the system does not have that much. [`room`] and [`collect`] claim
//! and allocate; [`Counted`] has Candle's operations that allocate, each with its claim.
//!
//! The count belongs to the thread that predicts: [`Scope`] opens it. It is never too low, but may be too high: it grows
//! with claims and falls when the executor counts what values hold ([`crate::frame::Frame`]), which it does now and then
//! and before it gives up. Within one step, temporaries that follow one another are [`lent`] instead.
//!
//! Work is counted in nanoseconds, roughly: an element that is produced, or [`PRODUCTS`] products that are summed.

use std::cell::Cell;

use candle_core::{DType, Tensor, WithDType};

use crate::error::OpError;
use crate::limits::Limits;

/// Bytes from which on an allocation is tried before it is relied upon: smaller ones cost less than the trial, and each
/// trial leaves room for them.
const TRIED: usize = 1 << 20;

/// Products of floats that count as one element.
const PRODUCTS: usize = 32;

/// Work of a step of a loop, whatever it computes.
pub(crate) const STEP: u64 = 1000;

struct Counters {
    limits: Cell<Option<Limits>>,
    /// Bytes in use, at most.
    used: Cell<usize>,
    /// Work of loops so far, and how many of them are open.
    looped: Cell<u64>,
    loops: Cell<u32>,
}

thread_local! {
    static NOW: Counters = const {
        Counters { limits: Cell::new(None), used: Cell::new(0), looped: Cell::new(0), loops: Cell::new(0) }
    };
}

/// A count that starts anew, until it is dropped; then the one before goes on.
pub(crate) struct Scope {
    before: (Option<Limits>, usize, u64, u32),
}

impl Scope {
    /// Nothing is in use yet.
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

/// Bytes in use, at most.
pub(crate) fn used() -> usize {
    NOW.with(|now| now.used.get())
}

/// Corrects the bytes in use.
pub(crate) fn set_used(bytes: usize) {
    NOW.with(|now| now.used.set(bytes));
}

/// Counts bytes that are about to be allocated.
///
/// # Errors
/// When they exceed the limit together with what is in use, or the system can't give them.
pub(crate) fn claim(bytes: usize) -> Result<(), OpError> {
    keep(bytes)?;
    if bytes >= TRIED { attempt(bytes) } else { Ok(()) }
}

/// Counts bytes that are allocated already.
///
/// # Errors
/// When they exceed the limit together with what is in use.
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

/// Allocates as much and some more, and gives it back untouched, which costs little beside what the memory is for.
fn attempt(bytes: usize) -> Result<(), OpError> {
    let mut trial: Vec<u8> = Vec::new();
    trial.try_reserve_exact(bytes.saturating_add(bytes / 8)).map_err(|_| OpError::OutOfMemory { bytes })?;
    // Without this the pair of calls may be left out.
    std::hint::black_box(&mut trial);
    Ok(())
}

/// [`claim`] for elements of a type.
pub(crate) fn claim_of<T>(count: usize) -> Result<(), OpError> {
    claim(count.saturating_mul(size_of::<T>()))
}

/// Bytes that are given back when this is dropped: temporaries of which there are many, one after another.
pub(crate) struct Lent(usize);

impl Drop for Lent {
    fn drop(&mut self) {
        // What was counted anew since then may have left them out.
        set_used(used().saturating_sub(self.0));
    }
}

/// [`claim`]s bytes for as long as the value lives.
pub(crate) fn lent(bytes: usize) -> Result<Lent, OpError> {
    claim(bytes)?;
    Ok(Lent(bytes))
}

/// Runs what needs temporaries, of which nothing but a known number of bytes stays.
pub(crate) fn temporary<R>(kept: usize, f: impl FnOnce() -> Result<R, OpError>) -> Result<R, OpError> {
    let before = used();
    let result = f();
    set_used(before.saturating_add(kept));
    result
}

/// An empty vector with room for so many elements.
///
/// # Errors
/// As [`claim`].
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, OpError> {
    claim_of::<T>(count)?;
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| OpError::OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) })?;
    Ok(out)
}

/// So many elements of one value.
///
/// # Errors
/// As [`claim`].
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, OpError> {
    claim_of::<T>(count)?;
    Ok(vec![value; count])
}

/// The elements of an iterator of known length.
///
/// # Errors
/// As [`claim`].
pub(crate) fn collect<I: IntoIterator<IntoIter: ExactSizeIterator>>(elements: I) -> Result<Vec<I::Item>, OpError> {
    let elements = elements.into_iter();
    let mut out = room(elements.len())?;
    out.extend(elements);
    Ok(out)
}

/// At most `most` elements of an iterator.
///
/// # Errors
/// As [`claim`].
pub(crate) fn collect_most<T>(most: usize, elements: impl Iterator<Item = T>) -> Result<Vec<T>, OpError> {
    let mut out = room(most)?;
    out.extend(elements.take(most));
    Ok(out)
}

/// The elements of an iterator of known length, until one is an error.
///
/// # Errors
/// As [`claim`], and the first of the iterator's own.
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

/// Counts the products that an operation is about to sum.
///
/// # Errors
/// When they are more than one operation may have, or exceed what is left to loops.
pub(crate) fn products(extents: &[usize]) -> Result<(), OpError> {
    let all = extents.iter().fold(1u128, |all, &n| all.saturating_mul(n as u128));
    work(u64::try_from(all / PRODUCTS as u128).unwrap_or(u64::MAX))
}

/// Counts the work of an operation, in elements.
///
/// # Errors
/// As [`products`].
pub(crate) fn work(amount: u64) -> Result<(), OpError> {
    NOW.with(|now| {
        let Some(limits) = now.limits.get() else { return Ok(()) };
        if amount > limits.operation_work {
            return Err(OpError::TooMuchWork { work: amount, limit: limits.operation_work, loops: false });
        }
        if now.loops.get() > 0 { looped(amount) } else { Ok(()) }
    })
}

/// Counts work of loops.
///
/// # Errors
/// When it is more than the loops of a prediction may have.
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

/// An open loop; closed when it is dropped.
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

/// Whether a loop is open.
pub(crate) fn in_loop() -> bool {
    NOW.with(|now| now.loops.get() > 0)
}

/// Candle's operations that allocate, their bytes claimed first.
pub(crate) trait Counted: Sized {
    /// `to_dtype`.
    fn counted_to_dtype(&self, dtype: DType) -> Result<Tensor, OpError>;
    /// `contiguous`.
    fn counted_contiguous(&self) -> Result<Tensor, OpError>;
    /// `force_contiguous`.
    fn counted_copy(&self) -> Result<Tensor, OpError>;
    /// `reshape`, which copies what is not contiguous.
    fn counted_reshape<S: Into<candle_core::Shape>>(&self, shape: S) -> Result<Tensor, OpError>;
    /// The elements in row-major order.
    fn counted_elements<T: WithDType>(&self) -> Result<Vec<T>, OpError>;
    /// `zeros_like`.
    fn counted_zeros_like(&self) -> Result<Tensor, OpError>;
    /// An operation of two broadcast tensors that gives elements of `bytes`, such as `broadcast_add`.
    fn counted_broadcast(
        &self,
        other: &Tensor,
        apply: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, OpError>;
}

/// Bytes of the elements of a tensor.
pub(crate) fn bytes_of(t: &Tensor) -> usize {
    t.elem_count().saturating_mul(t.dtype().size_in_bytes())
}

/// Zeros of a shape.
///
/// # Errors
/// As [`claim`].
pub(crate) fn zeros<S: Into<candle_core::Shape>>(
    shape: S,
    dtype: DType,
    device: &candle_core::Device,
) -> Result<Tensor, OpError> {
    let shape = shape.into();
    claim(shape.elem_count().saturating_mul(dtype.size_in_bytes()))?;
    Ok(Tensor::zeros(shape, dtype, device)?)
}

/// Tensors joined by Candle.
///
/// # Errors
/// As [`claim`], and what Candle refuses.
pub(crate) fn cat<T: AsRef<Tensor>>(parts: &[T], dim: usize) -> Result<Tensor, OpError> {
    // Other dimensions than the first are joined between transpositions.
    let all: usize = parts.iter().map(|p| bytes_of(p.as_ref())).fold(0, usize::saturating_add);
    claim(all.saturating_mul(if dim == 0 { 1 } else { 3 }))?;
    Ok(Tensor::cat(parts, dim)?)
}

/// A function of every element by Candle, with results of the same type.
///
/// # Errors
/// As [`claim`], and what Candle refuses.
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
        // No count is open: nothing but the system's own limit.
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
