//! Replays the fuzzing corpus and corruptions of it, without a fuzzer.

#[allow(dead_code, unreachable_pub, reason = "several tests share it")]
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[allow(unreachable_pub, reason = "the fuzz targets use it as a crate")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use corpus::replay_changed;

#[test]
fn specifications() {
    replay_changed("specification", targets::specification);
}

#[test]
fn links_and_files_of_other_kinds() {
    replay_changed("specification", targets::links);
}

#[test]
fn weight_files() {
    replay_changed("weights", targets::weights);
}

#[test]
fn texts() {
    replay_changed("mil_text", targets::text);
}

#[test]
fn compiled_models() {
    replay_changed("compiled", targets::compiled);
}
