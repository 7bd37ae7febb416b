//! Replays the corpus of a target in ordinary tests, with simple corruptions.

/// Corpus files of a target. Tests are located two folders below the repository root.
///
/// # Panics
/// If there are none.
pub fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("a corpus").map(|e| e.expect("an entry").path());
    let inputs: Vec<_> = files.map(|f| std::fs::read(f).expect("an input")).collect();
    assert!(!inputs.is_empty(), "no inputs for {target}");
    inputs
}

/// Runs each input as is, and truncated at `cuts` places.
pub fn replay_cut(target: &str, cuts: usize, run: fn(&[u8])) {
    for input in inputs(target) {
        run(&input);
        (1..cuts).for_each(|n| run(&input[..input.len() * n / cuts]));
    }
}

/// Runs each input as is, truncated, and with single bytes changed, at about 64 places.
pub fn replay_changed(target: &str, run: fn(&[u8])) {
    for input in inputs(target) {
        run(&input);
        let step = (input.len() / 64).max(1);
        for at in (0..input.len()).step_by(step) {
            run(&input[..at]);
            let mut changed = input.clone();
            for value in [0x00, 0x7f, 0xff, changed[at] ^ 0x08] {
                changed[at] = value;
                run(&changed);
            }
        }
    }
}
