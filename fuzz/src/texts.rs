//! Fuzz targets `templates`, `tokenizer` and `meta`: the files next to a model. Any outcome is accepted except a panic,
//! a hang or unbounded memory.
//!
//! `candle-coreml`'s tests replay the corpus with the same functions.

use std::path::Path;

use candle_coreml::anemll::discovery::discover;
use candle_coreml::generation::{ChatTemplate, Message, TemplateLimits, Tokenizer};

/// A chat template, rendered with a conversation under reduced limits for speed.
pub fn templates(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let mut limits = TemplateLimits::default();
    (limits.output, limits.memory, limits.steps) = (1 << 20, 16 << 20, 200_000);
    let Ok(template) = ChatTemplate::parse(Path::new("fuzz"), source, "<s>", "</s>", limits) else { return };
    let messages = [Message::user("Wie geht's? <b>1</b>\n"), Message::assistant("<think>\n</think>\n\nGut 👍")];
    for thinking in [None, Some(true)] {
        if let Ok(text) = template.render(&messages, thinking) {
            assert!(text.len() <= 1 << 20);
        }
    }
    let _ = template.render(&[], None);
}

/// A `tokenizer.json` and, after a zero byte, a `tokenizer_config.json`; a text is encoded and decoded.
pub fn tokenizer(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = bytes.splitn(2, |&b| b == 0);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        if let Some(part) = parts.next() {
            std::fs::write(folder.path().join(name), part).expect("written");
        }
    }
    let Ok(tokenizer) = Tokenizer::load(folder.path()) else { return };
    for text in ["", "a", " Wie geht's?  1234 👍\n\n", "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh"] {
        if let Ok(ids) = tokenizer.encode_with_special(text) {
            let _ = tokenizer.decode(&ids);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX]);
}

/// A `meta.yaml` in a folder without models.
pub fn meta(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("meta.yaml"), bytes).expect("written");
    assert!(discover(folder.path()).is_err());
}
