//! Prepares tensors for Core ML: lent in place, or converted and copied.

use candle_core::{DeviceLocation, Storage, StorageRef, Tensor};

use crate::array::{ArrayType, Buffer, Slice};
use crate::convert::to_array;
use crate::error::NativeError;
use crate::strided::Layout;

/// Read locks on tensor storages: while held, no Candle operation changes lent memory. Each storage is locked once,
/// even if several tensors share it: a writer waiting between two read locks of one thread would deadlock it.
#[derive(Debug)]
pub struct Locked<'t> {
    guards: Vec<StorageRef<'t>>,
    /// Guard index of each tensor.
    index: Vec<usize>,
}

impl<'t> Locked<'t> {
    /// Locks the storages of these tensors for reading.
    pub fn new(tensors: &[&'t Tensor]) -> Self {
        let address = |storage: &Storage| std::ptr::from_ref(storage).addr();
        // A storage does not move while its tensor lives, so addresses stay valid.
        let addresses: Vec<usize> = tensors.iter().map(|t| address(&t.storage_and_layout().0)).collect();
        let (mut guards, mut known, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for (tensor, at) in tensors.iter().zip(addresses) {
            let place = known.iter().position(|k| *k == at).unwrap_or_else(|| {
                known.push(at);
                guards.push(tensor.storage_and_layout().0);
                known.len() - 1
            });
            index.push(place);
        }
        Self { guards, index }
    }

    /// Storage of the tensor at a position.
    fn storage(&self, position: usize) -> Option<&Storage> {
        self.guards.get(*self.index.get(position)?).map(|guard| &**guard)
    }
}

/// An input in the declared element type, dense and row-major.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// Shape, of rank at least one.
    pub shape: Vec<usize>,
    /// Element type.
    pub ty: ArrayType,
    /// The elements.
    pub memory: Memory<'a>,
}

/// Location of an input's elements.
#[derive(Debug)]
pub enum Memory<'a> {
    /// In the tensor's storage: valid while the tensor lives, unchanged while it is [`Locked`].
    Lent(Slice<'a>),
    /// In a copy.
    Copied(Buffer),
}

impl Memory<'_> {
    /// The elements.
    pub fn elements(&self) -> Slice<'_> {
        match self {
            Self::Lent(slice) => *slice,
            Self::Copied(buffer) => buffer.as_slice(),
        }
    }
}

/// Declaration of an array: name, element type and, if fixed, shape.
#[derive(Debug, Clone, Copy)]
pub struct Declared<'a> {
    /// Name of the feature.
    pub name: &'a str,
    /// Element type.
    pub ty: ArrayType,
    /// The fixed shape, if any; a tensor of another rank with as many elements is reshaped to it.
    pub shape: Option<&'a [usize]>,
}

/// Checks that Core ML can read inputs on this device: CPU, or Metal with its unified memory.
///
/// # Errors
/// [`NativeError::Feature`] for CUDA.
pub fn check_location(feature: &str, location: DeviceLocation) -> Result<(), NativeError> {
    match location {
        DeviceLocation::Cpu | DeviceLocation::Metal { .. } => Ok(()),
        DeviceLocation::Cuda { gpu_id } => Err(NativeError::feature(
            feature,
            "a tensor on the CPU or on Metal, as the native engine can't read CUDA memory",
            format!("a tensor on CUDA device {gpu_id}"),
        )),
    }
}

/// Elements of a storage if the CPU can read them: of Metal's, only those in shared memory.
fn reachable(storage: &Storage) -> Result<Option<Slice<'_>>, NativeError> {
    match storage {
        Storage::Cpu(storage) => Ok(Slice::of(storage)),
        #[cfg(all(feature = "metal", target_vendor = "apple"))]
        Storage::Metal(storage) => crate::apple::metal::elements(storage),
        _ => Ok(None),
    }
}

/// Prepares the locked tensor at `position` for Core ML: lent if contiguous, of the declared type and `lend` is set;
/// otherwise gathered and converted.
///
/// # Errors
/// If the CPU cannot read the tensor, it is empty, Core ML lacks its type, or a value does not fit.
pub fn prepare<'a>(
    declared: Declared<'_>,
    tensor: &Tensor,
    locked: &'a Locked<'_>,
    position: usize,
    lend: bool,
) -> Result<Prepared<'a>, NativeError> {
    let Declared { name, ty, .. } = declared;
    check_location(name, tensor.device().location())?;
    let unreadable = || NativeError::feature(name, ty.data_type().name(), format!("{:?}", tensor.dtype()));
    let elements = locked.storage(position).map(reachable).transpose()?.flatten().ok_or_else(unreadable)?;
    if tensor.elem_count() == 0 {
        return Err(NativeError::feature(name, "at least one element", format!("shape {:?}", tensor.dims())));
    }
    let shape = shape(declared, tensor)?;
    if lend
        && elements.array_type() == Some(ty)
        && let Some((start, end)) = tensor.layout().contiguous_offsets()
        && let Some(dense) = elements.get(start, end)
    {
        return Ok(Prepared { shape, ty, memory: Memory::Lent(dense) });
    }
    let memory = Memory::Copied(copy(name, elements, tensor.layout(), ty)?);
    Ok(Prepared { shape, ty, memory })
}

/// [`prepare`] for requests that outlive the call: always copies.
///
/// # Errors
/// Same as [`prepare`].
pub fn prepare_owned(declared: Declared<'_>, tensor: &Tensor) -> Result<(Vec<usize>, Buffer), NativeError> {
    let locked = Locked::new(&[tensor]);
    let prepared = prepare(declared, tensor, &locked, 0, false)?;
    match prepared.memory {
        Memory::Copied(buffer) => Ok((prepared.shape, buffer)),
        // `prepare` never lends here.
        Memory::Lent(_) => Err(NativeError::feature(declared.name, "a copy", "a loan")),
    }
}

fn shape(declared: Declared<'_>, tensor: &Tensor) -> Result<Vec<usize>, NativeError> {
    match declared.shape {
        Some(fixed) if fixed.iter().product::<usize>() == tensor.elem_count() && !fixed.is_empty() => {
            Ok(fixed.to_vec())
        }
        Some(fixed) if !fixed.is_empty() => {
            Err(NativeError::feature(declared.name, format!("shape {fixed:?}"), format!("shape {:?}", tensor.dims())))
        }
        _ if tensor.rank() == 0 => Ok(vec![1]),
        _ => Ok(tensor.dims().to_vec()),
    }
}

/// Gathers a layout row by row from its storage, and converts it.
fn copy(name: &str, elements: Slice<'_>, layout: &candle_core::Layout, ty: ArrayType) -> Result<Buffer, NativeError> {
    macro_rules! rows {
        ($($variant:ident)*) => {
            match elements {
                $(Slice::$variant(v) => {
                    match layout.contiguous_offsets().and_then(|(start, end)| v.get(start..end)) {
                        Some(dense) => to_array(name, Slice::$variant(dense), ty)?,
                        None => to_array(name, Slice::$variant(&gather(name, v, layout)?), ty)?,
                    }
                })*
            }
        };
    }
    Ok(rows!(U8 U32 I8 I16 I32 I64 BF16 F16 F32 F64))
}

fn gather<T: Copy + Default>(name: &str, from: &[T], layout: &candle_core::Layout) -> Result<Vec<T>, NativeError> {
    let strides = Layout::new(layout.dims(), layout.stride());
    let rows = strides.map_err(|source| NativeError::Stride { feature: name.to_owned(), source })?;
    let from = from.get(layout.start_offset()..).unwrap_or_default();
    let mut dense = vec![T::default(); rows.elements()];
    rows.gather(from, &mut dense).map_err(|source| NativeError::Stride { feature: name.to_owned(), source })?;
    Ok(dense)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use half::f16;
    use proptest::prelude::*;

    /// Shape, and the address of the lent memory or the copy.
    type Ready = (Vec<usize>, Result<usize, Buffer>);

    fn ready(tensor: &Tensor, ty: ArrayType, shape: Option<&[usize]>) -> Result<Ready, NativeError> {
        let locked = Locked::new(&[tensor]);
        let ready = prepare(Declared { name: "x", ty, shape }, tensor, &locked, 0, true)?;
        let memory = match ready.memory {
            Memory::Lent(slice) => Ok(slice.address().addr().get()),
            Memory::Copied(buffer) => Err(buffer),
        };
        Ok((ready.shape, memory))
    }

    fn range(n: usize, dtype: DType) -> Tensor {
        Tensor::arange(0_i64, n as i64, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("a range")
    }

    fn address(tensor: &Tensor) -> usize {
        let (storage, _) = tensor.storage_and_layout();
        let Storage::Cpu(cpu) = &*storage else { panic!("not on the CPU") };
        match Slice::of(cpu) {
            Some(slice) => slice.address().addr().get(),
            None => panic!("{cpu:?}"),
        }
    }

    #[test]
    fn contiguous_tensors_of_the_declared_type_are_lent_where_they_lie() {
        for (dtype, ty) in [(DType::F32, ArrayType::F32), (DType::F16, ArrayType::F16), (DType::I32, ArrayType::I32)] {
            let tensor = range(24, dtype).reshape((4, 6)).expect("24 elements");
            assert_eq!(ready(&tensor, ty, None).expect("ready"), (vec![4, 6], Ok(address(&tensor))));
            // Whole rows are contiguous too, at an offset.
            let rows = tensor.narrow(0, 1, 2).expect("rows");
            let further = address(&tensor) + 6 * ty.bytes();
            assert_eq!(ready(&rows, ty, None).expect("ready"), (vec![2, 6], Ok(further)));
        }
    }

    #[test]
    fn a_lent_tensor_can_not_be_changed_while_it_is_locked() {
        let tensor = range(8, DType::F32);
        let other = tensor.clone();
        let locked = Locked::new(&[&tensor, &other, &tensor]);
        assert_eq!(locked.guards.len(), 1, "one storage, one lock");
        let (done, waits) = std::sync::mpsc::channel();
        let writer = std::thread::spawn({
            let tensor = tensor.clone();
            move || {
                let zeros = Tensor::zeros(8, DType::F32, &Device::Cpu).expect("zeros");
                tensor.slice_set(&zeros, 0, 0).expect("written");
                done.send(()).expect("the test listens");
            }
        });
        assert!(waits.recv_timeout(std::time::Duration::from_millis(50)).is_err(), "the writer waits");
        drop(locked);
        waits.recv().expect("the writer goes on");
        writer.join().expect("written");
        assert_eq!(tensor.to_vec1::<f32>().expect("values"), [0.0; 8]);
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Any view equals Candle's own contiguous copy.
        #[test]
        fn views_are_gathered_as_candle_reads_them(
            dims in prop::collection::vec(1_usize..5, 1..4),
            swap in any::<bool>(),
            cut in any::<prop::sample::Index>(),
            half in any::<bool>(),
        ) {
            let base = range(dims.iter().product(), DType::I64).reshape(dims.as_slice()).expect("a shape");
            let base = if swap { base.transpose(0, dims.len() - 1).expect("a view") } else { base };
            let last = base.rank() - 1;
            let start = cut.index(base.dims()[last]);
            let view = base.narrow(last, start, base.dims()[last] - start).expect("a view");
            let (view, ty) = if half { (view.to_dtype(DType::F16).expect("halves"), ArrayType::F16) } else { (view, ArrayType::I32) };
            let got = prepare_owned(Declared { name: "x", ty, shape: None }, &view).expect("ready");
            prop_assert_eq!(&got.0, view.dims());
            let want: Vec<i64> = view.flatten_all().and_then(|t| t.to_dtype(DType::I64)).and_then(|t| t.to_vec1()).expect("values");
            let got: Vec<i64> = match got.1 {
                Buffer::I32(v) => v.into_iter().map(i64::from).collect(),
                Buffer::F16(v) => v.into_iter().map(|x| f16::to_f32(x) as i64).collect(),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn other_types_are_converted_and_checked() {
        let ids = Tensor::new(&[1_i64, 1 << 31], &Device::Cpu).expect("ids");
        let error = ready(&ids, ArrayType::I32, None).expect_err("too large");
        assert!(error.to_string().contains("2147483648"), "{error}");
        let (_, memory) = ready(&ids, ArrayType::F32, None).expect("floats");
        assert_eq!(memory, Err(Buffer::F32(vec![1.0, 2_147_483_648.0])));
    }

    #[test]
    fn formats_that_core_ml_lacks_are_refused_by_name() {
        for dtype in [DType::F8E4M3, DType::F6E2M3, DType::F6E3M2, DType::F4, DType::F8E8M0] {
            let tensor = Tensor::from_raw_buffer(&[0x01], dtype, &[1], &Device::Cpu).expect("one byte");
            for ty in ArrayType::ALL {
                let error = ready(&tensor, ty, None).expect_err("refused").to_string();
                assert!(error.contains("`x`") && error.contains(&format!("{dtype:?}")), "{error}");
            }
        }
    }

    #[test]
    fn scalars_and_fixed_shapes_are_taken_as_declared() {
        let scalar = Tensor::new(3.0_f32, &Device::Cpu).expect("a scalar");
        assert_eq!(ready(&scalar, ArrayType::F32, None).expect("ready").0, [1]);
        let flat = range(6, DType::F32);
        assert_eq!(ready(&flat, ArrayType::F32, Some(&[1, 6])).expect("ready").0, [1, 6]);
        assert!(ready(&flat, ArrayType::F32, Some(&[1, 5])).is_err());
    }

    #[test]
    fn empty_tensors_and_cuda_are_refused() {
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).expect("no elements");
        assert!(ready(&empty, ArrayType::F32, None).is_err());
        assert!(check_location("x", DeviceLocation::Cpu).is_ok());
        assert!(check_location("x", DeviceLocation::Metal { gpu_id: 0 }).is_ok());
        let error = check_location("x", DeviceLocation::Cuda { gpu_id: 3 }).expect_err("CUDA").to_string();
        assert!(error.contains("`x`") && error.contains("CUDA device 3") && error.contains("Metal"), "{error}");
    }
}
