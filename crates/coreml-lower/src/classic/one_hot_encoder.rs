//! `oneHotEncoder`, `dictVectorizer`, `categoricalMapping`: categories by their tables.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::model_types::Body;
use coreml_format::model_types::categorical_mapping::{Mapping, ValueOnUnknown};
use coreml_format::model_types::dict_vectorizer::VectorizerKeys;
use coreml_format::model_types::one_hot_encoder::{CategoryType, HandleUnknown};
use coreml_format::program::{Program, Value};

use super::{Maker, constant, ints, is_numeric, named, strings, text};
use crate::error::LowerError;
use crate::model_types::Source;

/// All three types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let (input, output) = (maker.input()?, maker.output()?);
    let result = maker.result(output)?;
    let x = ("x", named(&input.name));
    let category = |int: bool| if int { FeatureType::Int64 } else { FeatureType::String };
    let wanted;
    match source.body {
        Body::OneHotEncoder(model) => {
            let (keys, int) = match &model.category_type {
                Some(CategoryType::Strings(all)) => (strings(&all.vector), false),
                Some(CategoryType::Int64s(all)) => (ints(&all.vector), true),
                None => return Err(maker.invalid("categories", "none")),
            };
            let unknown = match HandleUnknown::try_from(model.handle_unknown) {
                Ok(HandleUnknown::ErrorOnUnknown) => "error",
                Ok(HandleUnknown::IgnoreUnknown) => "ignore",
                Err(_) => return Err(maker.invalid("a known treatment of unknown values", model.handle_unknown)),
            };
            let sparse = matches!(output.ty, FeatureType::Dictionary { int_keys: true });
            if sparse != model.output_sparse {
                return Err(maker.invalid("an output as sparse as the model says", output.ty.in_words()));
            }
            wanted = category(int);
            let sparse = constant(Value::bool(sparse));
            let parameters = vec![x, ("keys", keys), ("sparse", sparse), ("unknown", text(unknown))];
            maker.add("engine.categories", parameters, vec![result]);
        }
        Body::DictVectorizer(model) => {
            let texts = input.ty == FeatureType::Dictionary { int_keys: false };
            let (keys, int_keys) = match &model.keys {
                Some(VectorizerKeys::Strings(all)) => (strings(&all.vector), false),
                // coremltools describes the input of such a table with strings as keys: they are the integers in decimals.
                Some(VectorizerKeys::Int64s(all)) if texts => {
                    (strings(&all.vector.iter().map(i64::to_string).collect::<Vec<_>>()), false)
                }
                Some(VectorizerKeys::Int64s(all)) => (ints(&all.vector), true),
                None => return Err(maker.invalid("keys", "none")),
            };
            wanted = FeatureType::Dictionary { int_keys };
            let sparse = match output.ty {
                FeatureType::Dictionary { int_keys: true } => true,
                ref ty if is_numeric(ty) => false,
                ref ty => return Err(maker.invalid(format!("a vector in `{}`", output.name), ty.in_words())),
            };
            let sparse = constant(Value::bool(sparse));
            maker.add("engine.dictionary_vector", vec![x, ("keys", keys), ("sparse", sparse)], vec![result]);
        }
        Body::CategoricalMapping(model) => {
            let (from, to, int) = match &model.mapping {
                Some(Mapping::StringToInt64(map)) => {
                    let keys: Vec<String> = map.map.keys().cloned().collect();
                    (strings(&keys), ints(&map.map.values().copied().collect::<Vec<_>>()), false)
                }
                Some(Mapping::Int64ToString(map)) => {
                    let values: Vec<String> = map.map.values().cloned().collect();
                    (ints(&map.map.keys().copied().collect::<Vec<_>>()), strings(&values), true)
                }
                None => return Err(maker.invalid("a table", "none")),
            };
            wanted = category(int);
            if output.ty != category(!int) {
                return Err(maker.invalid(category(!int).in_words(), output.ty.in_words()));
            }
            let mut parameters = vec![x, ("from", from), ("to", to)];
            match &model.value_on_unknown {
                Some(ValueOnUnknown::String(t)) if int => {
                    parameters.push(("default", strings(std::slice::from_ref(t))));
                }
                Some(ValueOnUnknown::Int64(n)) if !int => parameters.push(("default", ints(&[*n]))),
                Some(_) => return Err(maker.invalid("a default of the kind of the results", "another")),
                None => {}
            }
            maker.add("engine.map_category", parameters, vec![result]);
        }
        other => return Err(maker.invalid("categories", other.name())),
    }
    if input.ty != wanted {
        return Err(maker.invalid(format!("{} in `{}`", wanted.in_words(), input.name), input.ty.in_words()));
    }
    maker.finish()
}
