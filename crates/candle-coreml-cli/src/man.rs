//! `candle-coreml man`: manual pages, one for the command and one per verb.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::CommandResult;

const EXAMPLES: &str = "\
Examples:
  candle-coreml man --out ~/.local/share/man/man1 && man candle-coreml-bench";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Write the pages to this folder, created if missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let folder = &arguments.out;
    let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    clap_mangen::generate_to(crate::Arguments::command(), folder).map_err(fail)?;
    out!("{}", folder.display())?;
    Ok(())
}
