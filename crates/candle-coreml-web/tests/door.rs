//! What the page calls, without a browser: the same answers as the library's on files on disk.

use std::path::{Path, PathBuf};

use candle_coreml_web::{Failure, Files, Predictor};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// All files of a folder, as if it had been dropped.
fn dropped(folder: &Path, prefix: &str, files: &mut Files) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            dropped(&entry.path(), &format!("{name}/"), files);
        } else {
            files.put(&name, std::fs::read(entry.path()).expect("a file")).expect("a file");
        }
    }
}

fn numbers(predictor: &mut Predictor) -> Vec<f64> {
    predictor.put_json("input_ids", "[[2, 40, 41, 3]]").expect("an input");
    predictor.put_json("attention_mask", "[[1, 1, 1, 1]]").expect("an input");
    predictor.run(&|_| true).expect("outputs");
    predictor.all_numbers("logits").expect("numbers")
}

#[test]
fn a_dropped_package_predicts_as_the_one_on_disk_does() {
    let mut files = Files::new();
    dropped(&models().join("tiny-intent/intent.mlpackage"), "x/intent.mlpackage/", &mut files);
    let found = files.found().expect("a model");
    let listed: serde_json::Value = serde_json::from_str(&found.list()).expect("JSON");
    assert_eq!((&listed["models"][0], &listed["language"]), (&"x/intent.mlpackage".into(), &serde_json::Value::Null));
    let mut predictor = Predictor::load(&found.path("x/intent.mlpackage"), None).expect("loaded");
    let mut disk = Predictor::load(&models().join("tiny-intent/intent.mlpackage"), None).expect("loaded");
    assert_eq!(numbers(&mut predictor), numbers(&mut disk));
    let described = found.described("x/intent.mlpackage").expect("a description");
    assert_eq!(described["functions"][0]["inputs"][0]["name"], "input_ids");
    assert!(described["operations"]["linear"].is_u64() || described["operations"]["matmul"].is_u64(), "{described}");
    assert!(found.drawn("x/intent.mlpackage", None, false).expect("a picture").starts_with("<svg"));
    assert!(
        !found.estimated("x/intent.mlpackage").expect("an estimate")["functions"].as_array().expect("all").is_empty()
    );
    // A question that is answered with no ends it.
    let error = predictor.run(&|count| count < 3).expect_err("cancelled").to_string();
    assert!(error.contains("cancelled"), "{error}");
    let error = predictor.put_json("input_ids", "[[1], [2, 3]]").expect_err("ragged").to_string();
    assert!(error.contains("equal lengths"), "{error}");
}

#[test]
fn the_language_model_answers() {
    let mut files = Files::new();
    dropped(&models().join("tiny-qwen3"), "tiny-qwen3/", &mut files);
    let mut chat = files.found().expect("models").language().expect("a language model");
    for _ in 0..2 {
        chat.begin(r#"[{"role": "user", "content": "What is 37 + 45?"}]"#, 32, Some(0.0), 1).expect("begun");
        let mut text = String::new();
        while let Some(piece) = chat.advance().expect("a piece") {
            text += &piece;
        }
        let summary = chat.end().expect("a summary");
        assert!(text.contains("82") && summary["text"] == text.as_str(), "{text}: {summary}");
    }
    // Left early, it can begin again.
    chat.begin(r#"[{"role": "user", "content": "What is 37 + 45?"}]"#, 32, Some(0.0), 1).expect("begun");
    chat.advance().expect("a piece");
    assert_eq!(chat.end().expect("a summary")["stop_reason"], "cancelled");
    assert!(chat.end().is_err() && chat.advance().is_err());
    assert!(chat.begin("[]", 1, None, 1).is_err() && chat.begin("{", 1, None, 1).is_err());
}

#[test]
fn hostile_files_are_errors_that_name_them() {
    let open = |name: &str, bytes: &[u8]| -> Result<String, Failure> {
        let mut files = Files::new();
        files.put(name, bytes.to_vec())?;
        let found = files.found()?;
        Ok(found.described(name)?.to_string())
    };
    for (name, bytes, part) in [
        ("a.mlmodel", &b"\xff\xff\xff\xff"[..], "a.mlmodel: "),
        ("a.mlmodel", b"", "an empty file"),
        ("a.zip", b"PK\x03\x04\0\0", "not a zip archive"),
        ("../a.mlmodel", b"\x08\x04", "expected a relative path"),
        ("a.gguf", b"GGUF\x03\0\0\0", "GGUF"),
    ] {
        let error = open(name, bytes).expect_err(name).to_string();
        assert!(error.contains(part) && !error.contains("memory:"), "{name}: {error}");
    }
    let none = Files::new().found().expect_err("nothing").to_string();
    assert!(none.contains("expected a .mlpackage"), "{none}");
}
