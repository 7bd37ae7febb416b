//! IOSurface layouts of arrays.
//!
//! `MLMultiArray` can be backed by a pixel buffer of format `OneComponent16Half` (header of
//! `initWithPixelBuffer:shape:`): the last extent of the shape is the width, the product of the others the height. The
//! Neural Engine reads and writes such memory in place. The system chooses the row alignment.

use crate::array::ArrayType;
use crate::pixels::{PixelError, PixelFormat};
use crate::strided::{Layout, StrideError};

/// Surface dimensions of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Surface {
    /// Elements per row: the last extent of the array.
    pub width: usize,
    /// Number of rows: the product of the other extents.
    pub height: usize,
}

/// Row alignment in bytes on all known systems; each buffer reports its actual row stride.
const ROW_ALIGNMENT: usize = 64;

/// Maximum width and height: the limit of textures on Apple GPUs, for which surfaces are designed.
const MAX_EXTENT: usize = 16_384;

impl Surface {
    /// The surface for an array, if suitable: fp16, within the size limit, and with rows that are not mostly padding.
    /// Rows of a few elements would cost a copy each and up to 32 times the memory.
    pub fn of(ty: ArrayType, shape: &[usize]) -> Option<Self> {
        let (&width, rest) = shape.split_last()?;
        let height = rest.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent))?;
        let fits = |extent: usize| (1..=MAX_EXTENT).contains(&extent);
        let filled = width.checked_mul(ty.bytes())? >= ROW_ALIGNMENT || height == 1;
        (ty == ArrayType::F16 && fits(width) && fits(height) && filled).then_some(Self { width, height })
    }

    /// Pixel format.
    pub const FORMAT: PixelFormat = PixelFormat::GrayF16;

    /// Layout of the elements in a buffer with rows of `row` bytes.
    ///
    /// # Errors
    /// If rows are shorter than the width, or not a whole number of elements.
    pub fn layout(&self, row: usize) -> Result<Layout, SurfaceError> {
        let pixel = Self::FORMAT.bytes();
        if !row.is_multiple_of(pixel) || row / pixel < self.width {
            let (width, height) = (self.width, self.height);
            return Err(PixelError::Rows { row, width, height, pixel }.into());
        }
        Ok(Layout::new(&[self.height, self.width], &[row / pixel, 1])?)
    }
}

/// Rows that do not match the requested surface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum SurfaceError {
    /// Invalid row length.
    Rows(#[from] PixelError),
    /// Invalid memory extent.
    Stride(#[from] StrideError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fp16_arrays_with_rows_worth_a_copy_are_taken() {
        let of = |shape: &[usize]| Surface::of(ArrayType::F16, shape).map(|s| (s.width, s.height));
        // The header's own example, except for its narrow rows.
        assert_eq!(of(&[2, 3, 40]), Some((40, 6)));
        // Hidden states of a decoder, its prefill mask, and a part of its logits.
        assert_eq!(of(&[1, 1, 1024]), Some((1024, 1)));
        assert_eq!(of(&[1, 1, 64, 512]), Some((512, 64)));
        assert_eq!(of(&[1, 1, 9496]), Some((9496, 1)));
        assert_eq!(of(&[7]), Some((7, 1)), "one row is one copy, however short");
        assert_eq!(of(&[1, 512, 1, 1]), None, "rows of one element");
        assert_eq!((of(&[2, 31]), of(&[2, 32])), (None, Some((32, 2))));
        assert_eq!((of(&[16_384]), of(&[16_385])), (Some((16_384, 1)), None));
        assert_eq!(of(&[16_385, 64]), None);
        assert_eq!(of(&[usize::MAX, 3, 64]), None);
        assert_eq!((of(&[]), of(&[0, 64]), of(&[64, 0])), (None, None, None));
        for ty in ArrayType::ALL {
            assert_eq!(Surface::of(ty, &[1, 64]).is_some(), ty == ArrayType::F16, "{ty:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Element `(row, column)` is `row × bytes per row` from the start.
        #[test]
        fn elements_lie_in_their_rows(
            dims in prop::collection::vec(1_usize..4, 0..3),
            (width, pad) in (32_usize..70, 0_usize..40),
        ) {
            let shape: Vec<usize> = dims.iter().copied().chain([width]).collect();
            let surface = Surface::of(ArrayType::F16, &shape).expect("it suits");
            prop_assert_eq!(surface.width * surface.height, shape.iter().product::<usize>());
            let row = (width + pad) * 2;
            let layout = surface.layout(row).expect("rows that are long enough");
            let dense: Vec<usize> = (1..=surface.width * surface.height).collect();
            let mut memory = vec![0; row / 2 * surface.height];
            layout.scatter(&dense, &mut memory).expect("it fits");
            for (at, found) in memory.iter().enumerate() {
                let (y, x) = (at / (row / 2), at % (row / 2));
                prop_assert_eq!(*found, if x < width { y * width + x + 1 } else { 0 });
            }
            let mut back = vec![0; dense.len()];
            layout.gather(&memory, &mut back).expect("it fits");
            prop_assert_eq!(back, dense);
        }
    }

    #[test]
    fn rows_that_can_not_be_are_refused() {
        let surface = Surface { width: 33, height: 2 };
        for bad in [0, 65, 64, 67] {
            assert!(matches!(surface.layout(bad), Err(SurfaceError::Rows(_))), "{bad}");
        }
        assert_eq!(surface.layout(128).map(|l| l.span()), Ok(64 + 33));
    }
}
