//! Tests: the right-hand side of `is`.

use super::arguments::Arguments;
use super::ast::Comparison;
use super::interpreter::Interpreter;
use super::value::Value;
use super::{Result, operators, unsupported, wrong};

impl Interpreter {
    /// `value is name(arguments)`.
    pub(super) fn test(&mut self, name: &str, value: &Value, arguments: Arguments) -> Result<bool> {
        let comparison = match name {
            "eq" | "equalto" | "==" | "sameas" => Some(Comparison::Equal),
            "ne" | "!=" => Some(Comparison::NotEqual),
            "lt" | "lessthan" | "<" => Some(Comparison::Less),
            "le" | "<=" => Some(Comparison::LessEqual),
            "gt" | "greaterthan" | ">" => Some(Comparison::Greater),
            "ge" | ">=" => Some(Comparison::GreaterEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let [Some(other)] = arguments.bind(name, ["other"])? else {
                return wrong(format!("the test `{name}` needs an argument"));
            };
            // `sameas` tests identity: a boolean is not a number.
            if name == "sameas" && std::mem::discriminant(value) != std::mem::discriminant(&other) {
                return Ok(false);
            }
            return operators::compare(comparison, value, &other, &mut self.budget);
        }
        if name == "divisibleby" {
            let [by] = arguments.bind(name, ["by"])?;
            return match (value.as_int(), by.and_then(|b| b.as_int())) {
                (Some(_), Some(0)) => wrong("division by zero"),
                (Some(a), Some(b)) => Ok(a.wrapping_rem(b) == 0),
                _ => wrong("`divisibleby` is about integers"),
            };
        }
        if name == "filter" || name == "test" {
            return unsupported("test", name);
        }
        let [] = arguments.bind(name, [])?;
        let letters = |holds: fn(char) -> bool, fails: fn(char) -> bool| {
            value.as_str().is_some_and(|s| s.chars().any(holds) && !s.chars().any(fails))
        };
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Map(_)),
            "sequence" if matches!(value, Value::List(list) if list.lazy) => false,
            "sequence" => matches!(value, Value::List(_) | Value::Str(_) | Value::Map(_) | Value::Undefined(_)),
            "iterable" => matches!(value, Value::List(_) | Value::Str(_) | Value::Map(_) | Value::Undefined(_)),
            "callable" => matches!(value, Value::Macro(_) | Value::Function(_)),
            "odd" | "even" => match value.as_int() {
                Some(i) => (i.rem_euclid(2) == 1) == (name == "odd"),
                None => return wrong(format!("`{name}` is about integers, not {}", value.kind())),
            },
            "lower" => {
                self.budget.read(value.as_str().map_or(0, str::len))?;
                letters(char::is_lowercase, char::is_uppercase)
            }
            "upper" => {
                self.budget.read(value.as_str().map_or(0, str::len))?;
                letters(char::is_uppercase, char::is_lowercase)
            }
            "escaped" => false,
            _ => return unsupported("test", name),
        })
    }
}
