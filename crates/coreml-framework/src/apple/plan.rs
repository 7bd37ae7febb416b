//! Core ML's compute plan: the processor intended for each operation.

use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2_core_ml::{MLComputePlan, MLModelStructureProgramBlock, MLModelStructureProgramOperation};
use objc2_foundation::NSError;

use super::available::{Api, require};
use super::configuration::configuration;
use super::devices::kind;
use super::exception::guarded;
use super::foundation::{for_any_thread, handler_failure, url};
use super::model::NativeModel;
use crate::completion::{Completion, pair};
use crate::error::NativeError;
use crate::report::OperationReport;

/// Blocks (branches and loops) nested deeper are omitted from the report.
const MAX_DEPTH: usize = 64;

/// A pending plan.
type Pending = Completion<Result<Vec<OperationReport>, NativeError>>;

impl NativeModel {
    /// Device placement of each operation, in program order, nested blocks after their operation. Empty for models
    /// other than ML Programs. Blocks while Core ML plans, which takes as long as loading.
    ///
    /// # Errors
    /// If the system lacks compute plans (before macOS 14.4 and iOS 17.4), or the framework fails.
    pub fn compute_plan(&self) -> Result<Vec<OperationReport>, NativeError> {
        let answer = self.start_plan()?.wait();
        answer.unwrap_or_else(|source| Err(NativeError::Abandoned { doing: self.planning(), source }))
    }

    /// [`NativeModel::compute_plan`] without blocking.
    ///
    /// # Errors
    /// Same as `compute_plan`.
    pub async fn compute_plan_async(&self) -> Result<Vec<OperationReport>, NativeError> {
        let answer = self.start_plan()?.await;
        answer.unwrap_or_else(|source| Err(NativeError::Abandoned { doing: self.planning(), source }))
    }

    fn planning(&self) -> String {
        format!("planning {}", self.model.compiled.display())
    }

    fn start_plan(&self) -> Result<Pending, NativeError> {
        require(Api::ComputePlan)?;
        if self.model.compiled.as_os_str().is_empty() {
            return Err(NativeError::feature(self.function(), "a model on disk, for a plan", "one from memory"));
        }
        let (completer, completion) = pair();
        let (doing, function) = (self.planning(), self.model.options.function.clone());
        autoreleasepool(|_| {
            let configuration = configuration(&self.model.options)?;
            let url = url(&self.model.compiled)?;
            let handler = RcBlock::new(for_any_thread(move |plan: *mut MLComputePlan, error: *mut NSError| {
                // SAFETY: the handler is called with nil or with a plan that lives as long as the call.
                completer.complete(match unsafe { plan.as_ref() } {
                    Some(plan) => Ok(autoreleasepool(|_| report(plan, function.as_deref()))),
                    None => Err(handler_failure(doing.as_str(), error)),
                });
            }));
            guarded(
                || self.planning(),
                // SAFETY: rules 1 and 3; the framework copies the handler, which may run on any thread because its
                // captures are `Send`.
                || unsafe {
                    MLComputePlan::loadContentsOfURL_configuration_completionHandler(&url, &configuration, &handler);
                },
            )?;
            Ok(completion)
        })
    }
}

/// Operations of the given function, or of all functions.
fn report(plan: &MLComputePlan, function: Option<&str>) -> Vec<OperationReport> {
    let mut operations = Vec::new();
    // SAFETY: getters of an immutable structure, here and below.
    let Some(program) = (unsafe { plan.modelStructure().program() }) else { return operations };
    // SAFETY: as above.
    let (names, functions) = unsafe { program.functions() }.to_vecs();
    let mut all: Vec<_> = names.iter().map(|name| name.to_string()).zip(functions).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, body) in all {
        if function.is_none_or(|wanted| wanted == name) {
            // SAFETY: as above.
            let block = unsafe { body.block() };
            walk(plan, &name, &block, 0, &mut operations);
        }
    }
    operations
}

fn walk(
    plan: &MLComputePlan,
    function: &str,
    block: &MLModelStructureProgramBlock,
    depth: usize,
    operations: &mut Vec<OperationReport>,
) {
    if depth == MAX_DEPTH {
        return;
    }
    // SAFETY: as above.
    for operation in unsafe { block.operations() }.iter() {
        operations.push(one(plan, function, &operation));
        // SAFETY: as above.
        for inner in unsafe { operation.blocks() }.iter() {
            walk(plan, function, &inner, depth + 1, operations);
        }
    }
}

fn one(plan: &MLComputePlan, function: &str, operation: &MLModelStructureProgramOperation) -> OperationReport {
    // SAFETY: getters of immutable objects; the operation belongs to the plan's own structure.
    let (operator, outputs, usage, cost) = unsafe {
        (
            operation.operatorName().to_string(),
            operation.outputs(),
            plan.computeDeviceUsageForMLProgramOperation(operation),
            plan.estimatedCostOfMLProgramOperation(operation),
        )
    };
    // SAFETY: as above.
    let outputs = outputs.iter().map(|output: Retained<_>| unsafe { output.name() }.to_string()).collect();
    // SAFETY: as above.
    let devices = usage.map(|usage| unsafe { (usage.preferredComputeDevice(), usage.supportedComputeDevices()) });
    let (preferred, supported) = match devices {
        Some((preferred, supported)) => (Some(kind(&preferred)), supported.iter().map(|d| kind(&d)).collect()),
        None => (None, Vec::new()),
    };
    OperationReport {
        function: function.to_owned(),
        operator,
        outputs,
        preferred,
        supported,
        // SAFETY: as above.
        cost: cost.map(|cost| unsafe { cost.weight() }),
    }
}
