//! `kNearestNeighborsClassifier`: the vote of the nearest samples.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coreml_format::model_types::Body;
use coreml_format::model_types::data_structures::{
    AllowedInt64, ClassLabels, Int64Parameter, Int64Vector, StringVector,
};
use coreml_format::model_types::nearest_neighbors::{
    DefaultClassLabel, IndexType, KNearestNeighborsClassifier, WeightingScheme,
};
use coreml_format::program::{Program, Value};

use super::{Maker, constant, doubles, ints};
use crate::error::LowerError;
use crate::model_types::Source;

/// The classes of the samples, in order, and the class of each sample.
fn classes<T: Ord + Clone>(labels: &[T]) -> (Vec<T>, Vec<i64>) {
    let mut places: BTreeMap<T, i64> = labels.iter().map(|label| (label.clone(), 0)).collect();
    places.values_mut().zip(0..).for_each(|(place, i)| *place = i);
    (places.keys().cloned().collect(), labels.iter().map(|label| places[label]).collect())
}

/// The number of neighbours of a model: its default, which it has to allow.
fn count(maker: &Maker<'_>, parameter: Option<&Int64Parameter>) -> Result<i64, LowerError> {
    let parameter = parameter.ok_or_else(|| maker.invalid("a number of neighbours", "none"))?;
    let count = parameter.default_value;
    let allowed = match &parameter.allowed_values {
        None => true,
        Some(AllowedInt64::Range(r)) => (r.min_value..=r.max_value).contains(&count),
        Some(AllowedInt64::Set(set)) => set.values.contains(&count),
    };
    if count < 1 || !allowed {
        return Err(maker.invalid("a number of neighbours that the model allows", count));
    }
    Ok(count)
}

/// The samples, one after the other, and their length.
fn samples(maker: &Maker<'_>, model: &KNearestNeighborsClassifier) -> Result<(Vec<f64>, i64, i64), LowerError> {
    let index = model.nearest_neighbors_index.as_ref().ok_or_else(|| maker.invalid("samples", "none"))?;
    let length = index.number_of_dimensions;
    let dimensions = usize::try_from(length).ok().filter(|&n| n > 0);
    let dimensions = dimensions.ok_or_else(|| maker.invalid("a length of samples", length))?;
    if let Some(other) = index.float_samples.iter().find(|s| s.vector.len() != dimensions) {
        return Err(maker.invalid(format!("samples of {dimensions} elements"), other.vector.len()));
    }
    if index.squared_euclidean_distance.is_none() {
        return Err(maker.invalid("squared Euclidean distances", "no distance, or another one"));
    }
    let leaf = match index.index_type {
        Some(IndexType::Linear(_)) => 0,
        Some(IndexType::SingleKdTree(tree)) if tree.leaf_size > 0 => tree.leaf_size,
        Some(IndexType::SingleKdTree(tree)) => return Err(maker.invalid("a size of leaves above 0", tree.leaf_size)),
        None => return Err(maker.invalid("a linear or k-d tree index", "none")),
    };
    let all = index.float_samples.iter().flat_map(|s| &s.vector).map(|&x| f64::from(x)).collect();
    Ok((all, i64::from(length), i64::from(leaf)))
}

pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let Body::KNearestNeighborsClassifier(model) = source.body else {
        return Err(maker.invalid("nearest neighbours", source.body.name()));
    };
    let (all, dimensions, leaf) = samples(&maker, model)?;
    let count = count(&maker, model.number_of_neighbors.as_ref())?;
    let inverse = match model.weighting_scheme {
        Some(WeightingScheme::Uniform(_)) => false,
        Some(WeightingScheme::InverseDistance(_)) => true,
        None => return Err(maker.invalid("uniform or inverse-distance weighting", "none")),
    };
    let labels = model.class_labels.as_ref().ok_or_else(|| maker.invalid("labels of the samples", "none"))?;
    let rows = all.len() as i64 / dimensions;
    if labels.count() as i64 != rows {
        return Err(maker.invalid(format!("a label for each of {rows} samples"), labels.count()));
    }
    // Without samples every input has the default label.
    let default = match (&model.default_class_label, labels) {
        (None, _) => None,
        (Some(DefaultClassLabel::String(t)), ClassLabels::Strings(_)) => {
            Some(ClassLabels::Strings(StringVector { vector: vec![t.clone()] }))
        }
        (Some(DefaultClassLabel::Int64(n)), ClassLabels::Int64s(_)) => {
            Some(ClassLabels::Int64s(Int64Vector { vector: vec![*n] }))
        }
        (Some(_), _) => return Err(maker.invalid("a default label of the kind of the others", "another")),
    };
    let (labels, class) = match (labels, default) {
        (_, None) if rows == 0 => return Err(maker.invalid("samples or a default label", "neither")),
        (_, Some(default)) if rows == 0 => (default, Vec::new()),
        (ClassLabels::Strings(all), _) => {
            let (vector, class) = classes(&all.vector);
            (ClassLabels::Strings(StringVector { vector }), class)
        }
        (ClassLabels::Int64s(all), _) => {
            let (vector, class) = classes(&all.vector);
            (ClassLabels::Int64s(Int64Vector { vector }), class)
        }
    };
    let scores = maker.intermediate("scores");
    let name = scores.name.clone();
    let parameters = vec![
        ("x", maker.numbers()?),
        ("samples", doubles(&all)),
        ("dimensions", ints(&[dimensions])),
        ("class", ints(&class)),
        ("classes", ints(&[labels.count() as i64])),
        ("count", ints(&[count])),
        ("inverse", constant(Value::bool(inverse))),
        ("leaf", ints(&[leaf])),
    ];
    maker.add("engine.neighbors", parameters, vec![scores]);
    // Of two labels with equal votes the first wins, as with more.
    maker.classify_first(&name, &Some(labels))?;
    maker.finish()
}
