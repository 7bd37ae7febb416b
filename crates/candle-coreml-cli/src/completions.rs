//! `candle-coreml completions`: shell completion scripts.

use clap::CommandFactory;
use clap_complete::Shell;

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
    shell: Shell,
}

/// The script for bash with one name for the state of the command. clap_complete 4.6 has two where a name has a hyphen,
/// so that nothing below the first level is completed.
fn mended(script: &str) -> String {
    script.replace("candle__subcmd__coreml", "candle__coreml")
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Arguments::command(), "candle-coreml", &mut out);
    let script = String::from_utf8_lossy(&out);
    write::text(&match arguments.shell {
        Shell::Bash => mended(&script),
        _ => script.into_owned(),
    })
}
