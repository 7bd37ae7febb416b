//! Buffers that persist between predictions (opset iOS18), such as a KV cache.
//!
//! A buffer keeps its declared element type (fp16 stays fp16) and is updated in place. Reads copy, so that no operation
//! can observe a later write.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};
use coreml_format::dtype::DataType;
use coreml_format::program::ValueType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::array::Array;
use crate::budget::{self, Counted, Scope, claim};
use crate::convert;
use crate::error::{EngineError, OpError};
use crate::limits::Limits;
use crate::memory_order::with_f32s;
use crate::shape::check_size;

/// Declaration of one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DataType,
    /// Shape.
    pub shape: Vec<usize>,
}

impl StateSpec {
    pub(crate) fn new(name: &str, ty: &ValueType) -> Result<Self, EngineError> {
        let bad = |found: String| EngineError::BadState {
            name: name.to_owned(),
            expected: "a tensor of known shape within the size limit".to_owned(),
            found,
        };
        let tensor = ty.tensor().ok_or_else(|| bad(format!("{ty:?}")))?;
        let shape = tensor.fixed_shape().ok_or_else(|| bad(format!("{:?}", tensor.shape)))?;
        check_size(&shape).map_err(|e| bad(e.to_string()))?;
        Ok(Self { name: name.to_owned(), dtype: tensor.dtype, shape })
    }

    fn describe(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }
}

/// One buffer.
#[derive(Debug)]
pub struct StateBuffer {
    spec: StateSpec,
    data: Tensor,
}

/// The Candle type that stores a state of this element type.
fn kept_dtype(dtype: DataType) -> DType {
    match dtype {
        DataType::F16 => DType::F16,
        DataType::Bool => DType::U8,
        d if d.is_float() => DType::F32,
        _ => DType::I64,
    }
}

impl StateBuffer {
    /// Returns the declaration.
    pub fn spec(&self) -> &StateSpec {
        &self.spec
    }

    /// Copies the whole buffer to an array.
    pub fn read(&self) -> Result<Array, OpError> {
        claim(budget::bytes_of(&self.data))?;
        Array::new(self.data.copy()?, self.spec.dtype)
    }

    /// Borrows the buffer's tensor, to be read before the next write and not kept.
    pub fn tensor(&self) -> &Tensor {
        &self.data
    }

    /// Replaces the whole content.
    ///
    /// # Errors
    /// If the shape differs or a value is outside the state's element type.
    pub fn write(&mut self, value: &Tensor) -> Result<(), OpError> {
        if value.dims() != self.spec.shape {
            return Err(OpError::shape(format!(
                "state has shape {:?} but is written with {:?}",
                self.spec.shape,
                value.dims()
            )));
        }
        let kept = kept_dtype(self.spec.dtype);
        // Already in the stored type: no conversion.
        let value = if value.dtype() == DType::F16 && kept == DType::F16 {
            value.clone()
        } else {
            claim(convert::cost(value, self.spec.dtype))?;
            let declared = convert::to_declared(value, self.spec.dtype).map_err(|e| OpError::data(e.to_string()))?;
            declared.counted_to_dtype(kept)?
        };
        self.data = value.to_device(self.data.device())?.counted_copy()?;
        Ok(())
    }

    /// Writes `update` at `begin`, leaving the rest untouched.
    ///
    /// # Errors
    /// If the region does not lie inside the buffer.
    pub fn write_slice(&mut self, update: &Tensor, begin: &[usize]) -> Result<(), OpError> {
        let fits = update.rank() == self.spec.shape.len()
            && begin.len() == self.spec.shape.len()
            && (0..begin.len())
                .all(|i| begin[i].checked_add(update.dims()[i]).is_some_and(|end| end <= self.spec.shape[i]));
        if !fits {
            let (shape, dims) = (&self.spec.shape, update.dims());
            return Err(OpError::shape(format!("state has shape {shape:?} but {dims:?} is written at {begin:?}")));
        }
        if update.elem_count() == 0 {
            return Ok(());
        }
        if matches!(self.data.device(), Device::Cpu) && self.data.dtype() == DType::F16 {
            let rows = crate::layout::contiguous(&update.counted_to_dtype(DType::F32)?)?;
            budget::claim_of::<f16>(rows.elem_count())?;
            let source = with_f32s(&rows, |rows| {
                let mut halves = vec![f16::ZERO; rows.len()];
                halves.convert_from_f32_slice(rows);
                halves
            });
            let source = source.ok_or_else(|| OpError::data("unexpected layout of a state update"))?;
            let op = WriteSlice { source: &source, dims: update.dims(), begin };
            self.data.inplace_op1(&op)?;
            return Ok(());
        }
        let update = update.counted_to_dtype(self.data.dtype())?;
        // Candle creates the parts around the slice and concatenates them.
        claim(budget::bytes_of(&self.data).saturating_mul(3))?;
        let ranges: Vec<_> = begin.iter().zip(update.dims()).map(|(&b, &n)| b..b + n).collect();
        self.data = self.data.slice_assign(&ranges, &update)?;
        Ok(())
    }

    /// In the region `begin..end`, drops as many positions from the start of `axis` as `update` has and writes `update`
    /// behind the others.
    ///
    /// # Errors
    /// If the region does not lie inside the buffer, is not whole in the dimensions after `axis`, or `update` is not of
    /// its extents.
    pub fn shift(&mut self, update: &Tensor, begin: &[usize], end: &[usize], axis: usize) -> Result<(), OpError> {
        let (shape, dims) = (&self.spec.shape, update.dims());
        let rank = shape.len();
        let fits = [begin.len(), end.len(), dims.len()] == [rank; 3]
            && axis < rank
            && (0..rank).all(|d| begin[d] <= end[d] && end[d] <= shape[d])
            && (axis + 1..rank).all(|d| end[d] - begin[d] == shape[d])
            && (0..rank).all(|d| if d == axis { dims[d] <= end[d] - begin[d] } else { dims[d] == end[d] - begin[d] });
        if !fits {
            return Err(OpError::shape(format!(
                "state has shape {shape:?} but {begin:?}..{end:?} is moved along dimension {axis} for {dims:?}"
            )));
        }
        if update.elem_count() == 0 {
            return Ok(());
        }
        let (from, rows) = (begin[axis] + dims[axis], end[axis] - begin[axis] - dims[axis]);
        if matches!(self.data.device(), Device::Cpu) {
            self.data.inplace_op1(&Shift { begin, dims, axis, rows })?;
        } else if rows > 0 {
            let mut kept = self.data.narrow(axis, from, rows)?;
            for d in 0..axis {
                kept = kept.narrow(d, begin[d], dims[d])?;
            }
            let kept = kept.counted_copy()?;
            self.write_slice(&kept, begin)?;
        }
        let mut at = begin.to_vec();
        at[axis] += rows;
        self.write_slice(update, &at)
    }
}

/// Where each row of a region begins in a buffer: for every index below `outer`, counted from `begin`, in order.
fn offsets<'a>(outer: &'a [usize], begin: &'a [usize], layout: &'a Layout) -> impl Iterator<Item = usize> + 'a {
    (0..outer.iter().product()).map(move |mut index: usize| {
        let mut at = layout.start_offset();
        for d in (0..outer.len()).rev() {
            at += (index % outer[d] + begin[d]) * layout.stride()[d];
            index /= outer[d];
        }
        at
    })
}

/// Moves `rows` positions of a dimension of a contiguous buffer by `dims[axis]` towards the start of a region.
struct Shift<'a> {
    begin: &'a [usize],
    dims: &'a [usize],
    axis: usize,
    rows: usize,
}

impl Shift<'_> {
    fn apply<T: Copy>(&self, data: &mut [T], layout: &Layout) -> candle_core::Result<()> {
        let (step, by) = (layout.stride()[self.axis], self.dims[self.axis]);
        for row in offsets(&self.dims[..self.axis], self.begin, layout) {
            let to = row + self.begin[self.axis] * step;
            let Some(part) = data.get_mut(to..to + (by + self.rows) * step) else {
                candle_core::bail!("state slice out of range");
            };
            part.copy_within(by * step.., 0);
        }
        Ok(())
    }
}

impl InplaceOp1 for Shift<'_> {
    fn name(&self) -> &'static str {
        "shift-state"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match storage {
            CpuStorage::F16(data) => self.apply(data, layout),
            CpuStorage::F32(data) => self.apply(data, layout),
            CpuStorage::I64(data) => self.apply(data, layout),
            CpuStorage::U8(data) => self.apply(data, layout),
            _ => candle_core::bail!("unexpected storage of a state buffer"),
        }
    }
}

/// Copies rows of a contiguous update into a contiguous buffer.
struct WriteSlice<'a> {
    source: &'a [f16],
    dims: &'a [usize],
    begin: &'a [usize],
}

impl InplaceOp1 for WriteSlice<'_> {
    fn name(&self) -> &'static str {
        "write-state-slice"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F16(target) = storage else {
            candle_core::bail!("state buffer is not F16");
        };
        let (Some(&row), Some(&row_begin)) = (self.dims.last(), self.begin.last()) else {
            if let (Some(t), Some(s)) = (target.get_mut(layout.start_offset()), self.source.first()) {
                *t = *s;
            }
            return Ok(());
        };
        let outer = &self.dims[..self.dims.len() - 1];
        for (source, at) in self.source.chunks_exact(row).zip(offsets(outer, self.begin, layout)) {
            let at = at + row_begin;
            match target.get_mut(at..at + row) {
                Some(t) => t.copy_from_slice(source),
                None => candle_core::bail!("state slice out of range"),
            }
        }
        Ok(())
    }
}

/// The states of one conversation with a model, shared by all functions and components that declare a state of the same
/// name.
///
/// Predictions take it by `&mut`, so two of them cannot use it at once.
#[derive(Debug, Default)]
pub struct State {
    buffers: Vec<StateBuffer>,
}

impl State {
    /// Allocates buffers of zeros for these declarations, within the default [`Limits::memory`].
    ///
    /// # Errors
    /// If allocation fails or the total exceeds the limit.
    pub fn new(specs: &[StateSpec], device: &Device) -> Result<Self, OpError> {
        Self::within(specs, Limits::default().memory, device)
    }

    /// Allocates buffers of zeros for these declarations, of at most `memory` bytes in total.
    ///
    /// # Errors
    /// If allocation fails or the total exceeds the limit.
    pub fn within(specs: &[StateSpec], memory: usize, device: &Device) -> Result<Self, OpError> {
        let _scope = Scope::open(Limits { memory, ..Limits::default() });
        let buffers = specs.iter().map(|spec| {
            let data = budget::zeros(spec.shape.as_slice(), kept_dtype(spec.dtype), device)?;
            Ok(StateBuffer { spec: spec.clone(), data })
        });
        Ok(Self { buffers: buffers.collect::<Result<_, OpError>>()? })
    }

    /// All buffers, in the order of the declarations.
    pub fn buffers(&self) -> &[StateBuffer] {
        &self.buffers
    }

    /// Returns the buffer of this name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut StateBuffer> {
        self.buffers.iter_mut().find(|b| b.spec.name == name)
    }

    /// Fills every buffer with zeros.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn reset(&mut self) -> Result<(), OpError> {
        for buffer in &mut self.buffers {
            buffer.data = buffer.data.counted_zeros_like()?;
        }
        Ok(())
    }

    pub(crate) fn buffer_at(&mut self, position: usize) -> Option<&mut StateBuffer> {
        self.buffers.get_mut(position)
    }

    /// Index of the buffer of each state of a plan.
    pub(crate) fn order(&self, specs: &[StateSpec]) -> Result<Vec<usize>, EngineError> {
        let find = |spec: &StateSpec| {
            let bad =
                |found: String| EngineError::BadState { name: spec.name.clone(), expected: spec.describe(), found };
            let position = self.buffers.iter().position(|b| b.spec.name == spec.name);
            let position = position.ok_or_else(|| bad("no buffer of this name".to_owned()))?;
            let kept = &self.buffers[position].spec;
            if kept == spec { Ok(position) } else { Err(bad(kept.describe())) }
        };
        specs.iter().map(find).collect()
    }
}
