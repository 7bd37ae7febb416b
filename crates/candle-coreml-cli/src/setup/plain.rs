//! The wizard as questions and answers, line by line: for pipes, and terminals that can do no more.

use std::io::{self, BufRead, Write};

use candle_coreml::settings::Layer;

use super::wizard::{After, Input, Step, Wizard};

/// Longest answer.
const LONGEST: u64 = 64 << 10;
/// The answer that goes to the question before.
const BACK: &str = "<";

/// Where answers come from.
pub(super) trait Answers {
    /// The next line without its end; none when there are no more.
    fn line(&mut self, secret: bool) -> io::Result<Option<String>>;
}

/// Answers from a pipe.
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

/// Answers from somebody at a terminal, who does not see the secrets that are typed.
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

/// Asks; the settings to save, or none when the answers ended before that.
pub(super) fn run(wizard: &mut Wizard, answers: &mut dyn Answers, out: &mut dyn Write) -> io::Result<Option<Layer>> {
    writeln!(out, "Set-up of candle-coreml. An empty answer takes what is marked or goes on, `{BACK}` goes back,")?;
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
            // Neither: the question is asked again.
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
