//! Layouts of language models against Hugging Face transformers, teacher-forced and greedy: the folders of
//! `llm-layouts` where the folder that `CANDLE_COREML_SHARED` names has them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_coreml::LanguageModel;
use candle_coreml::anemll::Pipeline;
use candle_coreml::generation::{Options, Sampling};

/// Absolute, on logits whose standard deviation is about 3: f32 arithmetic with an fp16 state.
const TOLERANCE: f32 = 0.03;

fn folders() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(shared.join("llm-layouts")) else { return Vec::new() };
    let mut all: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.join("reference.safetensors").is_file()).collect();
    all.sort();
    all
}

type Reference = (String, Vec<u32>, Vec<u32>, Vec<Vec<f32>>);

fn references(folder: &Path) -> Vec<Reference> {
    let all = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).expect("reference");
    let ids = |name: String| -> Vec<u32> {
        all[&name].to_dtype(DType::U32).and_then(|t| t.flatten_all()?.to_vec1()).expect("ids")
    };
    let mut prompts: Vec<String> = all.keys().filter_map(|k| Some(k.strip_suffix(".prompt_ids")?.to_owned())).collect();
    prompts.sort();
    let one = |p: String| {
        let rows = all[&format!("{p}.logits.f32")].to_dtype(DType::F32).and_then(|t| t.to_vec2()).expect("rows");
        (p.clone(), ids(format!("{p}.prompt_ids")), ids(format!("{p}.greedy_ids")), rows)
    };
    prompts.into_iter().map(one).collect()
}

/// Rows agree where the model tells the logit, and the largest is at the same token.
fn agree(got: &[f32], want: &[f32], at: &str) {
    assert_eq!(got.len(), want.len(), "{at}");
    let known = got.iter().zip(want).filter(|(g, _)| g.is_finite());
    let off = known.map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(off <= TOLERANCE, "{at}: off by {off}");
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    assert_eq!(best(got), best(want), "{at}");
}

fn force(pipeline: &Pipeline, session: &mut candle_coreml::anemll::Session, reference: &Reference, at: &str) {
    let (name, prompt, greedy, rows) = reference;
    let known = session.tokens().len();
    let mut logits = pipeline.forward(session, &prompt[known..]).expect("prompt");
    for (i, want) in rows.iter().enumerate() {
        agree(&logits, want, &format!("{at}, {name}, row {i}"));
        if let Some(&token) = greedy.get(i).filter(|_| i + 1 < rows.len()) {
            logits = pipeline.forward(session, &[token]).expect("a step");
        }
    }
}

#[test]
fn logits_agree_at_once_again_after_truncation_and_one_by_one() {
    for folder in folders() {
        let at = folder.display().to_string();
        let pipeline = Pipeline::load(&folder).expect("it loads");
        let mut session = pipeline.session().expect("a session");
        for reference in references(&folder) {
            session.truncate(0);
            force(&pipeline, &mut session, &reference, &at);
            // A prefix is reused, as far as the caches can go back.
            session.truncate(reference.1.len() - 1);
            force(&pipeline, &mut session, &reference, &format!("{at}, again"));
            session.truncate(0);
            for &id in &reference.1[..reference.1.len() - 1] {
                pipeline.forward(&mut session, &[id]).expect("a step");
            }
            force(&pipeline, &mut session, &reference, &format!("{at}, one by one"));
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_the_reference_and_argmax_heads_refuse_to_sample() {
    for folder in folders() {
        let mut model = LanguageModel::load_from_directory(&folder, None).expect("it loads");
        for (name, prompt, greedy, _) in references(&folder) {
            let options = Options { max_tokens: greedy.len(), ..Options::default() };
            let summary = model.generate_tokens(&prompt, options, |_| {}).expect("tokens");
            assert_eq!(summary.tokens, greedy, "{}, {name}", folder.display());
        }
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let options = Options { max_tokens: 1, sampling, ..Options::default() };
        let sampled = model.generate_tokens(&[5, 6], options, |_| {});
        assert_eq!(sampled.is_err(), model.pipeline().greedy_only(), "{}", folder.display());
    }
}
