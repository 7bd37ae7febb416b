//! Replays the corpus of the fuzz target `engine`, with mutations that need no fuzzer.

#[allow(unreachable_pub, reason = "the fuzz target uses it as a module of its own")]
#[path = "../../../fuzz/src/engine.rs"]
mod engine;

#[test]
fn programs_run_or_are_refused() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/engine");
    let mut ran = 0;
    for entry in std::fs::read_dir(folder).expect("a corpus") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("an input");
        engine::run(&input);
        for seed in 0..200 {
            let mut data = input.clone();
            data.resize(input.len() * 2 + 4096, 0);
            let size = engine::mutate(&mut data, input.len(), seed);
            engine::run(&data[..size]);
            ran += usize::from(size > 0);
        }
    }
    assert!(ran > 300, "only {ran} programs were made of the corpus");
}
