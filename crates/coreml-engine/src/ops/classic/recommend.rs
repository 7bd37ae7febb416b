//! `engine.recommend`: items that are similar to given ones.

use std::collections::HashSet;

use coreml_values::DictionaryKey;

use super::{constant_keys, numbers, positions};
use crate::array::Array;
use crate::border;
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::{FromValue, Strings, Value};

pub(super) const OP: OpSpec = OpSpec::new("engine.recommend", &[], build);

/// A similarity of item `item` to a given one.
#[derive(Clone, Copy)]
struct Similar {
    item: u32,
    score: f64,
}

/// The items of a sequence.
fn items(f: &Frame<'_>, slot: Slot) -> Result<Vec<DictionaryKey>, OpError> {
    super::keys(f.value(slot)?)
}

/// The items that an optional sequence names; none if it is not given.
fn optional(f: &Frame<'_>, list: Option<(Slot, Slot)>) -> Result<Option<HashSet<DictionaryKey>>, OpError> {
    let Some((list, given)) = list else { return Ok(None) };
    if f64::from_value("given", f.value(given)?)? == 0.0 {
        return Ok(None);
    }
    let all = items(f, list)?;
    budget::claim(all.len().saturating_mul(border::ENTRY))?;
    Ok(Some(all.into_iter().collect()))
}

/// `engine.recommend(x, items, start, similar, score, shift, count?, only?, without?, …_given)` → the items of the highest
/// scores, best first, and a dictionary of their scores.
///
/// x is a dictionary of given items and their scores. Item k scores Σᵢ sim(k, i) · (scoreᵢ − shiftₖ) over the given items
/// i; entries `start[i]` to `start[i + 1]` of `similar` and `score` are the sim(k, i) of item i. Candidates are `only`, or
/// all items, but not `without`, or the given ones; `count` of them, or all.
///
/// Definition: coremltools' `ItemSimilarityRecommender.proto`. Of equal items the first in the model comes first; given items that the model
/// does not know are similar to none.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let items = constant_keys(b, "items")?;
    let positions = positions(&items)?;
    let (start, similar): (Vec<i64>, Vec<i64>) = (b.attr("start")?, b.attr("similar")?);
    let (score, shift): (Vec<f64>, Vec<f64>) = (b.attr("score")?, b.attr("shift")?);
    let pair = |list: &str, given: &str| Ok::<_, OpError>(b.slot_opt(list)?.zip(b.slot_opt(given)?));
    let (count, only) = (pair("count", "count_given")?, pair("only", "only_given")?);
    let without = pair("without", "without_given")?;
    let edge = |&n: &i64| usize::try_from(n).ok().filter(|&n| n <= similar.len());
    let start: Option<Vec<usize>> = start.iter().map(edge).collect();
    let start = start.filter(|s| s.is_sorted() && s.len() == items.len() + 1);
    let start = start.ok_or_else(|| OpError::shape("a table of similar items beyond its end"))?;
    if score.len() != similar.len() || shift.len() != items.len() {
        return Err(OpError::shape(format!("{} scores of {} similar items", score.len(), similar.len())));
    }
    budget::claim_of::<Similar>(similar.len())?;
    let entry = |(&item, &score): (&i64, &f64)| {
        let item = u32::try_from(item).ok().filter(|&k| (k as usize) < items.len());
        item.map(|item| Similar { item, score }).ok_or_else(|| OpError::data("an item that there is not"))
    };
    let table: Vec<Similar> = similar.iter().zip(&score).map(entry).collect::<Result<_, _>>()?;
    b.run(move |f| {
        let Value::Dictionary(entries) = f.value(x)? else {
            let found = f.value(x)?.kind();
            return Err(OpError::Kind { name: "x".to_owned(), expected: "a dictionary", found });
        };
        let mut scores = budget::filled(0.0, items.len())?;
        let mut given = HashSet::new();
        budget::claim(entries.len().saturating_mul(border::ENTRY))?;
        for (key, value) in entries.iter() {
            let (key, value) = (border::key(key)?, f64::from_value("score", value)?);
            if let Some(&i) = positions.get(&key) {
                for near in &table[start[i]..start[i + 1]] {
                    let k = near.item as usize;
                    scores[k] += near.score * (value - shift[k]);
                }
            }
            given.insert(key);
        }
        let only = optional(f, only)?;
        let without = optional(f, without)?.unwrap_or(given);
        let open = |key: &DictionaryKey| only.as_ref().is_none_or(|only| only.contains(key)) && !without.contains(key);
        budget::claim_of::<usize>(items.len())?;
        let mut found: Vec<usize> = (0..items.len()).filter(|&k| open(&items[k])).collect();
        if let Some(k) = found.iter().find(|&&k| scores[k].is_nan()) {
            return Err(OpError::data(format!("the score of {:?} is not a number", items[*k])));
        }
        found.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        if let Some((count, is_given)) = count
            && f64::from_value("given", f.value(is_given)?)? != 0.0
        {
            let asked = numbers(f, &[count])?.first().copied().unwrap_or(0.0);
            if asked < 0.0 {
                return Err(OpError::data(format!("{asked} as a number of recommendations")));
            }
            found.truncate(asked as usize);
        }
        let scored: Vec<_> = found.iter().map(|&k| (items[k].clone(), scores[k])).collect();
        let list =
            sequence(scored.iter().map(|(key, _)| key), matches!(items.first(), Some(DictionaryKey::String(_))))?;
        Ok(vec![list, border::dictionary(scored)?])
    })
}

/// Keys as a sequence of strings or of integers.
fn sequence<'k>(keys: impl Iterator<Item = &'k DictionaryKey>, texts: bool) -> Result<Value, OpError> {
    let (mut data, mut numbers) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            DictionaryKey::String(text) => data.push(text.clone()),
            DictionaryKey::Int(n) => numbers.push(*n),
        }
    }
    if texts {
        let shape = vec![data.len()];
        return Ok(Value::Strings(std::sync::Arc::new(Strings { data, shape })));
    }
    let shape = [numbers.len()];
    let device = &candle_core::Device::Cpu;
    Ok(Array::from_i64(numbers, &shape, coreml_format::dtype::DataType::I64, device)?.into())
}
