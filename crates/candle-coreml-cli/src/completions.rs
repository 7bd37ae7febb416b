//! `candle-coreml completions`: shell completion scripts.

use clap::CommandFactory;

use crate::{CommandResult, write};

const EXAMPLES: &str = "\
Examples:
  candle-coreml completions bash > ~/.local/share/bash-completion/completions/candle-coreml
  candle-coreml completions zsh > ~/.zfunc/_candle-coreml       with fpath+=~/.zfunc in .zshrc
  candle-coreml completions fish > ~/.config/fish/completions/candle-coreml.fish
  candle-coreml completions powershell >> $PROFILE";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Target shell.
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Arguments::command(), "candle-coreml", &mut out);
    write::text(&String::from_utf8_lossy(&out))
}
