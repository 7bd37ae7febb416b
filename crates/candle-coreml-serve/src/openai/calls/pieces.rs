//! Texts around the parts of calls: as they are written, as grammars, and as they are read, whatever the white space.

use candle_coreml::generation::Tokenizer;
use serde_json::Value;

use crate::error::ApiError;

/// Stand for the identifier of a call and for a number that counts calls, in texts of a form. Private use: no template
/// writes them.
pub(super) const ID: char = '\u{E000}';
pub(super) const NUMBER: char = '\u{E001}';

/// What a text begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Eaten<'t> {
    /// The piece; the rest of the text, and what stood for an identifier or a number.
    Rest(&'t str, Option<&'t str>),
    /// A part of the piece, and nothing more.
    More,
    No,
}

/// Compares the start of a text with a piece, white space aside.
pub(super) fn eat<'t>(text: &'t str, piece: &str) -> Eaten<'t> {
    let (mut rest, mut seen) = (text, None);
    for word in piece.split_whitespace() {
        rest = rest.trim_start();
        for part in word.split_inclusive([ID, NUMBER]) {
            let plain = part.trim_end_matches([ID, NUMBER]);
            rest = match rest.strip_prefix(plain) {
                Some(rest) => rest,
                None if plain.starts_with(rest) => return Eaten::More,
                None => return Eaten::No,
            };
            if part.len() > plain.len() {
                let fits = |c: char| {
                    c.is_ascii_digit() || part.ends_with(ID) && (c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
                };
                let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
                if end == rest.len() {
                    return Eaten::More;
                }
                if end == 0 {
                    return Eaten::No;
                }
                seen = Some(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    Eaten::Rest(rest, seen)
}

/// A text in a grammar: its special tokens as tokens, the rest as bytes.
pub(in crate::openai) fn literal(tokenizer: &Tokenizer, text: &str) -> Result<String, ApiError> {
    let mut parts = Vec::new();
    for piece in text.split_inclusive([ID, NUMBER]) {
        plain(tokenizer, piece.trim_end_matches([ID, NUMBER]), &mut parts)?;
        match piece.chars().last() {
            Some(ID) => parts.push("/[a-zA-Z0-9]{9}/".to_owned()),
            Some(NUMBER) => parts.push("/[0-9]{1,3}/".to_owned()),
            _ => {}
        }
    }
    Ok(if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") })
}

fn plain(tokenizer: &Tokenizer, text: &str, parts: &mut Vec<String>) -> Result<(), ApiError> {
    let mut rest = text;
    for id in tokenizer.encode(text)?.into_iter().filter(|&id| tokenizer.is_special(id)) {
        let name = String::from_utf8(tokenizer.token_bytes(id).unwrap_or_default()).unwrap_or_default();
        // The post-processor's own tokens are not in the text.
        if let Some((before, after)) = rest.split_once(&name).filter(|_| !name.is_empty()) {
            parts.extend((!before.is_empty()).then(|| Value::from(before).to_string()));
            parts.push(format!("<[{id}]>"));
            rest = after;
        }
    }
    parts.extend((!rest.is_empty()).then(|| Value::from(rest).to_string()));
    Ok(())
}

/// A text as a regular expression between slashes.
pub(in crate::openai) fn regex_of(text: &str) -> String {
    let escape =
        |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_string() } else { format!("\\x{{{:x}}}", c as u32) };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_from_their_beginnings_and_from_other_texts() {
        let piece = format!(">\n<a b=\"{ID}\">");
        for (text, found) in [
            (" > <a b=\"q1\">x", Eaten::Rest("x", Some("q1"))),
            ("><a b=\"q1", Eaten::More),
            ("><a", Eaten::More),
            ("", Eaten::More),
            ("><a b=\"\">", Eaten::No),
            ("><c", Eaten::No),
        ] {
            assert_eq!(eat(text, &piece), found, "{text}");
        }
        assert_eq!(eat(" x", ""), Eaten::Rest(" x", None));
        assert_eq!(eat("f:12|", &format!("f:{NUMBER}|")), Eaten::Rest("", Some("12")));
        assert_eq!(eat("f:a|", &format!("f:{NUMBER}|")), Eaten::No);
    }
}
