//! Replays the corpus of the fuzz target `rewrites`, and runs random programs: same results with and without rewrites.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

#[allow(unreachable_pub, reason = "the fuzz target uses it as a module of its own")]
#[path = "../../../../fuzz/src/rewrites/mod.rs"]
mod generated;

mod forms;
mod rotary;

use generated::{Tally, run};

/// Bytes from a seed (xorshift).
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..384).map(|_| next()).collect()
}

fn checked(tally: &Tally) {
    println!("{tally:?}");
    assert!(tally.ran > tally.refused * 2, "most choices make a program that runs: {tally:?}");
    assert!(tally.opened > 0, "rows are left open: {tally:?}");
    for (name, [together, alone]) in &tally.changed {
        // Rewrites that depend on others change nothing alone.
        let alone = *alone > 0 || ["fold_rms_gain", "cached_attention", "state_shift"].contains(name);
        assert!(*together > 0 && alone, "`{name}` changed no program: {tally:?}");
    }
}

#[test]
fn programs_that_once_failed_agree() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/rewrites");
    for entry in std::fs::read_dir(folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let input = std::fs::read(&path).expect("an input");
        println!("{}", path.display());
        run(&input, &mut Tally::default());
    }
}

#[test]
fn random_programs_agree_with_and_without_rewrites() {
    let mut tally = Tally::default();
    for seed in 0..800 {
        run(&bytes(seed), &mut tally);
    }
    checked(&tally);
}

/// Runs for `REWRITES_SECONDS` (default 60) from `REWRITES_SEED` (default: the time); prints the seed of a failing
/// program.
#[test]
#[ignore = "runs as long as it is told"]
fn random_programs_agree_for_long() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let first = number("REWRITES_SEED").unwrap_or(epoch << 24);
    let until = Instant::now() + Duration::from_secs(number("REWRITES_SECONDS").unwrap_or(60));
    let mut tally = Tally::default();
    let mut seed = first;
    while Instant::now() < until {
        let input = bytes(seed);
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| run(&input, &mut tally))) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
    println!("seeds {first}..{seed}");
    checked(&tally);
}
