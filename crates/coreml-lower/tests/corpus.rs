//! Replays the fuzzing corpus, and corruptions of it that need no fuzzer.

#[allow(unreachable_pub, reason = "the fuzz targets use it as a crate")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("a corpus").map(|e| e.expect("an entry").path());
    let inputs: Vec<_> = files.map(|f| std::fs::read(f).expect("an input")).collect();
    assert!(!inputs.is_empty(), "no inputs for {target}");
    inputs
}

/// Each input as it is, cut short, and with single bytes changed.
fn replay(target: &str, run: fn(&[u8])) {
    for input in corpus(target) {
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

#[test]
fn specifications() {
    replay("specification", targets::specification);
}

#[test]
fn weight_files() {
    replay("weights", targets::weights);
}

#[test]
fn texts() {
    replay("mil_text", targets::text);
}

#[test]
fn compiled_models() {
    replay("compiled", targets::compiled);
}
