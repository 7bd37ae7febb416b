//! Keys and tokens from files, standard input or the environment; never from arguments, which every user of the machine
//! can see (`ps`) and shells remember.

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
