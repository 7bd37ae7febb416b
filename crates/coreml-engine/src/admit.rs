//! Admission check: every operation of a function belongs to the function's opset.
//!
//! Core ML rejects a function with an operation outside its opset, and coremltools refuses to build one. Internal
//! operations (`engine.…`), which only rewrites and lowering produce, belong to no opset.

use coreml_format::program::{Block, Function, Operation};

use crate::backend::Backend;
use crate::error::{EngineError, NewerOp, OpLocation};
use crate::ops;

/// Checks a function.
///
/// # Errors
/// [`EngineError::UnsupportedOps`] listing all internal operations, otherwise [`EngineError::NewerOps`] listing all
/// operations of later opsets. Unknown operations are left to the planner.
pub(crate) fn function(name: &str, function: &Function, backend: &Backend, lowered: bool) -> Result<(), EngineError> {
    let (mut internal, mut newer) = (Vec::new(), Vec::new());
    visit(&function.block, &mut |op| {
        let Some(row) = backend.find(&op.kind) else { return };
        let place = || OpLocation { function: name.to_owned(), kind: op.kind.clone(), name: op.name.clone() };
        if lowered && ops::is_lowered(row.name) {
            return;
        }
        let opset = op.opset(function.opset);
        if row.is_internal() || (!lowered && op.attributes.contains_key(Operation::OPSET)) {
            internal.push(place());
        } else if let Some(&since) = row.opsets.first().filter(|&&since| since > opset) {
            newer.push(NewerOp { place: place(), since });
        }
    });
    if !internal.is_empty() {
        return Err(EngineError::UnsupportedOps { ops: internal });
    }
    if newer.is_empty() { Ok(()) } else { Err(EngineError::NewerOps { opset: function.opset, ops: newer }) }
}

fn visit<'b>(block: &'b Block, f: &mut impl FnMut(&'b Operation)) {
    for op in &block.operations {
        f(op);
        op.blocks.iter().for_each(|block| visit(block, f));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    fn admitted(opset: &str, body: &str) -> Result<(), EngineError> {
        let text = format!("program(1.3) {{ func main<{opset}>(tensor<fp32, [2]> x) {{ {body} }} -> (y); }}");
        let mut program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let main = program.functions.swap_remove("main").expect("main");
        function("main", &main, &Backend::cpu(), false)
    }

    #[test]
    fn operations_of_rewrites_are_refused_by_name() {
        let body = "tensor<fp32, [2]> y = engine.silu_mul(gate = x, x = x);";
        let error = admitted("ios18", body).expect_err("no file has it").to_string();
        assert!(error.contains("engine.silu_mul `y`"), "{error}");
        let nested = "tensor<fp32, [2]> y = cond(pred = bool(true)) { tensor<fp32, [2]> t = engine.rms_norm(x = x); } -> (t) { } -> (x);";
        let error = admitted("ios18", nested).expect_err("no file has it").to_string();
        assert!(error.contains("engine.rms_norm"), "{error}");
    }

    #[test]
    fn operations_of_later_opsets_are_refused_all_at_once() {
        let body = "tensor<fp32, [?, ?]> a = sliding_windows(x = x, axis = int32(0), size = int32(1), stride = int32(1)); \
                    tensor<fp32, [2]> b = reshape_like(x = x, ref_tensors = (x), begins = tensor<int32, [1]>([0]), \
                    ends = tensor<int32, [1]>([1]), end_masks = tensor<bool, [1]>([false])); \
                    tensor<fp32, [2]> y = slice_update(x = x, update = b, begin = tensor<int32, [1]>([0]), end = tensor<int32, [1]>([2]));";
        assert!(admitted("ios18", body).is_ok());
        match admitted("ios15", body) {
            Err(EngineError::NewerOps { opset, ops }) => {
                let found: Vec<_> = ops.iter().map(|op| (op.place.name.as_str(), op.since.text_name())).collect();
                assert_eq!((opset.text_name(), found), ("ios15", vec![("b", "ios16"), ("y", "ios18")]));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(admitted("ios17", body), Err(EngineError::NewerOps { ops, .. }) if ops.len() == 1));
    }

    #[test]
    fn unknown_operations_are_left_to_the_planner() {
        assert!(admitted("ios15", "tensor<fp32, [2]> y = no_such_operation(x = x);").is_ok());
    }
}
