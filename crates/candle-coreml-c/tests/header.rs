//! `include/candle_coreml.h` is what cbindgen makes of this crate. `UPDATE_HEADER=1` writes it.

use std::path::Path;

const ABOUT: &str = "/* C interface of candle-coreml: Core ML models and language models.
 *
 * A function that can fail takes `CcmlError **error`, which may be NULL, and returns NULL or false. Objects are freed by the
 * function of their name. Texts are UTF-8. Models may be used by several threads at once; states and language models too,
 * but calls wait for each other. Made by cbindgen: UPDATE_HEADER=1 cargo test -p candle-coreml-c --test header
 */";

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config {
        header: Some(ABOUT.to_owned()),
        include_guard: Some("CANDLE_COREML_H".to_owned()),
        language: cbindgen::Language::C,
        cpp_compat: true,
        usize_is_size_t: true,
        style: cbindgen::Style::Both,
        documentation_style: cbindgen::DocumentationStyle::C99,
        ..Default::default()
    };
    config.export.include = vec!["CcmlValue".to_owned()];
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["error.rs", "values.rs", "model.rs", "outputs.rs", "state.rs", "language.rs"] {
        builder = builder.with_src(root.join("src").join(file));
    }
    let mut made = Vec::new();
    builder.generate().expect("bindings").write(&mut made);
    let made = String::from_utf8(made).expect("text");
    let path = root.join("include/candle_coreml.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let there = std::fs::read_to_string(&path).expect("the header");
    assert!(there.replace("\r\n", "\n") == made, "the header is not current: UPDATE_HEADER=1 writes it");
}
