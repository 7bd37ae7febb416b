//! Blobs as layers read and write them: over and over, as shapes, as numbers.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::program::{Argument, Dim, TensorType, ValueType};

use super::build::{Blob, Extent, Network, REMEMBERED, float, int, ints, of, shown};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

impl Network<'_> {
    /// Writes a blob, or takes its value away.
    pub(super) fn set(&mut self, name: &str, blob: Option<Blob>) {
        self.open.remove(name);
        let old = match blob {
            Some(blob) => self.blobs.insert(name.to_owned(), blob),
            None => self.blobs.remove(name),
        };
        if let Some(journal) = self.journal.last_mut() {
            journal.push((name.to_owned(), old));
        }
    }

    /// Takes the value of a blob away, for a reason.
    pub(super) fn forget(&mut self, name: &str, why: &'static str) {
        self.set(name, None);
        self.lost.insert(name.to_owned(), why);
    }

    /// Counts a layer.
    ///
    /// # Errors
    /// If loops within loops make too many.
    pub(super) fn turn(&mut self) -> Lowered<()> {
        match self.turns.checked_sub(1) {
            Some(left) => {
                self.turns = left;
                Ok(())
            }
            None => self.refuse("its loops are nested too deep"),
        }
    }

    /// An operation whose result, the only one of the layer, has a rank that is known only in a prediction.
    pub(super) fn write_open(
        &mut self,
        layer: &NeuralNetworkLayer,
        kind: &str,
        inputs: Vec<(&str, Argument)>,
    ) -> Lowered<()> {
        let [name] = layer.output.as_slice() else {
            return self.refuse(format!("it has {} outputs", layer.output.len()));
        };
        if !self.journal.is_empty() {
            return self.refuse("its number of extents is known only in a prediction");
        }
        let ty = TensorType { dtype: DataType::F32, shape: vec![Dim::Variadic] };
        let value = self.push(kind, inputs, vec![ValueType::Tensor(ty)]).swap_remove(0);
        self.forget(name, "its number of extents is known only in a prediction");
        self.open.insert(name.clone(), value);
        Ok(())
    }

    /// Another shape that differs in known axes of 1 only.
    pub(super) fn with_ones(&mut self, x: &Blob, shape: Vec<Extent>) -> Blob {
        let ones = |s: &[Extent]| (0..s.len() as i32).filter(|&i| s[i as usize] == Some(1)).collect::<Vec<i32>>();
        let (gone, new) = (ones(&x.shape), ones(&shape));
        let mut y = x.clone();
        if !gone.is_empty() {
            let rest = x.shape.iter().copied().filter(|d| *d != Some(1)).collect();
            y = self.op("squeeze", vec![("x", of(&y)), ("axes", ints(&gone))], rest);
        }
        if !new.is_empty() {
            y = self.op("expand_dims", vec![("x", of(&y)), ("axes", ints(&new))], shape.clone());
        }
        Blob { shape, short: false, ..y }
    }

    /// The elements of a blob that is a small constant.
    pub(super) fn values(&self, x: &Blob) -> Option<&[f32]> {
        self.values.get(&x.name).map(Vec::as_slice)
    }

    /// The elements of a small constant as integers.
    pub(super) fn integers(&self, x: &Blob) -> Option<Vec<i64>> {
        Some(self.values(x)?.iter().map(|&v| v as i64).collect())
    }

    /// A constant of no axes.
    pub(super) fn scalar(&mut self, value: f32) -> Blob {
        self.constant(&[], &[value])
    }

    /// A blob of one value.
    pub(super) fn filled(&mut self, shape: &[usize], value: f32) -> Lowered<Blob> {
        let target = self.sizes("shape", shape)?;
        let shape = shape.iter().map(|&d| Some(d)).collect();
        Ok(self.op("fill", vec![("shape", ints(&target)), ("value", float(value))], shape))
    }

    /// The shape of a blob of its own rank.
    pub(super) fn full_shape(&self, x: &Blob) -> Vec<Extent> {
        std::iter::repeat_n(Some(1), usize::from(x.short)).chain(x.shape.iter().copied()).collect()
    }

    /// The extents of a value, as an argument that is a constant if they are known.
    pub(super) fn shape_of(&mut self, x: &Blob) -> Lowered<(Argument, Vec<Extent>)> {
        let shape = x.shape.clone();
        if let Some(known) = shape.iter().copied().collect::<Option<Vec<usize>>>() {
            return Ok((ints(&self.sizes("shape", &known)?), shape));
        }
        let found = self.typed("shape", vec![("x", of(x))], DataType::I32, vec![Some(shape.len())]);
        Ok((of(&found), shape))
    }

    /// A shape that an input of a layer lists; the extents that a constant has are known.
    pub(super) fn listed_shape(&mut self, layer: &NeuralNetworkLayer, i: usize) -> Lowered<(Argument, Vec<Extent>)> {
        let x = self.input(layer, i)?;
        if let Some(known) = self.integers(&x) {
            let target = self.sizes("shape", &known)?;
            let shape = target.iter().map(|&d| usize::try_from(d).ok()).collect();
            return Ok((ints(&target), shape));
        }
        let x = self.list(&x)?;
        let rank = self.known("number of extents", x.shape[0])?;
        if rank > REMEMBERED {
            return self.refuse(format!("a shape of {rank} extents"));
        }
        Ok((of(&x), vec![None; rank]))
    }

    /// A shape that an input of a layer lists, if the number of its extents is known only in a prediction.
    pub(super) fn open_shape(&mut self, layer: &NeuralNetworkLayer, i: usize) -> Lowered<Option<Argument>> {
        let x = self.input(layer, i)?;
        Ok(if x.elements().is_none() { Some(of(&self.list(&x)?)) } else { None })
    }

    /// A blob as a list of integers.
    pub(super) fn list(&mut self, x: &Blob) -> Lowered<Blob> {
        let flat = if x.shape.len() == 1 { x.clone() } else { self.reshape(x, vec![x.elements()])? };
        Ok(self.cast(&flat, DataType::I32))
    }

    /// An input of one element as an integer.
    pub(super) fn number(&mut self, layer: &NeuralNetworkLayer, i: usize) -> Lowered<Argument> {
        let x = self.input(layer, i)?;
        if let Some(&[value]) = self.integers(&x).as_deref() {
            return Ok(int(self.size("input", value)?));
        }
        let x = self.element(&x)?;
        Ok(of(&self.cast(&x, DataType::I32)))
    }

    /// The only element of a blob.
    pub(super) fn element(&mut self, x: &Blob) -> Lowered<Blob> {
        if x.elements().is_some_and(|count| count != 1) {
            return self.refuse(format!("an input of {} where one number belongs", shown(&x.shape)));
        }
        let x = self.full(x);
        self.reshape(&x, Vec::new())
    }
}
