//! fp16 arrays in IOSurfaces, which the Neural Engine reads and writes in place.

use half::f16;
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2_core_foundation::CFRetained;
use objc2_core_ml::MLMultiArray;
use objc2_core_video::CVPixelBuffer;

use super::foundation::numbers;
use super::pixel_buffer;
use crate::array::{ArrayType, Buffer, Slice};
use crate::error::NativeError;
use crate::pixels::Rows;
use crate::strided::{Layout, StrideError};
use crate::surface::Surface;

/// An array and the surface backing it.
pub(super) struct SurfaceArray {
    surface: Surface,
    buffer: CFRetained<CVPixelBuffer>,
    array: Retained<MLMultiArray>,
}

impl SurfaceArray {
    /// Creates a zeroed array; `None` if no surface fits, or the system refuses one.
    pub(super) fn new(feature: &str, ty: ArrayType, shape: &[usize]) -> Option<Self> {
        let surface = Surface::of(ty, shape)?;
        let buffer = pixel_buffer::create(feature, Surface::FORMAT, surface.width, surface.height);
        let buffer = buffer.inspect_err(|error| tracing::debug!(%error, "plain memory is used instead")).ok()?;
        // SAFETY: rule 1: the format is the one for fp16, the last extent the buffer's width, and the product of the
        // others its height. The array keeps the buffer alive.
        let array = unsafe { MLMultiArray::initWithPixelBuffer_shape(MLMultiArray::alloc(), &buffer, &numbers(shape)) };
        Some(Self { surface, buffer, array })
    }

    /// The array, to pass to a prediction.
    pub(super) fn array(&self) -> &Retained<MLMultiArray> {
        &self.array
    }

    /// Replaces the elements, row by row.
    ///
    /// # Errors
    /// If the elements differ in type or number, or the memory is not accessible.
    pub(super) fn write(&mut self, feature: &str, from: Slice<'_>) -> Result<(), NativeError> {
        let Slice::F16(dense) = from else {
            let found = from.array_type().map_or("another type", |ty| ty.data_type().name());
            return Err(NativeError::feature(feature, "fp16 elements", found));
        };
        let fill = |rows: Rows, bytes: &mut [u8]| {
            let layout = self.layout(feature, rows)?;
            // SAFETY: every bit pattern is a valid f16, and the bytes have no other meaning here.
            let (before, halves, after) = unsafe { bytes.align_to_mut::<f16>() };
            aligned(feature, before.len() + after.len())?;
            layout.scatter(dense, halves).map_err(|source| strides(feature, source))
        };
        // SAFETY: the buffer was created here, and the exclusive reference excludes other users: predictions with the
        // array are over when the mutex around the model is free.
        unsafe { pixel_buffer::write(feature, &self.buffer, Surface::FORMAT.bytes(), fill) }
    }

    /// Copies the elements, row by row.
    ///
    /// # Errors
    /// If the memory is not accessible.
    pub(super) fn read(&self, feature: &str) -> Result<Buffer, NativeError> {
        pixel_buffer::read(feature, &self.buffer, Surface::FORMAT.bytes(), |rows, bytes| {
            let layout = self.layout(feature, rows)?;
            // SAFETY: as in `write`.
            let (before, halves, after) = unsafe { bytes.align_to::<f16>() };
            aligned(feature, before.len() + after.len())?;
            let mut dense = vec![f16::ZERO; layout.elements()];
            layout.gather(halves, &mut dense).map_err(|source| strides(feature, source))?;
            Ok(Buffer::F16(dense))
        })
    }

    fn layout(&self, feature: &str, rows: Rows) -> Result<Layout, NativeError> {
        let Surface { width, height } = self.surface;
        if (rows.width, rows.height) != (width, height) {
            let (expected, found) = (format!("{width} × {height} pixels"), format!("{} × {}", rows.width, rows.height));
            return Err(NativeError::feature(feature, expected, found));
        }
        self.surface.layout(rows.row).map_err(|source| NativeError::surface(feature, source))
    }
}

fn strides(feature: &str, source: StrideError) -> NativeError {
    NativeError::Stride { feature: feature.to_owned(), source }
}

/// Surfaces are page-aligned, so whole f16 values leave no bytes over at either end.
fn aligned(feature: &str, left_over: usize) -> Result<(), NativeError> {
    match left_over {
        0 => Ok(()),
        n => Err(NativeError::feature(feature, "memory aligned to 2 bytes", format!("{n} bytes beside it"))),
    }
}

/// Input surfaces, reused between predictions: creating one costs more than filling it.
#[derive(Default)]
pub(super) struct Pool {
    /// Last shape of each input, and its surface if the system provided one.
    kept: Vec<(String, Vec<usize>, Option<SurfaceArray>)>,
}

impl Pool {
    /// Surface for an input of this shape; `None` if none fits.
    pub(super) fn get(&mut self, feature: &str, ty: ArrayType, shape: &[usize]) -> Option<&mut SurfaceArray> {
        // Checked first, so that inputs that never have a surface are not recorded.
        Surface::of(ty, shape)?;
        let place = match self.kept.iter().position(|(name, ..)| name == feature) {
            Some(place) => place,
            None => {
                self.kept.push((feature.to_owned(), Vec::new(), None));
                self.kept.len() - 1
            }
        };
        let (_, known, surface) = self.kept.get_mut(place)?;
        if known != shape {
            *known = shape.to_vec();
            *surface = SurfaceArray::new(feature, ty, shape);
        }
        surface.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apple::array;

    fn halves(count: usize) -> Vec<f16> {
        (0..count).map(|i| f16::from_f32(i as f32)).collect()
    }

    #[test]
    fn the_framework_sees_the_elements_that_were_written() {
        // Rows of 40 f16 values, which the system pads.
        let (shape, dense) = ([2, 3, 40], halves(240));
        let mut surface = SurfaceArray::new("x", ArrayType::F16, &shape).expect("a surface");
        surface.write("x", Slice::F16(&dense)).expect("written");
        assert_eq!(surface.read("x").expect("read"), Buffer::F16(dense.clone()));
        let (seen, elements) = array::read("x", surface.array()).expect("read by the framework");
        assert_eq!((seen, elements), (shape.to_vec(), Buffer::F16(dense.clone())));
        assert!(surface.write("x", Slice::F32(&[0.0; 240])).is_err());
        assert!(surface.write("x", Slice::F16(&dense[1..])).is_err());
    }

    #[test]
    fn an_input_keeps_its_surface_while_it_keeps_its_shape() {
        let mut pool = Pool::default();
        let mut at = |shape: &[usize]| {
            pool.get("x", ArrayType::F16, shape).map(|surface| Retained::as_ptr(surface.array()).addr())
        };
        let first = at(&[1, 64]).expect("a surface");
        assert_eq!(at(&[1, 64]), Some(first));
        assert!(at(&[2, 64]).is_some_and(|other| other != first));
        assert_eq!(at(&[64, 1]), None);
    }
}
