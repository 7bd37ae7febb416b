//! What the functions of a pipeline must have in common, and the sizes that follow from it.

use coreml_format::program::Binding;

use super::chunked::Chunk;
use super::head::Head;
use super::meta::Meta;
use super::states::{LOCAL, caches};
use super::{Dimensions, inputs};
use crate::error::{Error, Result};
use crate::model::CoreMLModel;

/// Fixed shape of an input; unknown extents count as 0.
pub(super) fn input_shape(model: &CoreMLModel, name: &str) -> Result<Vec<usize>> {
    inputs::declared_shape(model, name).ok_or_else(|| Error::NotFound {
        what: "input",
        name: name.to_owned(),
        path: model.path().to_owned(),
        available: model.input_names().join(", "),
    })
}

/// Last extent of an input; 0 if it is unknown.
pub(super) fn last_extent(model: &CoreMLModel, name: &str) -> Result<usize> {
    Ok(input_shape(model, name)?.last().copied().unwrap_or(0))
}

pub(super) fn dimensions(
    chunks: &[Chunk],
    head_model: &CoreMLModel,
    head: &Head,
    monolithic: bool,
) -> Result<Dimensions> {
    let first = chunks.first().ok_or_else(|| Error::Components {
        path: head_model.path().to_owned(),
        message: "the model has no FFN chunk".to_owned(),
    })?;
    let tokens = inputs::tokens_input(monolithic);
    let hidden = if monolithic {
        let output = inputs::output_shape(&first.prefill, "output_hidden_states");
        output.and_then(|s| s.last().copied()).unwrap_or(0)
    } else {
        last_extent(&first.infer, tokens)?
    };
    let mask = last_extent(&first.infer, "causal_mask")?;
    let batch = input_shape(&first.prefill, tokens)?.get(1).copied().unwrap_or(0);
    let vocab = head.vocab();
    let mut context = mask;
    for chunk in chunks {
        for (name, rows) in caches(&chunk.infer)? {
            if chunk.rotate.is_none() || !name.contains(LOCAL) {
                context = context.min(rows);
            }
        }
        for model in [&chunk.infer, &chunk.prefill] {
            if let Some(rows) = inputs::declared_shape(model, "update_mask").and_then(|s| s.get(2).copied()) {
                context = context.min(rows);
            }
        }
    }
    if (hidden == 0 && !monolithic) || context == 0 || batch == 0 || vocab == 0 || batch > mask {
        return Err(Error::Components {
            path: first.infer.path().to_owned(),
            message: format!(
                "hidden {hidden}, context {context}, prefill batch {batch}, vocabulary {vocab}: not a language model"
            ),
        });
    }
    Ok(Dimensions { context, hidden, vocab, batch })
}

/// The window of local layers and the names of their caches, where functions move them on.
pub(super) fn window(chunks: &[Chunk], context: usize) -> Result<Option<(usize, Vec<String>)>> {
    let mut found: Option<(usize, Vec<String>)> = None;
    for chunk in chunks {
        let Some(rotate) = &chunk.rotate else { continue };
        let fail = |message: String| Error::Components { path: rotate.path().to_owned(), message };
        let of =
            |model| -> Result<Vec<_>> { Ok(caches(model)?.into_iter().filter(|(n, _)| n.contains(LOCAL)).collect()) };
        let local = of(&chunk.infer)?;
        if local.is_empty() || of(rotate)? != local {
            return Err(fail(format!(
                "function `{}` has no state `{LOCAL}` in common with `infer`",
                rotate.function()
            )));
        }
        for (name, rows) in local {
            let (window, names) = found.get_or_insert_with(|| (rows, Vec::new()));
            if *window != rows {
                return Err(fail(format!("state `{name}` holds {rows} tokens, another local cache {window}")));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(found.filter(|(window, _)| *window < context))
}

/// Every function must take inputs that are known, and agree on the width and the mask; every chunk has one output.
pub(super) fn functions(chunks: &[Chunk], head: Option<&CoreMLModel>, sizes: Dimensions) -> Result<()> {
    let monolithic = head.is_none();
    let first = &chunks[0].infer;
    let differ = |other: &CoreMLModel, what: &str, found: usize, expected: usize| Error::Components {
        path: other.path().to_owned(),
        message: format!(
            "{what} is {found} in function `{}`, but {expected} in {}",
            other.function(),
            first.path().display()
        ),
    };
    let mask = last_extent(first, "causal_mask")?;
    let tokens = inputs::tokens_input(monolithic);
    for chunk in chunks {
        let all = [(&chunk.infer, 1), (&chunk.prefill, sizes.batch)];
        for (model, count) in all.into_iter().chain(chunk.rotate.as_ref().map(|rotate| (rotate, 1))) {
            inputs::check(model, monolithic)?;
            let shape = input_shape(model, tokens)?;
            let found = shape.get(1).copied().unwrap_or(0);
            if found != count {
                let what = if count == 1 { "the number of tokens" } else { "the prefill batch" };
                return Err(differ(model, what, found, count));
            }
            let width = shape.last().copied().unwrap_or(0);
            if !monolithic && width != sizes.hidden {
                return Err(differ(model, "the width of `hidden_states`", width, sizes.hidden));
            }
            let columns = last_extent(model, "causal_mask")?;
            if columns != mask {
                return Err(differ(model, "the length of `causal_mask`", columns, mask));
            }
            caches(model)?;
            outputs(model, monolithic, sizes)?;
        }
    }
    if let Some(head) = head {
        let name = head.input_names().first().cloned().unwrap_or_default();
        let width = last_extent(head, &name)?;
        if width != sizes.hidden {
            return Err(differ(head, "the width of `hidden_states`", width, sizes.hidden));
        }
    }
    Ok(())
}

/// Refuses a function whose outputs are not hidden states; those of a monolithic model may be logits.
fn outputs(model: &CoreMLModel, monolithic: bool, sizes: Dimensions) -> Result<()> {
    let fail = |message: String| Err(Error::Components { path: model.path().to_owned(), message });
    let names = model.output_names();
    let known = |name: &String| super::head::is_head(std::iter::once(name.as_str())) || name.contains("hidden_states");
    if monolithic {
        // What it says of the next token is read by the head, which names what it does not know.
        return match names.iter().find(|name| !known(name)) {
            Some(name) => fail(format!("function `{}` has the unsupported output `{name}`", model.function())),
            None => Ok(()),
        };
    }
    let [name] = names.as_slice() else {
        return fail(format!("function `{}` has the unsupported outputs {}", model.function(), names.join(", ")));
    };
    match inputs::output_shape(model, name)
        .filter(|shape| shape.len() != 3 || shape[0] != 1 || shape[2] != sizes.hidden)
    {
        Some(shape) => fail(format!(
            "output `{name}` of function `{}` has the shape {shape:?}, expected hidden states [1, tokens, {}]",
            model.function(),
            sizes.hidden
        )),
        None => Ok(()),
    }
}

/// Whether prefill writes the caches where its first position is, or where a mask says. Some versions of the converter
/// write the first rows whatever the position.
pub(super) fn writes_at_position(model: &CoreMLModel, meta: &Meta) -> bool {
    if inputs::declared_shape(model, "update_mask").is_some() {
        return true;
    }
    let Some(program) = crate::engine::program(model.package()) else {
        return meta.prefill_dynamic_slice.unwrap_or(meta.sliding_window.is_none());
    };
    let Some(function) = program.functions.get(model.function()) else { return false };
    let mut moved = std::collections::HashSet::from(["current_pos"]);
    let mut writes = 0;
    for operation in &function.block.operations {
        let takes = |name: &str| {
            operation.inputs.get(name).is_some_and(|a| {
                a.bindings().iter().any(|b| matches!(b, Binding::Name(n) if moved.contains(n.as_str())))
            })
        };
        if operation.kind == "slice_update" {
            if !takes("begin") {
                return false;
            }
            writes += 1;
        } else if operation.inputs.keys().any(|name| takes(name)) {
            moved.extend(operation.outputs.iter().map(|o| o.name.as_str()));
        }
    }
    writes > 0
}
