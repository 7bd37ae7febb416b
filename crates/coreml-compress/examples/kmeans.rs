//! Tables for a matrix, with squared error and time: the other side of `tools/kmeans_peers.py`.
//!
//! ```sh
//! cargo run --release -p coreml-compress --example kmeans -- matrix.f32 BITS NUMBERS_OF_A_GROUP
//! ```
//!
//! The file holds little-endian f32. Prints squared error (entries in fp16) and seconds of the fastest of five runs.

use std::time::Instant;

use coreml_compress::{kmeans, parallel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, bits, group] = arguments.as_slice() else { return Err("expected FILE BITS GROUP".into()) };
    let numbers: Vec<f32> = std::fs::read(file)?.as_chunks().0.iter().map(|&c| f32::from_le_bytes(c)).collect();
    let (entries, group): (usize, usize) = (1 << bits.parse::<u32>()?, group.parse()?);
    let groups: Vec<&[f32]> = numbers.chunks(group.max(1)).collect();
    let mut best = f64::INFINITY;
    let mut tables = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        tables = parallel(groups.len(), |g| {
            let mut table = kmeans::optimal(groups[g], None, entries);
            table.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            let indices = kmeans::nearest(groups[g], &table);
            (table, indices)
        })
        .ok_or("cancelled")?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let error = |(numbers, (table, indices)): (&&[f32], &(Vec<f32>, Vec<u8>))| {
        let one = |(&v, &i): (&f32, &u8)| (f64::from(v) - f64::from(table[usize::from(i)])).powi(2);
        numbers.iter().zip(indices).map(one).sum::<f64>()
    };
    println!("{} {best}", groups.iter().zip(&tables).map(error).sum::<f64>());
    Ok(())
}
