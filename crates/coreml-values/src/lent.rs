//! Tensors over memory that somebody else owns, such as a NumPy array: no copy on the way in.
//!
//! Candle's tensors own their elements. Here a tensor gets a `Vec` over borrowed memory, and when the [`scope`] ends the
//! `Vec` is taken out of the tensor's storage again and forgotten. Clones and views that outlive the scope share that
//! storage: they are left without elements, and reading them fails instead of reading memory that may be gone.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Tensor, WithDType};

/// Lends memory to tensors until `work` returns.
///
/// ```
/// let data = [1f32, 2.0, 3.0, 4.0];
/// let sum = coreml_values::lent::scope(|lender| {
///     // SAFETY: nothing changes the tensor in place.
///     let tensor = unsafe { lender.tensor(&data, &[2, 2]) }?;
///     tensor.sum_all()?.to_scalar::<f32>()
/// })?;
/// assert_eq!(sum, 10.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn scope<'env, R>(work: impl FnOnce(&Lender<'env>) -> R) -> R {
    // Dropped when `work` returns or panics; nobody else can move or forget it.
    let lender = Lender { out: RefCell::new(Vec::new()), env: PhantomData };
    work(&lender)
}

/// Makes tensors over borrowed memory; see [`scope`].
pub struct Lender<'env> {
    out: RefCell<Vec<Tensor>>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'env> Lender<'env> {
    /// A CPU tensor of the elements of `data`, in row-major order.
    ///
    /// # Safety
    /// Until the scope ends, no operation in place ([`InplaceOp1`] and its kin, [`Tensor::slice_set`]) is applied to the
    /// tensor, its clones or its views: it would write to borrowed memory, or free it. Predictions apply none to their
    /// inputs.
    ///
    /// # Errors
    /// If `data` does not have as many elements as `dims`.
    pub unsafe fn tensor<T: WithDType>(&self, data: &'env [T], dims: &[usize]) -> Result<Tensor> {
        let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if elements != Some(data.len()) {
            candle_core::bail!("{} elements do not fill the shape {dims:?}", data.len());
        }
        if data.is_empty() {
            return Tensor::from_vec(Vec::<T>::new(), Shape::from(dims), &Device::Cpu);
        }
        // SAFETY: pointer, length and alignment are those of a slice that lives for `'env`, longer than this lender. The
        // vector is not written, grown or freed: the caller promises that no operation in place sees it, everything else
        // in Candle reads tensors or copies them, `from_vec` can't fail once the number of elements is right, and `Drop`
        // takes the vector out of the storage, which the clone in `out` keeps alive until then.
        let vector = unsafe { Vec::from_raw_parts(data.as_ptr().cast_mut(), data.len(), data.len()) };
        let tensor = Tensor::from_vec(vector, Shape::from(dims), &Device::Cpu)?;
        self.out.borrow_mut().push(tensor.clone());
        Ok(tensor)
    }

    /// True if a tensor reads lent memory: it has no elements any more when the scope has ended.
    pub fn lent(&self, tensor: &Tensor) -> bool {
        let at = storage(tensor);
        self.out.borrow().iter().any(|lent| storage(lent) == at)
    }
}

/// Address of the storage that a tensor shares with its views.
fn storage(tensor: &Tensor) -> *const () {
    (&raw const *tensor.storage_and_layout().0).cast()
}

impl Drop for Lender<'_> {
    fn drop(&mut self) {
        for tensor in self.out.get_mut().drain(..) {
            let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tensor.inplace_op1(&TakeBack)));
            if !matches!(taken, Ok(Ok(()))) {
                // The storage still points to memory that is about to go. Candle fails here only if a thread panicked
                // while it changed the elements of an input, which nothing does.
                std::process::abort();
            }
        }
    }
}

/// Empties a storage without freeing its elements.
struct TakeBack;

impl InplaceOp1 for TakeBack {
    fn name(&self) -> &'static str {
        "take-back"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let empty = match storage {
            CpuStorage::U8(_) => CpuStorage::U8(Vec::new()),
            CpuStorage::U32(_) => CpuStorage::U32(Vec::new()),
            CpuStorage::I16(_) => CpuStorage::I16(Vec::new()),
            CpuStorage::I32(_) => CpuStorage::I32(Vec::new()),
            CpuStorage::I64(_) => CpuStorage::I64(Vec::new()),
            CpuStorage::BF16(_) => CpuStorage::BF16(Vec::new()),
            CpuStorage::F16(_) => CpuStorage::F16(Vec::new()),
            CpuStorage::F32(_) => CpuStorage::F32(Vec::new()),
            CpuStorage::F64(_) => CpuStorage::F64(Vec::new()),
            // Small floats of other formats, as which nothing is lent here.
            _ => CpuStorage::U8(Vec::new()),
        };
        std::mem::forget(std::mem::replace(storage, empty));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<'env, T: WithDType>(lender: &Lender<'env>, data: &'env [T], dims: &[usize]) -> Result<Tensor> {
        // SAFETY: the tests read tensors only.
        unsafe { lender.tensor(data, dims) }
    }

    #[test]
    fn lent_elements_are_read_where_they_lie() {
        let data: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let (sum, at) = scope(|lender| {
            let t = tensor(lender, &data, &[2, 3]).expect("a tensor");
            let at = match &*t.storage_and_layout().0 {
                candle_core::Storage::Cpu(CpuStorage::F32(v)) => v.as_ptr(),
                _ => std::ptr::null(),
            };
            assert!(lender.lent(&t.t().expect("a view")) && !lender.lent(&t.copy().expect("a copy")));
            (t.sum_all().and_then(|s| s.to_scalar::<f32>()).expect("a sum"), at)
        });
        assert_eq!((sum, at), (15.0, data.as_ptr()));
        assert_eq!(data[5], 5.0, "it is still the caller's");
    }

    #[test]
    fn what_outlives_the_scope_has_no_elements() {
        let data = vec![1i64, 2, 3];
        let kept = scope(|lender| tensor(lender, &data, &[3]).expect("a tensor"));
        drop(data);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kept.to_vec1::<i64>()));
        assert!(!matches!(read, Ok(Ok(_))), "{read:?}");
    }

    #[test]
    fn a_panic_takes_the_memory_back_too() {
        let data = vec![half::f16::ONE; 4];
        let work = || scope(|lender| tensor(lender, &data, &[4]).map(|t| panic!("{:?}", t.dims())));
        let panicked: std::thread::Result<Result<()>> = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        assert!(panicked.is_err());
        assert_eq!(data, [half::f16::ONE; 4]);
    }

    #[test]
    fn shapes_are_checked_before_memory_is_lent() {
        let data = [0u8; 4];
        for dims in [&[3][..], &[5], &[2, 3], &[usize::MAX, 2], &[]] {
            assert!(scope(|lender| tensor(lender, &data, dims).is_err()), "{dims:?}");
        }
        let (scalar, none) = ([7.5f64], [0u32; 0]);
        scope(|lender| {
            assert_eq!(tensor(lender, &scalar, &[]).and_then(|t| t.to_scalar::<f64>()).expect("a number"), 7.5);
            assert_eq!(tensor(lender, &none, &[0, 3]).expect("empty").dims(), [0, 3]);
        });
    }
}
