//! ANEMLL's layouts against Hugging Face transformers, teacher-forced and greedy: the folders of
//! `conformance/language_layouts`, which `tools/language_layouts.py` makes, and those of `llm-layouts` in the folder that
//! `CANDLE_COREML_SHARED` names (default: `shared` beside the repository).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_coreml::LanguageModel;
use candle_coreml::anemll::{Pipeline, Session};
use candle_coreml::generation::{Options, Sampling};

/// Absolute, on logits whose standard deviation is about 3: f32 arithmetic with an fp16 state.
const TOLERANCE: f32 = 0.03;

/// Folders that a clone has, their dimensions (context, batch, vocabulary), and how each is driven.
const OWN: [(&str, [usize; 3], &str); 8] = [
    (
        "gemma3-monolithic-argmax",
        [35, 4, 290],
        "monolithic, argmax head (greedy only): prompts in batches of 4; from token 10 on",
    ),
    (
        "gemma3-rotate",
        [46, 5, 277],
        "2 chunk(s) of layers, LM head: prompts in batches of 5; from token 13 on `infer_rotate`",
    ),
    ("gemma3-single-cache", [21, 9, 262], "1 chunk(s) of layers, LM head: prompts in batches of 9"),
    ("gemma3-split-rotate", [33, 8, 281], "2 chunk(s) of layers, LM head: prompts in batches of 8; from token 8 on"),
    ("llama-monolithic", [37, 8, 283], "monolithic: prompts in batches of 8"),
    (
        "qwen25-argmax-static",
        [41, 7, 270],
        "2 chunk(s) of layers, LM head, argmax head (greedy only): prompts in batches of 7",
    ),
    ("qwen3-contexts", [40, 5, 264], "prompts in batches of 5; of its several contexts the longest, 40"),
    ("qwen3-monolithic-argmax", [29, 6, 301], "monolithic, argmax head (greedy only): prompts in batches of 6"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn own() -> PathBuf {
    repository().join("conformance/language_layouts")
}

/// Own folders and, if present, the reference ones.
fn folders() -> Vec<PathBuf> {
    let set = std::env::var_os("CANDLE_COREML_SHARED");
    let shared = set.as_ref().map_or_else(|| repository().join("../shared"), PathBuf::from).join("llm-layouts");
    let mut all: Vec<PathBuf> = OWN.iter().map(|(name, ..)| own().join(name)).collect();
    let others = std::fs::read_dir(&shared).into_iter().flatten().flatten().map(|e| e.path());
    let mut others: Vec<PathBuf> = others.filter(|p| p.join("reference.safetensors").is_file()).collect();
    if others.is_empty() {
        assert!(set.is_none(), "no reference layouts in {}", shared.display());
        eprintln!("SKIPPED: no reference layouts in {}; {} own ones are tested", shared.display(), all.len());
    }
    others.sort();
    all.extend(others);
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

fn force(pipeline: &Pipeline, session: &mut Session, reference: &Reference, at: &str) {
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

/// Logits after all of these tokens, run from where the session is.
fn run(pipeline: &Pipeline, session: &mut Session, ids: &[u32]) -> Vec<f32> {
    let known = session.tokens().len();
    assert_eq!(session.tokens(), &ids[..known]);
    pipeline.forward(session, &ids[known..]).expect("it runs")
}

#[test]
fn own_layouts_are_what_they_are_said_to_be() {
    for (name, [context, batch, vocab], how) in OWN {
        let pipeline = Pipeline::load(&own().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let sizes = pipeline.dimensions();
        assert_eq!([sizes.context, sizes.batch, sizes.vocab], [context, batch, vocab], "{name}");
        assert!(pipeline.layout().contains(how), "{name}: {}", pipeline.layout());
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

/// A second turn is a longer prompt: the whole of the first one, its answer and more. Wherever turns part, at edges of
/// batches and of the window above all, the rows are those of a conversation that starts anew.
#[test]
fn logits_agree_in_second_turns_that_part_anywhere() {
    for folder in folders() {
        let pipeline = Pipeline::load(&folder).expect("it loads");
        let mut session = pipeline.session().expect("a session");
        for (name, prompt, greedy, rows) in references(&folder) {
            let at = |what: &str, n: usize| format!("{}, {name}, {what} {n}", folder.display());
            let all: Vec<u32> = prompt.iter().chain(&greedy).copied().collect();
            let first = prompt.len();
            for cut in 1..first {
                session.truncate(0);
                run(&pipeline, &mut session, &all[..cut]);
                agree(&run(&pipeline, &mut session, &all[..first]), &rows[0], &at("in parts of", cut));
            }
            let last = all.len().min(first + rows.len() - 1);
            for turn in first..last {
                // Another answer is taken back first.
                session.truncate(0);
                run(&pipeline, &mut session, &all[..first]);
                let mut other = all[..turn].to_vec();
                other.push((all[turn] + 1) % 7);
                run(&pipeline, &mut session, &other);
                session.truncate(turn);
                agree(&run(&pipeline, &mut session, &all[..last]), &rows[last - first], &at("second turn at", turn));
            }
        }
    }
}

/// Going back to every length and on again, from conversations that ended beyond the window and within it.
#[test]
fn logits_agree_wherever_a_conversation_goes_back_to() {
    for folder in folders() {
        let pipeline = Pipeline::load(&folder).expect("it loads");
        let mut session = pipeline.session().expect("a session");
        let longest = references(&folder).into_iter().max_by_key(|(_, p, g, _)| p.len() + g.len()).expect("references");
        let (name, prompt, greedy, rows) = longest;
        let all: Vec<u32> = prompt.iter().chain(&greedy).copied().collect();
        for (row, want) in rows.iter().enumerate() {
            let end = prompt.len() + row;
            for length in [0, 1, end / 2, end.saturating_sub(2), end - 1] {
                session.truncate(length);
                let got = run(&pipeline, &mut session, &all[..end]);
                agree(&got, want, &format!("{}, {name}, {length} of {end}", folder.display()));
            }
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_the_reference_and_argmax_heads_refuse_to_sample() {
    for folder in folders() {
        let mut model = LanguageModel::load_from_directory(&folder, None).expect("it loads");
        for (name, prompt, greedy, _) in references(&folder) {
            let options = Options { max_tokens: greedy.len(), slide: false, ..Options::default() };
            let summary = model.generate_tokens(&prompt, options, |_| {}).expect("tokens");
            assert_eq!(summary.tokens, greedy, "{}, {name}", folder.display());
        }
        // Once more, in one conversation and after a reset.
        let mut generate = |prompt: &[u32], greedy: &[u32]| {
            let options = Options { max_tokens: greedy.len(), slide: false, ..Options::default() };
            model.generate_tokens(prompt, options, |_| {}).expect("tokens").tokens
        };
        for (name, prompt, greedy, _) in references(&folder) {
            let middle = greedy.len() / 2;
            let longer: Vec<u32> = prompt.iter().chain(&greedy[..middle]).copied().collect();
            generate(&prompt, &greedy);
            assert_eq!(generate(&longer, &greedy[middle..]), greedy[middle..], "{}, {name}", folder.display());
        }
        model.reset_states();
        assert_eq!(model.stream(&[1], Options::default()).cached(), 0);
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let options = Options { max_tokens: 1, sampling, ..Options::default() };
        let sampled = model.generate_tokens(&[5, 6], options, |_| {});
        assert_eq!(sampled.is_err(), model.pipeline().greedy_only(), "{}", folder.display());
    }
}
