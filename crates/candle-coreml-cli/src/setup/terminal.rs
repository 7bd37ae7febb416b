//! The wizard on a whole terminal. However it ends, the terminal is what it was before.

use std::io::{self, stdout};

use candle_coreml::settings::Layer;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use ratatui::crossterm::execute;

use super::tui::draw;
use super::wizard::{After, Input, Step, Wizard};

/// Brings the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring. A panic passes here, too, after ratatui's own hook.
        let _ = execute!(stdout(), DisableBracketedPaste);
        ratatui::restore();
    }
}

/// Asks; the settings to save, or none when the user left.
pub(super) fn run(wizard: &mut Wizard) -> io::Result<Option<Layer>> {
    let restore = Restore;
    let mut terminal = ratatui::try_init()?;
    // Without it a pasted key arrives letter by letter, which works as well.
    let _ = execute!(stdout(), EnableBracketedPaste);
    let outcome = loop {
        terminal.draw(|frame| draw(frame, wizard))?;
        let input = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                of_key(key, wizard.field().is_some(), wizard.step())
            }
            Event::Paste(text) => Some(Input::Text(text)),
            // Anything else, a new size among it, is a reason to draw again.
            _ => None,
        };
        match input.map(|i| wizard.take(i)) {
            Some(After::Save(layer)) => break Some(*layer),
            Some(After::Left) => break None,
            Some(After::Stay) | None => {}
        }
    };
    drop(restore);
    Ok(outcome)
}

/// What a key means.
fn of_key(key: KeyEvent, editing: bool, step: Step) -> Option<Input> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if control => Input::Leave,
        KeyCode::Char('u') if control => Input::Clear,
        KeyCode::Char('a') if control => Input::Home,
        KeyCode::Char('e') if control => Input::End,
        KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Esc => Input::Leave,
        KeyCode::Enter => Input::Next,
        // On the summary a key that often means nothing must not save.
        KeyCode::Tab if step != Step::Summary => Input::Next,
        KeyCode::BackTab | KeyCode::PageUp => Input::Back,
        KeyCode::Char(c) if editing => Input::Text(c.to_string()),
        KeyCode::Char('k') | KeyCode::Up => Input::Up,
        KeyCode::Char('j') | KeyCode::Down => Input::Down,
        KeyCode::Char(c) => Input::Choose(usize::try_from(c.to_digit(10)?).ok()?.checked_sub(1)?),
        KeyCode::Left if !editing => Input::Back,
        KeyCode::Backspace if !editing => Input::Back,
        KeyCode::Backspace => Input::Backspace,
        KeyCode::Delete => Input::Delete,
        KeyCode::Left => Input::Left,
        KeyCode::Right => Input::Right,
        KeyCode::Home => Input::Home,
        KeyCode::End => Input::End,
        _ => return None,
    })
}
