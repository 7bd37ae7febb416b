//! A weight in a compressed form: its parts, and the numbers that they stand for.

use coreml_format::dtype::DataType;
use coreml_format::task;
use coreml_write::edit::packed;

use crate::scheme::{Scheme, Sparsity};
use crate::{kmeans, parallel, prune, quantize, vectors};

/// A part of a compressed weight.
pub(crate) struct Part {
    pub(crate) dtype: DataType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Parts of a compressed weight, by its form.
pub(crate) enum Encoded {
    Table { indices: Part, lut: Part, vector: bool },
    Blocks { data: Part, scale: Part, offset: Option<Part> },
    Sparse { mask: Part, data: Part },
    SparseTable { mask: Part, indices: Part, lut: Part },
}

/// A weight to encode: `shape[0]` output channels, the rest input channels and kernels.
pub(crate) struct Dense<'a> {
    pub(crate) dtype: DataType,
    pub(crate) shape: &'a [usize],
    pub(crate) data: &'a [f32],
    /// Importance of each element, if known.
    pub(crate) weights: Option<&'a [f32]>,
}

fn cancelled() -> String {
    task::Cancelled.to_string()
}

impl Dense<'_> {
    fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Rows of a group, and the number of groups.
    fn groups(&self, group: Option<usize>) -> Result<(usize, usize), String> {
        let rows = self.shape[0];
        let group = group.unwrap_or(rows);
        if !rows.is_multiple_of(group) {
            return Err(format!("a multiple of {group} output channels; it has {rows}"));
        }
        Ok((group, rows / group))
    }

    fn floats(&self, shape: Vec<usize>, numbers: &[f32]) -> Result<Part, String> {
        let bytes = packed::floats(self.dtype, numbers).ok_or_else(|| format!("floats; it has {}", self.dtype))?;
        Ok(Part { dtype: self.dtype, shape, bytes })
    }

    /// Numbers as they are stored.
    fn rounded(&self, numbers: Vec<f32>) -> Vec<f32> {
        if self.dtype == DataType::F16 {
            numbers.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect()
        } else {
            numbers
        }
    }

    /// Shape of tables: groups along the output channels, entries, vector.
    fn table_shape(&self, groups: usize, entries: usize, vector: usize) -> Vec<usize> {
        let mut shape = vec![1; self.shape.len()];
        shape[0] = groups;
        shape.extend([entries, vector]);
        shape
    }

    fn bits(dtype: DataType, width: usize, shape: Vec<usize>, values: &[u8]) -> Part {
        Part { dtype, shape, bytes: packed::pack_bits(width, values) }
    }

    /// Encodes a weight; returns the decoded numbers, too.
    ///
    /// `Err` says what the scheme expects.
    pub(crate) fn encode(&self, scheme: Scheme) -> Result<(Encoded, Vec<f32>), String> {
        match scheme {
            Scheme::Palette { bits, group, vector: 1 } => self.table(bits, group),
            Scheme::Palette { bits, group, vector } => self.vector_table(bits, group, vector),
            Scheme::Linear { bits, block, symmetric } => self.linear(bits, block, symmetric),
            Scheme::Prune(sparsity) => self.sparse(sparsity),
            Scheme::PrunePalette { sparsity, bits, group } => self.sparse_table(sparsity, bits, group),
        }
    }

    /// Tables of the groups, filled up to their length, and the index of each number.
    fn tables(
        &self,
        bits: usize,
        group: Option<usize>,
        keep: Option<&[bool]>,
    ) -> Result<(Vec<f32>, Vec<u8>, usize), String> {
        let (rows, groups) = self.groups(group)?;
        let (each, entries) = (rows * self.columns(), 1 << bits);
        let one = |g: usize| {
            let range = g * each..(g + 1) * each;
            let numbers = &self.data[range.clone()];
            let table = match keep {
                None => kmeans::optimal(numbers, self.weights.map(|w| &w[range.clone()]), entries),
                Some(keep) => {
                    let kept: Vec<f32> =
                        numbers.iter().zip(&keep[range.clone()]).filter(|(_, k)| **k).map(|(&v, _)| v).collect();
                    kmeans::optimal(&kept, None, entries)
                }
            };
            // What is stored may be coarser, and equal entries fall together: the nearest stored entry counts.
            let mut table = self.rounded(table);
            let indices = kmeans::nearest(numbers, &table);
            table.resize(entries, 0.0);
            (table, indices)
        };
        let all = parallel::map(groups, one).ok_or_else(cancelled)?;
        let lut = all.iter().flat_map(|(t, _)| t.iter().copied()).collect();
        Ok((lut, all.into_iter().flat_map(|(_, i)| i).collect(), groups))
    }

    fn decoded(&self, lut: &[f32], indices: &[u8], groups: usize, entries: usize) -> Vec<f32> {
        let each = (self.data.len() / groups.max(1)).max(1);
        indices.iter().enumerate().map(|(i, &at)| lut[i / each * entries + usize::from(at)]).collect()
    }

    fn table(&self, bits: usize, group: Option<usize>) -> Result<(Encoded, Vec<f32>), String> {
        let (lut, indices, groups) = self.tables(bits, group, None)?;
        let decoded = self.decoded(&lut, &indices, groups, 1 << bits);
        let lut = self.floats(self.table_shape(groups, 1 << bits, 1), &lut)?;
        let indices = Self::bits(DataType::unsigned(bits), bits, self.shape.to_vec(), &indices);
        Ok((Encoded::Table { indices, lut, vector: false }, decoded))
    }

    /// Vectors along the output channels.
    fn vector_table(&self, bits: usize, group: Option<usize>, vector: usize) -> Result<(Encoded, Vec<f32>), String> {
        let (rows, groups) = self.groups(group)?;
        if !rows.is_multiple_of(vector) {
            return Err(format!("a multiple of {vector} output channels in a group; it has {rows}"));
        }
        let (columns, entries) = (self.columns(), 1usize << bits);
        let one = |g: usize| {
            let part = &self.data[g * rows * columns..(g + 1) * rows * columns];
            let vectors: Vec<f32> = (0..rows / vector)
                .flat_map(|r| (0..columns).flat_map(move |c| (0..vector).map(move |v| (r * vector + v) * columns + c)))
                .map(|i| part[i])
                .collect();
            let (table, labels) = vectors::cluster(&vectors, vector, entries);
            let mut table = self.rounded(table);
            table.resize(entries * vector, 0.0);
            (table, labels)
        };
        let all = parallel::map(groups, one).ok_or_else(cancelled)?;
        let mut decoded = vec![0.0; self.data.len()];
        for (g, (table, labels)) in all.iter().enumerate() {
            for (i, &label) in labels.iter().enumerate() {
                let (r, c) = (i / columns, i % columns);
                for v in 0..vector {
                    decoded[(g * rows + r * vector + v) * columns + c] = table[usize::from(label) * vector + v];
                }
            }
        }
        let lut: Vec<f32> = all.iter().flat_map(|(t, _)| t.iter().copied()).collect();
        let labels: Vec<u8> = all.into_iter().flat_map(|(_, l)| l).collect();
        let mut shape = self.shape.to_vec();
        shape[0] /= vector;
        let lut = self.floats(self.table_shape(groups, entries, vector), &lut)?;
        Ok((
            Encoded::Table { indices: Self::bits(DataType::unsigned(bits), bits, shape, &labels), lut, vector: true },
            decoded,
        ))
    }

    fn linear(&self, bits: usize, block: Option<usize>, symmetric: bool) -> Result<(Encoded, Vec<f32>), String> {
        let (rows, columns) = (self.shape[0], self.columns());
        let inputs = self.shape.get(1).copied().unwrap_or(1);
        let blocks = match block {
            None => 1,
            Some(block) if inputs.is_multiple_of(block) => inputs / block,
            Some(block) => return Err(format!("a multiple of {block} input channels; it has {inputs}")),
        };
        let each = (columns / blocks).max(1);
        let half = self.dtype == DataType::F16;
        let all = parallel::map(rows, |r| {
            let row = &self.data[r * columns..(r + 1) * columns];
            row.chunks(each).map(|part| quantize::quantize(part, bits, symmetric, half)).collect::<Vec<_>>()
        })
        .ok_or_else(cancelled)?;
        let all: Vec<quantize::Quantized> = all.into_iter().flatten().collect();
        let decoded = all.iter().flat_map(|q| q.values.iter().map(|&v| f32::from(v - q.offset) * q.scale)).collect();
        let decoded = self.rounded(decoded);
        let nibble = bits == 4;
        let dtype = match (nibble, symmetric) {
            (true, true) => DataType::I4,
            (true, false) => DataType::U4,
            (false, true) => DataType::I8,
            (false, false) => DataType::U8,
        };
        // Two's complement, as many bits as the type has.
        let values: Vec<u8> = all.iter().flat_map(|q| q.values.iter().map(|&v| v as u8)).collect();
        let mut shape = vec![1; self.shape.len()];
        shape[0] = rows;
        if shape.len() > 1 {
            shape[1] = blocks;
        }
        let scales: Vec<f32> = all.iter().map(|q| q.scale).collect();
        let offsets: Vec<u8> = all.iter().map(|q| q.offset as u8).collect();
        Ok((
            Encoded::Blocks {
                data: Self::bits(dtype, bits, self.shape.to_vec(), &values),
                scale: self.floats(shape.clone(), &scales)?,
                offset: (!symmetric).then(|| Self::bits(dtype, bits, shape, &offsets)),
            },
            decoded,
        ))
    }

    fn mask(&self, sparsity: Sparsity) -> (Vec<bool>, Part) {
        let keep = prune::mask(self.data, self.columns(), sparsity);
        let bits: Vec<u8> = keep.iter().map(|&k| u8::from(k)).collect();
        (keep, Self::bits(DataType::U1, 1, self.shape.to_vec(), &bits))
    }

    fn sparse(&self, sparsity: Sparsity) -> Result<(Encoded, Vec<f32>), String> {
        let (keep, mask) = self.mask(sparsity);
        let kept: Vec<f32> = self.data.iter().zip(&keep).filter(|(_, k)| **k).map(|(&v, _)| v).collect();
        let decoded = self.data.iter().zip(&keep).map(|(&v, &k)| if k { v } else { 0.0 }).collect();
        Ok((Encoded::Sparse { mask, data: self.floats(vec![kept.len()], &kept)? }, decoded))
    }

    fn sparse_table(
        &self,
        sparsity: Sparsity,
        bits: usize,
        group: Option<usize>,
    ) -> Result<(Encoded, Vec<f32>), String> {
        let (keep, mask) = self.mask(sparsity);
        let (lut, indices, groups) = self.tables(bits, group, Some(&keep))?;
        let decoded = self.decoded(&lut, &indices, groups, 1 << bits);
        let decoded = decoded.into_iter().zip(&keep).map(|(v, &k)| if k { v } else { 0.0 }).collect();
        let kept: Vec<u8> = indices.into_iter().zip(&keep).filter(|(_, k)| **k).map(|(i, _)| i).collect();
        let lut = self.floats(self.table_shape(groups, 1 << bits, 1), &lut)?;
        let indices = Self::bits(DataType::unsigned(bits), bits, vec![kept.len()], &kept);
        Ok((Encoded::SparseTable { mask, indices, lut }, decoded))
    }
}
