//! `identity`, `classConfidenceThresholding`: what was given, and little more.

use std::borrow::Cow;

use coreml_format::model_types::Body;
use coreml_format::program::Program;

use super::{Maker, is_numeric, named};
use crate::error::LowerError;
use crate::model_types::Source;

/// Both types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    match source.body {
        Body::Identity(_) => {
            let (inputs, outputs) = (&maker.described.inputs, &maker.described.outputs);
            for (i, output) in outputs.iter().enumerate() {
                // Results have the names of the inputs, or their order.
                let input = maker.described.input(&output.name);
                let input = input.or_else(|| inputs.get(i).filter(|_| inputs.len() == outputs.len()));
                let input = input.ok_or_else(|| maker.invalid(format!("an input `{}`", output.name), "none"))?;
                if input.ty.in_words() != output.ty.in_words() {
                    let expected = format!("{} in `{}`", input.ty.in_words(), output.name);
                    return Err(maker.invalid(expected, output.ty.in_words()));
                }
                if input.name == output.name {
                    // The program returns its input.
                    continue;
                }
                let result = maker.result(output)?;
                let kind = if is_numeric(&input.ty) { "engine.double" } else { "engine.copy" };
                maker.add(kind, vec![("x", named(&input.name))], vec![result]);
            }
        }
        // The curves say what confidences mean; results do not depend on them.
        Body::ClassConfidenceThresholding(_) => {
            let (input, output) = (maker.input()?, maker.output()?);
            for feature in [input, output] {
                if !is_numeric(&feature.ty) {
                    return Err(maker.invalid(format!("an array in `{}`", feature.name), feature.ty.in_words()));
                }
            }
            let result = maker.result(output)?;
            maker.add("engine.confidences", vec![("x", named(&input.name))], vec![result]);
        }
        other => return Err(maker.invalid("an identity", other.name())),
    }
    maker.finish()
}
