//! [`Interface`]: how a language model in one file is fed, read from its inputs, outputs and states.
//!
//! Layouts: Apple's stateful export (<https://machinelearning.apple.com/research/core-ml-on-device-llama>), in which the
//! width of the mask says where the caches are written; its variants of fixed length with a write position; caches per
//! layer, as states or as inputs and outputs; models without caches, with or without a mask of the tokens (the layouts
//! that huggingface/swift-transformers runs). Whatever else a function takes or gives is refused by name.

use coreml_format::description::FunctionDescription;
use coreml_format::dtype::DataType;

use super::extent::{Extent, array};
use super::names::{self, Named, named};

/// What an input holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Tokens,
    /// Added to the scores, `[…, queries, keys]`: 0 or −∞.
    Scores,
    /// One for each token that there is, 0 for padding, `[1, tokens]`.
    Present,
    /// The position of each token.
    Positions,
    /// The position of the first token.
    Start,
    /// One at `[…, position, token]` for each row of the caches that is written.
    Update,
    /// A cache that comes out of each prediction and goes into the next.
    Cache {
        output: String,
        /// The dimension that grows by the tokens of each prediction.
        grows: Option<usize>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) dtype: DataType,
    pub(super) extents: Vec<Extent>,
}

/// Where keys and values of earlier tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caches {
    /// In states.
    States,
    /// In tensors that go in and come out.
    Passed,
    /// Nowhere: every prediction runs all tokens.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) inputs: Vec<Input>,
    /// Tokens of one prediction.
    pub(super) tokens: Extent,
    /// The output with the logits.
    pub(super) logits: String,
    pub(super) caches: Caches,
    /// Tokens that there is room for.
    pub(super) context: usize,
}

/// Whether a function takes token ids and gives logits, or keeps caches.
pub(super) fn looks_like_one(function: &FunctionDescription) -> bool {
    let ids = function.inputs.iter().any(|f| named(&f.name) == Some(Named::Tokens));
    let logits = function.outputs.iter().any(|f| names::says_logits(&f.name));
    ids && (logits || function.states.iter().any(|f| named(&f.name) == Some(Named::Cache)))
}

fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::F16 | DataType::F32 | DataType::F64)
}

impl Interface {
    /// Reads a function and its states, by name and shape. `limit` is the length that the checkpoint was trained for, for
    /// models that set none.
    pub(super) fn read(
        function: &FunctionDescription,
        states: &[(String, Vec<usize>)],
        limit: Option<usize>,
    ) -> Result<Self, String> {
        for (name, shape) in states {
            if named(name) != Some(Named::Cache) || !(3..=5).contains(&shape.len()) {
                return Err(format!(
                    "its state `{name}` {shape:?} is no cache of keys or values: recurrent models are not supported"
                ));
            }
        }
        let outputs: Vec<&str> = function.outputs.iter().map(|o| o.name.as_str()).collect();
        let mut inputs = Vec::with_capacity(function.inputs.len());
        for feature in &function.inputs {
            let name = &feature.name;
            let kind = named(name).ok_or_else(|| format!("its input `{name}` is not known"))?;
            let (dtype, extents) = array(feature)?;
            let role = role(name, kind, dtype, &extents, &outputs)?;
            inputs.push(Input { name: name.clone(), role, dtype, extents });
        }
        let mut interface = Self {
            tokens: tokens(&inputs)?,
            logits: logits(&inputs, &outputs)?,
            caches: Caches::None,
            context: 0,
            inputs,
        };
        let passed = interface.inputs.iter().any(|i| matches!(i.role, Role::Cache { .. }));
        interface.caches = match (states.is_empty(), passed) {
            (false, true) => return Err("it has caches as states and as inputs".to_owned()),
            (false, false) => Caches::States,
            (true, true) => Caches::Passed,
            (true, false) => Caches::None,
        };
        interface.positions()?;
        interface.check_writes()?;
        interface.context = interface.room(states, limit)?;
        Ok(interface)
    }

    pub(super) fn input(&self, role: &Role) -> Option<&Input> {
        self.inputs.iter().find(|i| i.role == *role)
    }

    /// Whether caches grow by the tokens of each prediction.
    pub(super) fn grows(&self) -> bool {
        self.inputs.iter().any(|i| matches!(i.role, Role::Cache { grows: Some(_), .. }))
    }

    /// Whether an input tells where the caches are written.
    pub(super) fn has_position(&self) -> bool {
        self.inputs.iter().any(|i| matches!(i.role, Role::Positions | Role::Start | Role::Update))
    }

    /// Settles whether inputs with positions have one for each token, or one in all.
    fn positions(&mut self) -> Result<(), String> {
        let tokens = self.tokens.clone();
        for input in &mut self.inputs {
            if !matches!(input.role, Role::Positions | Role::Start) {
                continue;
            }
            let (last, rest) = input.extents.split_last().ok_or("an input without dimensions")?;
            let alone = rest.iter().all(|e| e.has(1));
            if alone && *last == tokens || alone && tokens == Extent::Fixed(1) && last.has(1) {
                input.role = Role::Positions;
            } else if !(alone && *last == Extent::Fixed(1) && input.role == Role::Start) {
                return Err(format!("its input `{}` has not one position, nor one for each token", input.name));
            }
        }
        Ok(())
    }

    /// Refuses caches of which nothing says where they are written.
    fn check_writes(&self) -> Result<(), String> {
        if self.caches == Caches::None {
            return match self.inputs.iter().find(|i| matches!(i.role, Role::Update | Role::Start)) {
                Some(input) => Err(format!("its input `{}` is for caches, and it has none", input.name)),
                None => Ok(()),
            };
        }
        // Grown caches are written at their end.
        let wide = |i: &Input| {
            matches!(i.role, Role::Scores | Role::Present) && i.extents.last().is_some_and(|e| !e.is_fixed())
        };
        if self.grows() && !self.tokens.has(1) {
            return Err("caches that grow need predictions of one token".to_owned());
        }
        if self.has_position() || self.grows() || self.inputs.iter().any(wide) {
            return Ok(());
        }
        Err("it has caches, but no input that says where they are written".to_owned())
    }

    /// Tokens that masks and caches have room for.
    fn room(&self, states: &[(String, Vec<usize>)], limit: Option<usize>) -> Result<usize, String> {
        let mut room: Option<usize> = None;
        let mut at_most = |n: Option<usize>| room = [room, n].into_iter().flatten().min();
        if self.caches == Caches::None {
            at_most(self.tokens.most());
        }
        for input in &self.inputs {
            match &input.role {
                Role::Scores | Role::Present => at_most(input.extents.last().and_then(Extent::most)),
                Role::Update => at_most(input.extents.iter().rev().nth(1).and_then(Extent::most)),
                Role::Cache { grows: Some(axis), .. } => at_most(input.extents[*axis].most()),
                _ => {}
            }
        }
        let passed = self.inputs.iter().filter(|i| matches!(i.role, Role::Cache { grows: None, .. }));
        let passed = passed.map(|i| i.extents.iter().map(Extent::least).collect::<Vec<_>>());
        for shape in states.iter().map(|(_, shape)| shape.clone()).chain(passed) {
            // [layers, 1, heads, tokens, width], or with the last two exchanged.
            let rows = shape[shape.len() - 2];
            match room {
                Some(known) if shape[shape.len() - 2..].contains(&known) => {}
                _ => room = Some(room.map_or(rows, |known| known.min(rows))),
            }
        }
        let room = room.or(limit).filter(|&n| n > 0).ok_or("nothing says how many tokens it has room for")?;
        if self.tokens.least() > room {
            return Err(format!("it takes {} tokens at once and has room for {room}", self.tokens.least()));
        }
        Ok(room)
    }
}

/// What an input is, by its name and shape.
fn role(name: &str, kind: Named, dtype: DataType, extents: &[Extent], outputs: &[&str]) -> Result<Role, String> {
    let float = is_float(dtype);
    let leading = |keep: usize| extents.iter().rev().skip(keep).all(|e| e.has(1));
    let fails = |why: &str| Err(format!("its input `{name}` {why}"));
    match kind {
        Named::Tokens if !float && leading(1) => Ok(Role::Tokens),
        Named::Tokens => fails("is no row of token ids"),
        Named::Mask if float && extents.len() >= 2 && leading(2) && !name_is_of_tokens(name, extents) => {
            Ok(Role::Scores)
        }
        Named::Mask if !float && extents.len() == 2 && leading(1) => Ok(Role::Present),
        Named::Mask if float => fails("has floats, but not those of a mask of scores, [1, 1, queries, keys]"),
        Named::Mask => fails("has integers, but not one for each token, [1, tokens]"),
        Named::Positions | Named::Start if float => fails("has floats, expected positions"),
        Named::Positions => Ok(Role::Positions),
        Named::Start => Ok(Role::Start),
        Named::Update if float && extents.len() == 4 && leading(2) => Ok(Role::Update),
        Named::Update => fails("is no mask [1, 1, rows, tokens] of the rows that are written"),
        Named::Cache => {
            if !float || !(3..=5).contains(&extents.len()) {
                return fails("is no cache of keys or values");
            }
            let Some(output) = names::pair(name, outputs) else {
                return fails("is a cache, and no output has what it becomes");
            };
            let mut open = extents.iter().enumerate().filter(|(_, e)| !e.is_fixed());
            let grows = match (open.next(), open.next()) {
                (None, _) => None,
                (Some((axis, extent)), None) if extent.has(0) => Some(axis),
                (Some(_), None) => return fails("is a cache that can't be empty"),
                (Some(_), Some(_)) => return fails("is a cache with several open dimensions"),
            };
            Ok(Role::Cache { output: output.to_owned(), grows })
        }
    }
}

/// Whether a mask of floats has one element for each token: what they would say is not known.
fn name_is_of_tokens(name: &str, extents: &[Extent]) -> bool {
    extents.len() == 2 && !names::plain(name).contains("causal")
}

/// Tokens of one prediction.
fn tokens(inputs: &[Input]) -> Result<Extent, String> {
    let mut ids = inputs.iter().filter(|i| i.role == Role::Tokens);
    match (ids.next(), ids.next()) {
        (Some(one), None) => {
            let tokens = one.extents.last().cloned().ok_or("its token ids have no dimension")?;
            if tokens.most() == Some(0) { Err("it takes no tokens".to_owned()) } else { Ok(tokens) }
        }
        (None, _) => Err("no input has token ids".to_owned()),
        (Some(a), Some(b)) => Err(format!("its inputs `{}` and `{}` both have token ids", a.name, b.name)),
    }
}

/// The output that is no cache; refuses others.
fn logits(inputs: &[Input], outputs: &[&str]) -> Result<String, String> {
    let is_cache =
        |output: &&str| inputs.iter().any(|i| matches!(&i.role, Role::Cache { output: o, .. } if o == output));
    let rest: Vec<&str> = outputs.iter().copied().filter(|o| !is_cache(o)).collect();
    match rest.as_slice() {
        [one] if names::says_logits(one) || names::plain(one) == "output" => Ok((*one).to_owned()),
        all => {
            let unknown = all.iter().find(|o| !names::says_logits(o)).or(all.last());
            match unknown {
                Some(name) => Err(format!("its output `{name}` is not known: expected `logits` alone")),
                None => Err("it has no output with logits".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coreml_format::description::{DimRange, FeatureDescription, FeatureType, ShapeConstraint};

    use super::*;

    fn feature(name: &str, dtype: DataType, shape: &[usize], constraint: ShapeConstraint) -> FeatureDescription {
        let ty = FeatureType::MultiArray { dtype, shape: shape.to_vec(), constraint, default: None };
        FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
    }

    fn fixed(name: &str, dtype: DataType, shape: &[usize]) -> FeatureDescription {
        feature(name, dtype, shape, ShapeConstraint::Fixed)
    }

    fn ranged(name: &str, dtype: DataType, ranges: &[(usize, usize)]) -> FeatureDescription {
        let shape: Vec<usize> = ranges.iter().map(|r| r.0).collect();
        let ranges = ranges.iter().map(|&(min, max)| DimRange { min, max: Some(max) }).collect();
        feature(name, dtype, &shape, ShapeConstraint::Ranges(ranges))
    }

    /// Reads a function of these features; `states` are `[2, 1, 2, 16, 8]`.
    fn read(
        inputs: Vec<FeatureDescription>,
        outputs: &[&str],
        states: &[&str],
    ) -> std::result::Result<Interface, String> {
        let outputs = outputs.iter().map(|name| fixed(name, DataType::F16, &[])).collect();
        let states: Vec<_> = states.iter().map(|name| ((*name).to_owned(), vec![2, 1, 2, 16, 8])).collect();
        let function = FunctionDescription { inputs, outputs, ..FunctionDescription::default() };
        Interface::read(&function, &states, Some(40))
    }

    const KV: [&str; 2] = ["keyCache", "valueCache"];

    fn apple() -> Vec<FeatureDescription> {
        vec![
            ranged("inputIds", DataType::I32, &[(1, 1), (1, 16)]),
            ranged("causalMask", DataType::F16, &[(1, 1), (1, 1), (1, 16), (1, 16)]),
        ]
    }

    #[test]
    fn layouts_are_read() {
        let found = read(apple(), &["logits"], &KV).expect("known");
        assert_eq!((found.caches, found.context, found.has_position()), (Caches::States, 16, false));
        let ids = |n| fixed("input_ids", DataType::I32, &[1, n]);
        let found = read(vec![ids(12), fixed("attention_mask", DataType::I32, &[1, 12])], &["logits"], &[]);
        let found = found.expect("known");
        assert_eq!((found.caches, found.context), (Caches::None, 12));
        let open = feature(
            "inputIds",
            DataType::I32,
            &[1, 1],
            ShapeConstraint::Ranges(vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 1, max: None }]),
        );
        assert_eq!(read(vec![open], &["logits"], &[]).expect("known").context, 40);
        let cache = |name| fixed(name, DataType::F16, &[2, 1, 2, 16, 8]);
        let passed = vec![ids(1), fixed("writePos", DataType::I32, &[1]), cache("keyCache"), cache("valueCache")];
        let found = read(passed, &["logits", "keyCacheOut", "valueCacheOut"], &[]).expect("known");
        assert_eq!((found.caches, found.context), (Caches::Passed, 16));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let with = |extra: FeatureDescription| [apple(), vec![extra]].concat();
        let float = |name, shape: &[usize]| fixed(name, DataType::F16, shape);
        let ids = |n| fixed("inputIds", DataType::I32, &[1, n]);
        let cases: Vec<(Vec<FeatureDescription>, &[&str], &[&str], &str)> = vec![
            (with(float("encoder_output_embeds", &[1, 8, 1, 4])), &["logits"], &KV, "encoder_output_embeds"),
            (with(float("keyCacheIn", &[1, 2, 16, 8])), &["logits"], &KV, "keyCacheIn"),
            (apple(), &["logits", "hidden"], &KV, "hidden"),
            (apple(), &["last_hidden_state"], &KV, "last_hidden_state"),
            (apple(), &["logits", "key_cache_updates"], &KV, "key_cache_updates"),
            (apple(), &["logits"], &["keyCache", "conv_0"], "conv_0"),
            (apple(), &["logits"], &["delta_state"], "recurrent"),
            (vec![ids(1), float("causalMask", &[1, 1, 1, 16])], &["logits"], &KV, "where they are written"),
            (vec![ids(8), float("attentionMask", &[1, 8])], &["logits"], &[], "attentionMask"),
            (vec![ids(8), fixed("causalMask", DataType::I32, &[1, 1, 8, 8])], &["logits"], &[], "causalMask"),
            (vec![ids(8), fixed("writePos", DataType::I32, &[1])], &["logits"], &[], "writePos"),
            (vec![fixed("inputIds", DataType::I32, &[4, 8])], &["logits"], &[], "inputIds"),
            (vec![ids(1), ids(1)], &["logits"], &[], "both have token ids"),
            (vec![ids(32), fixed("position_ids", DataType::I32, &[1, 32])], &["logits"], &KV, "32 tokens at once"),
            (vec![ids(8), fixed("position_ids", DataType::I32, &[1])], &["logits"], &KV, "position_ids"),
        ];
        for (inputs, outputs, states, part) in cases {
            let error = read(inputs, outputs, states).expect_err(part);
            assert!(error.contains(part), "expected `{part}` in: {error}");
        }
    }
}
