//! One operation that is being added: its arguments against the table, its results by inference or declaration.

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, NamedType, Operation, Opset, Value, ValueType};
use indexmap::IndexMap;

use super::arg::{self, Arg, Var};
use super::error::BuildError;
use super::function::{FunctionBuilder, show};
use super::table::{self, Definition, Parameter};
use crate::infer;

/// An operation before it is added.
#[derive(Debug)]
#[must_use = "an operation is added by `done` or `all`"]
pub struct OpCall<'f> {
    function: &'f mut FunctionBuilder,
    kind: String,
    name: Option<String>,
    args: Vec<(String, Arg)>,
    declared: Option<Vec<ValueType>>,
}

/// Parameters that take several values.
const VARIADIC: [&str; 3] = ["values", "ref_tensors", "loop_vars"];

/// Most axes of a tensor.
const RANK: usize = 5;

impl<'f> OpCall<'f> {
    pub(super) fn new(function: &'f mut FunctionBuilder, kind: &str) -> Self {
        Self { function, kind: kind.to_owned(), name: None, args: Vec::new(), declared: None }
    }

    /// Names the operation and its first result.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Binds a parameter: to a value, or to a literal whose element type follows from the table.
    pub fn arg(mut self, parameter: &str, arg: impl Into<Arg>) -> Self {
        self.args.push((parameter.to_owned(), arg.into()));
        self
    }

    /// Declares the types of the results, for operations whose results are not inferred.
    pub fn typed(mut self, types: &[ValueType]) -> Self {
        self.declared = Some(types.to_vec());
        self
    }

    /// Adds the operation and returns its only result.
    ///
    /// # Errors
    /// [`BuildError`] as for [`OpCall::all`]; also if there are several results.
    pub fn done(self) -> Result<Var, BuildError> {
        let kind = self.kind.clone();
        let mut all = self.all()?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                let what = format!("expected one result, found {}", all.len() + usize::from(last.is_some()));
                Err(BuildError::Op { kind, name: last.map(|v| v.name).unwrap_or_default(), what })
            }
        }
    }

    /// Adds the operation and returns its results.
    ///
    /// # Errors
    /// [`BuildError`] if the opset of the function has no such operation, a parameter is unknown, missing, bound twice,
    /// of another element type or not constant, the shapes don't fit, or the declared types contradict those inferred.
    pub fn all(self) -> Result<Vec<Var>, BuildError> {
        let Self { function, kind, name, args, declared } = self;
        let name = name.unwrap_or_else(|| function.fresh(&kind));
        let wrong = |what: String| BuildError::Op { kind: kind.clone(), name: name.clone(), what };
        let definition = find(&kind, &name, function.opset)?;
        let like = args.iter().find_map(|(_, a)| match a {
            Arg::Var(v) => v.dtype(),
            Arg::Vars(all) => all.first()?.dtype(),
            Arg::Literal(v) => Some(v.ty.tensor()?.dtype),
            _ => None,
        });
        let mut bound: IndexMap<String, Vec<Var>> = IndexMap::new();
        for (parameter, given) in &args {
            let Some(row) = definition.parameters.get(parameter) else {
                let known: Vec<&str> = definition.parameters.keys().map(String::as_str).collect();
                return Err(wrong(format!("expected one of {}, found parameter `{parameter}`", known.join(", "))));
            };
            let place = |what: String| wrong(format!("parameter `{parameter}`: {what}"));
            let vars = function.bind(&name, parameter, row, given, like).map_err(place)?;
            if bound.insert(parameter.clone(), vars).is_some() {
                return Err(wrong(format!("parameter `{parameter}` is bound twice")));
            }
        }
        function.defaults(&name, &kind, definition, &mut bound, like).map_err(&wrong)?;
        if let Some((missing, _)) =
            definition.parameters.iter().find(|(p, row)| !row.optional && !bound.contains_key(*p))
        {
            return Err(wrong(format!("parameter `{missing}` is missing")));
        }
        let call = infer::Call { kind: &kind, args: &bound, opset: function.opset };
        let types = match (infer::infer(&call).map_err(&wrong)?, declared) {
            (Some(found), None) => found,
            (Some(found), Some(declared)) => agree(found, declared).map_err(&wrong)?,
            (None, Some(declared)) => declared,
            (None, None) => return Err(wrong("its results are not inferred: declare their types".to_owned())),
        };
        if let Some(deep) = types
            .iter()
            .filter_map(ValueType::tensor)
            .find(|t| t.shape.len() > RANK && kind != "constexpr_lut_to_dense")
        {
            return Err(wrong(format!("expected at most {RANK} axes, found {}", deep.shape.len())));
        }
        let mut names = vec![name.clone()];
        names.extend((1..types.len()).map(|i| format!("{name}_{i}")));
        for name in &names {
            function.claim("operation", name)?;
        }
        let outputs: Vec<NamedType> = names.into_iter().zip(types).map(|(name, ty)| NamedType { name, ty }).collect();
        function.push(&kind, &name, bound, &outputs);
        let constant = kind.starts_with("constexpr_");
        Ok(outputs.into_iter().map(|o| Var { constant, ..function.var(&o.name, o.ty) }).collect())
    }
}

pub(super) fn find(kind: &str, name: &str, opset: Opset) -> Result<&'static Definition, BuildError> {
    if let Some(definition) = table::definition(kind, opset) {
        return Ok(definition);
    }
    let (kind, name) = (kind.to_owned(), name.to_owned());
    match table::definitions(&kind).iter().filter_map(Definition::since).min() {
        Some(since) => Err(BuildError::Newer { kind, name, opset, since }),
        None => Err(BuildError::Unknown { kind, name }),
    }
}

impl FunctionBuilder {
    /// The values of one argument; literals become constants.
    fn bind(
        &mut self,
        name: &str,
        parameter: &str,
        row: &Parameter,
        given: &Arg,
        like: Option<DataType>,
    ) -> Result<Vec<Var>, String> {
        let allowed: Vec<DataType> = row.types().collect();
        let vars = match given {
            Arg::Var(v) => vec![v.clone()],
            Arg::Vars(all) => all.clone(),
            other => {
                let value = arg::literal(other, &allowed, like)?.ok_or("expected a literal")?;
                let large =
                    value.ty.tensor().and_then(|t| t.fixed_shape()).is_some_and(|s| s.iter().product::<usize>() > 64);
                let stem = format!("{name}_{parameter}");
                vec![if large {
                    let fresh = self.fresh(&stem);
                    self.constant(&fresh, value).map_err(|e| e.to_string())?
                } else {
                    self.literal(&stem, value)
                }]
            }
        };
        if vars.is_empty() || (vars.len() > 1 && !VARIADIC.contains(&parameter)) {
            return Err(format!("expected one value, found {}", vars.len()));
        }
        for var in &vars {
            self.visible(var)?;
            if let Some(dtype) = var.dtype().filter(|&t| !row.takes(t)) {
                return Err(format!("expected {}, found {dtype}", arg::words(&allowed)));
            }
            if row.constant && !var.constant {
                return Err(format!("expected a constant, found `{}`", var.name));
            }
        }
        Ok(vars)
    }

    /// Binds omitted parameters to their defaults, as coremltools does.
    fn defaults(
        &mut self,
        name: &str,
        kind: &str,
        definition: &Definition,
        bound: &mut IndexMap<String, Vec<Var>>,
        like: Option<DataType>,
    ) -> Result<(), String> {
        let spatial = bound
            .get("x")
            .and_then(|x| x.first())
            .and_then(|x| x.ty.tensor())
            .map_or(0, |t| t.shape.len().saturating_sub(2));
        let strided = ["conv", "conv_transpose", "avg_pool", "max_pool", "l2_pool"].contains(&kind);
        for (parameter, row) in &definition.parameters {
            if !row.optional || bound.contains_key(parameter) {
                continue;
            }
            let given = match parameter.as_str() {
                "strides" | "dilations" if strided => Arg::Ints(vec![1; spatial]),
                "pad" if strided => Arg::Ints(vec![0; 2 * spatial]),
                _ => match row.default.as_ref().and_then(default) {
                    Some(value) => value,
                    None => continue,
                },
            };
            let vars =
                self.bind(name, parameter, row, &given, like).map_err(|e| format!("default of `{parameter}`: {e}"))?;
            bound.insert(parameter.clone(), vars);
        }
        Ok(())
    }

    fn push(&mut self, kind: &str, name: &str, bound: IndexMap<String, Vec<Var>>, outputs: &[NamedType]) {
        let mut op = Operation {
            kind: kind.to_owned(),
            name: name.to_owned(),
            inputs: IndexMap::new(),
            outputs: outputs.to_vec(),
            blocks: Vec::new(),
            attributes: IndexMap::new(),
        };
        // Before iOS 18, parameters of `constexpr_*` are attributes.
        let attributes = kind.starts_with("constexpr_") && self.opset < Opset::Ios18;
        for (parameter, vars) in bound {
            let literal: Option<Value> = vars.first().and_then(|v| v.literal.clone()).filter(|_| attributes);
            match literal {
                Some(value) => {
                    op.attributes.insert(parameter, value);
                }
                None => {
                    let variadic = VARIADIC.contains(&parameter.as_str());
                    op.inputs.insert(parameter, arg::argument(&vars, variadic));
                }
            }
        }
        self.operations.push(op);
    }
}

/// The default in the table as an argument.
fn default(value: &serde_json::Value) -> Option<Arg> {
    Some(match value {
        serde_json::Value::Bool(b) => Arg::Bool(*b),
        serde_json::Value::String(s) => Arg::Text(s.clone()),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| n.as_f64().map(Arg::Float), |n| Some(Arg::Int(n)))?,
        serde_json::Value::Array(all) => Arg::Ints(all.iter().map(serde_json::Value::as_i64).collect::<Option<_>>()?),
        _ => return None,
    })
}

/// The types on which inference and declaration agree; declared extents win over unknown ones.
pub(super) fn agree(found: Vec<ValueType>, declared: Vec<ValueType>) -> Result<Vec<ValueType>, String> {
    let fits = |a: &ValueType, b: &ValueType| match (a, b) {
        (ValueType::Tensor(a), ValueType::Tensor(b)) => {
            let open = |d: &Dim| d.fixed().is_none();
            a.dtype == b.dtype
                && (a.shape.contains(&Dim::Variadic)
                    || a.shape.len() == b.shape.len()
                        && a.shape.iter().zip(&b.shape).all(|(a, b)| a == b || open(a) || open(b)))
        }
        (a, b) => a == b,
    };
    if found.len() != declared.len() {
        return Err(format!("expected {} results, found {} declared", found.len(), declared.len()));
    }
    match found.iter().zip(&declared).find(|(a, b)| !fits(a, b)) {
        Some((a, b)) => Err(format!("expected {}, found {} declared", show(a), show(b))),
        None => Ok(declared),
    }
}
