//! K-means of numbers: the optimum, not a local one.
//!
//! Clusters of numbers are intervals of the sorted numbers. Dynamic programming over the ends of intervals finds the
//! least squared error. The cost of intervals is Monge, so the best start moves monotonically with the end, which divide
//! and conquer uses (Grønlund et al., "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", 2017). The
//! least error is convex in the number of clusters, too: for large tables, a price on clusters is sought at which the
//! best clusters of any number are as many as wanted. Each try takes n log n steps, whatever the number of clusters.

/// Distinct numbers in ascending order, with sums of weights before each.
struct Sorted {
    values: Vec<f64>,
    /// Σ w, Σ w·x, Σ w·x² of the numbers before, with x from the mean.
    sums: Vec<[f64; 3]>,
    mean: f64,
}

impl Sorted {
    fn new(pairs: Vec<(f32, f64)>) -> Self {
        let pairs = sorted(pairs);
        let mut merged: Vec<(f32, f64)> = Vec::with_capacity(pairs.len());
        for (v, w) in pairs {
            match merged.last_mut() {
                // Zeros of both signs are equal.
                Some(last) if last.0 == v => last.1 += w,
                _ => merged.push((v, w)),
            }
        }
        let total: f64 = merged.iter().map(|p| p.1).sum();
        let mean = merged.iter().map(|&(v, w)| f64::from(v) * w).sum::<f64>() / total.max(f64::MIN_POSITIVE);
        let mut sums = Vec::with_capacity(merged.len() + 1);
        let mut at = [0.0; 3];
        sums.push(at);
        for &(v, w) in &merged {
            let x = f64::from(v) - mean;
            at = [at[0] + w, at[1] + w * x, at[2] + w * x * x];
            sums.push(at);
        }
        Self { values: merged.into_iter().map(|p| f64::from(p.0)).collect(), sums, mean }
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    /// Squared error of the numbers `from..to` around their mean.
    #[inline]
    fn cost(&self, from: usize, to: usize) -> f64 {
        let (a, b) = (&self.sums[from], &self.sums[to]);
        let (w, x, q) = (b[0] - a[0], b[1] - a[1], b[2] - a[2]);
        if w > 0.0 { (q - x * x / w).max(0.0) } else { 0.0 }
    }

    fn centroid(&self, from: usize, to: usize) -> f64 {
        let (a, b) = (&self.sums[from], &self.sums[to]);
        let w = b[0] - a[0];
        if w > 0.0 { self.mean + (b[1] - a[1]) / w } else { self.values[from] }
    }
}

/// Pairs in ascending order of the numbers; many of them digit by digit, eleven bits at a time.
fn sorted(mut pairs: Vec<(f32, f64)>) -> Vec<(f32, f64)> {
    const BITS: u32 = 11;
    if pairs.len() < 4096 {
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        return pairs;
    }
    // Bits whose order is that of the numbers.
    let key = |v: f32| if v.is_sign_negative() { !v.to_bits() } else { v.to_bits() | 1 << 31 };
    let mut other = vec![(0.0, 0.0); pairs.len()];
    for pass in 0..u32::BITS.div_ceil(BITS) {
        let digit = |v: f32| (key(v) >> (pass * BITS) & ((1 << BITS) - 1)) as usize;
        let mut next = vec![0usize; 1 << BITS];
        pairs.iter().for_each(|p| next[digit(p.0)] += 1);
        let mut start = 0;
        for n in &mut next {
            start += std::mem::replace(n, start);
        }
        for &pair in &pairs {
            let at = &mut next[digit(pair.0)];
            other[*at] = pair;
            *at += 1;
        }
        std::mem::swap(&mut pairs, &mut other);
    }
    pairs
}

/// Number of clusters from which a price on clusters is sought.
const PRICED: usize = 6;

/// Starts of the clusters 1.. of the best `k` clusters, by divide and conquer: k n log n steps.
///
/// The squared error is Σ w·x² − Σ (Σ w·x)² / Σ w, the last sum over clusters; what is sought is the largest such sum.
fn divided(s: &Sorted, k: usize) -> Vec<usize> {
    let n = s.len();
    let (w, x): (Vec<f64>, Vec<f64>) = s.sums.iter().map(|a| (a[0], a[1])).unzip();
    let mut gain: Vec<f64> = (0..=n).map(|i| if i > 0 { x[i] * x[i] / w[i] } else { 0.0 }).collect();
    let mut starts: Vec<Vec<u32>> = Vec::new();
    for cluster in 1..k {
        let (mut next, mut start) = (vec![f64::NEG_INFINITY; n + 1], vec![0u32; n + 1]);
        // Ranges of ends, and of the starts that may be theirs. The last cluster ends with the numbers.
        let mut stack = vec![(if cluster + 1 == k { n } else { 0 }, n + 1, 0, n + 1)];
        while let Some((low, high, first, last)) = stack.pop() {
            if low >= high {
                continue;
            }
            let end = low + (high - low) / 2;
            let mut found = largest(&w, &x, &gain, first..last.min(end), end);
            // A cluster without numbers.
            if last > end && gain[end] > found.0 {
                found = (gain[end], end);
            }
            (next[end], start[end]) = (found.0, found.1 as u32);
            stack.push((low, end, first, found.1 + 1));
            stack.push((end + 1, high, found.1, last));
        }
        gain = next;
        starts.push(start);
    }
    let mut out = Vec::with_capacity(k - 1);
    let mut end = n;
    for start in starts.iter().rev() {
        end = start[end] as usize;
        out.push(end);
    }
    out.reverse();
    out
}

/// The first start before `end` with the largest sum, and that sum; minus infinity if there is no start.
fn largest(w: &[f64], x: &[f64], gain: &[f64], starts: std::ops::Range<usize>, end: usize) -> (f64, usize) {
    const BLOCK: usize = 16;
    let (we, xe) = (w[end], x[end]);
    let of = |w: f64, x: f64, gain: f64| gain + (xe - x) * (xe - x) / (we - w);
    let mut best = (f64::NEG_INFINITY, starts.start);
    let mut at = starts.start;
    while at < starts.end {
        let to = (at + BLOCK).min(starts.end);
        let mut sums = [f64::NEG_INFINITY; BLOCK];
        let parts = w[at..to].iter().zip(&x[at..to]).zip(&gain[at..to]);
        for (sum, ((&w, &x), &gain)) in sums.iter_mut().zip(parts) {
            *sum = of(w, x, gain);
        }
        // Most blocks hold nothing better: one comparison.
        let most = sums.iter().fold(f64::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        if most > best.0 {
            best = (most, at + sums.iter().position(|&v| v == most).unwrap_or(0));
        }
        at = to;
    }
    best
}

/// Starts of the clusters 1.. of the best clusters of any number, each at this price.
///
/// A queue holds the starts that are best for some end, with the first end of each; new ones replace those at its back.
fn priced(s: &Sorted, price: f64) -> Vec<usize> {
    let n = s.len();
    let mut best = vec![0f64; n + 1];
    let mut start = vec![0u32; n + 1];
    let mut queue: Vec<(usize, usize)> = vec![(0, 1)];
    let mut front = 0;
    for end in 1..=n {
        while front + 1 < queue.len() && queue[front + 1].1 <= end {
            front += 1;
        }
        let from = queue[front].0;
        (best[end], start[end]) = (best[from] + s.cost(from, end) + price, from as u32);
        let better = |old: usize, at: usize| best[end] + s.cost(end, at) <= best[old] + s.cost(old, at);
        let mut since = end + 1;
        while let Some(&(old, first)) = queue.get(front..).and_then(<[_]>::last) {
            let first = first.max(end + 1);
            if first > n || better(old, first) {
                queue.pop();
                continue;
            }
            // The old start is better at `first`: find the end from which the new one is.
            let (mut low, mut high) = (first, n + 1);
            while low + 1 < high {
                let mid = low + (high - low) / 2;
                if better(old, mid) { high = mid } else { low = mid }
            }
            since = high;
            break;
        }
        front = front.min(queue.len());
        if since <= n {
            queue.push((end, since));
        }
    }
    let mut out = Vec::new();
    let mut end = n;
    while start[end] > 0 {
        end = start[end] as usize;
        out.push(end);
    }
    out.reverse();
    out
}

/// Starts of the clusters 1.. of the best `k` clusters.
fn starts(s: &Sorted, k: usize) -> Vec<usize> {
    let n = s.len();
    if k < PRICED {
        return divided(s, k);
    }
    // The error of a fine table is C / k² (Panter and Dite, 1951), so its slope, the price of a cluster, is 2 C / k³.
    let spread = |i: usize| {
        let gap = s.values[(i + 1).min(n - 1)] - s.values[i.saturating_sub(1)];
        (s.sums[i + 1][0] - s.sums[i][0]).cbrt() * (gap / 2.0).cbrt().powi(2)
    };
    let constant = (0..n).map(spread).sum::<f64>().powi(3) / 12.0;
    let (mut low, mut high) = (0.0, s.cost(0, n).max(f64::MIN_POSITIVE));
    let mut price = 2.0 * constant / (k as f64).powi(3);
    for _ in 0..48 {
        if price <= low || price >= high || !price.is_finite() {
            price = if low > 0.0 { (low * high).sqrt() } else { high / 16.0 };
        }
        let found = priced(s, price);
        let count = found.len() + 1;
        if count == k {
            return found;
        }
        if count > k {
            low = price
        } else {
            high = price
        }
        price *= (count as f64 / k as f64).powi(3);
    }
    // Several numbers of clusters are best at one price.
    divided(s, k)
}

/// The best table of at most `k` entries for these numbers with these weights, ascending.
fn table(s: &Sorted, k: usize) -> Vec<f32> {
    if s.len() <= k {
        return s.values.iter().map(|&v| v as f32).collect();
    }
    let starts = starts(s, k);
    let from = std::iter::once(0).chain(starts.iter().copied());
    let to = starts.iter().copied().chain([s.len()]);
    from.zip(to).map(|(a, b)| s.centroid(a, b) as f32).collect()
}

/// The table of at most `k` entries with the least (weighted) squared error, ascending. Numbers are finite, weights not
/// negative; without weights each number counts once.
///
/// ```
/// use coreml_compress::kmeans;
///
/// assert_eq!(kmeans::optimal(&[0.0, 0.1, 5.0, 5.2, 9.0], None, 3), [0.05, 5.1, 9.0]);
/// ```
pub fn optimal(numbers: &[f32], weights: Option<&[f32]>, k: usize) -> Vec<f32> {
    if numbers.is_empty() || k == 0 {
        return Vec::new();
    }
    let pairs = match weights {
        Some(weights) => {
            let pairs: Vec<(f32, f64)> =
                numbers.iter().zip(weights).filter(|(_, w)| **w > 0.0).map(|(&v, &w)| (v, f64::from(w))).collect();
            // Nothing counts: all count alike.
            if pairs.is_empty() { numbers.iter().map(|&v| (v, 1.0)).collect() } else { pairs }
        }
        None => histogram(numbers).unwrap_or_else(|| numbers.iter().map(|&v| (v, 1.0)).collect()),
    };
    table(&Sorted::new(pairs), k)
}

/// Distinct numbers with their counts, if all are fp16 and there are many.
fn histogram(numbers: &[f32]) -> Option<Vec<(f32, f64)>> {
    if numbers.len() < 4096 {
        return None;
    }
    let mut counts = vec![0u32; 1 << 16];
    for &v in numbers {
        let half = half::f16::from_f32(v);
        if half.to_f32() != v {
            return None;
        }
        counts[usize::from(half.to_bits())] += 1;
    }
    let present = counts.iter().enumerate().filter(|(_, c)| **c > 0);
    Some(present.map(|(bits, &c)| (half::f16::from_bits(bits as u16).to_f32(), f64::from(c))).collect())
}

/// Index of the nearest entry of an ascending table for each number; of two equally near ones the lower.
pub fn nearest(numbers: &[f32], table: &[f32]) -> Vec<u8> {
    let borders: Vec<f32> = table.windows(2).map(|w| ((f64::from(w[0]) + f64::from(w[1])) / 2.0) as f32).collect();
    numbers.iter().map(|&v| borders.partition_point(|&b| b < v) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of xorshift64, roughly normal.
    fn noise(n: usize, mut state: u64, f: impl Fn(f32) -> f32) -> Vec<f32> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| f((0..6).map(|_| next()).sum())).collect()
    }

    fn error(numbers: &[f32], table: &[f32]) -> f64 {
        let at = nearest(numbers, table);
        numbers.iter().zip(at).map(|(&v, i)| (f64::from(v) - f64::from(table[usize::from(i)])).powi(2)).sum()
    }

    /// The plain program, O(k n²).
    fn reference(numbers: &[f32], k: usize) -> f64 {
        let s = Sorted::new(numbers.iter().map(|&v| (v, 1.0)).collect());
        let n = s.len();
        let mut cost: Vec<f64> = (0..=n).map(|i| s.cost(0, i)).collect();
        for _ in 1..k.min(n) {
            cost = (0..=n).map(|i| (0..=i).map(|j| cost[j] + s.cost(j, i)).fold(f64::INFINITY, f64::min)).collect();
        }
        cost[n]
    }

    #[test]
    fn the_error_is_the_least_possible() {
        type Make = fn(f32) -> f32;
        let makes: [(&str, Make); 4] = [
            ("normal", |v| v),
            ("heavy tails", |v| v.powi(5)),
            ("repeated", |v| (v * 8.0).round() / 8.0),
            ("fp16", |v| half::f16::from_f32(v).to_f32()),
        ];
        for (name, make) in makes {
            for (n, k) in [(1, 4), (3, 2), (50, 1), (200, 16), (333, 64)] {
                let numbers = noise(n, 88_172_645_463_325_252 + n as u64, make);
                let (found, wanted) = (error(&numbers, &optimal(&numbers, None, k)), reference(&numbers, k));
                assert!(found <= wanted * (1.0 + 1e-5) + 1e-12, "{name}, {n} numbers, {k} entries: {found} > {wanted}");
            }
        }
    }

    /// Both ways find the same error, also where numbers are spread evenly and prices are many clusters' alike.
    #[test]
    fn prices_lose_nothing() {
        for (k, power) in [(6, 1), (8, 3), (16, 1), (16, 5), (64, 3), (64, 1), (256, 5)] {
            for numbers in [noise(9000, 1234 + k as u64, |v| v.powi(power)), (0..2000).map(|i| i as f32).collect()] {
                let s = Sorted::new(numbers.iter().map(|&v| (v, 1.0)).collect());
                let cost = |starts: &[usize]| {
                    assert_eq!(starts.len(), k - 1);
                    let from = std::iter::once(0).chain(starts.iter().copied());
                    from.zip(starts.iter().copied().chain([s.len()])).map(|(a, b)| s.cost(a, b)).sum::<f64>()
                };
                let (whole, found) = (cost(&divided(&s, k)), cost(&starts(&s, k)));
                assert!(found <= whole * (1.0 + 1e-9), "{k}: {found} > {whole}");
            }
        }
    }

    #[test]
    fn many_numbers_are_sorted_as_few_are() {
        let mut pairs: Vec<(f32, f64)> =
            noise(9000, 77, |v| v.powi(3)).into_iter().enumerate().map(|(i, v)| (v, i as f64)).collect();
        pairs.extend([(0.0, 1.0), (-0.0, 2.0), (f32::MAX, 3.0), (f32::MIN, 4.0), (f32::MIN_POSITIVE / 2.0, 5.0)]);
        let found = sorted(pairs.clone());
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(found.iter().map(|p| p.1).collect::<Vec<_>>(), pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    }

    #[test]
    fn weights_count_and_boundaries_hold() {
        assert_eq!(optimal(&[], None, 4), [0.0f32; 0]);
        assert_eq!(optimal(&[3.0; 9], None, 4), [3.0]);
        assert_eq!(optimal(&[0.0, 1.0, 10.0], Some(&[1.0, 3.0, 1.0]), 2), [0.75, 10.0]);
        assert_eq!(optimal(&[0.0, 1.0, 10.0], Some(&[1.0, 0.0, 0.0]), 2), [0.0]);
        assert_eq!(optimal(&[0.0, 2.0], Some(&[0.0, 0.0]), 1), [1.0]);
        assert_eq!(nearest(&[-9.0, 0.5, 0.51, 99.0], &[0.0, 1.0]), [0, 0, 1, 1]);
    }
}
