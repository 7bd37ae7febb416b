//! Copies between dense row-major and strided buffers, such as those of an `MLMultiArray` with padded rows, in the
//! longest possible contiguous runs.
//!
//! Strides count elements and are non-negative: Core ML never returns negative ones.

/// Reason why a strided buffer was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StrideError {
    /// Shape and strides differ in rank.
    #[error("shape has {shape} dimensions, strides have {strides}")]
    Rank {
        /// Rank of the shape.
        shape: usize,
        /// Number of strides.
        strides: usize,
    },
    /// The extent overflows the address space.
    #[error("shape {shape:?} with strides {strides:?} exceeds the address space")]
    Overflow {
        /// The shape.
        shape: Vec<usize>,
        /// The strides, in elements.
        strides: Vec<usize>,
    },
    /// The buffer length does not match the layout.
    #[error("{side} buffer: expected {expected} elements, found {found}")]
    Length {
        /// `dense` or `strided`.
        side: &'static str,
        /// Required elements: exact for `dense`, minimum for `strided`.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// Elements share memory, so the buffer cannot be written.
    #[error("shape {shape:?} with strides {strides:?} may overlap itself")]
    Overlap {
        /// The shape.
        shape: Vec<usize>,
        /// The strides, in elements.
        strides: Vec<usize>,
    },
}

/// A validated strided layout, in elements: one run length and the loops around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<usize>,
    elements: usize,
    span: usize,
    /// Length of the longest contiguous tail of the shape.
    run: usize,
    /// `(extent, stride)` of the dimensions before that tail, outermost first.
    outer: Vec<(usize, usize)>,
}

impl Layout {
    /// Validates a shape and its strides.
    ///
    /// # Errors
    /// [`StrideError::Rank`] if their ranks differ, [`StrideError::Overflow`] if extents overflow `usize`.
    pub fn new(shape: &[usize], strides: &[usize]) -> Result<Self, StrideError> {
        if shape.len() != strides.len() {
            return Err(StrideError::Rank { shape: shape.len(), strides: strides.len() });
        }
        let overflow = || StrideError::Overflow { shape: shape.to_vec(), strides: strides.to_vec() };
        let empty = shape.contains(&0);
        let mut elements = usize::from(!empty);
        let mut span = usize::from(!empty);
        if !empty {
            for (&extent, &stride) in shape.iter().zip(strides) {
                elements = elements.checked_mul(extent).ok_or_else(overflow)?;
                let reach = (extent - 1).checked_mul(stride).ok_or_else(overflow)?;
                span = span.checked_add(reach).ok_or_else(overflow)?;
            }
        }
        let mut run = 1;
        let mut outer: Vec<_> =
            shape.iter().copied().zip(strides.iter().copied()).filter(|&(extent, _)| extent != 1).collect();
        if empty {
            outer.clear();
        }
        while let Some(&(extent, stride)) = outer.last() {
            if stride != run {
                break;
            }
            run *= extent;
            outer.pop();
        }
        Ok(Self { shape: shape.to_vec(), strides: strides.to_vec(), elements, span, run, outer })
    }

    /// Number of elements of the shape.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Number of elements that a buffer must hold, including padding between rows.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Returns true if the buffer is dense and row-major, and can be lent directly.
    pub fn is_contiguous(&self) -> bool {
        self.elements == 0 || self.outer.is_empty()
    }

    /// Copies a strided buffer into a dense one.
    ///
    /// # Errors
    /// [`StrideError::Length`] if a buffer does not match the layout.
    pub fn gather<T: Copy>(&self, strided: &[T], dense: &mut [T]) -> Result<(), StrideError> {
        self.check(strided.len(), dense.len())?;
        self.runs(|at, row| dense[row..row + self.run].copy_from_slice(&strided[at..at + self.run]));
        Ok(())
    }

    /// Copies a dense buffer into a strided one; padding is left unchanged.
    ///
    /// # Errors
    /// [`StrideError::Length`] if a buffer does not match the layout, [`StrideError::Overlap`] if elements may share
    /// memory.
    pub fn scatter<T: Copy>(&self, dense: &[T], strided: &mut [T]) -> Result<(), StrideError> {
        self.check(strided.len(), dense.len())?;
        if self.may_overlap() {
            return Err(StrideError::Overlap { shape: self.shape.clone(), strides: self.strides.clone() });
        }
        self.runs(|at, row| strided[at..at + self.run].copy_from_slice(&dense[row..row + self.run]));
        Ok(())
    }

    fn check(&self, strided: usize, dense: usize) -> Result<(), StrideError> {
        if dense != self.elements {
            return Err(StrideError::Length { side: "dense", expected: self.elements, found: dense });
        }
        if strided < self.span {
            return Err(StrideError::Length { side: "strided", expected: self.span, found: strided });
        }
        Ok(())
    }

    /// Conservative: with dimensions sorted by stride, each must step beyond the reach of the smaller ones.
    fn may_overlap(&self) -> bool {
        let mut dims = self.outer.clone();
        dims.sort_by_key(|&(_, stride)| stride);
        let mut reach = self.run;
        for (extent, stride) in dims {
            if stride < reach {
                return true;
            }
            reach += (extent - 1) * stride;
        }
        false
    }

    /// Calls `copy(strided offset, dense offset)` for every run, in dense order.
    fn runs(&self, mut copy: impl FnMut(usize, usize)) {
        if self.elements == 0 {
            return;
        }
        let mut index = vec![0; self.outer.len()];
        let mut at = 0;
        for row in (0..self.elements).step_by(self.run) {
            copy(at, row);
            for (i, &(extent, stride)) in index.iter_mut().zip(&self.outer).rev() {
                *i += 1;
                at += stride;
                if *i < extent {
                    break;
                }
                at -= *i * stride;
                *i = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: row-major element `i` is at the sum of index × stride.
    fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
        let count = shape.iter().product();
        (0..count)
            .map(|flat: usize| {
                let (mut rest, mut at) = (flat, 0);
                for (&extent, &stride) in shape.iter().zip(strides).rev() {
                    at += rest % extent * stride;
                    rest /= extent;
                }
                at
            })
            .collect()
    }

    /// Every shape up to 3 × 3 × 3 × 3 (every 37th under Miri): dense, padded and permuted.
    fn layouts() -> Vec<(Vec<usize>, Vec<usize>)> {
        let mut all = vec![(vec![], vec![])];
        for code in (0..4_usize.pow(4)).step_by(if cfg!(miri) { 37 } else { 1 }) {
            let shape: Vec<_> = (0..4).map(|d| code / 4_usize.pow(d) % 4).collect();
            for pad in [0, 1, 5] {
                for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [0, 2, 1, 3]] {
                    let (mut strides, mut next) = (vec![0; 4], 1);
                    for d in order.into_iter().rev() {
                        strides[d] = next;
                        next = next * shape[d].max(1) + pad;
                    }
                    all.push((shape.clone(), strides));
                }
            }
        }
        all
    }

    #[test]
    fn gathers_and_scatters_as_the_definition_says() {
        for (shape, strides) in layouts() {
            let layout = Layout::new(&shape, &strides).unwrap();
            let at = offsets(&shape, &strides);
            let strided: Vec<usize> = (100..100 + layout.span()).collect();
            let want: Vec<_> = at.iter().map(|&o| strided[o]).collect();
            let mut dense = vec![0; layout.elements()];
            layout.gather(&strided, &mut dense).unwrap();
            assert_eq!(dense, want, "gather {shape:?} {strides:?}");

            let mut back = vec![usize::MAX; layout.span()];
            layout.scatter(&dense, &mut back).unwrap();
            for (o, value) in back.iter().enumerate() {
                let want = if at.contains(&o) { strided[o] } else { usize::MAX };
                assert_eq!(*value, want, "scatter {shape:?} {strides:?} at {o}");
            }
        }
    }

    #[test]
    fn dense_memory_is_one_run_and_padded_memory_is_not() {
        assert!(Layout::new(&[2, 1, 3], &[3, 99, 1]).unwrap().is_contiguous());
        assert!(Layout::new(&[0, 3], &[7, 2]).unwrap().is_contiguous());
        assert!(Layout::new(&[], &[]).unwrap().is_contiguous());
        let padded = Layout::new(&[2, 3], &[32, 1]).unwrap();
        assert_eq!((padded.is_contiguous(), padded.run, padded.span()), (false, 3, 35));
    }

    #[test]
    fn broadcast_strides_are_read_but_not_written() {
        let layout = Layout::new(&[2, 2], &[0, 1]).unwrap();
        let mut dense = [0; 4];
        layout.gather(&[7, 8], &mut dense).unwrap();
        assert_eq!(dense, [7, 8, 7, 8]);
        assert!(matches!(layout.scatter(&dense, &mut [0, 0]), Err(StrideError::Overlap { .. })));
    }

    #[test]
    fn rejects_what_does_not_fit() {
        assert_eq!(Layout::new(&[2], &[]), Err(StrideError::Rank { shape: 1, strides: 0 }));
        assert!(matches!(Layout::new(&[usize::MAX, 2], &[1, 1]), Err(StrideError::Overflow { .. })));
        assert!(matches!(Layout::new(&[3], &[usize::MAX]), Err(StrideError::Overflow { .. })));
        let layout = Layout::new(&[2, 2], &[4, 1]).unwrap();
        let short = StrideError::Length { side: "strided", expected: 6, found: 5 };
        assert_eq!(layout.gather(&[0; 5], &mut [0; 4]), Err(short));
        let long = StrideError::Length { side: "dense", expected: 4, found: 5 };
        assert_eq!(layout.gather(&[0; 6], &mut [0; 5]), Err(long));
    }
}
