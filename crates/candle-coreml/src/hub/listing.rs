//! Contents of a repository: the commit of a revision and its files with sizes and checksums.
//!
//! `GET /api/models/{id}/revision/{revision}` and `GET /api/models/{id}/tree/{commit}?recursive=true`, paginated.

use std::collections::HashSet;

use serde::Deserialize;

use super::digest::Digest;
use super::error::HubError;
use super::http::Client;
use super::id::ModelId;
use crate::cache::paths::is_commit;
use crate::net::url;

const MOST_PAGES: usize = 200;
const MOST_FILES: usize = 100_000;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Validated by [`check_name`].
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Resolves a revision to its current commit.
pub(crate) fn commit(client: &Client, id: &ModelId) -> Result<String, HubError> {
    let what = id.to_string();
    let (endpoint, revision) = (client.endpoint(), url::escape(id.revision(), false));
    let address = format!("{endpoint}/api/models/{}/revision/{revision}", id.repository());
    let Revision { sha } = client.json(&what, &address)?.0;
    if is_commit(&sha) {
        return Ok(sha);
    }
    let shown: String = sha.chars().take(80).collect();
    Err(HubError::Answer {
        what,
        message: format!("the hub names {shown:?} as commit; expected 40 hexadecimal digits"),
    })
}

/// Lists all files of a commit.
pub(crate) fn files(client: &Client, id: &ModelId, commit: &str) -> Result<Vec<RemoteFile>, HubError> {
    let what = id.to_string();
    let fail = |message: String| HubError::Answer { what: what.clone(), message };
    let mut address = format!("{}/api/models/{}/tree/{commit}?recursive=true", client.endpoint(), id.repository());
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..MOST_PAGES {
        let (entries, link): (Vec<Entry>, _) = client.json(&what, &address)?;
        for entry in entries.into_iter().filter(|e| e.r#type == "file") {
            check_name(&entry.path).map_err(|reason| {
                let name = entry.path.chars().take(200).collect();
                HubError::Name { what: what.clone(), name, reason }
            })?;
            if !seen.insert(entry.path.clone()) {
                return Err(fail(format!("the listing has {:?} twice", entry.path)));
            }
            files.push(remote_file(entry).map_err(&fail)?);
        }
        if files.len() > MOST_FILES {
            return Err(fail(format!("the listing has more than {MOST_FILES} files")));
        }
        let Some(next) = link.as_deref().and_then(url::next_link) else { return Ok(files) };
        address = url::resolve(&address, next)
            .filter(|n| url::origin(n) == url::origin(client.endpoint()))
            .ok_or_else(|| fail(format!("the next page of the listing is `{next}`, on another host")))?;
    }
    Err(fail(format!("the listing has more than {MOST_PAGES} pages")))
}

fn remote_file(entry: Entry) -> Result<RemoteFile, String> {
    let (size, digest) = match entry.lfs {
        Some(lfs) => (lfs.size, Digest::sha256(&lfs.oid)),
        None => (entry.size, Digest::git_blob(&entry.oid)),
    };
    let digest = digest.ok_or_else(|| format!("{}: the listing has no checksum for it", entry.path))?;
    Ok(RemoteFile { path: entry.path, size, digest })
}

/// Checks that a relative path with `/` stays below its folder and names the same file on every platform.
pub(crate) fn check_name(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > 1000 {
        return Err("a path has 1 to 1000 bytes");
    }
    if path.contains('\\') {
        return Err("backslash");
    }
    if path.chars().any(char::is_control) {
        return Err("control character");
    }
    let mut segments = path.split('/');
    if segments.clone().count() > 32 {
        return Err("more than 32 folders deep");
    }
    segments.try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    if segment.is_empty() {
        return Err("absolute path, or an empty part");
    }
    if segment.len() > 255 {
        return Err("a part with more than 255 bytes");
    }
    if segment == "." || segment == ".." {
        return Err("`.` or `..`");
    }
    if segment.ends_with(['.', ' ']) {
        return Err("a part that ends in `.` or a space, which Windows drops");
    }
    if segment.contains(':') {
        return Err("a colon, which names drives and streams on Windows");
    }
    let stem = segment.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = |prefix| stem.strip_prefix(prefix).is_some_and(|n| n.chars().count() == 1 && n != "0");
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
    {
        return Err("a device name of Windows");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_are_refused() {
        let long = "x".repeat(256);
        let deep = "a/".repeat(40) + "a";
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "C:/x",
            "a\0b",
            "a\nb",
            "nul",
            "a/CON.txt",
            "com1",
            "LPT9.bin",
            "aux .x",
            "a.",
            "a ",
            "x:stream",
            &long,
            &deep,
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in
            ["a", "a/b.mlpackage/Data/x", ".gitattributes", "console.txt", "com10", "com0", "a b", "ü.json", "..a"]
        {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
    }
}
