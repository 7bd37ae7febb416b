//! The wizard as line-by-line questions and answers, for pipes and basic terminals.

use std::io::{self, BufRead, Write};

use candle_coreml::settings::Layer;

use super::wizard::{After, Input, Step, Wizard};

/// Maximum length of an answer.
const LONGEST: u64 = 64 << 10;
/// Answer that returns to the previous question.
const BACK: &str = "<";

/// Source of answers.
pub(super) trait Answers {
    /// Reads the next line without its terminator; `None` at the end of input.
    fn line(&mut self, secret: bool) -> io::Result<Option<String>>;
}

/// Answers read from a pipe.
pub(super) struct Lines<R>(pub(super) R);

impl<R: BufRead> Answers for Lines<R> {
    fn line(&mut self, _: bool) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let mut limited = io::Read::take(&mut self.0, LONGEST + 1);
        limited.read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() as u64 > LONGEST {
            return Err(io::Error::other(format!("an answer is longer than {LONGEST} bytes")));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| io::Error::other("an answer is not UTF-8"))
    }
}

/// Answers typed at a terminal; secrets are not echoed.
pub(super) struct Person;

impl Answers for Person {
    fn line(&mut self, secret: bool) -> io::Result<Option<String>> {
        if !secret {
            return Lines(io::stdin().lock()).line(false);
        }
        match rpassword::read_password() {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Runs the wizard; returns the settings to save, or `None` if input ended first.
pub(super) fn run(wizard: &mut Wizard, answers: &mut dyn Answers, out: &mut dyn Write) -> io::Result<Option<Layer>> {
    writeln!(out, "candle-coreml setup. An empty answer takes the marked choice or continues, `{BACK}` goes back,")?;
    writeln!(out, "Ctrl-D or Ctrl-C leaves and changes nothing.")?;
    loop {
        ask(wizard, out)?;
        let secret = wizard.field().is_some_and(|(_, secret)| secret);
        let Some(answer) = answers.line(secret)? else {
            writeln!(out)?;
            return Ok(None);
        };
        match answer_with(wizard, answer.trim()) {
            After::Save(layer) => return Ok(Some(*layer)),
            After::Left => return Ok(None),
            After::Stay => {}
        }
        if let Some(complaint) = wizard.complaint() {
            writeln!(out, "! {complaint}")?;
        }
    }
}

fn ask(wizard: &Wizard, out: &mut dyn Write) -> io::Result<()> {
    let (number, all) = wizard.position();
    writeln!(out, "\n{number}/{all} {}\n{}", wizard.title(), wizard.text())?;
    let selected = wizard.selected();
    for (i, choice) in wizard.choices().iter().enumerate() {
        let mark = if i == selected { '*' } else { ' ' };
        let note = if choice.refused.is_some() { "not here: " } else { "" };
        writeln!(out, "{mark}{:2}  {}: {note}{}", i + 1, choice.label, choice.detail)?;
    }
    if wizard.step() == Step::Summary {
        for (name, value) in wizard.summary() {
            writeln!(out, "  {name} = {value}")?;
        }
        write!(out, "Save? [Y/n] ")?;
    } else {
        write!(out, "> ")?;
    }
    out.flush()
}

fn answer_with(wizard: &mut Wizard, answer: &str) -> After {
    if answer == BACK {
        return wizard.take(Input::Back);
    }
    if wizard.step() == Step::Summary {
        return match answer.to_ascii_lowercase().as_str() {
            "" | "y" | "yes" => wizard.take(Input::Next),
            "n" | "no" => wizard.take(Input::Leave),
            // Neither: ask again.
            _ => After::Stay,
        };
    }
    if wizard.field().is_some() {
        wizard.take(Input::Clear);
        wizard.take(Input::Text(answer.to_owned()));
    } else if !answer.is_empty() {
        let choices = wizard.choices();
        let named = choices.iter().position(|c| c.label.eq_ignore_ascii_case(answer));
        let number = answer.parse::<usize>().ok().map(|n| n.wrapping_sub(1));
        wizard.take(Input::Choose(named.or(number).unwrap_or(usize::MAX)));
        if wizard.complaint().is_some() {
            return After::Stay;
        }
    }
    wizard.take(Input::Next)
}
