//! Benchmarks of language models.

use std::path::Path;
use std::time::Instant;

use candle_coreml::anemll::{Pipeline, Session};
use candle_coreml::engine::{EngineOptions, OperationCost};

use super::Arguments;
use super::measure::{AtPosition, Language, Measured};
use super::profile::{Phase, medians};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Positions in a report, and tokens decoded at each.
const POSITIONS: usize = 12;
const EACH: usize = 4;

fn prompt(length: usize, vocab: u32) -> Vec<u32> {
    (0..length as u32).map(|i| i.wrapping_mul(7919).wrapping_add(13) % vocab).collect()
}

fn token(i: usize, vocab: u32) -> u32 {
    (i as u32).wrapping_mul(104_729).wrapping_add(7) % vocab
}

pub(super) fn measure(
    folder: &Path,
    arguments: &Arguments,
    options: &EngineOptions,
    profiled: bool,
) -> Result<Measured> {
    let started = Instant::now();
    let pipeline = Pipeline::load_with(folder, options)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let dimensions = pipeline.dimensions();
    let vocab = dimensions.vocab as u32;
    let prompt = prompt(arguments.prompt, vocab);
    let mut session = pipeline.session()?;
    pipeline.forward(&mut session, &prompt)?;
    let first_token_seconds = started.elapsed().as_secs_f64();
    let mut seconds = Vec::new();
    let runs = (0..arguments.runs).map(|_| run(&pipeline, &mut session, arguments, &prompt, &mut seconds));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let best = runs.into_iter().min_by(|a, b| (a.prefill + a.decode).total_cmp(&(b.prefill + b.decode)));
    let best = best.ok_or("no run")?;
    let streams = arguments
        .streams
        .map(|count| Ok::<_, Box<dyn std::error::Error>>((count, together(&pipeline, arguments, &prompt, count)?)));
    let streams = streams.transpose()?;
    let profiles = if profiled { profiles(&pipeline, &mut session, arguments, &prompt)? } else { Vec::new() };
    Ok(Measured {
        engine: pipeline.engine().to_owned(),
        load_seconds,
        first_seconds: 0.0,
        seconds,
        inputs: Vec::new(),
        rows: None,
        language: Some(Language {
            dimensions,
            first_token_seconds,
            prompt: prompt.len(),
            prefill_rate: prompt.len() as f64 / best.prefill,
            decode_rate: arguments.tokens as f64 / best.decode,
            turn_seconds: best.turn,
            streams,
            by_position: best.by_position,
        }),
        profiles,
    })
}

/// One run, in seconds. Rates and the chart over the context are those of the same run, the best.
struct Run {
    prefill: f64,
    decode: f64,
    /// 0 if the context is full.
    turn: f64,
    /// Only for reports.
    by_position: Vec<AtPosition>,
}

/// Prefills, decodes, takes another turn; adds the seconds of each token.
fn run(
    pipeline: &Pipeline,
    session: &mut Session,
    arguments: &Arguments,
    prompt: &[u32],
    seconds: &mut Vec<f64>,
) -> Result<Run> {
    let (context, vocab) = (pipeline.dimensions().context, pipeline.dimensions().vocab as u32);
    // Discard the decoded tokens so that each run does the same work.
    session.truncate(0);
    let started = Instant::now();
    pipeline.forward(session, prompt)?;
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for i in 0..arguments.tokens {
        let started = Instant::now();
        pipeline.forward(session, &[token(i, vocab)])?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let decode = started.elapsed().as_secs_f64();
    let mut turn = 0.0;
    if prompt.len() < context {
        let started = Instant::now();
        session.truncate(prompt.len());
        // Caches that can't go back that far run some tokens again.
        let again = &prompt[session.tokens().len()..];
        pipeline.forward(session, &[again, &[token(1, vocab)]].concat())?;
        turn = started.elapsed().as_secs_f64();
    }
    let by_position = if arguments.report.is_some() { by_position(pipeline, session)? } else { Vec::new() };
    Ok(Run { prefill, decode, turn, by_position })
}

/// Tokens per second of conversations that decode together, the best run.
fn together(pipeline: &Pipeline, arguments: &Arguments, prompt: &[u32], count: u8) -> Result<f64> {
    let vocab = pipeline.dimensions().vocab as u32;
    let mut best = f64::INFINITY;
    for _ in 0..arguments.runs {
        let mut sessions = (0..count).map(|_| pipeline.session()).collect::<std::result::Result<Vec<_>, _>>()?;
        for (i, session) in sessions.iter_mut().enumerate() {
            // Conversations of unlike lengths.
            pipeline.forward(session, &prompt[i.min(prompt.len() - 1)..])?;
        }
        let started = Instant::now();
        for step in 0..arguments.tokens {
            let tokens: Vec<(usize, u32)> = (0..usize::from(count)).map(|i| (i, token(step + 31 * i, vocab))).collect();
            let mut all: Vec<&mut Session> = sessions.iter_mut().collect();
            let logits = pipeline.forward_together(&mut all, &tokens);
            logits.ok_or("this model, engine or context can't decode several conversations together")??;
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(arguments.tokens as f64 * f64::from(count) / best)
}

/// Decoding speed at positions spread over the whole context.
fn by_position(pipeline: &Pipeline, session: &mut Session) -> Result<Vec<AtPosition>> {
    let (context, vocab) = (pipeline.dimensions().context, pipeline.dimensions().vocab as u32);
    let last = context.saturating_sub(EACH);
    let all = prompt(context, vocab);
    session.truncate(0);
    let mut found: Vec<AtPosition> = Vec::new();
    for i in 0..POSITIONS {
        let position = (last * i / (POSITIONS - 1)).max(1);
        if found.last().is_some_and(|f| f.position == position) || position > last {
            continue;
        }
        let known = session.tokens().len();
        pipeline.forward(session, &all[known..position])?;
        let mut best = f64::INFINITY;
        for i in 0..EACH {
            let started = Instant::now();
            pipeline.forward(session, &[token(i, vocab)])?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        session.truncate(position);
        found.push(AtPosition { position, tokens_per_second: 1.0 / best });
    }
    Ok(found)
}

/// Per-operation costs of prefill and decoding; empty if the engine does not report them.
fn profiles(pipeline: &Pipeline, session: &mut Session, arguments: &Arguments, prompt: &[u32]) -> Result<Vec<Phase>> {
    let vocab = pipeline.dimensions().vocab as u32;
    // Call every function, even after one that cannot profile.
    let begin = || pipeline.functions().filter(|f| !f.set_profiling(true)).count() == 0;
    // By function: parts of a model have operations of the same names.
    let keep = |rounds: &mut Vec<Vec<Vec<OperationCost>>>| {
        rounds.resize(pipeline.functions().count(), Vec::new());
        rounds.iter_mut().zip(pipeline.functions()).for_each(|(own, f)| own.push(f.costs()));
    };
    let phase = |name: &str, units: usize, rounds: Vec<Vec<Vec<OperationCost>>>| {
        Phase::new(name, "token", units, rounds.into_iter().flat_map(medians).collect())
    };
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        session.truncate(0);
        if !begin() {
            return Ok(Vec::new());
        }
        pipeline.forward(session, prompt)?;
        keep(&mut prefill);
    }
    for i in 0..arguments.tokens {
        begin();
        pipeline.forward(session, &[token(i, vocab)])?;
        keep(&mut decode);
    }
    pipeline.functions().for_each(|f| {
        f.set_profiling(false);
    });
    let prompts = prompt.len() * arguments.runs;
    Ok(vec![phase("prefill", prompts, prefill), phase("decode", arguments.tokens, decode)])
}
