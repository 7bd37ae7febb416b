//! The wizard on a full-screen terminal, which is restored however the wizard ends.

use std::io::{self, stdout};

use candle_coreml::settings::Layer;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use ratatui::crossterm::execute;

use super::tui::draw;
use super::wizard::{After, Input, Step, Wizard};

/// Restores the terminal on drop.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring. Also runs on panic, after ratatui's own hook.
        let _ = execute!(stdout(), DisableBracketedPaste);
        ratatui::restore();
    }
}

/// Runs the wizard; returns the settings to save, or `None` if the user quit.
pub(super) fn run(wizard: &mut Wizard) -> io::Result<Option<Layer>> {
    let restore = Restore;
    let mut terminal = ratatui::try_init()?;
    // If unsupported, a pasted key arrives as single key presses, which works too.
    let _ = execute!(stdout(), EnableBracketedPaste);
    let outcome = loop {
        terminal.draw(|frame| draw(frame, wizard))?;
        let input = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                of_key(key, wizard.field().is_some(), wizard.step())
            }
            Event::Paste(text) => Some(Input::Text(text)),
            // Anything else, including a resize, redraws.
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

/// Maps a key to an input.
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
        // On the summary, a stray navigation key must not save.
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
