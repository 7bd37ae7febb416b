//! Merges chains of reshapes and transposes that move elements more than once, such as a 6-D permutation written with
//! 4-D tensors, into one split, one permutation and one merge: a single copy.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, TensorType, Value, ValueType};

use crate::graph::{Graph, name_of, shape_of};
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "permute", after: &[], ops: &[], run };

/// Factors ("atoms") of the input dimensions of a chain, and their current order.
struct Atoms {
    /// Extents, by atom.
    sizes: Vec<usize>,
    /// Atoms in input order.
    before: Vec<usize>,
    /// Atoms of each dimension of the current value.
    now: Vec<Vec<usize>>,
}

impl Atoms {
    /// One atom per dimension, none for extents of one.
    fn new(shape: &[usize]) -> Self {
        let now = (0..shape.len()).map(|d| if shape[d] == 1 { Vec::new() } else { vec![d] }).collect();
        let before = (0..shape.len()).filter(|&d| shape[d] != 1).collect();
        Self { sizes: shape.to_vec(), before, now }
    }

    fn transpose(&mut self, perm: &[usize]) -> Option<()> {
        self.now = perm.iter().map(|&d| self.now.get(d).cloned()).collect::<Option<_>>()?;
        Some(())
    }

    /// `None` if an extent does not divide an atom evenly.
    fn reshape(&mut self, shape: &[usize]) -> Option<()> {
        let mut rest: Vec<usize> = std::mem::take(&mut self.now).into_iter().flatten().rev().collect();
        for &n in shape {
            let (mut dim, mut size) = (Vec::new(), 1);
            while size < n {
                let atom = rest.pop()?;
                let missing = n / size;
                if self.sizes[atom] > missing {
                    rest.push(self.split(atom, missing)?);
                }
                size *= self.sizes[atom];
                dim.push(atom);
            }
            if size != n {
                return None;
            }
            self.now.push(dim);
        }
        rest.is_empty().then_some(())
    }

    /// Splits an atom: it keeps the outer `size` elements, and the inner ones become a new atom.
    fn split(&mut self, atom: usize, size: usize) -> Option<usize> {
        if size < 2 || !self.sizes[atom].is_multiple_of(size) {
            return None;
        }
        let new = self.sizes.len();
        self.sizes.push(self.sizes[atom] / size);
        self.sizes[atom] = size;
        let at = self.before.iter().position(|&a| a == atom)?;
        self.before.insert(at + 1, new);
        Some(new)
    }
}

fn rearranges(op: &Operation) -> bool {
    matches!(op.kind.as_str(), "reshape" | "transpose" | "expand_dims" | "squeeze")
}

/// The operations of the chain ending at `end`, in order; each but the last has the next as its only user.
fn chain(graph: &Graph<'_>, end: usize) -> Option<Vec<usize>> {
    let next = |i: usize| graph.only_user(&graph.op(i).outputs.first()?.name).filter(|(_, user)| rearranges(user));
    if !rearranges(graph.op(end)) || next(end).is_some() {
        return None;
    }
    let mut all = vec![end];
    while let Some((i, _)) = graph
        .producer(name_of(graph.op(all[all.len() - 1]), "x")?)
        .filter(|&(i, op)| rearranges(op) && next(i).is_some())
    {
        all.push(i);
    }
    all.reverse();
    let transposes = all.iter().filter(|&&i| graph.op(i).kind == "transpose").count();
    (transposes > 1 && all.len() > 3).then_some(all)
}

fn integers(values: &[usize]) -> Option<Argument> {
    let bytes = values.iter().map(|&v| i32::try_from(v).ok()).collect::<Option<Vec<i32>>>()?;
    let bytes = bytes.into_iter().flat_map(i32::to_le_bytes).collect();
    Some(Argument::One(Binding::Value(Value::tensor(DataType::I32, &[values.len()], bytes))))
}

/// Replacements for the last three operations of a chain.
fn try_match(graph: &Graph<'_>, chain: &[usize]) -> Option<[Operation; 3]> {
    let mut atoms: Option<Atoms> = None;
    for &i in chain {
        let op = graph.op(i);
        let shape = shape_of(op).filter(|s| !s.contains(&0))?;
        if op.kind != "transpose" {
            match &mut atoms {
                Some(atoms) => atoms.reshape(&shape)?,
                // The input is row-major regardless of its shape.
                None => atoms = Some(Atoms::new(&shape)),
            }
            continue;
        }
        let rank = shape.len();
        let resolve = |v: f64| Some(if v < 0.0 { v + rank as f64 } else { v } as usize).filter(|&d| d < rank);
        let perm = graph.numbers(op, "perm")?.into_iter().map(resolve).collect::<Option<Vec<usize>>>()?;
        if perm.len() != rank {
            return None;
        }
        let atoms = atoms.get_or_insert_with(|| {
            let mut input = vec![1; rank];
            perm.iter().zip(&shape).for_each(|(&d, &n)| input[d] = n);
            Atoms::new(&input)
        });
        atoms.transpose(&perm)?;
    }
    let atoms = atoms?;
    let after: Vec<usize> = atoms.now.iter().flatten().copied().collect();
    let split: Vec<usize> = atoms.before.iter().map(|&a| atoms.sizes[a]).collect();
    let perm = after.iter().map(|a| atoms.before.iter().position(|b| b == a)).collect::<Option<Vec<usize>>>()?;
    let (first, end) = (graph.op(chain[0]), &chain[chain.len() - 3..]);
    let make = |at: usize, kind: &str, x: &str, parameter: &str, values: &[usize], shape: &[usize]| {
        let mut new = graph.op(end[at]).clone();
        new.kind = kind.to_owned();
        new.inputs.clear();
        new.inputs.insert("x".to_owned(), Argument::One(Binding::Name(x.to_owned())));
        new.inputs.insert(parameter.to_owned(), integers(values)?);
        let output = new.outputs.first_mut()?;
        output.ty = ValueType::Tensor(TensorType::fixed(output.ty.tensor()?.dtype, shape));
        Some(new)
    };
    let moved: Vec<usize> = perm.iter().map(|&p| split[p]).collect();
    let shape = shape_of(graph.op(end[2]))?;
    let one = make(0, "reshape", name_of(first, "x")?, "shape", &split, &split)?;
    let two = make(1, "transpose", &one.outputs[0].name, "perm", &perm, &moved)?;
    let three = make(2, "reshape", &two.outputs[0].name, "shape", &shape, &shape)?;
    Some([one, two, three])
}

fn run(function: &mut Function) -> usize {
    let graph = Graph::new(function);
    let chains = (0..function.block.operations.len()).filter_map(|i| chain(&graph, i));
    let found: Vec<(Vec<usize>, [Operation; 3])> =
        chains.filter_map(|chain| try_match(&graph, &chain).map(|new| (chain, new))).collect();
    let mut keep = vec![true; function.block.operations.len()];
    for (chain, new) in &found {
        let (gone, replaced) = chain.split_at(chain.len() - new.len());
        gone.iter().for_each(|&i| keep[i] = false);
        for (&i, op) in replaced.iter().zip(new) {
            function.block.operations[i] = op.clone();
        }
    }
    let mut flags = keep.into_iter();
    function.block.operations.retain(|_| flags.next().unwrap_or(true));
    found.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_follow_their_elements() {
        // [6, 4] → [2, 3, 4] → [3, 2, 4] → [3, 8]
        let mut atoms = Atoms::new(&[6, 1, 4]);
        assert!(atoms.reshape(&[2, 3, 4]).is_some() && atoms.transpose(&[1, 0, 2]).is_some());
        assert!(atoms.reshape(&[3, 8]).is_some());
        let sizes = |numbers: &[usize]| numbers.iter().map(|&a| atoms.sizes[a]).collect::<Vec<_>>();
        assert_eq!(sizes(&atoms.before), [2, 3, 4]);
        assert_eq!(atoms.now.iter().map(|d| sizes(d)).collect::<Vec<_>>(), [vec![3], vec![2, 4]]);
        // 6 cannot be split into a dimension of 4.
        assert!(Atoms::new(&[6, 4]).reshape(&[4, 6]).is_none());
        assert!(Atoms::new(&[6, 4]).transpose(&[2, 0]).is_none());
    }
}
