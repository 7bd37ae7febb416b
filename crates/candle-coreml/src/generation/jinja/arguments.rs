//! Arguments of filters, tests, functions and methods.

use std::sync::Arc;

use super::value::Value;
use super::{Result, quoted, wrong};

/// Evaluated arguments.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Arguments {
    /// Binds the arguments to these parameters, in order.
    pub(super) fn bind<const N: usize>(self, what: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            let found = self.positional.len();
            return wrong(format!("`{}` takes at most {N} arguments, found {found}", quoted(what)));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|p| *p == &*name) {
                Some(i) if bound[i].is_none() => bound[i] = Some(value),
                Some(_) => return wrong(format!("`{}` is given `{name}` twice", quoted(what))),
                None => return wrong(format!("`{}` has no parameter `{}`", quoted(what), quoted(&name))),
            }
        }
        Ok(bound)
    }

    /// Removes the first argument: the name of a filter or test.
    pub(super) fn shift(&mut self) -> Option<Value> {
        (!self.positional.is_empty()).then(|| self.positional.remove(0))
    }

    /// Removes a named argument.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(n, _)| &**n == name)?;
        Some(self.named.remove(at).1)
    }
}

/// A string argument.
pub(super) fn text(value: &Option<Value>, what: &str) -> Result<Arc<str>> {
    match value {
        Some(Value::Str(s)) => Ok(s.clone()),
        Some(other) => wrong(format!("{what} is a string, not {}", other.kind())),
        None => wrong(format!("{what} is missing")),
    }
}

/// An integer argument.
pub(super) fn int(value: &Option<Value>, what: &str, default: i64) -> Result<i64> {
    match value {
        None => Ok(default),
        Some(v) => v.as_int().map_or_else(|| wrong(format!("{what} is an integer, not {}", v.kind())), Ok),
    }
}

/// A count argument.
pub(super) fn count(value: &Option<Value>, what: &str, default: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(_) => usize::try_from(int(value, what, 0)?).or_else(|_| wrong(format!("{what} is not negative"))),
    }
}

/// A boolean argument.
pub(super) fn switch(value: &Option<Value>, default: bool) -> bool {
    value.as_ref().map_or(default, Value::is_true)
}
