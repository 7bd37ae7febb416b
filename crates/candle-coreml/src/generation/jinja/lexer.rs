//! Tokenizes a template, with Jinja's whitespace rules (`trim_blocks` and `lstrip_blocks` on, the newline at the end of
//! the template dropped).

use std::borrow::Cow;

use super::{Result, TemplateError, TemplateErrorKind};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'s> {
    pub(super) line: usize,
    pub(super) kind: Kind<'s>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind<'s> {
    Text(Cow<'s, str>),
    /// `{{` and `}}`, `{%` and `%}`.
    EmitBegin,
    EmitEnd,
    TagBegin,
    TagEnd,
    Name(&'s str),
    Str(String),
    Int(i64),
    Float(f64),
    Sign(&'static str),
    End,
}

/// Longest first.
const SIGNS: [&str; 26] = [
    "==", "!=", "<=", ">=", "**", "//", "=", "<", ">", "+", "-", "*", "/", "%", "~", "|", ".", ",", ":", "(", ")", "[",
    "]", "{", "}", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<Token<'s>>,
}

pub(super) fn tokens(source: &str) -> Result<Vec<Token<'_>>> {
    let source = source.strip_suffix('\n').map_or(source, |s| s.strip_suffix('\r').unwrap_or(s));
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    lexer.run()?;
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

/// Normalizes line endings as Jinja does.
fn newlines(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

impl<'s> Lexer<'s> {
    fn push(&mut self, kind: Kind<'s>) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(TemplateError { line: self.line, kind: TemplateErrorKind::Syntax(message.into()) })
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    /// Advances by this many bytes.
    fn skip(&mut self, bytes: usize) {
        self.line += self.rest().as_bytes()[..bytes].iter().filter(|&&b| b == b'\n').count();
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        self.skip(self.rest().len() - self.rest().trim_start().len());
    }

    /// Handles whitespace after an end mark: `-` strips all of it, a newline after a tag is dropped.
    fn after_end(&mut self, strip: bool, trim: bool) {
        if strip {
            self.skip_space();
        } else if trim {
            let newline = ["\r\n", "\n", "\r"].into_iter().find(|n| self.rest().starts_with(n));
            self.skip(newline.map_or(0, str::len));
        }
    }

    fn run(&mut self) -> Result<()> {
        // True if the text so far ends a line.
        let mut line_starts = true;
        while self.at < self.source.len() {
            let rest = self.rest();
            let begin = rest
                .match_indices('{')
                .map(|(i, _)| i)
                .find(|&i| matches!(rest.as_bytes().get(i + 1), Some(b'{' | b'%' | b'#')));
            let Some(begin) = begin else {
                self.text(rest);
                self.skip(rest.len());
                return Ok(());
            };
            let mark = rest.as_bytes()[begin + 1];
            let control = rest.as_bytes().get(begin + 2).copied();
            let mut text = &rest[..begin];
            match control {
                Some(b'-') => text = text.trim_end(),
                Some(b'+') => {}
                _ if mark != b'{' => {
                    let line = text.rfind(['\n', '\r']).map(|i| i + 1);
                    let start = line.unwrap_or(0);
                    if (line.is_some() || line_starts) && text[start..].trim().is_empty() {
                        text = &text[..start];
                    }
                }
                _ => {}
            }
            self.text(text);
            self.skip(begin + 2);
            if matches!(control, Some(b'-' | b'+')) {
                self.skip(1);
            }
            let inside = self.at;
            match mark {
                b'#' => self.comment()?,
                b'%' if self.raw()? => {}
                b'%' => self.code(Kind::TagBegin, Kind::TagEnd, "%}")?,
                _ => self.code(Kind::EmitBegin, Kind::EmitEnd, "}}")?,
            }
            line_starts = self.source[inside..self.at].ends_with('\n');
        }
        Ok(())
    }

    fn text(&mut self, text: &'s str) {
        if !text.is_empty() {
            self.push(Kind::Text(newlines(text)));
        }
    }

    fn comment(&mut self) -> Result<()> {
        let Some(end) = self.rest().find("#}") else { return self.fail("a comment is not closed: `#}` is missing") };
        let inside = &self.rest()[..end];
        let (strip, keep) = (inside.ends_with('-'), inside.ends_with('+'));
        self.skip(end + 2);
        self.after_end(strip, !keep);
        Ok(())
    }

    /// Parses `raw %}…{% endraw %}`, if present.
    fn raw(&mut self) -> Result<bool> {
        let after = self.rest().trim_start();
        let Some(after) = after.strip_prefix("raw") else { return Ok(false) };
        let after = after.trim_start();
        let (strip, keep) = (after.starts_with('-'), after.starts_with('+'));
        let Some(body) = after[usize::from(strip || keep)..].strip_prefix("%}") else { return Ok(false) };
        self.skip(self.rest().len() - body.len());
        self.after_end(strip, !keep);
        let body = self.rest();
        for (i, _) in body.match_indices("{%") {
            let tag = &body[i + 2..];
            let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag);
            let Some(tag) = tag.trim_start().strip_prefix("endraw") else { continue };
            let tag = tag.trim_start();
            let (strip, keep) = (tag.starts_with('-'), tag.starts_with('+'));
            let Some(after) = tag[usize::from(strip || keep)..].strip_prefix("%}") else { continue };
            let mut text = &body[..i];
            match body.as_bytes().get(i + 2) {
                Some(b'-') => text = text.trim_end(),
                Some(b'+') => {}
                _ => {
                    let start = text.rfind('\n').map_or(0, |n| n + 1);
                    if start > 0 && text[start..].trim().is_empty() {
                        text = &text[..start];
                    }
                }
            }
            self.text(text);
            self.skip(body.len() - after.len());
            self.after_end(strip, !keep);
            return Ok(true);
        }
        self.fail("`raw` is not closed: `endraw` is missing")
    }

    /// Tokenizes between two marks.
    fn code(&mut self, begin: Kind<'s>, end: Kind<'s>, mark: &str) -> Result<()> {
        self.push(begin);
        let mut open = Vec::new();
        loop {
            self.skip_space();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return self.fail(format!("`{mark}` is missing")) };
            if open.is_empty() {
                let (strip, keep) = (rest.starts_with('-'), rest.starts_with('+'));
                // Only tags allow `+`.
                let keep = keep && mark == "%}";
                let signs = usize::from(strip || keep);
                if rest[signs..].starts_with(mark) {
                    self.skip(signs + 2);
                    self.push(end);
                    self.after_end(strip, !keep && mark == "%}");
                    return Ok(());
                }
            }
            if first == '"' || first == '\'' {
                self.string(first)?;
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                self.push(Kind::Name(&rest[..length]));
                self.skip(length);
            } else {
                let Some(sign) = SIGNS.into_iter().find(|s| rest.starts_with(s)) else {
                    return self.fail(format!("unexpected `{first}`"));
                };
                match sign {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(sign) => return self.fail(format!("unexpected `{sign}`")),
                    _ => {}
                }
                self.push(Kind::Sign(sign));
                self.skip(sign.len());
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let is_digit = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let whole = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
        let lower = rest[..whole].replace('_', "").to_ascii_lowercase();
        for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
            if let Some(digits) = lower.strip_prefix(prefix) {
                let Ok(value) = i64::from_str_radix(digits, base) else {
                    return self.fail(format!("`{}` is not a 64-bit integer", super::quoted(&lower)));
                };
                self.push(Kind::Int(value));
                self.skip(whole);
                return Ok(());
            }
        }
        let digits = |from: usize| {
            let tail = &rest[from..];
            from + tail.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(tail.len())
        };
        let mut end = digits(0);
        let mut is_float = false;
        let bytes = rest.as_bytes();
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            (end, is_float) = (digits(end + 1), true);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                (end, is_float) = (digits(end + 1 + sign), true);
            }
        }
        let text = rest[..end].replace('_', "");
        let kind = if is_float { text.parse().ok().map(Kind::Float) } else { text.parse().ok().map(Kind::Int) };
        let Some(kind) = kind else {
            return self.fail(format!("`{}` is not a 64-bit number", super::quoted(&text)));
        };
        self.push(kind);
        self.skip(end);
        Ok(())
    }

    /// A string with Python's escapes; unknown escapes are kept.
    fn string(&mut self, mark: char) -> Result<()> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            if c == mark {
                self.push(Kind::Str(text));
                self.skip(i + 1);
                return Ok(());
            }
            if c == '\r' {
                // Line endings are normalized as in text.
                if rest.as_bytes().get(i + 1) != Some(&b'\n') {
                    text.push('\n');
                }
                continue;
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((at, escape)) = chars.next() else { break };
            let hex = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            match escape {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'v' => text.push('\u{b}'),
                'a' => text.push('\u{7}'),
                '\\' | '\'' | '"' => text.push(escape),
                '\n' => {}
                '0'..='7' => {
                    let octal = rest[at..].bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                    let code = u32::from_str_radix(&rest[at..at + octal], 8).unwrap_or(0);
                    text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    chars.by_ref().take(octal - 1).for_each(drop);
                }
                _ if hex > 0 => {
                    let digits = rest.get(at + 1..at + 1 + hex).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                    let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32);
                    let Some(c) = code else {
                        return self.fail(format!("`\\{escape}` needs {hex} digits of a character"));
                    };
                    text.push(c);
                    chars.by_ref().take(hex).for_each(drop);
                }
                other => {
                    text.push('\\');
                    text.push(other);
                }
            }
        }
        self.fail("a string is not closed")
    }
}
