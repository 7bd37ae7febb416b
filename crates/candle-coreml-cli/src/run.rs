//! `candle-coreml run`: chat with a model, or answer one prompt; `generate` and `chat` under one name.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  candle-coreml run demo                                 a chat with the demo model
  candle-coreml run demo \"What is 37 + 45?\"              one answer
  echo \"What is 37 + 45?\" | candle-coreml run demo
  candle-coreml run org/name \"Hello\" --max-tokens 50     options of generate, and of chat without a prompt";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: `demo`, a folder, a model on the Hub, or `auto`.
    model: OsString,
    /// The prompt and options of `generate`; without a prompt on a terminal, options of `chat`.
    #[arg(value_name = "PROMPT|OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// The command line that is meant.
fn line(arguments: Arguments, terminal: bool) -> Vec<OsString> {
    let prompted =
        arguments.rest.first().is_some_and(|first| first == "-" || !first.to_string_lossy().starts_with('-'));
    let verb = if prompted || !terminal { "generate" } else { "chat" };
    let mut line: Vec<OsString> = ["candle-coreml", verb, "--model"].map(Into::into).into();
    line.push(arguments.model);
    line.extend(arguments.rest);
    line
}

/// The command that is meant; ends the process if the options are not its own.
pub(crate) fn command(arguments: Arguments) -> crate::Command {
    crate::Arguments::parse_from(line(arguments, std::io::stdin().is_terminal())).command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_or_a_pipe_is_one_answer_and_a_terminal_a_chat() {
        let line = |rest: &[&str], terminal| {
            let rest = rest.iter().map(Into::into).collect();
            let all = line(Arguments { model: "demo".into(), rest }, terminal);
            all.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line(&["Hi there", "--top-k", "1"], true), "candle-coreml generate --model demo Hi there --top-k 1");
        assert_eq!(line(&["-"], true), "candle-coreml generate --model demo -");
        assert_eq!(line(&["--system", "x"], true), "candle-coreml chat --model demo --system x");
        assert_eq!(line(&[], false), "candle-coreml generate --model demo");
    }
}
