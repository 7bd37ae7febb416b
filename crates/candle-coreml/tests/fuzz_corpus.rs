//! Replays the corpus of the fuzz targets `templates`, `tokenizer` and `meta`, and prefixes of its inputs.

#[allow(dead_code, unreachable_pub, reason = "several tests share it")]
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[allow(unreachable_pub, reason = "the fuzz targets use it as a module of their own")]
#[path = "../../../fuzz/src/texts.rs"]
mod texts;

fn replay(target: &str, run: fn(&[u8])) {
    assert!(corpus::inputs(target).len() >= 3, "too few inputs");
    corpus::replay_cut(target, 8, run);
}

#[test]
fn templates_render_or_are_refused() {
    replay("templates", texts::templates);
}

#[test]
fn tokenizers_work_or_are_refused() {
    replay("tokenizer", texts::tokenizer);
}

#[test]
fn meta_files_are_read_or_ignored() {
    replay("meta", texts::meta);
}
