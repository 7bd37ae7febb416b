//! `itemSimilarityRecommender`: items similar to given ones.

use std::borrow::Cow;

use coreml_format::description::{FeatureDescription, FeatureType};
use coreml_format::model_types::Body;
use coreml_format::model_types::item_similarity::ItemSimilarityRecommender;
use coreml_format::program::{NamedType, Program};

use super::{Maker, Parameters, doubles, ints, named, strings, value_type};
use crate::error::LowerError;
use crate::model_types::Source;

/// Most items of a model without names for them.
const MOST: u64 = 1 << 24;

/// The input of this name, of one of these types; none if the model names none.
fn input<'m>(maker: &Maker<'m>, name: &str, ty: &FeatureType) -> Result<Option<&'m FeatureDescription>, LowerError> {
    let found = if name.is_empty() { None } else { maker.described.input(name) };
    match found {
        Some(feature) if feature.ty != *ty => {
            Err(maker.invalid(format!("{} in `{name}`", ty.in_words()), feature.ty.in_words()))
        }
        found => Ok(found),
    }
}

/// Adds an input that may be left out.
fn optional(
    maker: &mut Maker<'_>,
    all: &mut Parameters,
    parameter: [&'static str; 2],
    feature: Option<&FeatureDescription>,
) -> Result<(), LowerError> {
    let Some(feature) = feature else { return Ok(()) };
    all.push((parameter[0], named(&feature.name)));
    all.push((parameter[1], maker.presence(feature)?));
    Ok(())
}

/// The number of items, and the similarities by given item: where those of each begin, items, scores.
fn table(
    maker: &Maker<'_>,
    model: &ItemSimilarityRecommender,
) -> Result<(u64, [Vec<i64>; 2], [Vec<f64>; 2]), LowerError> {
    let entries = &model.item_item_similarities;
    let named = match (&model.item_string_ids, &model.item_int64_ids) {
        (Some(_), Some(_)) => return Err(maker.invalid("one kind of ids of the items", "two")),
        (Some(ids), None) => Some(ids.vector.len()),
        (None, Some(ids)) => Some(ids.vector.len()),
        (None, None) => None,
    };
    let last = entries.iter().flat_map(|e| e.similar_item_list.iter().map(|s| s.item_id).chain([e.item_id])).max();
    let needed = last.map_or(0, |n| n.saturating_add(1));
    let count = named.map_or(needed, |n| n as u64);
    if needed > count || count > MOST {
        return Err(maker.invalid(format!("items up to {}", count.min(MOST)), format!("item {}", needed.max(1) - 1)));
    }
    let mut by_item = vec![None; count as usize];
    for entry in entries {
        if by_item[entry.item_id as usize].replace(entry).is_some() {
            return Err(maker.invalid(format!("the items similar to item {} once", entry.item_id), "twice"));
        }
    }
    let (mut start, mut similar, mut score, mut shift) = (vec![0], vec![], vec![], vec![]);
    for entry in by_item {
        let near = entry.map_or(&[][..], |e| &e.similar_item_list);
        similar.extend(near.iter().map(|s| s.item_id as i64));
        score.extend(near.iter().map(|s| s.similarity_score));
        shift.push(entry.map_or(0.0, |e| e.item_score_adjustment));
        start.push(similar.len() as i64);
    }
    Ok((count, [start, similar], [score, shift]))
}

pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let Body::ItemSimilarityRecommender(model) = source.body else {
        return Err(maker.invalid("a recommender", source.body.name()));
    };
    let (count, [start, similar], [score, shift]) = table(&maker, model)?;
    let ints_as_ids = model.item_string_ids.is_none();
    let ids = match (&model.item_string_ids, &model.item_int64_ids) {
        (Some(ids), _) => strings(&ids.vector),
        (None, Some(ids)) => ints(&ids.vector),
        (None, None) => ints(&(0..count as i64).collect::<Vec<_>>()),
    };
    let (keys, list) = (FeatureType::Dictionary { int_keys: ints_as_ids }, FeatureType::Sequence { ints: ints_as_ids });
    let given = input(&maker, &model.item_input_feature_name, &keys)?;
    let given = given.ok_or_else(|| {
        maker.invalid(format!("a dictionary `{}` of items and scores", model.item_input_feature_name), "no such input")
    })?;
    let number = input(&maker, &model.num_recommendations_input_feature_name, &FeatureType::Int64)?;
    let only = input(&maker, &model.item_restriction_input_feature_name, &list)?;
    let without = input(&maker, &model.item_exclusion_input_feature_name, &list)?;
    let used = [Some(given), number, only, without];
    if let Some(other) = maker.described.inputs.iter().find(|f| !used.iter().flatten().any(|u| u.name == f.name)) {
        return Err(maker.invalid("inputs that the recommender reads", format!("`{}`", other.name)));
    }
    let mut all = vec![
        ("x", named(&given.name)),
        ("items", ids),
        ("start", ints(&start)),
        ("similar", ints(&similar)),
        ("score", doubles(&score)),
        ("shift", doubles(&shift)),
    ];
    optional(&mut maker, &mut all, ["count", "count_given"], number)?;
    optional(&mut maker, &mut all, ["only", "only_given"], only)?;
    optional(&mut maker, &mut all, ["without", "without_given"], without)?;
    let mut outputs = Vec::with_capacity(2);
    let names = [&model.recommended_item_list_output_feature_name, &model.recommended_item_score_output_feature_name];
    for (name, ty) in names.into_iter().zip([list, keys]) {
        let described = maker.described.output(name);
        if let Some(other) = described.filter(|f| f.ty != ty) {
            return Err(maker.invalid(format!("{} in `{name}`", ty.in_words()), other.ty.in_words()));
        }
        let name = described.map_or_else(|| maker.fresh("unnamed"), |f| f.name.clone());
        let ty = value_type(&ty, false).ok_or_else(|| maker.invalid("a list of items", "none"))?;
        outputs.push(NamedType { name, ty });
    }
    if outputs[0].name == outputs[1].name {
        outputs[1].name.push('_');
    }
    if let Some(other) = maker.described.outputs.iter().find(|f| outputs.iter().all(|o| o.name != f.name)) {
        return Err(maker.invalid("items and their scores", format!("the output `{}`", other.name)));
    }
    maker.add("engine.recommend", all, outputs);
    maker.finish()
}
