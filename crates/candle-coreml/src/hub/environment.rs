//! Settings from the environment, with the names that Hugging Face's tools use.

use std::path::PathBuf;

use crate::cache::paths::read_small;

/// Value of a variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

/// `HF_ENDPOINT`, else the public hub's URL.
pub(super) fn endpoint() -> String {
    variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned())
}

/// `HF_HOME`, else `huggingface` in the user's cache folder.
fn home() -> Option<PathBuf> {
    if let Some(home) = variable("HF_HOME") {
        return Some(PathBuf::from(home));
    }
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    Some(base.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("huggingface"))
}

/// Hugging Face cache: `HF_HUB_CACHE`, else `hub` in [`home`].
pub(super) fn foreign_cache() -> Option<PathBuf> {
    variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")))
}

/// `HF_TOKEN`, else the contents of `HF_TOKEN_PATH`, else of `token` in [`home`].
pub(super) fn token() -> Option<String> {
    variable("HF_TOKEN").or_else(|| {
        let file = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
        let text = String::from_utf8(read_small(&file).ok()?).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    })
}

/// `HF_HUB_OFFLINE`: 1, true, yes or on.
pub(super) fn offline() -> bool {
    variable("HF_HUB_OFFLINE").is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_ascii_lowercase().as_str()))
}
