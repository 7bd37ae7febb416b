//! Replays the corpus of the fuzz targets of inputs, and corruptions of it that need no fuzzer.
#![cfg(feature = "images")]

#[allow(unreachable_pub, reason = "the fuzz targets use it as a module of their own")]
#[path = "../../../fuzz/src/inputs.rs"]
mod inputs;

/// Each input as it is, cut short, and with single bytes changed.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("a corpus") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("an input");
        found += 1;
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
    assert!(found > 0, "no inputs for {target}");
}

#[test]
fn tensors() {
    replay("tensors", inputs::tensors);
}

#[test]
fn images() {
    replay("images", inputs::images);
}
