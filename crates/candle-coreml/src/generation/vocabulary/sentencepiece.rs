//! `tokenizer.model` of [SentencePiece](https://github.com/google/sentencepiece), as the `tokenizer.json` that encodes
//! the same.
//!
//! The file is a protobuf message, `ModelProto` in `sentencepiece_model.proto`. Steps and their order are those of
//! SentencePiece: normalization by a table, removal of extra spaces, `▁` for spaces and before the text, pieces that are
//! never split, then BPE by scores or a unigram model.

use serde_json::{Value, json};

mod wire;

use wire::{Field, fields};

/// Kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// Fields of the message that matter, with their defaults.
#[derive(Debug)]
struct Model {
    pieces: Vec<Piece>,
    /// 1: unigram, 2: BPE, 3: words, 4: characters.
    model_type: u64,
    byte_fallback: bool,
    whitespace_as_suffix: bool,
    bos: i32,
    eos: i32,
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    remove_extra: bool,
    escape: bool,
    /// True if decoding has a table of its own.
    denormalizes: bool,
}

/// What stands for a space in pieces.
const SPACE: &str = "\u{2581}";

type Result<T> = std::result::Result<T, String>;

impl Model {
    fn parse(content: &[u8]) -> Result<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            whitespace_as_suffix: false,
            bos: 1,
            eos: 2,
            charsmap: Vec::new(),
            dummy_prefix: true,
            remove_extra: true,
            escape: true,
            denormalizes: false,
        };
        for field in fields(content) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Field::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field? {
                            (3, Field::Number(n)) => model.model_type = n,
                            (24, Field::Number(n)) => model.whitespace_as_suffix = n != 0,
                            (35, Field::Number(n)) => model.byte_fallback = n != 0,
                            // Negative: there is none. Only the low 32 bits are the number.
                            (41, Field::Number(n)) => model.bos = n as u32 as i32,
                            (42, Field::Number(n)) => model.eos = n as u32 as i32,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3, Field::Number(n)) => model.dummy_prefix = n != 0,
                            (4, Field::Number(n)) => model.remove_extra = n != 0,
                            (5, Field::Number(n)) => model.escape = n != 0,
                            _ => {}
                        }
                    }
                }
                (5, Field::Bytes(denormalizer)) => {
                    for field in fields(denormalizer) {
                        model.denormalizes |= matches!(field?, (2, Field::Bytes(map)) if !map.is_empty());
                    }
                }
                _ => {}
            }
        }
        model.check()?;
        Ok(model)
    }

    /// Refuses what the tokenizers library can't do the same.
    fn check(&self) -> Result<()> {
        if self.pieces.is_empty() {
            return Err("expected a SentencePiece model, found no pieces".to_owned());
        }
        if !matches!(self.model_type, 1 | 2) {
            return Err(format!("expected a model of type unigram or bpe, found type {}", self.model_type));
        }
        if self.whitespace_as_suffix {
            return Err("treat_whitespace_as_suffix is not supported".to_owned());
        }
        if !self.escape {
            return Err("a model without escape_whitespaces is not supported".to_owned());
        }
        if self.denormalizes {
            return Err("a table for decoding (denormalizer_spec) is not supported".to_owned());
        }
        let spells_bytes = |p: &&Piece| p.kind == Kind::Normal && p.text.contains("<0");
        if let Some(piece) =
            self.pieces.iter().find(spells_bytes).filter(|_| self.model_type == 1 && self.byte_fallback)
        {
            return Err(format!("a unigram model with bytes and the piece `{}` is not supported", piece.text));
        }
        if let Some(piece) = self.pieces.iter().find(|p| p.kind == Kind::Unused) {
            return Err(format!("unused pieces such as `{}` are not supported", piece.text));
        }
        if !self.pieces.iter().any(|p| p.kind == Kind::Unknown) {
            return Err("it has no piece for unknown characters".to_owned());
        }
        Ok(())
    }
}

impl Piece {
    fn parse(content: &[u8]) -> Result<Self> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in fields(content) {
            match field? {
                (1, Field::Bytes(text)) => {
                    let text = std::str::from_utf8(text).map_err(|_| "a piece is not UTF-8".to_owned())?;
                    piece.text = text.to_owned();
                }
                (2, Field::Float(score)) => piece.score = score,
                (3, Field::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        other => return Err(format!("a piece of unknown type {other}")),
                    }
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// The `tokenizer.json` of a `tokenizer.model`. `settings` is `tokenizer_config.json`: it names added tokens and says
/// whether texts begin and end with special tokens.
///
/// # Errors
/// The problem, if the file is damaged or has a feature that can't be done the same.
pub(in crate::generation) fn as_json(content: &[u8], settings: &Value) -> Result<Value> {
    let mut model = Model::parse(content)?;
    let added = added(&mut model, settings)?;
    // Texts between special tokens are prefixed too, unless the settings say that this is a mistake of the past.
    let always = settings.get("legacy").and_then(Value::as_bool).unwrap_or(true);
    let user_defined: Vec<&str> =
        model.pieces.iter().filter(|p| p.kind == Kind::UserDefined).map(|p| p.text.as_str()).collect();
    let ends = post_processor(&model, &added, settings)?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers(&model, always)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers(&model, always, &user_defined)},
        "post_processor": ends,
        "decoder": {"type": "Sequence", "decoders": decoders(&model)},
        "model": if model.model_type == 2 { bpe(&model, !user_defined.is_empty())? } else { unigram(&model) },
    }))
}

/// Added tokens: special pieces, and what the settings add. Renames pieces that the settings name otherwise.
fn added(model: &mut Model, settings: &Value) -> Result<Vec<Value>> {
    let mut given: Vec<(usize, &Value)> = Vec::new();
    for (id, token) in settings.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        given.push((id.parse().map_err(|_| format!("added_tokens_decoder: `{id}` is no id"))?, token));
    }
    given.sort_by_key(|(id, _)| *id);
    let mut all = Vec::new();
    let row = |id: usize, content: &str, flags: Option<&Value>, special: bool| {
        let flag = |name: &str| flags.and_then(|f| f.get(name)).and_then(Value::as_bool).unwrap_or(false);
        json!({"id": id, "content": content, "single_word": flag("single_word"), "lstrip": flag("lstrip"),
               "rstrip": flag("rstrip"), "normalized": flag("normalized"), "special": special})
    };
    for (id, piece) in model.pieces.iter_mut().enumerate() {
        let named = given.iter().find(|(at, _)| *at == id).map(|(_, token)| *token);
        if let Some(content) = named.and_then(|t| t.get("content")).and_then(Value::as_str) {
            piece.text = content.to_owned();
        }
        let special = matches!(piece.kind, Kind::Control | Kind::Unknown);
        if special || named.is_some() {
            let special = named.and_then(|t| t.get("special")).and_then(Value::as_bool).unwrap_or(special);
            all.push(row(id, &piece.text, named, special));
        }
    }
    let more = given.into_iter().filter(|(id, _)| *id >= model.pieces.len());
    for (next, (id, token)) in (model.pieces.len()..).zip(more) {
        let Some(content) = token.get("content").and_then(Value::as_str) else {
            return Err(format!("added_tokens_decoder: token {id} has no content"));
        };
        if id != next {
            return Err(format!("added_tokens_decoder: expected a token {next} before token {id}"));
        }
        all.push(row(id, content, Some(token), token.get("special").and_then(Value::as_bool).unwrap_or(false)));
    }
    Ok(all)
}

fn normalizers(model: &Model, always: bool) -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let regex = |pattern: &str| json!({"Regex": pattern});
    let mut all = Vec::new();
    if !model.charsmap.is_empty() {
        all.push(json!({"type": "Precompiled", "precompiled_charsmap": super::charsmap::encode(&model.charsmap)}));
    }
    if model.remove_extra {
        // Spaces only: other whitespace stays.
        all.push(replace(regex(r"\A +| +\z"), ""));
        all.push(replace(regex(" {2,}"), " "));
    }
    all.push(replace(json!({"String": " "}), SPACE));
    if model.dummy_prefix && always {
        // The library adds no prefix where there is one; SentencePiece does.
        all.push(replace(regex(r"\A▁"), "▁▁"));
    }
    all
}

fn pre_tokenizers(model: &Model, always: bool, user_defined: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    if model.dummy_prefix {
        let scheme = if always { "always" } else { "first" };
        all.push(json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false}));
    }
    if model.model_type == 1 && model.byte_fallback {
        // A text that spells a byte, `<0x41>`, is no byte.
        all.push(json!({"type": "Split", "pattern": {"Regex": "<(?=0x)"}, "behavior": "Isolated", "invert": false}));
    }
    if !user_defined.is_empty() {
        let mut longest_first = user_defined.to_vec();
        longest_first.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let pattern = longest_first.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("|");
        all.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
    }
    all
}

/// A text as a regular expression that matches it.
fn escaped(text: &str) -> String {
    // Not every mark: `\<` is a boundary of words.
    text.chars().flat_map(|c| r"\.+*?()|[]{}^$".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

fn decoders(model: &Model) -> Vec<Value> {
    let mut all = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
    if model.byte_fallback {
        all.push(json!({"type": "ByteFallback"}));
    }
    all.push(json!({"type": "Fuse"}));
    if model.dummy_prefix || model.remove_extra {
        // Where extra spaces are removed, all before the text are.
        let start = if model.remove_extra { 16 } else { 1 };
        all.push(json!({"type": "Strip", "content": " ", "start": start, "stop": 0}));
    }
    all
}

fn unknown(model: &Model) -> usize {
    model.pieces.iter().position(|p| p.kind == Kind::Unknown).unwrap_or(0)
}

fn unigram(model: &Model) -> Value {
    let vocab: Vec<Value> = model.pieces.iter().map(|p| json!([p.text, p.score])).collect();
    json!({"type": "Unigram", "unk_id": unknown(model), "vocab": vocab, "byte_fallback": model.byte_fallback})
}

/// SentencePiece merges the neighbours whose union has the best score; the library, the pair that comes first.
fn bpe(model: &Model, whole: bool) -> Result<Value> {
    let mut ids = std::collections::HashMap::with_capacity(model.pieces.len());
    let mut vocab = serde_json::Map::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if vocab.insert(piece.text.clone(), id.into()).is_some() {
            return Err(format!("the piece `{}` appears twice", piece.text));
        }
        if piece.kind == Kind::Normal {
            ids.insert(piece.text.as_str(), id);
        }
    }
    let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate().filter(|(_, p)| p.kind == Kind::Normal) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((piece.score, id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|(_, _, left, right)| [left, right]).collect();
    Ok(json!({"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": model.pieces[unknown(model)].text,
              "fuse_unk": true, "byte_fallback": model.byte_fallback, "ignore_merges": whole, "dropout": null,
              "continuing_subword_prefix": null, "end_of_word_suffix": null}))
}

/// Special tokens around a text. As in transformers, a text begins with the BOS unless the settings say otherwise.
fn post_processor(model: &Model, added: &[Value], settings: &Value) -> Result<Value> {
    let at = |id: i32| usize::try_from(id).ok().and_then(|id| model.pieces.get(id)).map(|p| p.text.clone());
    let token = |name: &str, id: i32| {
        let given = settings.get(name).map(super::super::text::token_text).filter(|text| !text.is_empty());
        given.or_else(|| at(id))
    };
    let wanted = |name: &str, usual: bool| settings.get(name).and_then(Value::as_bool).unwrap_or(usual);
    let mut special = serde_json::Map::new();
    let mut around = |name: &str, wanted: bool, id: i32| -> Result<Option<Value>> {
        let Some(text) = token(name, id).filter(|_| wanted) else { return Ok(None) };
        let piece = model.pieces.iter().position(|p| p.text == text);
        let id = piece.map(|id| id as u64).or_else(|| added.iter().find(|t| t["content"] == text)?["id"].as_u64());
        let Some(id) = id else { return Err(format!("{name} `{text}` is no token of the model")) };
        special.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
        Ok(Some(json!({"SpecialToken": {"id": text, "type_id": 0}})))
    };
    let before = around("bos_token", wanted("add_bos_token", model.bos >= 0), model.bos)?;
    let after = around("eos_token", wanted("add_eos_token", false), model.eos)?;
    if before.is_none() && after.is_none() {
        return Ok(Value::Null);
    }
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let text = |name: &str| before.iter().cloned().chain([sequence(name)]).chain(after.iter().cloned());
    let (single, pair): (Vec<Value>, Vec<Value>) = (text("A").collect(), text("A").chain(text("B")).collect());
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}))
}

#[cfg(test)]
mod tests;
