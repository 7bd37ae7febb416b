//! Fuzz targets. Any outcome is accepted except a panic, a hang or a result that does not survive a round trip.
//!
//! The tests of `coreml-lower` replay the corpus with the same functions.

use coreml_format::blob::BlobRef;
use coreml_format::mil_text;
use coreml_format::model::Model;
use coreml_format::model_types::{Body, Bytes};
use coreml_format::spec::{self, Specification};
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

/// A protobuf specification of a model of any type. It is lowered; a program is verified, round-tripped, and printed as
/// text.
pub fn specification(bytes: &[u8]) {
    let Ok(Specification { description, body, parts }) = spec::decode(&Bytes::copy_from_slice(bytes)) else { return };
    let model = Model { path: "fuzzed".into(), description, body, parts, weights: Weights::default() };
    if let Ok(program) = coreml_lower::lower(&model) {
        let sound = verify(&program).is_ok();
        let again = spec::decode(&spec::encode(&model.description, &program).into());
        // An inconsistent program may be rejected on the second read.
        assert!(again.is_ok() || !sound);
        if sound {
            mil_text::parse(&mil_text::print(&program)).expect("what is printed reads back");
        }
    }
}

/// A model file that may link to others: its links lead to itself. Files of other kinds are recognised.
pub fn links(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.mlmodel");
    std::fs::write(&file, bytes).expect("written");
    let Ok(model) = Model::open(&file) else { return };
    if let Body::LinkedModel(link) = &model.body
        && link.target().0.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
        && !link.target().0.trim_matches('.').is_empty()
    {
        std::fs::write(folder.path().join(link.target().0), bytes).expect("written");
    }
    let linked = model.has_links();
    assert!(!model.follow_links().is_ok_and(|model| linked && model.has_links()), "links are left");
}

/// A weight file, and the offset (first eight bytes) of a record in it.
pub fn weights(bytes: &[u8]) {
    let Some((offset, file)) = bytes.split_first_chunk::<8>() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("w"), file).expect("written");
    let files = Weights::folder(folder.path().to_owned());
    for offset in [u64::from_le_bytes(*offset), 64] {
        if let Ok(blob) = files.resolve(&BlobRef { file: "w".into(), offset }) {
            let bits = blob.dtype().bits().expect("numbers");
            assert!(blob.elements() * bits <= blob.len() * 8);
        }
    }
}

/// MIL text, verified and printed.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(program) = mil_text::parse(text) else { return };
    if verify(&program).is_ok() {
        let printed = mil_text::print(&program);
        let again = mil_text::parse(&printed).expect("what is printed reads back");
        assert_eq!(mil_text::print(&again), printed);
    }
}

/// A compiled model: the text, then `metadata.json` and `coremldata.bin`, each after a zero byte.
pub fn compiled(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut parts = bytes.splitn(3, |&b| b == 0);
    for name in ["model.mil", "metadata.json", "coremldata.bin"] {
        if let Some(part) = parts.next() {
            std::fs::write(folder.path().join(name), part).expect("written");
        }
    }
    if let Ok(model) = Model::open(folder.path()) {
        let function = model.description.default_function;
        let program = model.body.program().expect("a program");
        assert!(program.functions.contains_key(&function));
    }
}
