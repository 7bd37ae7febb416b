//! Structural validation of a program: every name is defined once and before its use, every literal has as many
//! elements as its type.
//!
//! Validating an operation's parameters is up to the engine; the checks here apply to every program, whatever file it
//! came from.

use std::collections::HashSet;

use crate::dtype::DataType;
use crate::program::{Argument, Binding, Block, Program, TensorData, Value, ValueData, ValueType};

/// Inconsistency of a program and its location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("function `{function}`, {place}: expected {expected}, found {found}")]
pub struct VerifyError {
    /// Function name.
    pub function: String,
    /// Kind and name of the operation, or another location.
    pub place: String,
    /// Expected content.
    pub expected: String,
    /// Actual content.
    pub found: String,
}

/// Checks all functions of a program.
///
/// # Errors
/// [`VerifyError`] for the first inconsistency.
pub fn verify(program: &Program) -> Result<(), VerifyError> {
    for (name, function) in &program.functions {
        let mut scope = Scope { function: name, visible: HashSet::new() };
        for input in &function.inputs {
            scope.define(&input.name, || "its inputs".to_owned())?;
        }
        scope.block(&function.block)?;
    }
    Ok(())
}

struct Scope<'p> {
    function: &'p str,
    /// Names in scope.
    visible: HashSet<&'p str>,
}

impl<'p> Scope<'p> {
    fn error(&self, place: String, expected: impl Into<String>, found: impl Into<String>) -> VerifyError {
        VerifyError { function: self.function.to_owned(), place, expected: expected.into(), found: found.into() }
    }

    fn define(&mut self, name: &'p str, place: impl Fn() -> String) -> Result<(), VerifyError> {
        if self.visible.insert(name) {
            return Ok(());
        }
        Err(self.error(place(), "a name that is defined once", format!("`{name}` again")))
    }

    fn used(&self, name: &str, place: impl Fn() -> String) -> Result<(), VerifyError> {
        if self.visible.contains(name) {
            return Ok(());
        }
        Err(self.error(place(), "a value that is defined before", format!("`{name}`")))
    }

    /// Checks a block and returns the names it defines, which stay in scope for its outputs only.
    fn block(&mut self, block: &'p Block) -> Result<(), VerifyError> {
        let mut own = Vec::new();
        for input in &block.inputs {
            self.define(&input.name, || "the parameters of a block".to_owned())?;
            own.push(input.name.as_str());
        }
        for op in &block.operations {
            let place = || format!("operation `{}` (`{}`)", op.kind, op.name);
            for (parameter, argument) in &op.inputs {
                self.argument(argument, || format!("{}, parameter `{parameter}`", place()))?;
            }
            for (attribute, value) in &op.attributes {
                self.literal(value, &|| format!("{}, attribute `{attribute}`", place()))?;
            }
            for nested in &op.blocks {
                self.block(nested)?;
            }
            for output in &op.outputs {
                self.define(&output.name, place)?;
                own.push(&output.name);
            }
        }
        for output in &block.outputs {
            self.used(output, || "what it returns".to_owned())?;
        }
        for name in own {
            self.visible.remove(name);
        }
        Ok(())
    }

    fn argument(&self, argument: &Argument, place: impl Fn() -> String) -> Result<(), VerifyError> {
        argument.bindings().iter().try_for_each(|binding| match binding {
            Binding::Name(name) => self.used(name, &place),
            Binding::Value(value) => self.literal(value, &place),
        })
    }

    fn literal(&self, value: &Value, place: &dyn Fn() -> String) -> Result<(), VerifyError> {
        let (ty, data) = match (&value.ty, &value.data) {
            (ValueType::Tensor(ty), ValueData::Tensor(data)) => (ty, data),
            (ValueType::Tuple(types), ValueData::Tuple(items)) if types.len() == items.len() => {
                return items.iter().try_for_each(|item| self.literal(item, place));
            }
            (ValueType::List(..), ValueData::List(items)) => {
                return items.iter().try_for_each(|item| self.literal(item, place));
            }
            (ValueType::Dictionary(..), ValueData::Dictionary(entries)) => {
                return entries.iter().try_for_each(|(k, v)| self.literal(k, place).and(self.literal(v, place)));
            }
            _ => return Err(self.error(place(), "a value of its own type", "a value of another type")),
        };
        let count = ty.fixed_shape().and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        let count = count.ok_or_else(|| self.error(place(), "a shape that is known and fits in memory", "another"))?;
        let (wanted, found) = match data {
            TensorData::Bytes(bytes) => (ty.dtype.packed_len(count), bytes.len()),
            TensorData::Shared(blob) => {
                (Some(count).filter(|_| blob.dtype() == ty.dtype).and_then(|n| ty.dtype.packed_len(n)), blob.len())
            }
            TensorData::Strings(all) => (Some(count).filter(|_| ty.dtype == DataType::String), all.len()),
            // Weight file records are checked when read.
            TensorData::Blob(_) => return Ok(()),
        };
        if wanted == Some(found) {
            return Ok(());
        }
        let wanted = wanted.map_or_else(|| "elements".to_owned(), |n| n.to_string());
        Err(self.error(place(), format!("{wanted} bytes or strings for {count} × {}", ty.dtype), found.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mil_text::parse;

    fn check(body: &str) -> Result<(), String> {
        let text = format!("program(1.3) {{ func main<ios18>(bool p, tensor<fp32, [2]> x) {{ {body} }} -> (y); }}");
        verify(&parse(&text).expect("it parses")).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_defined_once_and_before_their_use() {
        let y = "tensor<fp32, [2]> y";
        assert_eq!(check(&format!("{y} = relu(x = x);")), Ok(()));
        let sibling = "{ fp32 t = relu(x = x); } -> (t)";
        assert_eq!(check(&format!("{y} = cond(pred = p) {sibling} {sibling};")), Ok(()), "siblings may share names");
        for (body, part) in [
            ("fp32 z = relu(x = y);".to_owned(), "operation `relu` (`z`), parameter `x`"),
            (format!("{y} = relu(x = x); {y} = relu(x = x);"), "`y` again"),
            (format!("{y} = cond(pred = p) {sibling}; fp32 u = relu(x = t);"), "`t`"),
            (format!("{y} = cond(pred = p) {{ fp32 x = relu(x = p); }} -> (x);"), "`x` again"),
            (format!("{y} = cond(pred = p) {{ }} -> (q);"), "what it returns"),
            (String::new(), "what it returns"),
        ] {
            let message = check(&body).expect_err(&body);
            assert!(message.contains(part) && message.contains("main"), "{body}: {message}");
        }
    }

    #[test]
    fn literals_have_the_elements_of_their_type() {
        let mut program = parse("program(1.3) { func f<ios18>() { int32 c = const()[val = int32(1)]; } -> (c); }")
            .expect("it parses");
        assert_eq!(verify(&program), Ok(()));
        let op = &mut program.functions[0].block.operations[0];
        op.attributes["val"].data = ValueData::Tensor(TensorData::Bytes(vec![1, 2]));
        let message = verify(&program).expect_err("too short").to_string();
        assert!(message.contains("4 bytes") && message.contains("found 2"), "{message}");
        program.functions[0].block.operations[0].attributes["val"].data =
            ValueData::Tensor(TensorData::Strings(vec!["a".into()]));
        assert!(verify(&program).is_err());
    }
}
