//! Builds a program from bytes: each choice consumes one byte, and zero selects the common case. An empty input
//! therefore yields the plain form of a pattern, and changing a byte changes one choice.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Block, NamedType, Operation, TensorType, Value, ValueType};
use half::f16;
use indexmap::IndexMap;

use super::bytes::Bytes;
use super::weights;

/// Maximum number of elements of a value.
const LARGEST: usize = 1 << 13;

/// A value of the program with its run-time shape.
#[derive(Clone)]
pub struct Val {
    pub binding: Binding,
    pub shape: Vec<usize>,
}

impl Val {
    pub fn argument(&self) -> Argument {
        Argument::One(self.binding.clone())
    }
}

/// Data of an input: floats or integers.
#[derive(Clone)]
pub enum Data {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

/// An input of the program.
#[derive(Clone)]
pub struct Input {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Data,
}

/// A program under construction.
pub struct Maker<'a> {
    pub bytes: Bytes<'a>,
    pub dtype: DataType,
    pub ops: Vec<Operation>,
    pub inputs: Vec<Input>,
    pub states: Vec<NamedType>,
    /// Inputs and their row dimensions.
    pub rows: Vec<(String, usize)>,
    /// Float results of operations.
    pub values: Vec<Val>,
    count: usize,
}

/// Broadcast shape of two operands.
pub fn broadcast(x: &[usize], y: &[usize]) -> Option<Vec<usize>> {
    let rank = x.len().max(y.len());
    let at = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|d| match (at(x, d), at(y, d)) {
            (1, n) | (n, 1) => Some(n),
            (a, b) => (a == b).then_some(a),
        })
        .collect()
}

/// Eighths between −2 and 2, which are exact in fp16 and whose short products f32 sums exactly.
pub fn eighths(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 29 + i / 7 + seed * 13) % 33) as f32 / 8.0 - 2.0).collect()
}

/// Elements of a float type in stored form.
pub fn packed(dtype: DataType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DataType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

impl<'a> Maker<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut bytes = Bytes::new(bytes);
        let dtype = bytes.pick(&[DataType::F32, DataType::F16]);
        Self {
            bytes,
            dtype,
            ops: Vec::new(),
            inputs: Vec::new(),
            states: Vec::new(),
            rows: Vec::new(),
            values: Vec::new(),
            count: 0,
        }
    }

    pub fn name(&mut self, letter: &str) -> String {
        self.count += 1;
        format!("{letter}{}", self.count)
    }

    /// Adds an operation of the program's float type.
    pub fn op(&mut self, kind: &str, inputs: &[(&str, Argument)], shape: &[usize]) -> Val {
        let ty = ValueType::Tensor(TensorType::fixed(self.dtype, shape));
        let name = self.name("v");
        self.push(kind, inputs, vec![NamedType { name: name.clone(), ty }]);
        let val = Val { binding: Binding::Name(name), shape: shape.to_vec() };
        self.values.push(val.clone());
        val
    }

    pub fn push(&mut self, kind: &str, inputs: &[(&str, Argument)], outputs: Vec<NamedType>) {
        let inputs = inputs.iter().map(|(name, argument)| ((*name).to_owned(), argument.clone())).collect();
        self.ops.push(Operation {
            kind: kind.to_owned(),
            name: outputs.first().map_or_else(String::new, |o| o.name.clone()),
            inputs,
            outputs,
            blocks: Vec::new(),
            attributes: IndexMap::new(),
        });
    }

    /// A named constant.
    pub fn named(&mut self, value: Value) -> Binding {
        let name = self.name("k");
        let mut attributes = IndexMap::new();
        let ty = value.ty.clone();
        attributes.insert("val".to_owned(), value);
        self.ops.push(Operation {
            kind: "const".to_owned(),
            name: name.clone(),
            inputs: IndexMap::new(),
            outputs: vec![NamedType { name: name.clone(), ty }],
            blocks: Vec::new(),
            attributes,
        });
        Binding::Name(name)
    }

    /// A parameter: a literal, a named constant, or (rarely) a value computed from one.
    pub fn parameter(&mut self, value: Value) -> Argument {
        let form = self.bytes.below(32);
        if form < 16 {
            return Argument::One(Binding::Value(value));
        }
        let ty = value.ty.clone();
        let constant = self.named(value);
        if form < 31 || ty.tensor().is_none_or(|t| !t.dtype.is_float() && t.dtype != DataType::I32) {
            return Argument::One(constant);
        }
        let name = self.name("c");
        self.push("identity", &[("x", Argument::One(constant))], vec![NamedType { name: name.clone(), ty }]);
        Argument::One(Binding::Name(name))
    }

    pub fn ints(&mut self, values: &[i32]) -> Argument {
        self.parameter(Value::ints(values))
    }

    pub fn int(&mut self, value: i32) -> Argument {
        // A vector of one element is also a number.
        let value = if self.bytes.rare(16) { Value::ints(&[value]) } else { Value::int(value) };
        self.parameter(value)
    }

    pub fn flag(&mut self, value: bool) -> Argument {
        self.parameter(Value::bool(value))
    }

    pub fn flags(&mut self, values: &[bool]) -> Argument {
        self.parameter(Value::bools(values))
    }

    pub fn text(&mut self, value: &str) -> Argument {
        Argument::One(Binding::Value(Value::string(value)))
    }

    /// A float constant of a shape.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> Val {
        let value = Value::tensor(self.dtype, shape, packed(self.dtype, values));
        let Argument::One(binding) = self.parameter(value) else { unreachable!("one value") };
        Val { binding, shape: shape.to_vec() }
    }

    /// A number, rarely of nonzero rank.
    pub fn number(&mut self, value: f32) -> Val {
        let rank = if self.bytes.rare(8) { 1 + self.bytes.below(4) } else { 0 };
        self.floats(&vec![1; rank], &[value])
    }

    /// An input of the function.
    pub fn input(&mut self, shape: &[usize]) -> Val {
        let seed = self.bytes.below(33);
        let data = eighths(shape.iter().product(), seed);
        self.fed(shape, data)
    }

    /// An input with these elements.
    pub fn fed(&mut self, shape: &[usize], data: Vec<f32>) -> Val {
        let name = self.name("x");
        self.inputs.push(Input { name: name.clone(), shape: shape.to_vec(), data: Data::Floats(data) });
        Val { binding: Binding::Name(name), shape: shape.to_vec() }
    }

    /// An integer input.
    pub fn positions(&mut self, values: &[i64]) -> Binding {
        let name = self.name("p");
        let shape = vec![values.len()];
        self.inputs.push(Input { name: name.clone(), shape, data: Data::Ints(values.to_vec()) });
        Binding::Name(name)
    }

    /// A value of this shape: computed, an input, a constant, a view in another memory order, or an existing one.
    pub fn operand(&mut self, shape: &[usize]) -> Val {
        match self.bytes.below(10) {
            1 => self.input(shape),
            2 => {
                let values = eighths(shape.iter().product(), self.bytes.below(33));
                self.floats(shape, &values)
            }
            3 if shape.len() > 1 => {
                // A transpose of an input.
                let order = self.permutation(shape.len());
                let mut source = vec![0; shape.len()];
                order.iter().zip(shape).for_each(|(&d, &n)| source[d] = n);
                let x = self.input(&source);
                let perm: Vec<i32> = order.iter().map(|&d| d as i32).collect();
                let perm = self.ints(&perm);
                self.op("transpose", &[("x", x.argument()), ("perm", perm)], shape)
            }
            4 if !shape.is_empty() => {
                // A slice of a larger input.
                let d = self.bytes.below(shape.len());
                let mut source = shape.to_vec();
                source[d] += 2;
                let x = self.input(&source);
                let mut begin = vec![0; shape.len()];
                begin[d] = 1;
                let end: Vec<i32> = (0..shape.len()).map(|i| begin[i] + shape[i] as i32).collect();
                let (begin, end) = (self.ints(&begin), self.ints(&end));
                self.op("slice_by_index", &[("x", x.argument()), ("begin", begin), ("end", end)], shape)
            }
            5 | 6 => {
                let same: Vec<Val> = self.values.iter().filter(|v| v.shape == shape).cloned().collect();
                match same.len() {
                    0 => self.input(shape),
                    n => same[self.bytes.below(n)].clone(),
                }
            }
            7 => {
                let x = self.input(shape);
                self.op("identity", &[("x", x.argument())], shape)
            }
            _ => {
                let (x, y) = (self.input(shape), self.floats(&[], &[0.5]));
                self.op("mul", &[("x", x.argument()), ("y", y.argument())], shape)
            }
        }
    }

    /// A named operand, as required for main inputs.
    pub fn value(&mut self, shape: &[usize]) -> Val {
        let operand = self.operand(shape);
        match operand.binding {
            Binding::Name(_) => operand,
            Binding::Value(_) => self.input(shape),
        }
    }

    pub fn permutation(&mut self, rank: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            let other = i - self.bytes.below(i + 1);
            order.swap(i, other);
        }
        order
    }

    /// An extent; rarely zero, or larger than any SIMD vector.
    pub fn extent(&mut self) -> usize {
        match self.bytes.below(64) {
            62 => 0,
            63 => self.bytes.pick(&[17, 33, 70]),
            _ => self.bytes.pick(&[2, 3, 1, 4, 5, 1, 2, 8, 6]),
        }
    }

    pub fn shape(&mut self, least: usize, most: usize) -> Vec<usize> {
        let rank = least + self.bytes.below(most - least + 1);
        let mut shape: Vec<usize> = Vec::new();
        for _ in 0..rank {
            let n = self.extent();
            let fits = shape.iter().product::<usize>() * n <= LARGEST;
            shape.push(if fits { n } else { 1 });
        }
        shape
    }

    /// A shape that broadcasts with this one: leading dimensions dropped, extents of one, rarely larger.
    pub fn partner(&mut self, shape: &[usize]) -> Vec<usize> {
        let mut other = shape.to_vec();
        match self.bytes.below(8) {
            0 => return other,
            1 => return Vec::new(),
            2 => {
                let from = self.bytes.below(shape.len() + 1);
                return shape[from..].to_vec();
            }
            3 => {
                let last = shape.len().saturating_sub(2);
                other[..last].fill(1);
                return other;
            }
            _ => {}
        }
        for n in &mut other {
            if self.bytes.below(2) == 1 {
                *n = 1;
            }
        }
        if self.bytes.rare(8) {
            other.drain(..other.iter().take_while(|&&n| n == 1).count());
        }
        if self.bytes.rare(12) {
            // Larger than the other one.
            for n in other.iter_mut().filter(|n| **n == 1) {
                if self.bytes.below(2) == 1 {
                    *n = 2;
                }
            }
        }
        if self.bytes.rare(12) {
            other.insert(0, self.bytes.pick(&[1, 2]));
        }
        other
    }

    /// An elementwise operation on two operands; `None` if they do not broadcast.
    pub fn binary(&mut self, kind: &str, x: &Val, y: &Val) -> Option<Val> {
        let shape = broadcast(&x.shape, &y.shape).filter(|s| s.iter().product::<usize>() <= LARGEST)?;
        Some(self.op(kind, &[("x", x.argument()), ("y", y.argument())], &shape))
    }

    /// The same with the operands in either order.
    pub fn either(&mut self, kind: &str, x: &Val, y: &Val) -> Option<Val> {
        if self.bytes.below(2) == 0 { self.binary(kind, x, y) } else { self.binary(kind, y, x) }
    }

    pub fn unary(&mut self, kind: &str, x: &Val) -> Val {
        let shape = x.shape.clone();
        self.op(kind, &[("x", x.argument())], &shape)
    }

    /// A matrix product; `None` if the operands do not fit.
    pub fn matmul(&mut self, x: &Val, y: &Val, transpose: [bool; 2]) -> Option<Val> {
        let turned = |v: &Val, on: bool| {
            let mut shape = v.shape.clone();
            if let (true, [.., _, _]) = (on, shape.as_slice()) {
                let n = shape.len();
                shape.swap(n - 1, n - 2);
            }
            shape
        };
        let (mut a, mut b) = (turned(x, transpose[0]), turned(y, transpose[1]));
        let (x_vector, y_vector) = (a.len() == 1, b.len() == 1);
        if x_vector {
            a.insert(0, 1);
        }
        if y_vector {
            b.push(1);
        }
        if a.len() < 2 || b.len() < 2 || a[a.len() - 1] != b[b.len() - 2] {
            return None;
        }
        let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
        if !x_vector {
            shape.push(a[a.len() - 2]);
        }
        if !y_vector {
            shape.push(b[b.len() - 1]);
        }
        if shape.iter().product::<usize>() > LARGEST {
            return None;
        }
        let mut inputs = vec![("x", x.argument()), ("y", y.argument())];
        for (name, on) in [("transpose_x", transpose[0]), ("transpose_y", transpose[1])] {
            if on || self.bytes.below(2) == 1 {
                inputs.push((name, Argument::One(Binding::Value(Value::bool(on)))));
            }
        }
        Some(self.op("matmul", &inputs, &shape))
    }

    pub fn reshape(&mut self, x: &Val, shape: &[usize]) -> Val {
        let asked: Vec<i32> = shape.iter().map(|&n| n as i32).collect();
        let asked = self.ints(&asked);
        self.op("reshape", &[("x", x.argument()), ("shape", asked)], shape)
    }

    /// An axis, counted from the front or from the end.
    pub fn axis(&mut self, axis: usize, rank: usize) -> i32 {
        if self.bytes.below(2) == 0 { axis as i32 - rank as i32 } else { axis as i32 }
    }

    /// A number, rarely replaced by a similar one.
    pub fn near(&mut self, value: f32, others: &[f32]) -> f32 {
        if self.bytes.rare(24) { self.bytes.pick(others) } else { value }
    }

    /// A value used only by a nested block, which may also write it to a state.
    pub fn branch(&mut self, value: &Val, state: Option<&Argument>) -> Val {
        let outside = std::mem::take(&mut self.ops);
        let ty = ValueType::Tensor(TensorType::fixed(self.dtype, &value.shape));
        let mut block = |kind: &str, state: Option<&Argument>| {
            if let Some(state) = state {
                self.push("write_state", &[("input", state.clone()), ("data", value.argument())], Vec::new());
            }
            let name = self.name("b");
            let output = NamedType { name: name.clone(), ty: ty.clone() };
            self.push(kind, &[("x", value.argument())], vec![output]);
            let operations = std::mem::take(&mut self.ops);
            Block { inputs: Vec::new(), operations, outputs: vec![name] }
        };
        let blocks = vec![block("identity", state), block("relu", None)];
        self.ops = outside;
        let pred = Argument::One(Binding::Value(Value::bool(true)));
        let result = self.op("cond", &[("pred", pred)], &value.shape);
        if let Some(op) = self.ops.last_mut() {
            op.blocks = blocks;
        }
        result
    }

    /// Dense weights in a file, `[72, 64]`, large enough to stay in stored form.
    pub fn filed(&mut self) -> Val {
        let shape = weights::SHAPE.to_vec();
        let binding = self.named(weights::value(self.dtype));
        Val { binding, shape }
    }
}
