//! Keys and tokens from files, standard input or the environment. Arguments are visible to every user of the machine
//! (`ps`) and kept in shell history; a secret passed as one works, with a warning.

use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a secret file.
const LARGEST: u64 = 64 << 10;

/// Reads a secret from a file or from standard input (`-`), trimmed.
pub(crate) fn read(file: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let named = |e: io::Error| format!("{}: {e}", file.display());
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(named)?.take(LARGEST + 1).read_to_string(&mut text)
    };
    read.map_err(named)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{}: longer than {LARGEST} bytes: no key", file.display()).into());
    }
    Ok(text.trim().to_owned())
}

/// Warns that a secret was passed as an argument, and names the better way.
pub(crate) fn warn_of_argument(what: &str, better: &str) {
    note!("warning: {what} is an argument, which other users of the machine can see and shells remember; {better}");
}
