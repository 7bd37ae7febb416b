//! Line input from a terminal (with editing and history) or from a pipe.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History};
use rustyline::{Config, DefaultEditor, Editor};

/// Maximum line length on a pipe.
pub(super) const LONGEST: u64 = 1 << 20;
/// Number of history lines kept.
const REMEMBERED: usize = 1000;

/// Result of reading a line.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    End,
}

/// Source of lines.
pub(super) enum Input {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Pipe(std::io::StdinLock<'static>),
}

/// Path of the history file, in the system's state or data folder.
fn history_file() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "candle-coreml")?;
    let folder = folders.state_dir().unwrap_or_else(|| folders.data_local_dir());
    std::fs::create_dir_all(folder).ok()?;
    Some(folder.join("chat-history"))
}

fn editor() -> rustyline::Result<Box<DefaultEditor>> {
    let config = Config::builder().max_history_size(REMEMBERED)?.history_ignore_space(true).build();
    let history = FileHistory::with_config(&config);
    Ok(Box::new(Editor::with_history(config, history)?))
}

impl Input {
    /// Opens the terminal if standard input and output are one, else the pipe.
    pub(super) fn open() -> Self {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        match terminal.then(editor) {
            Some(Ok(mut editor)) => {
                let history = history_file();
                if let Some(file) = &history {
                    // Missing on the first run.
                    let _ = editor.load_history(file);
                }
                Self::Terminal { editor, history }
            }
            _ => Self::Pipe(std::io::stdin().lock()),
        }
    }

    /// Returns true if input is interactive.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// A line that is a message, whatever it begins with.
    pub(super) fn message(text: &str) -> String {
        if text.trim_start().starts_with('/') { format!("/{}", text.trim_start()) } else { text.to_owned() }
    }

    /// Reads the next line.
    pub(super) fn next(&mut self) -> Result<Line, Box<dyn std::error::Error>> {
        match self {
            Self::Terminal { editor, history } => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    if let Some(file) = history {
                        // History is a convenience: a full disk must not end the conversation.
                        if let Err(e) = editor.history_mut().append(file) {
                            tracing::warn!("{}: {e}", file.display());
                        }
                    }
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(e) => Err(e.into()),
            },
            Self::Pipe(stdin) => pipe_line(stdin),
        }
    }
}

fn pipe_line(reader: &mut impl BufRead) -> Result<Line, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    reader.take(LONGEST + 1).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(Line::End);
    }
    if bytes.len() as u64 > LONGEST {
        return Err(format!("a line is longer than {LONGEST} bytes").into());
    }
    Ok(Line::Text(String::from_utf8(bytes).map_err(|e| format!("a line is not UTF-8: {e}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_end_with_or_without_a_newline_and_have_limits() {
        let mut reader = "one\ntwo".as_bytes();
        let mut next = || match pipe_line(&mut reader) {
            Ok(Line::Text(text)) => Some(text),
            Ok(_) => None,
            Err(e) => panic!("{e}"),
        };
        assert_eq!([next(), next(), next()], [Some("one\n".to_owned()), Some("two".to_owned()), None]);
        let mut endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert!(pipe_line(&mut endless).is_err());
        assert!(pipe_line(&mut &b"\xff\n"[..]).is_err());
    }
}
