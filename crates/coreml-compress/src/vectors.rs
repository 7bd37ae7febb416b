//! K-means of vectors: greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step), then Lloyd's
//! iterations until no vector changes its cluster.

/// Most iterations of Lloyd.
const ROUNDS: usize = 100;

/// Pseudorandom numbers: xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Nearest entry, and its squared distance.
fn nearest(v: &[f32], table: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (i, entry) in table.chunks_exact(v.len()).enumerate() {
        let d = distance(v, entry);
        if d < best.1 {
            best = (i, d);
        }
    }
    best
}

/// Entries by greedy k-means++.
fn seed(vectors: &[f32], dim: usize, k: usize, random: &mut Random) -> Vec<f32> {
    let count = vectors.len() / dim;
    let at = |i: usize| &vectors[i * dim..(i + 1) * dim];
    let first = ((random.next() * count as f64) as usize).min(count - 1);
    let mut table = at(first).to_vec();
    let mut far: Vec<f32> = vectors.chunks_exact(dim).map(|v| distance(v, at(first))).collect();
    let tries = 2 + k.max(2).ilog2() as usize;
    while table.len() < k * dim {
        let total: f64 = far.iter().map(|&d| f64::from(d)).sum();
        if total <= 0.0 {
            break;
        }
        let mut best: Option<(f64, Vec<f32>, usize)> = None;
        for _ in 0..tries {
            let mut left = random.next() * total;
            let chosen = far.iter().position(|&d| {
                left -= f64::from(d);
                left < 0.0
            });
            let chosen = chosen.unwrap_or(count - 1);
            let closer: Vec<f32> =
                vectors.chunks_exact(dim).zip(&far).map(|(v, &d)| d.min(distance(v, at(chosen)))).collect();
            let sum: f64 = closer.iter().map(|&d| f64::from(d)).sum();
            if best.as_ref().is_none_or(|b| sum < b.0) {
                best = Some((sum, closer, chosen));
            }
        }
        let Some((_, closer, chosen)) = best else { break };
        far = closer;
        table.extend_from_slice(at(chosen));
    }
    table
}

/// A table of at most `k` vectors of `dim` numbers with a small squared error, and the entry of each vector.
pub fn cluster(vectors: &[f32], dim: usize, k: usize) -> (Vec<f32>, Vec<u8>) {
    if dim == 0 || vectors.len() < dim || k == 0 {
        return (Vec::new(), Vec::new());
    }
    let mut table = seed(vectors, dim, k, &mut Random(0x9e37_79b9_7f4a_7c15));
    let mut labels: Vec<u8> = Vec::new();
    for _ in 0..ROUNDS {
        let found: Vec<(usize, f32)> = vectors.chunks_exact(dim).map(|v| nearest(v, &table)).collect();
        let next: Vec<u8> = found.iter().map(|f| f.0 as u8).collect();
        if next == labels {
            break;
        }
        labels = next;
        let entries = table.len() / dim;
        let (mut sums, mut counts) = (vec![0f64; table.len()], vec![0u32; entries]);
        for (v, &label) in vectors.chunks_exact(dim).zip(&labels) {
            counts[usize::from(label)] += 1;
            let sum = &mut sums[usize::from(label) * dim..][..dim];
            sum.iter_mut().zip(v).for_each(|(s, &v)| *s += f64::from(v));
        }
        let mut furthest: Vec<usize> = Vec::new();
        for e in 0..entries {
            let entry = &mut table[e * dim..(e + 1) * dim];
            if counts[e] > 0 {
                entry.iter_mut().zip(&sums[e * dim..]).for_each(|(t, s)| *t = (s / f64::from(counts[e])) as f32);
            } else {
                // An empty cluster takes the vector that is furthest from its entry.
                let far = (0..found.len())
                    .filter(|i| !furthest.contains(i))
                    .max_by(|&a, &b| found[a].1.total_cmp(&found[b].1));
                if let Some(far) = far {
                    furthest.push(far);
                    entry.copy_from_slice(&vectors[far * dim..(far + 1) * dim]);
                }
            }
        }
    }
    let labels = vectors.chunks_exact(dim).map(|v| nearest(v, &table).0 as u8).collect();
    (table, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_clusters_are_found() {
        let centers = [[0.0f32, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]];
        let vectors: Vec<f32> = (0..400)
            .flat_map(|i| {
                let wiggle = (i / 4 % 7) as f32 * 0.1 - 0.3;
                centers[i % 4].map(|c| c + wiggle)
            })
            .collect();
        let (table, labels) = cluster(&vectors, 2, 4);
        let error: f32 =
            vectors.chunks(2).zip(&labels).map(|(v, &l)| distance(v, &table[usize::from(l) * 2..][..2])).sum();
        assert!(error < 400.0 * 2.0 * 0.09 + 1e-3, "{error}");
        let (table, labels) = cluster(&[1.0, 2.0, 1.0, 2.0], 2, 16);
        assert_eq!((table, labels), (vec![1.0, 2.0], vec![0, 0]), "fewer distinct vectors than entries");
        assert_eq!(cluster(&[], 2, 4), (vec![], vec![]));
    }
}
