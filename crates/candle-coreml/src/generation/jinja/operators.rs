//! Operators, as in Python.

use super::ast::{Binary, Comparison};
use super::budget::Budget;
use super::value::{Key, Value};
use super::{Result, wrong};

fn overflow<T>() -> Result<T> {
    wrong("an integer leaves the range of 64 bits")
}

pub(super) fn negate(value: &Value) -> Result<Value> {
    match (value.as_int(), value) {
        (Some(i), _) => i.checked_neg().map_or_else(overflow, |i| Ok(Value::Int(i))),
        (None, Value::Float(f)) => Ok(Value::Float(-f)),
        _ => wrong(format!("`-` before {}", value.kind())),
    }
}

fn sign(operator: Binary) -> &'static str {
    match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Rem => "%",
        Binary::Pow => "**",
    }
}

pub(super) fn binary(operator: Binary, left: &Value, right: &Value, budget: &mut Budget) -> Result<Value> {
    match (operator, left, right) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => {
            let mut sink = budget.sink();
            sink.push(a)?;
            sink.push(b)?;
            return Ok(sink.value());
        }
        (Binary::Add, Value::List(a), Value::List(b)) if a.tuple == b.tuple && !a.lazy && !b.lazy => {
            budget.elements(a.items.len() + b.items.len())?;
            let items = a.items.iter().chain(&b.items).cloned().collect();
            return if a.tuple { budget.tuple(items) } else { budget.list(items) };
        }
        (Binary::Rem, Value::Str(format), _) => {
            let arguments = match right {
                Value::List(list) if list.tuple => list.items.clone(),
                other => vec![other.clone()],
            };
            return super::format::percent(format, &arguments, budget);
        }
        (Binary::Mul, Value::Str(text), n) | (Binary::Mul, n, Value::Str(text)) => {
            if let Some(n) = n.as_int() {
                let mut sink = budget.sink();
                sink.repeat(text, usize::try_from(n).unwrap_or(0))?;
                return Ok(sink.value());
            }
        }
        (Binary::Mul, Value::List(list), n) | (Binary::Mul, n, Value::List(list)) if !list.lazy => {
            if let Some(n) = n.as_int() {
                let n = usize::try_from(n).unwrap_or(0);
                budget.elements(list.items.len().saturating_mul(n))?;
                budget.steps(n as u64)?;
                let items = (0..n).flat_map(|_| list.items.iter().cloned()).collect();
                return if list.tuple { budget.tuple(items) } else { budget.list(items) };
            }
        }
        _ => {}
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(operator, a, b);
    }
    let (Some(a), Some(b)) = (left.as_float(), right.as_float()) else {
        return wrong(format!("`{}` between {} and {}", sign(operator), left.kind(), right.kind()));
    };
    if b == 0.0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Rem) {
        return wrong("division by zero");
    }
    Ok(Value::Float(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::FloorDiv => (a / b).floor(),
        Binary::Rem => a - b * (a / b).floor(),
        Binary::Pow => a.powf(b),
    }))
}

fn integers(operator: Binary, a: i64, b: i64) -> Result<Value> {
    if b == 0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Rem) {
        return wrong("division by zero");
    }
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        // Round towards negative infinity, so that the remainder has the sign of the divisor.
        Binary::FloorDiv => {
            a.checked_div(b).map(|q| if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Binary::Rem => {
            let r = a.wrapping_rem(b);
            Some(if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
        }
        Binary::Pow if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map_or_else(overflow, |i| Ok(Value::Int(i)))
}

pub(super) fn compare(comparison: Comparison, left: &Value, right: &Value, budget: &mut Budget) -> Result<bool> {
    Ok(match comparison {
        Comparison::Equal => left.equals(right, budget)?,
        Comparison::NotEqual => !left.equals(right, budget)?,
        Comparison::Less => left.order(right, budget)?.is_lt(),
        Comparison::LessEqual => left.order(right, budget)?.is_le(),
        Comparison::Greater => left.order(right, budget)?.is_gt(),
        Comparison::GreaterEqual => left.order(right, budget)?.is_ge(),
        Comparison::In => contains(right, left, budget)?,
        Comparison::NotIn => !contains(right, left, budget)?,
    })
}

/// `item in all`.
pub(super) fn contains(all: &Value, item: &Value, budget: &mut Budget) -> Result<bool> {
    match (all, item) {
        (Value::Str(text), Value::Str(part)) => {
            budget.read(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        (Value::List(list), item) => {
            for other in &list.items {
                if item.equals(other, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Map(map), key) => Ok(Key::of(key).is_ok_and(|key| map.entries.contains_key(&key))),
        (Value::Undefined(_), _) => Ok(false),
        (all, item) => wrong(format!("`in`: {} in {}", item.kind(), all.kind())),
    }
}

/// Resolves an index; negative ones count from the end.
pub(super) fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { index.checked_add(length)? } else { index };
    usize::try_from(index).ok().filter(|_| index < length)
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, [start, stop, step]: [Option<i64>; 3], budget: &mut Budget) -> Result<Value> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return wrong("a slice with a step of 0");
    }
    let places = |length: usize| {
        let length = length as i64;
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let bound = |given: Option<i64>, default: i64| match given {
            None => default,
            Some(i) if i < 0 => i.saturating_add(length).clamp(low, high),
            Some(i) => i.clamp(low, high),
        };
        let (first, end) = if step > 0 { (low, high) } else { (high, low) };
        let (mut at, stop) = (bound(start, first), bound(stop, end));
        std::iter::from_fn(move || {
            let inside = if step > 0 { at < stop } else { at > stop };
            let place = at;
            at = at.saturating_add(step);
            inside.then_some(place as usize)
        })
    };
    match value {
        // Jinja finds neither elements nor slices in an iterator.
        Value::List(list) if list.lazy => Ok(Value::Undefined("a slice of an iterator".into())),
        Value::List(list) => {
            let places: Vec<usize> = {
                budget.elements(list.items.len())?;
                places(list.items.len()).collect()
            };
            let items = places.into_iter().map(|i| list.items[i].clone()).collect();
            if list.tuple { budget.tuple(items) } else { budget.list(items) }
        }
        Value::Str(text) => {
            budget.read(text.len())?;
            if step == 1 {
                let mut places = places(text.chars().count());
                let Some(first) = places.next() else { return budget.text("") };
                let count = 1 + places.count();
                let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
                let (from, to) = (byte(first), byte(first + count));
                return budget.text(&text[from..to]);
            }
            budget.take(text.len().saturating_mul(size_of::<char>()))?;
            let chars: Vec<char> = text.chars().collect();
            let mut sink = budget.sink();
            places(chars.len()).try_for_each(|i| sink.char(chars[i]))?;
            Ok(sink.value())
        }
        Value::Undefined(what) => {
            let message = format!("`{}` is undefined, and has no slice", super::quoted(what));
            Err(super::TemplateErrorKind::Undefined(message).into())
        }
        other => wrong(format!("{} has no slice", other.kind())),
    }
}
