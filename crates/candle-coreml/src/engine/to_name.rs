//! The function that Core ML is told to load.

use coreml_format::model::Model;

use crate::error::{Error, Result};

/// Name of the function to pass to Core ML; `None` for files with a single one.
///
/// A file with several is always told which, also for its default one: loaded without a name, Core ML takes the default
/// of its own, which is not ours where the file does not say. Files of one function take no name, and older systems
/// neither.
///
/// # Errors
/// If there is no such function.
pub(super) fn to_name(package: &Model, function: Option<&str>) -> Result<Option<String>> {
    let description = &package.description;
    let known = &description.functions;
    let name = match function {
        // Only Core ML can read this model, so it does the check.
        asked if known.is_empty() => return Ok(asked.map(str::to_owned)),
        Some(name) => name,
        None => &description.default_function,
    };
    if function.is_some() && !known.contains_key(name) {
        let available = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Error::NotFound { what: "function", name: name.to_owned(), path: package.path.clone(), available });
    }
    Ok((known.len() > 1 && !name.is_empty()).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::description::{FunctionDescription, ModelDescription};
    use coreml_format::model_types::Body;
    use coreml_format::program::Program;
    use coreml_format::weights::Weights;

    fn model(functions: &[&str], default: &str) -> Model {
        let functions = functions.iter().map(|name| (name.to_string(), FunctionDescription::default())).collect();
        Model {
            path: "a.mlpackage".into(),
            description: ModelDescription { functions, default_function: default.to_owned(), ..Default::default() },
            body: Body::Program(Program::default()),
            parts: Vec::new(),
            weights: Weights::default(),
        }
    }

    #[test]
    fn a_function_is_named_where_there_are_several() {
        let (one, two) = (model(&["main"], "main"), model(&["infer", "prefill"], "infer"));
        for (of, asked, named) in [
            (&one, None, None),
            (&one, Some("main"), None),
            (&two, None, Some("infer")),
            (&two, Some("infer"), Some("infer")),
            (&two, Some("prefill"), Some("prefill")),
            (&model(&["infer", "prefill"], ""), None, None),
            (&model(&[], ""), None, None),
            (&model(&[], ""), Some("infer"), Some("infer")),
        ] {
            assert_eq!(to_name(of, asked).expect("a name or none").as_deref(), named, "{asked:?}");
        }
        for of in [&one, &two] {
            let error = to_name(of, Some("nope")).expect_err("no such function").to_string();
            assert!(error.contains("nope") && error.contains(&of.description.default_function), "{error}");
        }
    }
}
