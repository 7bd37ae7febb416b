//! Pruning: elements of least magnitude become zero.

use crate::scheme::Sparsity;

/// Elements that stay, of a weight `[rows, columns]`. Of equal magnitudes the earlier ones go first.
pub fn mask(numbers: &[f32], columns: usize, sparsity: Sparsity) -> Vec<bool> {
    let drop = |part: &[f32], zeros: usize| {
        let mut order: Vec<usize> = (0..part.len()).collect();
        order.sort_by(|&a, &b| part[a].abs().total_cmp(&part[b].abs()));
        let mut keep: Vec<bool> = part.iter().map(|&v| v != 0.0).collect();
        order.into_iter().take(zeros).for_each(|i| keep[i] = false);
        keep
    };
    match sparsity {
        Sparsity::Fraction(f) => drop(numbers, (numbers.len() as f64 * f64::from(f)).round() as usize),
        Sparsity::Structured { zeros, of } => {
            let row =
                |row: &[f32]| row.chunks(of).flat_map(|run| drop(run, zeros * run.len() / of)).collect::<Vec<_>>();
            numbers.chunks(columns.max(1)).flat_map(row).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go() {
        let numbers = [0.1, -3.0, 0.0, 2.0, -0.2, 1.0];
        let keep = |s| mask(&numbers, 3, s).iter().map(|&k| u8::from(k)).collect::<Vec<_>>();
        assert_eq!(keep(Sparsity::Fraction(0.5)), [0, 1, 0, 1, 0, 1]);
        assert_eq!(keep(Sparsity::Fraction(0.0)), [1, 1, 0, 1, 1, 1], "zeros are zero");
        assert_eq!(keep(Sparsity::Structured { zeros: 1, of: 2 }), [0, 1, 0, 1, 0, 1], "runs of 2 and 1 in each row");
        assert_eq!(mask(&[], 0, Sparsity::Fraction(0.5)), [false; 0]);
    }
}
