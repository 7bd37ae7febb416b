//! Branches, loops and their exits.
//!
//! Nested networks share the blobs of their parent; blocks of a program share nothing that they write. So a block returns
//! every blob that it writes and others may read, and a loop carries them. What follows an exit becomes a block that runs
//! if the exit did not happen. A loop runs its condition once before it, and again at the end of its body.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::control_flow::{Branch, Loop};
use coreml_format::model_types::neural_network::layer::Layer;
use coreml_format::model_types::neural_network::{NeuralNetwork, NeuralNetworkLayer};
use coreml_format::program::{Argument, Binding, Block, NamedType, Operation};
use indexmap::{IndexMap, IndexSet};

use super::build::{Blob, Extent, Network, float, int, of, tensor};
use super::layers;
use crate::emit::{named, operation};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// Leaves the rest of a turn.
const CONTINUE: f32 = 1.0;
/// Leaves the loop.
const BREAK: f32 = 2.0;

/// What the layers so far do to the turn of a loop.
#[derive(Debug, Clone, Default)]
pub(super) enum Exit {
    /// They run to their end.
    #[default]
    Never,
    /// They leave it.
    Always(f32),
    /// They leave it if this blob is not 0.
    Maybe(Blob),
}

/// What a block does.
struct Scope {
    operations: Vec<Operation>,
    /// The last value of each blob that it writes; none if nothing can be said of it.
    written: IndexMap<String, Option<Blob>>,
    exit: Exit,
}

/// Layers in order.
pub(super) fn sequence(n: &mut Network, all: &[NeuralNetworkLayer]) -> Lowered<()> {
    for (i, layer) in all.iter().enumerate() {
        let Some(kind) = &layer.layer else {
            n.layer = (layer.name.clone(), "unknown");
            return n.refuse("layers of this kind are not known");
        };
        n.layer = (layer.name.clone(), layers::name(kind));
        n.turn()?;
        layers::lower(n, layer, kind)?;
        match n.exit.clone() {
            Exit::Never => {}
            // What follows never runs.
            Exit::Always(_) => return Ok(()),
            Exit::Maybe(flag) => {
                let rest = &all[i + 1..];
                if !rest.is_empty() {
                    let stays = n.typed("equal", vec![("x", of(&flag)), ("y", float(0.0))], DataType::Bool, Vec::new());
                    n.exit = Exit::Never;
                    let left = |n: &mut Network| {
                        n.exit = Exit::Maybe(flag.clone());
                        Ok(())
                    };
                    choose(n, &stays, |n| sequence(n, rest), left)?;
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What `f` adds, without adding it.
fn scoped(n: &mut Network, f: impl FnOnce(&mut Network) -> Lowered<()>) -> Lowered<Scope> {
    let (outer, before) = (std::mem::take(&mut n.operations), std::mem::take(&mut n.exit));
    n.journal.push(Vec::new());
    let done = f(n);
    let mut written = IndexMap::new();
    let undo = n.journal.pop().unwrap_or_default();
    for (name, _) in &undo {
        written.insert(name.clone(), n.blobs.get(name).cloned());
    }
    for (name, old) in undo.into_iter().rev() {
        match old {
            Some(blob) => n.blobs.insert(name, blob),
            None => n.blobs.remove(&name),
        };
    }
    let scope = Scope {
        operations: std::mem::replace(&mut n.operations, outer),
        written,
        exit: std::mem::replace(&mut n.exit, before),
    };
    done.map(|()| scope)
}

/// Adds operations at the end of a scope.
fn within<T>(n: &mut Network, scope: &mut Scope, f: impl FnOnce(&mut Network) -> T) -> T {
    std::mem::swap(&mut n.operations, &mut scope.operations);
    let made = f(n);
    std::mem::swap(&mut n.operations, &mut scope.operations);
    made
}

/// The extents that two shapes of one rank agree on.
fn agreed(a: &[Extent], b: &[Extent]) -> Option<Vec<Extent>> {
    (a.len() == b.len()).then(|| a.iter().zip(b).map(|(a, b)| if a == b { *a } else { None }).collect())
}

/// The exit of a scope as a number.
fn flag(n: &mut Network, exit: &Exit) -> Blob {
    match exit {
        Exit::Never => n.scalar(0.0),
        Exit::Always(kind) => n.scalar(*kind),
        Exit::Maybe(blob) => blob.clone(),
    }
}

/// One of two scopes; both may write blobs and leave the turn of a loop.
fn choose(
    n: &mut Network,
    when: &Blob,
    yes: impl FnOnce(&mut Network) -> Lowered<()>,
    no: impl FnOnce(&mut Network) -> Lowered<()>,
) -> Lowered<()> {
    let place = n.layer.clone();
    let mut scopes = [scoped(n, yes)?, scoped(n, no)?];
    n.layer = place;
    let names: IndexSet<String> = scopes.iter().flat_map(|s| s.written.keys().cloned()).collect();
    let (mut outputs, mut results, mut kept) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    for name in names {
        let outer = n.blobs.get(&name).cloned();
        let found = [0, 1].map(|i| match scopes[i].written.get(&name) {
            Some(blob) => blob.clone(),
            None => outer.clone(),
        });
        let [Some(a), Some(b)] = found else {
            n.forget(&name, "only one branch writes it");
            continue;
        };
        let whole = [(0, a), (1, b)].map(|(i, blob)| within(n, &mut scopes[i], |n| n.full(&blob)));
        let Some(shape) = agreed(&whole[0].shape, &whole[1].shape) else {
            n.forget(&name, "its rank depends on a branch");
            continue;
        };
        let made = NamedType { name: n.fresh(&name), ty: tensor(DataType::F32, &shape) };
        kept.push((name, Blob { name: made.name.clone(), shape, short: false }));
        outputs.push(made);
        for (results, blob) in results.iter_mut().zip(whole) {
            results.push(blob.name);
        }
    }
    n.exit = match [&scopes[0].exit, &scopes[1].exit] {
        [Exit::Never, Exit::Never] => Exit::Never,
        [Exit::Always(a), Exit::Always(b)] if a == b => Exit::Always(*a),
        _ => {
            let made = NamedType { name: n.fresh("exit"), ty: tensor(DataType::F32, &[]) };
            for (i, results) in results.iter_mut().enumerate() {
                let exit = scopes[i].exit.clone();
                results.push(within(n, &mut scopes[i], |n| flag(n, &exit)).name);
            }
            let exit = Blob { name: made.name.clone(), shape: Vec::new(), short: false };
            outputs.push(made);
            Exit::Maybe(exit)
        }
    };
    if !outputs.is_empty() {
        let blocks = scopes.into_iter().zip(results);
        let blocks = blocks.map(|(s, outputs)| Block { inputs: Vec::new(), operations: s.operations, outputs });
        let made = Operation { blocks: blocks.collect(), ..operation("cond", [("pred", of(when))], outputs) };
        n.operations.push(made);
    }
    for (name, blob) in kept {
        n.set(&name, Some(blob));
    }
    Ok(())
}

/// A blob of one element as a truth value: its absolute value is above 10⁻⁶.
fn truth(n: &mut Network, x: &Blob) -> Lowered<Blob> {
    let x = n.element(x)?;
    let size = n.map("abs", &x, Vec::new());
    Ok(n.typed("greater", vec![("x", of(&size)), ("y", float(1e-6))], DataType::Bool, Vec::new()))
}

fn layers_of(network: Option<&NeuralNetwork>) -> &[NeuralNetworkLayer] {
    network.map_or(&[], |network| &network.layers)
}

pub(super) fn branch(n: &mut Network, layer: &NeuralNetworkLayer, p: &Branch) -> Lowered<()> {
    let x = n.only(layer)?;
    if !layer.output.is_empty() || p.if_branch.is_none() {
        return n.refuse("it has outputs, or nothing to run");
    }
    let when = truth(n, &x)?;
    let (yes, no) = (layers_of(p.if_branch.as_deref()), layers_of(p.else_branch.as_deref()));
    choose(n, &when, |n| sequence(n, yes), |n| sequence(n, no))
}

/// Leaves the turn or the loop.
pub(super) fn leave(n: &mut Network, layer: &NeuralNetworkLayer, breaks: bool) -> Lowered<()> {
    if n.loops == 0 || !layer.input.is_empty() || !layer.output.is_empty() {
        return n.refuse("it stands outside of a loop, or has inputs or outputs");
    }
    n.exit = Exit::Always(if breaks { BREAK } else { CONTINUE });
    Ok(())
}

/// A loop that is being lowered.
struct Turns<'m> {
    condition: &'m [NeuralNetworkLayer],
    /// The blob that ends it; empty if there is none.
    variable: &'m str,
    body: &'m [NeuralNetworkLayer],
    /// Name of the blob that says whether there is another turn. No file has it.
    go: String,
}

impl Turns<'_> {
    /// Decides on another turn.
    fn decide(&self, n: &mut Network) -> Lowered<()> {
        let mut go = n.scalar(1.0);
        if !self.variable.is_empty() {
            let place = n.layer.clone();
            sequence(n, self.condition)?;
            n.layer = place;
            if !matches!(n.exit, Exit::Never) {
                return n.refuse("its condition leaves the loop");
            }
            let Some(value) = n.blobs.get(self.variable).cloned() else {
                return n.refuse(format!("nothing writes its condition `{}`", self.variable));
            };
            let truth = truth(n, &value)?;
            go = n.cast(&truth, DataType::F32);
        }
        n.set(&self.go, Some(go));
        Ok(())
    }

    /// One turn.
    fn turn(&self, n: &mut Network) -> Lowered<()> {
        sequence(n, self.body)?;
        match std::mem::take(&mut n.exit) {
            Exit::Never | Exit::Always(CONTINUE) => self.decide(n),
            Exit::Always(_) => {
                let stop = n.scalar(0.0);
                n.set(&self.go, Some(stop));
                Ok(())
            }
            Exit::Maybe(flag) => {
                let limit = ("y", float((CONTINUE + BREAK) / 2.0));
                let stays = n.typed("less", vec![("x", of(&flag)), limit], DataType::Bool, Vec::new());
                let stop = |n: &mut Network| {
                    let stop = n.scalar(0.0);
                    n.set(&self.go, Some(stop));
                    Ok(())
                };
                choose(n, &stays, |n| self.decide(n), stop)
            }
        }
    }
}

/// What a loop carries from turn to turn, by blob.
type Carried = IndexMap<String, Vec<Extent>>;

/// Whether layers outside of a loop read a blob.
fn read_elsewhere(n: &Network, inside: &IndexMap<&str, usize>, name: &str) -> bool {
    n.reads.get(name).copied().unwrap_or(0) > inside.get(name).copied().unwrap_or(0)
}

pub(super) fn repeat(n: &mut Network, layer: &NeuralNetworkLayer, p: &Loop) -> Lowered<()> {
    if !layer.output.is_empty() || layer.input.len() > 1 || p.body_network.is_none() {
        return n.refuse("it has outputs, several inputs, or nothing to run");
    }
    // Writers leave an empty network where there is no condition.
    if layers_of(p.condition_network.as_deref()).is_empty() != p.condition_var.is_empty() {
        return n.refuse("it has a condition without a name, or a name without a condition");
    }
    let most = match layer.input.first() {
        Some(_) => n.number(layer, 0)?,
        None if p.max_loop_iterations == 0 && !p.condition_var.is_empty() => int(i32::MAX),
        None => int(i32::try_from(p.max_loop_iterations).unwrap_or(i32::MAX)),
    };
    n.loops += 1;
    let turns = Turns {
        condition: layers_of(p.condition_network.as_deref()),
        variable: &p.condition_var,
        body: layers_of(p.body_network.as_deref()),
        go: format!("\0turn {}", n.loops),
    };
    let outer = std::mem::take(&mut n.exit);
    let done = turns.decide(n).and_then(|()| run(n, &turns, most));
    n.exit = outer;
    n.loops -= 1;
    n.set(&turns.go, None);
    done
}

/// The loop, with the blobs that it turns out to carry.
fn run(n: &mut Network, turns: &Turns<'_>, most: Argument) -> Lowered<()> {
    let place = n.layer.clone();
    let mut inside = IndexMap::new();
    count_reads(turns.body, &mut inside);
    count_reads(turns.condition, &mut inside);
    let mut carried: Carried = IndexMap::from([(turns.go.clone(), Vec::new())]);
    // Blobs that are not there before the first turn, with what they are after one.
    let mut new: Carried = IndexMap::new();
    loop {
        let mut inputs = Vec::new();
        let mut body = scoped(n, |n| {
            for (name, shape) in &carried {
                let made = NamedType { name: n.fresh(name.trim_start_matches('\0')), ty: tensor(DataType::F32, shape) };
                n.set(name, Some(Blob { name: made.name.clone(), shape: shape.clone(), short: false }));
                inputs.push(made);
            }
            turns.turn(n)
        })?;
        n.layer.clone_from(&place);
        let (mut changed, mut results) = (false, Vec::new());
        for (name, last) in body.written.clone() {
            let before = n.blobs.get(&name).cloned();
            if before.is_none() && !new.contains_key(&name) && !read_elsewhere(n, &inside, &name) {
                continue;
            }
            let Some(last) = last else {
                return n.refuse(format!("a turn that is left early, or one branch, does not write `{name}`"));
            };
            let last = within(n, &mut body, |n| n.full(&last));
            let old = match (carried.get(&name), &before) {
                (Some(shape), _) => shape.clone(),
                (None, Some(blob)) => {
                    changed = true;
                    n.full_shape(blob)
                }
                (None, None) => {
                    changed = true;
                    new.insert(name.clone(), last.shape.clone());
                    last.shape.clone()
                }
            };
            let Some(shape) = agreed(&old, &last.shape) else {
                return n.refuse(format!("the rank of `{name}` changes from turn to turn"));
            };
            changed |= carried.get(&name) != Some(&shape);
            carried.insert(name.clone(), shape);
            results.push((name, last.name));
        }
        if changed {
            continue;
        }
        return finish(n, &carried, &new, (inputs, body.operations, results), most);
    }
}

/// Adds the operation.
fn finish(
    n: &mut Network,
    carried: &Carried,
    new: &Carried,
    (inputs, mut operations, results): (Vec<NamedType>, Vec<Operation>, Vec<(String, String)>),
    most: Argument,
) -> Lowered<()> {
    let counter = |n: &mut Network| NamedType { name: n.fresh("turn"), ty: tensor(DataType::I32, &[]) };
    // Values before the first turn. A blob that is not written before is zero where there is no turn.
    let mut first = vec![Binding::Value(coreml_format::program::Value::int(0))];
    for (name, shape) in carried {
        let value = match n.blobs.get(name).cloned() {
            Some(blob) => n.full(&blob),
            None => {
                let shape: Vec<usize> = new.get(name).unwrap_or(shape).iter().map(|d| d.unwrap_or(0)).collect();
                n.filled(&shape, 0.0)?
            }
        };
        first.push(Binding::Name(value.name));
    }
    let (turn, next) = (counter(n), counter(n));
    let inputs: Vec<NamedType> = std::iter::once(turn.clone()).chain(inputs).collect();
    operations.push(operation("add", [("x", named(&turn.name)), ("y", int(1))], vec![next.clone()]));
    let last = |name: &String| results.iter().find(|(written, _)| written == name).map(|(_, value)| value.clone());
    let mut outputs = vec![next.name];
    for (i, name) in carried.keys().enumerate() {
        outputs.push(last(name).unwrap_or_else(|| inputs[i + 1].name.clone()));
    }
    let body = Block { inputs, operations, outputs };
    let condition = condition(n, &body.inputs, most);
    let mut made = vec![counter(n)];
    let mut after = Vec::new();
    for (name, shape) in carried {
        let value = NamedType { name: n.fresh(name.trim_start_matches('\0')), ty: tensor(DataType::F32, shape) };
        after.push((name.clone(), Blob { name: value.name.clone(), shape: shape.clone(), short: false }));
        made.push(value);
    }
    let looped = operation("while_loop", [("loop_vars", Argument::Many(first))], made);
    n.operations.push(Operation { blocks: vec![condition, body], ..looped });
    for (name, blob) in after {
        n.set(&name, Some(blob));
    }
    Ok(())
}

/// Another turn: there are some left, and nothing has ended the loop.
fn condition(n: &mut Network, inputs: &[NamedType], most: Argument) -> Block {
    let mine: Vec<NamedType> = inputs.iter().map(|i| NamedType { name: n.fresh(&i.name), ty: i.ty.clone() }).collect();
    let flag = |n: &mut Network| NamedType { name: n.fresh("more"), ty: tensor(DataType::Bool, &[]) };
    let (left, goes, both) = (flag(n), flag(n), flag(n));
    let operations = vec![
        operation("less", [("x", named(&mine[0].name)), ("y", most)], vec![left.clone()]),
        operation("not_equal", [("x", named(&mine[1].name)), ("y", float(0.0))], vec![goes.clone()]),
        operation("logical_and", [("x", named(&left.name)), ("y", named(&goes.name))], vec![both.clone()]),
    ];
    Block { inputs: mine, operations, outputs: vec![both.name] }
}

/// Counts how often layers, nested ones included, read each blob.
pub(super) fn count_reads<'m>(layers: &'m [NeuralNetworkLayer], counts: &mut IndexMap<&'m str, usize>) {
    for layer in layers {
        for name in &layer.input {
            *counts.entry(name).or_insert(0) += 1;
        }
        match &layer.layer {
            Some(Layer::Branch(p)) => {
                count_reads(layers_of(p.if_branch.as_deref()), counts);
                count_reads(layers_of(p.else_branch.as_deref()), counts);
            }
            Some(Layer::Loop(p)) => {
                *counts.entry(&p.condition_var).or_insert(0) += 1;
                count_reads(layers_of(p.condition_network.as_deref()), counts);
                count_reads(layers_of(p.body_network.as_deref()), counts);
            }
            _ => {}
        }
    }
}
