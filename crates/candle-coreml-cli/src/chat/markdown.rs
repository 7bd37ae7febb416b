//! Terminal rendering of answers: Markdown is kept as written, headings and code are highlighted, control characters
//! from the model are stripped.

use ratatui::crossterm::style::{Attribute, Color, ResetColor, SetAttribute, SetForegroundColor};

/// Maximum indentation of a heading or fence (CommonMark).
const INDENT: usize = 3;

/// Kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Heading,
    Code,
}

/// Streaming renderer: turns text pieces into terminal output.
#[derive(Debug)]
pub(super) struct Painter {
    colour: bool,
    /// Start of a line whose kind is not yet known.
    held: String,
    /// The kind of the line, once it is known.
    line: Option<Kind>,
    /// True inside a fenced block.
    fenced: bool,
}

impl Painter {
    /// Creates a painter for one answer; without colour it only strips control characters.
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, held: String::new(), line: None, fenced: false }
    }

    /// Terminal output for a piece of text.
    pub(super) fn paint(&mut self, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')) {
            match c {
                '\n' => {
                    self.settle(&mut out);
                    if self.colour && self.line.is_some_and(|k| k != Kind::Text) {
                        out.push_str(&format!("{}{ResetColor}", SetAttribute(Attribute::Reset)));
                    }
                    self.line = None;
                    out.push('\n');
                }
                c if self.line.is_some() => out.push(c),
                c => {
                    self.held.push(c);
                    if !may_be_special(&self.held) {
                        self.settle(&mut out);
                    }
                }
            }
        }
        out
    }

    /// Flushes the text still held back.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        self.settle(&mut out);
        if self.colour && self.line.take().is_some_and(|k| k != Kind::Text) {
            out.push_str(&format!("{}{ResetColor}", SetAttribute(Attribute::Reset)));
        }
        out
    }

    /// Classifies the line and emits its held-back text.
    fn settle(&mut self, out: &mut String) {
        if self.line.is_some() {
            return;
        }
        let fence = is_fence(&self.held);
        let kind = match (self.fenced || fence, is_heading(&self.held)) {
            (true, _) => Kind::Code,
            (false, true) => Kind::Heading,
            (false, false) => Kind::Text,
        };
        self.fenced ^= fence;
        if self.colour && !self.held.is_empty() {
            match kind {
                Kind::Text => {}
                Kind::Heading => out.push_str(&SetAttribute(Attribute::Bold).to_string()),
                Kind::Code => out.push_str(&SetForegroundColor(Color::Cyan).to_string()),
            }
        }
        out.push_str(&std::mem::take(&mut self.held));
        self.line = Some(kind);
    }
}

/// The line without its indentation; `None` if indented too far.
fn unindented(line: &str) -> Option<&str> {
    let text = line.trim_start_matches(' ');
    (line.len() - text.len() <= INDENT).then_some(text)
}

fn is_fence(line: &str) -> bool {
    unindented(line).is_some_and(|t| t.starts_with("```") || t.starts_with("~~~"))
}

fn is_heading(line: &str) -> bool {
    unindented(line).is_some_and(|t| {
        let rest = t.trim_start_matches('#');
        (1..=6).contains(&(t.len() - rest.len())) && rest.starts_with(' ')
    })
}

/// Returns true if more text could still turn this line start into a heading or a fence.
fn may_be_special(line: &str) -> bool {
    let Some(text) = unindented(line) else { return false };
    let only = |c: char, most: usize| text.len() <= most && text.chars().all(|x| x == c);
    text.is_empty() || only('#', 6) || only('`', 2) || only('~', 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders the text in pieces of `step` characters.
    fn painted(text: &str, step: usize, colour: bool) -> String {
        let mut painter = Painter::new(colour);
        let characters: Vec<char> = text.chars().collect();
        let mut out: String = characters.chunks(step).map(|c| painter.paint(&c.iter().collect::<String>())).collect();
        out.push_str(&painter.finish());
        out
    }

    fn plain(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\x1b') {
            out.push_str(before);
            rest = after.split_once('m').map_or("", |(_, r)| r);
        }
        out + rest
    }

    #[test]
    fn the_text_stays_as_it_is_and_is_set_apart_where_markdown_says_so() {
        let text = "# Title\nsome `code` and #no\n```rust\n# not a heading\n\nlet x = 1;\n```\n    # indented\n#";
        let whole = painted(text, 1000, true);
        for step in 1..8 {
            assert_eq!(painted(text, step, true), whole, "{step} at a time");
        }
        assert_eq!(plain(&whole), text);
        let lines: Vec<&str> = whole.split('\n').collect();
        assert!(lines[0].starts_with("\x1b[1m# Title\x1b[0m"), "{whole:?}");
        assert_eq!((lines[1], lines[7], lines[8]), ("some `code` and #no", "    # indented", "#"));
        for code in [2, 3, 5, 6] {
            assert!(lines[code].starts_with("\x1b[38;5;") && !lines[code].contains("\x1b[1m"), "{:?}", lines[code]);
        }
        assert_eq!(painted(text, 3, false), text);
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let nasty = "a\x1b]0;title\x07b\x1b[2J\r\u{9b}31mc\tz\n";
        for colour in [true, false] {
            assert_eq!(painted(nasty, 2, colour), "a]0;titleb[2J31mc\tz\n");
        }
    }

    #[test]
    fn nothing_is_held_back_longer_than_needed() {
        let mut painter = Painter::new(true);
        assert_eq!(painter.paint("``"), "");
        assert_eq!(painter.paint("x"), "``x");
        assert_eq!(painter.paint("`"), "`");
        assert_eq!(painter.finish(), "");
    }
}
