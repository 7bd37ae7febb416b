//! Builds the operations of a function in the idioms of ANEMLL's converter.

use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, TensorType, Value, ValueType,
};

use crate::Matrix;

#[derive(Default)]
pub(crate) struct Body {
    operations: Vec<Operation>,
}

fn name(text: &str) -> Argument {
    Argument::One(Binding::Name(text.to_owned()))
}

fn value(v: Value) -> Argument {
    Argument::One(Binding::Value(v))
}

impl Body {
    fn push(&mut self, kind: &str, inputs: Vec<(&str, Argument)>, ty: Option<ValueType>) -> String {
        let out = format!("v{}", self.operations.len());
        let outputs = ty.map(|ty| NamedType { name: out.clone(), ty }).into_iter().collect();
        self.operations.push(Operation {
            kind: kind.to_owned(),
            name: out.clone(),
            inputs: inputs.into_iter().map(|(n, a)| (n.to_owned(), a)).collect(),
            outputs,
            blocks: Vec::new(),
            attributes: Default::default(),
        });
        out
    }

    fn op(&mut self, kind: &str, inputs: Vec<(&str, Argument)>, shape: &[usize]) -> String {
        self.push(kind, inputs, Some(ValueType::Tensor(TensorType::fixed(DataType::F16, shape))))
    }

    fn ints(&mut self, kind: &str, inputs: Vec<(&str, Argument)>, shape: &[usize]) -> String {
        self.push(kind, inputs, Some(ValueType::Tensor(TensorType::fixed(DataType::I32, shape))))
    }

    pub(crate) fn weight(&mut self, v: Value) -> String {
        let ty = v.ty.clone();
        let out = self.push("const", Vec::new(), Some(ty));
        if let Some(op) = self.operations.last_mut() {
            op.attributes.insert("val".to_owned(), v);
        }
        out
    }

    pub(crate) fn matrix(&mut self, m: &Matrix) -> String {
        match m {
            Matrix::Dense(v) => self.weight(v.clone()),
            Matrix::Lut { indices, lut, shape } => self.op(
                "constexpr_lut_to_dense",
                vec![("indices", value(indices.clone())), ("lut", value(lut.clone()))],
                shape,
            ),
        }
    }

    /// Finishes the function; each result is renamed by an identity.
    pub(crate) fn function(mut self, inputs: Vec<NamedType>, outputs: &[(&str, &str)]) -> Function {
        for (from, to) in outputs {
            let ty = self.operations.iter().flat_map(|o| &o.outputs).find(|o| o.name == *from).map(|o| o.ty.clone());
            self.push("identity", vec![("x", name(from))], ty);
            if let Some(out) = self.operations.last_mut().and_then(|o| o.outputs.first_mut()) {
                out.name = (*to).to_owned();
            }
        }
        let outputs = outputs.iter().map(|(_, to)| (*to).to_owned()).collect();
        let block = Block { inputs: Vec::new(), operations: self.operations, outputs };
        Function { opset: Opset::Ios18, inputs, block, attributes: Default::default() }
    }

    pub(crate) fn gather(&mut self, table: &str, ids: &str, width: usize) -> String {
        let shape = vec![Dim::Fixed(1), Dim::Unknown, Dim::Fixed(width)];
        let inputs = vec![
            ("x", name(table)),
            ("indices", name(ids)),
            ("axis", value(Value::int(0))),
            ("batch_dims", value(Value::int(0))),
            ("validate_indices", value(Value::bool(false))),
        ];
        self.push("gather", inputs, Some(ValueType::Tensor(TensorType { dtype: DataType::F16, shape })))
    }

    pub(crate) fn identity(&mut self, x: &str, shape: &[usize]) -> String {
        self.op("identity", vec![("x", name(x))], shape)
    }

    pub(crate) fn unary(&mut self, kind: &str, x: &str, shape: &[usize]) -> String {
        self.op(kind, vec![("x", name(x))], shape)
    }

    pub(crate) fn binary(&mut self, kind: &str, x: &str, y: &str, shape: &[usize]) -> String {
        self.op(kind, vec![("x", name(x)), ("y", name(y))], shape)
    }

    pub(crate) fn add_int(&mut self, x: &str, n: usize) -> String {
        self.ints("add", vec![("x", name(x)), ("y", value(Value::int(n as i32)))], &[1])
    }

    /// [1, tokens, width] → [1, width, 1, tokens].
    pub(crate) fn channels_first(&mut self, x: &str, width: usize, tokens: usize) -> String {
        let perm = value(Value::ints(&[0, 2, 1]));
        let t = self.op("transpose", vec![("x", name(x)), ("perm", perm)], &[1, width, tokens]);
        let axes = value(Value::ints(&[2]));
        self.op("expand_dims", vec![("x", name(&t)), ("axes", axes)], &[1, width, 1, tokens])
    }

    /// [1, width, 1, tokens] → [1, tokens, width].
    pub(crate) fn tokens_first(&mut self, x: &str, width: usize, tokens: usize) -> String {
        let axes = value(Value::ints(&[2]));
        let t = self.op("squeeze", vec![("x", name(x)), ("axes", axes)], &[1, width, tokens]);
        let perm = value(Value::ints(&[0, 2, 1]));
        self.op("transpose", vec![("x", name(&t)), ("perm", perm)], &[1, tokens, width])
    }

    pub(crate) fn conv(&mut self, x: &str, weight: &str, rows: usize, tokens: usize) -> String {
        let inputs = vec![
            ("x", name(x)),
            ("weight", name(weight)),
            ("strides", value(Value::ints(&[1, 1]))),
            ("pad_type", value(Value::string("valid"))),
            ("pad", value(Value::ints(&[0, 0, 0, 0]))),
            ("dilations", value(Value::ints(&[1, 1]))),
            ("groups", value(Value::int(1))),
        ];
        self.op("conv", inputs, &[1, rows, 1, tokens])
    }

    /// [1, heads · dim, 1, tokens] → [1, heads, tokens, dim].
    pub(crate) fn heads(&mut self, x: &str, heads: usize, dim: usize, tokens: usize) -> String {
        let shape = value(Value::ints(&[1, heads as i32, dim as i32, tokens as i32]));
        let t = self.op("reshape", vec![("x", name(x)), ("shape", shape)], &[1, heads, dim, tokens]);
        let perm = value(Value::ints(&[0, 1, 3, 2]));
        self.op("transpose", vec![("x", name(&t)), ("perm", perm)], &[1, heads, tokens, dim])
    }

    fn part(&mut self, x: &str, shape: &[usize], from: usize, to: usize) -> String {
        let last = shape.len() - 1;
        let mut begin = vec![0; shape.len()];
        begin[last] = from as i32;
        let mut end: Vec<i32> = shape.iter().map(|&n| n as i32).collect();
        end[last] = to as i32;
        let mut out = shape.to_vec();
        out[last] = to - from;
        let inputs = vec![("x", name(x)), ("begin", value(Value::ints(&begin))), ("end", value(Value::ints(&end)))];
        self.op("slice_by_index", inputs, &out)
    }

    fn concat(&mut self, parts: &[&str], shape: &[usize]) -> String {
        let values = Argument::Many(parts.iter().map(|p| Binding::Name((*p).to_owned())).collect());
        let inputs =
            vec![("values", values), ("axis", value(Value::int(-1))), ("interleave", value(Value::bool(false)))];
        self.op("concat", inputs, shape)
    }

    fn negate(&mut self, x: &str, shape: &[usize]) -> String {
        self.op("mul", vec![("x", name(x)), ("y", value(Value::f16(-1.0)))], shape)
    }

    /// RMS norm in ANEMLL's form: first half of the layer norm of (x, −x), times a weight of ones.
    pub(crate) fn rms_norm(&mut self, x: &str, shape: &[usize]) -> String {
        let width = shape[shape.len() - 1];
        let mut wide = shape.to_vec();
        wide[shape.len() - 1] = 2 * width;
        let negated = self.negate(x, shape);
        let both = self.concat(&[x, &negated], &wide);
        let inputs =
            vec![("x", name(&both)), ("axes", value(Value::ints(&[-1]))), ("epsilon", value(Value::f16(1e-6)))];
        let normed = self.op("layer_norm", inputs, &wide);
        let half = self.part(&normed, &wide, 0, width);
        let ones = half::f16::ONE.to_le_bytes().repeat(width);
        let weight = value(Value::tensor(DataType::F16, &[width], ones));
        self.op("mul", vec![("x", name(&half)), ("y", weight)], shape)
    }

    pub(crate) fn rope_rows(&mut self, table: &Value, tokens: usize, dim: usize) -> String {
        let table = self.weight(table.clone());
        let inputs = vec![("x", name(&table)), ("indices", name("position_ids")), ("axis", value(Value::int(0)))];
        let rows = self.op("gather", inputs, &[tokens, dim]);
        let axes = value(Value::ints(&[0, 1]));
        self.op("expand_dims", vec![("x", name(&rows)), ("axes", axes)], &[1, 1, tokens, dim])
    }

    pub(crate) fn rotate(&mut self, x: &str, (cos, sin): (&str, &str), shape: &[usize]) -> String {
        let dim = shape[3];
        let mut half = shape.to_vec();
        half[3] = dim / 2;
        let (first, second) = (self.part(x, shape, 0, dim / 2), self.part(x, shape, dim / 2, dim));
        let negated = self.negate(&second, &half);
        let turned = self.concat(&[&negated, &first], shape);
        let a = self.binary("mul", x, cos, shape);
        let b = self.binary("mul", &turned, sin, shape);
        self.binary("add", &a, &b, shape)
    }

    /// Writes `x` to entry `row` of the state at `current_pos..end`.
    pub(crate) fn update_state(&mut self, state: &str, x: &str, row: usize, end: &str, shape: &[usize]) {
        let all = self.op("read_state", vec![("input", name(state))], shape);
        let bounds = |b: &mut Self, row: usize, heads: usize, position: &str| {
            let literal = |n: usize| Binding::Value(Value::ints(&[n as i32]));
            let parts = vec![literal(row), literal(heads), Binding::Name(position.to_owned()), literal(0)];
            let inputs = vec![
                ("values", Argument::Many(parts)),
                ("axis", value(Value::int(0))),
                ("interleave", value(Value::bool(false))),
            ];
            b.ints("concat", inputs, &[4])
        };
        let (begin, end) = (bounds(self, row, 0, "current_pos"), bounds(self, row + 1, shape[1], end));
        let inputs = vec![
            ("x", name(&all)),
            ("update", name(x)),
            ("begin", name(&begin)),
            ("end", name(&end)),
            ("stride", value(Value::ints(&[1, 1, 1, 1]))),
            ("begin_mask", value(Value::bools(&[false; 4]))),
            ("end_mask", value(Value::bools(&[false, false, false, true]))),
            ("squeeze_mask", value(Value::bools(&[false; 4]))),
        ];
        let updated = self.op("slice_update", inputs, shape);
        self.push("write_state", vec![("input", name(state)), ("data", name(&updated))], None);
    }

    /// Entry `row` of the state, each head repeated for the query heads that share it: [1, heads, length, dim].
    pub(crate) fn cached(&mut self, state: &str, row: usize, heads: usize, shape: &[usize]) -> String {
        let &[_, kv, length, dim] = shape else { return state.to_owned() };
        let all = self.op("read_state", vec![("input", name(state))], shape);
        let inputs = vec![
            ("x", name(&all)),
            ("begin", value(Value::ints(&[row as i32, 0, 0, 0]))),
            ("end", value(Value::ints(&[row as i32 + 1, kv as i32, length as i32, dim as i32]))),
        ];
        let entry = self.op("slice_by_index", inputs, &[1, kv, length, dim]);
        let axes = value(Value::ints(&[2]));
        let wide = self.op("expand_dims", vec![("x", name(&entry)), ("axes", axes)], &[1, kv, 1, length, dim]);
        let reps = value(Value::ints(&[1, 1, (heads / kv) as i32, 1, 1]));
        let tiled = self.op("tile", vec![("x", name(&wide)), ("reps", reps)], &[1, kv, heads / kv, length, dim]);
        let to = value(Value::ints(&[1, heads as i32, length as i32, dim as i32]));
        self.op("reshape", vec![("x", name(&tiled)), ("shape", to)], &[1, heads, length, dim])
    }

    /// Attention (scores, mask, softmax, values); returns [1, heads · dim, 1, tokens].
    #[allow(clippy::too_many_arguments, reason = "what an attention is made of")]
    pub(crate) fn attention(
        &mut self,
        q: &str,
        keys: &str,
        values: &str,
        heads: usize,
        tokens: usize,
        length: usize,
        dim: usize,
    ) -> String {
        let shape = [1, heads, tokens, length];
        let product = |b: &mut Self, x: &str, y: &str, transpose: bool, shape: &[usize]| {
            let inputs = vec![
                ("x", name(x)),
                ("y", name(y)),
                ("transpose_x", value(Value::bool(false))),
                ("transpose_y", value(Value::bool(transpose))),
            ];
            b.op("matmul", inputs, shape)
        };
        let scores = product(self, q, keys, true, &shape);
        let scale = value(Value::f16(1.0 / (dim as f32).sqrt()));
        let scaled = self.op("mul", vec![("x", name(&scores)), ("y", scale)], &shape);
        let masked = self.binary("add", &scaled, "causal_mask", &shape);
        let weights = self.op("softmax", vec![("x", name(&masked)), ("axis", value(Value::int(-1)))], &shape);
        let out = product(self, &weights, values, false, &[1, heads, tokens, dim]);
        let perm = value(Value::ints(&[0, 1, 3, 2]));
        let turned = self.op("transpose", vec![("x", name(&out)), ("perm", perm)], &[1, heads, dim, tokens]);
        let to = value(Value::ints(&[1, (heads * dim) as i32, 1, tokens as i32]));
        self.op("reshape", vec![("x", name(&turned)), ("shape", to)], &[1, heads * dim, 1, tokens])
    }
}
