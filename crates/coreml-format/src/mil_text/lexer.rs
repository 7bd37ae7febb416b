//! Lexer: characters to tokens.

use std::borrow::Cow;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'t> {
    /// A name or keyword.
    Ident(&'t str),
    /// A number as written, including its sign: decimal, hexadecimal float, `inf`, or signed `nan`.
    Number(&'t str),
    /// A string, with escapes resolved.
    Text(Cow<'t, str>),
    /// One of `( ) [ ] { } < > , ; = ? * :`.
    Punct(char),
    /// `->`.
    Arrow,
    /// End of input.
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Ident(s) | Token::Number(s) => write!(f, "`{s}`"),
            Token::Text(s) => {
                let short: String = s.chars().take(40).collect();
                write!(f, "the string {short:?}")
            }
            Token::Punct(c) => write!(f, "`{c}`"),
            Token::Arrow => f.write_str("`->`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A lexical error: offset, expected and found text.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) at: usize,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

/// Returns true if the text is an identifier that needs no quotes.
pub(super) fn is_ident(text: &str) -> bool {
    let mut chars = text.bytes();
    chars.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && chars.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'@'))
}

/// Position in the text.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips white space and comments (`// …` to the end of the line).
    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Returns the next token and its start offset.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'t>), Bad> {
        self.skip_blank();
        let (start, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            c if c.is_ascii_alphabetic() || c == '_' => {
                Token::Ident(self.take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'@' | b'$' | b'.')))
            }
            '-' if rest.starts_with("->") => {
                self.at += 2;
                Token::Arrow
            }
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number()?,
            '"' => self.string()?,
            '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | ',' | ';' | '=' | '?' | '*' | ':' => {
                self.at += 1;
                Token::Punct(first)
            }
            other => return Err(Bad { at: start, expected: "a token of MIL text", found: format!("`{other}`") }),
        };
        Ok((start, token))
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'t str {
        let rest = self.rest();
        let length = rest.bytes().position(|b| !keep(b)).unwrap_or(rest.len());
        self.at += length;
        // Only ASCII bytes are kept, so the end is a character boundary.
        rest.get(..length).unwrap_or_default()
    }

    /// Reads a sign and everything that can belong to a number; it is parsed later, with its type.
    fn number(&mut self) -> Result<Token<'t>, Bad> {
        let (start, rest) = (self.at, self.rest());
        let sign = usize::from(rest.starts_with(['-', '+']));
        self.at += sign;
        let body = self.rest();
        let hex = body.starts_with("0x") || body.starts_with("0X");
        let mut previous = b'0';
        let length = body
            .bytes()
            .position(|b| {
                let exponent = if hex { matches!(previous, b'p' | b'P') } else { matches!(previous, b'e' | b'E') };
                let keep = b.is_ascii_alphanumeric() || b == b'.' || (exponent && matches!(b, b'-' | b'+'));
                previous = b;
                !keep
            })
            .unwrap_or(body.len());
        self.at += length;
        if length == 0 {
            return Err(Bad { at: start, expected: "a number", found: format!("`{}`", &rest[..sign]) });
        }
        Ok(Token::Number(&rest[..sign + length]))
    }

    fn string(&mut self) -> Result<Token<'t>, Bad> {
        let start = self.at;
        let body = &self.rest()[1..];
        let plain = body.bytes().position(|b| matches!(b, b'"' | b'\\'));
        if let Some(length) = plain.filter(|&n| body.as_bytes()[n] == b'"') {
            self.at += length + 2;
            return Ok(Token::Text(Cow::Borrowed(&body[..length])));
        }
        let mut text = String::new();
        let mut chars = body.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 2;
                    return Ok(Token::Text(Cow::Owned(text)));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, '0')) => text.push('\0'),
                    Some((_, c @ ('"' | '\\' | '\'' | '/'))) => text.push(c),
                    Some((_, other)) => {
                        let found = format!("`\\{other}`");
                        return Err(Bad { at: start + 1 + i, expected: "an escape (\\\" \\\\ \\n \\r \\t)", found });
                    }
                    None => break,
                },
                other => text.push(other),
            }
        }
        Err(Bad { at: start, expected: "a closing quote", found: "the end of the text".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        std::iter::from_fn(|| lexer.next().ok().map(|(_, t)| t).filter(|t| *t != Token::End)).collect()
    }

    #[test]
    fn numbers_keep_signs_and_exponents_together() {
        let found = tokens("-0x1.99ap-4 1e-5,-inf+2 -> 3.5");
        let expected = [
            Token::Number("-0x1.99ap-4"),
            Token::Number("1e-5"),
            Token::Punct(','),
            Token::Number("-inf"),
            Token::Number("+2"),
            Token::Arrow,
            Token::Number("3.5"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn strings_resolve_escapes_and_comments_vanish() {
        assert_eq!(tokens("// x\n\"a\\\"b\\n\" // \"y\"\nz@1"), [Token::Text("a\"b\n".into()), Token::Ident("z@1")]);
        assert!(Lexer::new("\"open").next().is_err());
        assert!(Lexer::new("\"\\q\"").next().is_err());
        assert!(Lexer::new("\"\\").next().is_err());
        assert!(Lexer::new("#").next().is_err());
    }
}
