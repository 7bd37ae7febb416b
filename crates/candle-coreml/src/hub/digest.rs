//! Checksums in the hub's format: SHA-256 for large files, git object ids for small ones.
//!
//! Git hashes `blob {size}\0` followed by the content with SHA-1 (git-hash-object).

use std::fmt;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Expected checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    Sha256(String),
    GitBlob(String),
}

fn hexadecimal(text: &str, digits: usize) -> Option<String> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

impl Digest {
    /// Parses 64 hexadecimal digits, optionally with the prefix `sha256:` of LFS pointers.
    pub(crate) fn sha256(text: &str) -> Option<Self> {
        hexadecimal(text.strip_prefix("sha256:").unwrap_or(text), 64).map(Self::Sha256)
    }

    /// Parses 40 hexadecimal digits.
    pub(crate) fn git_blob(text: &str) -> Option<Self> {
        hexadecimal(text, 40).map(Self::GitBlob)
    }

    /// The hexadecimal digits.
    pub(crate) fn digits(&self) -> &str {
        match self {
            Self::Sha256(d) | Self::GitBlob(d) => d,
        }
    }

    /// Starts hashing a file of the given size for this checksum.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitBlob(_) => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(d) => write!(f, "sha256:{d}"),
            Self::GitBlob(d) => write!(f, "git:{d}"),
        }
    }
}

/// A checksum being computed.
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::GitBlob(h) => h.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(h) => Digest::Sha256(hex(&h.finalize())),
            Self::GitBlob(h) => Digest::GitBlob(hex(&h.finalize())),
        }
    }
}

/// SHA-256 of a text, for unique file names.
pub(crate) fn name_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        let of = |digest: Digest, text: &str| {
            let mut hasher = digest.hasher(text.len() as u64);
            hasher.update(text.as_bytes());
            hasher.finish() == digest
        };
        // FIPS 180-2, "abc"; `printf 'hello\n' | git hash-object --stdin`; git's empty blob.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(of(Digest::sha256(abc).expect("digits"), "abc"));
        assert!(!of(Digest::sha256(abc).expect("digits"), "abd"));
        assert!(of(Digest::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").expect("digits"), "hello\n"));
        assert!(of(Digest::git_blob("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").expect("digits"), ""));
        assert_eq!(Digest::sha256("xyz"), None);
        assert_eq!(Digest::git_blob(abc), None);
    }
}
