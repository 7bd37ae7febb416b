//! Feature values, modelled on `MLFeatureValue`.

use candle_core::{Device, Result, Tensor};

/// One input or output of a prediction.
///
/// | feature | as an input | as an output |
/// |---|---|---|
/// | multi-array | `Tensor` in its shape | `Tensor` in the declared element type |
/// | image | `Tensor` `[1, channels, height, width]`, samples 0 to 255, channels in the order of the colour layout | `Tensor` |
/// | int64, double | `Int64`, `Double`, or a `Tensor` of one element | `Tensor` of rank 0 |
/// | sequence of integers | `Int64s`, or a `Tensor` of rank 1 | `Tensor` of rank 1 |
/// | string, sequence of strings | `String`, `Strings` | the same |
/// | dictionary | `Dictionary` | `Dictionary` |
///
/// An image is a tensor; the feature's description defines its samples. Outputs of one prediction are valid inputs of
/// the next.
#[derive(Debug, Clone)]
pub enum FeatureValue {
    /// A tensor: an array, an image, or numbers.
    Tensor(Tensor),
    /// An integer.
    Int64(i64),
    /// A floating-point number.
    Double(f64),
    /// A string, such as the label of a classifier.
    String(String),
    /// A sequence of integers.
    Int64s(Vec<i64>),
    /// A sequence of strings.
    Strings(Vec<String>),
    /// Numbers by key, such as class probabilities.
    Dictionary(Vec<(DictionaryKey, f64)>),
}

/// A key of a dictionary. Integers come before strings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DictionaryKey {
    /// An integer.
    Int(i64),
    /// A string.
    String(String),
}

/// The key as text: integers in decimal.
impl From<DictionaryKey> for String {
    fn from(key: DictionaryKey) -> Self {
        match key {
            DictionaryKey::Int(n) => n.to_string(),
            DictionaryKey::String(text) => text,
        }
    }
}

impl FeatureValue {
    /// The tensor, if this is one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Kind of value for errors: "a tensor", "a sequence of strings".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tensor(_) => "a tensor",
            Self::Int64(_) => "an integer",
            Self::Double(_) => "a number",
            Self::String(_) => "a string",
            Self::Int64s(_) => "a sequence of integers",
            Self::Strings(_) => "a sequence of strings",
            Self::Dictionary(_) => "a dictionary",
        }
    }

    /// The tensor, or a CPU tensor of numbers: `I64` or `F64` of rank 0 for `Int64` and `Double`, `I64` of rank 1 for
    /// `Int64s`; `None` for other values.
    ///
    /// # Errors
    /// If the tensor cannot be created.
    pub fn numbers_as_tensor(&self) -> Result<Option<Tensor>> {
        Ok(Some(match self {
            Self::Tensor(tensor) => tensor.clone(),
            Self::Int64(n) => Tensor::new(*n, &Device::Cpu)?,
            Self::Double(x) => Tensor::new(*x, &Device::Cpu)?,
            Self::Int64s(all) => Tensor::from_slice(all, all.len(), &Device::Cpu)?,
            _ => return Ok(None),
        }))
    }
}

impl From<Tensor> for FeatureValue {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl From<&Tensor> for FeatureValue {
    /// The same tensor, sharing its elements.
    fn from(tensor: &Tensor) -> Self {
        Self::Tensor(tensor.clone())
    }
}

impl From<&FeatureValue> for FeatureValue {
    fn from(value: &FeatureValue) -> Self {
        value.clone()
    }
}

impl From<i64> for FeatureValue {
    fn from(n: i64) -> Self {
        Self::Int64(n)
    }
}

impl From<f64> for FeatureValue {
    fn from(x: f64) -> Self {
        Self::Double(x)
    }
}

impl From<String> for FeatureValue {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&str> for FeatureValue {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<Vec<i64>> for FeatureValue {
    fn from(all: Vec<i64>) -> Self {
        Self::Int64s(all)
    }
}

impl From<Vec<String>> for FeatureValue {
    fn from(all: Vec<String>) -> Self {
        Self::Strings(all)
    }
}

impl From<Vec<(DictionaryKey, f64)>> for FeatureValue {
    fn from(entries: Vec<(DictionaryKey, f64)>) -> Self {
        Self::Dictionary(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_kind_that_they_are_made_from() {
        let tensor = Tensor::new(&[1_i64], &Device::Cpu).expect("a tensor");
        let all: [FeatureValue; 7] = [
            (&tensor).into(),
            7_i64.into(),
            0.5.into(),
            "a".into(),
            vec![1_i64].into(),
            vec!["a".to_owned()].into(),
            vec![(DictionaryKey::Int(1), 0.5)].into(),
        ];
        let kinds: Vec<_> = all.iter().map(FeatureValue::kind).collect();
        assert_eq!(
            kinds,
            [
                "a tensor",
                "an integer",
                "a number",
                "a string",
                "a sequence of integers",
                "a sequence of strings",
                "a dictionary"
            ]
        );
        assert_eq!(all.iter().filter(|value| value.tensor().is_some()).count(), 1);
        assert!(DictionaryKey::Int(i64::MAX) < DictionaryKey::String(String::new()));
    }

    #[test]
    fn numbers_become_tensors_and_nothing_else_does() {
        let tensor = |value: FeatureValue| value.numbers_as_tensor().expect("a value");
        let n = tensor(i64::MIN.into()).expect("a tensor");
        assert_eq!((n.rank(), n.to_scalar::<i64>().expect("I64")), (0, i64::MIN));
        let x = tensor(0.1.into()).expect("a tensor");
        assert_eq!((x.rank(), x.to_scalar::<f64>().expect("F64")), (0, 0.1));
        let all = tensor(Vec::<i64>::new().into()).expect("a tensor");
        assert_eq!(all.dims(), [0]);
        assert!(tensor("7".into()).is_none());
    }
}
