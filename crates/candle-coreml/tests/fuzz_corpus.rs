//! Replays the corpus of the fuzz targets `templates`, `tokenizer` and `meta`, and beginnings of its inputs.

#[allow(unreachable_pub, reason = "the fuzz targets use it as a module of their own")]
#[path = "../../../fuzz/src/texts.rs"]
mod texts;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a corpus") {
        let input = std::fs::read(entry.expect("an entry").path()).expect("an input");
        run(&input);
        (1..8).for_each(|n| run(&input[..input.len() * n / 8]));
        count += 1;
    }
    assert!(count >= 3, "only {count} inputs");
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
