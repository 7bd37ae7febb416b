//! Names of models: `org/name` or `org/name@revision`.

use super::error::HubError;

/// A model on the hub, with a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    repository: String,
    revision: String,
}

impl ModelId {
    /// Parses `org/name[@revision]`; the default revision is `main`.
    ///
    /// # Errors
    /// [`HubError::Id`] if the hub would not accept the name: it becomes part of paths and URLs.
    pub fn parse(id: &str) -> Result<Self, HubError> {
        let (repository, revision) = id.split_once('@').unwrap_or((id, "main"));
        let check = check_repository(repository).and_then(|()| check_revision(revision));
        check.map_err(|reason| HubError::Id { id: id.chars().take(200).collect(), reason })?;
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }

    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl std::fmt::Display for ModelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

fn allowed(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = repository.split('/').collect();
    if parts.len() != 2 {
        return Err("there must be one `/`");
    }
    for part in parts {
        if part.is_empty() || part.len() > 96 {
            return Err("both parts need 1 to 96 characters");
        }
        if !allowed(part, "") {
            return Err("only letters, digits, `-`, `_` and `.` are allowed");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.contains("--") || part.contains("..") {
            return Err("`--`, `..`, and `-` or `.` at an end are not allowed");
        }
    }
    Ok(())
}

fn check_revision(revision: &str) -> Result<(), &'static str> {
    if revision.is_empty() || revision.len() > 200 {
        return Err("a revision needs 1 to 200 characters");
    }
    if !allowed(revision, "/+") {
        return Err("a revision has only letters, digits, `-`, `_`, `.`, `+` and `/`");
    }
    if revision.contains("..") || revision.split('/').any(|s| s.is_empty() || s.starts_with('.')) {
        return Err("a revision has neither `..` nor empty or hidden parts");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_revisions_are_split() {
        let id = ModelId::parse("anemll/Qwen3-0.6B_v1.0@refs/pr/1").expect("a name");
        assert_eq!((id.repository(), id.revision()), ("anemll/Qwen3-0.6B_v1.0", "refs/pr/1"));
        assert_eq!(ModelId::parse("a/b").expect("a name").revision(), "main");
        assert_eq!(ModelId::parse("a/b").expect("a name").to_string(), "a/b");
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        for bad in [
            "", "a", "a/b/c", "/a", "a/", "../b", "a/..", "a/.b", "a\\b/c", "a/b\0", "a/b c", "a--b/c", "a/b@",
            "a/b@../x", "a/b@/x", "a/b@x//y", "a/b@x/.y", "a/b@x%2F", "a/b@x\n",
        ] {
            assert!(matches!(ModelId::parse(bad), Err(HubError::Id { .. })), "{bad:?}");
        }
    }
}
