//! What to do with weights.

/// How many elements of a weight become zero.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sparsity {
    /// This fraction of the elements, those of least magnitude.
    Fraction(f32),
    /// In each run of `of` elements along the input channels, the `zeros` of least magnitude; fewer in a shorter last run.
    Structured {
        /// Zeros in a run.
        zeros: usize,
        /// Length of a run.
        of: usize,
    },
}

/// Form of compressed weights.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Indices into tables.
    Palette {
        /// Bits of an index: 1, 2, 3, 4, 6 or 8.
        bits: usize,
        /// Output channels that share a table; all if omitted.
        group: Option<usize>,
        /// Numbers in an entry, along the output channels.
        vector: usize,
    },
    /// Integers with scales.
    Linear {
        /// Bits of an integer: 4 or 8.
        bits: usize,
        /// Input channels that share a scale; all if omitted. Each output channel has its own scales.
        block: Option<usize>,
        /// True if integers are signed and zero stays zero.
        symmetric: bool,
    },
    /// Elements that are not zero.
    Prune(Sparsity),
    /// Tables for the elements that are not zero.
    PrunePalette {
        /// Which elements are zero.
        sparsity: Sparsity,
        /// Bits of an index: 1, 2, 3, 4, 6 or 8.
        bits: usize,
        /// Output channels that share a table; all if omitted.
        group: Option<usize>,
    },
}

/// A scheme that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct SchemeError {
    /// The setting.
    pub what: &'static str,
    /// Its range.
    pub expected: &'static str,
    /// What was asked for.
    pub found: String,
}

impl Scheme {
    /// Checks the shape of a weight: `[output channels, input channels, …]`.
    pub(crate) fn fits(&self, shape: &[usize]) -> Result<(), String> {
        let (rows, inputs) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
        let divides = |n: usize, of: usize, what: &str| {
            if of.is_multiple_of(n) { Ok(()) } else { Err(format!("a multiple of {n} {what} channels, found {of}")) }
        };
        match *self {
            Self::Palette { group, vector, .. } => {
                divides(group.unwrap_or(rows).max(1), rows, "output")?;
                divides(vector, group.unwrap_or(rows), "output")
            }
            Self::PrunePalette { group, .. } => divides(group.unwrap_or(rows).max(1), rows, "output"),
            Self::Linear { block, .. } => divides(block.unwrap_or(inputs).max(1), inputs, "input"),
            Self::Prune(_) => Ok(()),
        }
    }

    /// Checks the numbers of a scheme.
    ///
    /// # Errors
    /// [`SchemeError`] with the setting and its range.
    pub fn check(&self) -> Result<(), SchemeError> {
        let wrong = |what, expected, found: String| Err(SchemeError { what, expected, found });
        let (bits, group, sparsity) = match *self {
            Self::Palette { bits, group, vector } => {
                if vector == 0 || vector > 64 || group.is_some_and(|g| !g.is_multiple_of(vector)) {
                    return wrong("vector", "a divisor of the group, at most 64", vector.to_string());
                }
                (bits, group, None)
            }
            Self::Linear { bits, block, .. } => {
                if bits != 4 && bits != 8 {
                    return wrong("bits of integers", "4 or 8", bits.to_string());
                }
                (8, block, None)
            }
            Self::Prune(sparsity) => (8, None, Some(sparsity)),
            Self::PrunePalette { sparsity, bits, group } => (bits, group, Some(sparsity)),
        };
        if ![1, 2, 3, 4, 6, 8].contains(&bits) {
            return wrong("bits of indices", "1, 2, 3, 4, 6 or 8", bits.to_string());
        }
        if group == Some(0) {
            return wrong("group", "a positive number", "0".to_owned());
        }
        match sparsity {
            Some(Sparsity::Fraction(f)) if !(0.0..1.0).contains(&f) => {
                wrong("sparsity", "a fraction below 1", f.to_string())
            }
            Some(Sparsity::Structured { zeros, of }) if zeros >= of => {
                wrong("sparsity", "fewer zeros than elements", format!("{zeros} of {of}"))
            }
            _ => Ok(()),
        }
    }
}

/// Which weights to compress, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Form of all weights without one of their own.
    pub scheme: Scheme,
    /// Forms of single weights, by a part of the name; the first that fits counts. `None` leaves a weight as it is.
    pub layers: Vec<(String, Option<Scheme>)>,
    /// Forms of single weights by their whole name; they come before `layers`.
    pub named: std::collections::HashMap<String, Option<Scheme>>,
    /// How much each element of a weight counts in tables of numbers, by the whole name of the weight: for each element a
    /// finite number that is not negative. Of weights with the same content the first one's counts.
    pub importance: std::collections::HashMap<String, Vec<f32>>,
    /// Weights with fewer elements stay as they are.
    pub smallest: usize,
}

impl Options {
    /// One form for all weights of more than 2048 elements, as in coremltools.
    pub fn new(scheme: Scheme) -> Self {
        Self { scheme, layers: Vec::new(), named: Default::default(), importance: Default::default(), smallest: 2049 }
    }

    /// Form of a weight, if it is to be compressed, and whether it was asked for by name.
    pub(crate) fn of(&self, name: &str, elements: usize) -> Option<(Scheme, bool)> {
        if let Some(scheme) = self.named.get(name) {
            return scheme.map(|s| (s, true));
        }
        match self.layers.iter().find(|(part, _)| name.contains(part.as_str())) {
            Some((_, scheme)) => scheme.map(|s| (s, true)),
            None => Some((self.scheme, false)).filter(|_| elements >= self.smallest),
        }
    }
}
