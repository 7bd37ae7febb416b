//! Relative links in the documents must have targets.

use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::{File, root};

pub(super) fn check(files: &[File]) -> Vec<String> {
    targets(files)
        .into_iter()
        .filter(|(_, _, target)| !root().join(target).exists())
        .map(|(page, line, target)| {
            format!("{page}:{line}: the link leads to {}, which does not exist", target.display())
        })
        .collect()
}

/// Document, line and path from the root of every relative link.
fn targets(files: &[File]) -> Vec<(&str, usize, PathBuf)> {
    let link = Regex::new(r"\]\(([^)#\s]+)(#[^)]*)?\)").expect("a valid pattern");
    let mut found = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".md")) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for (i, line) in file.text.lines().enumerate() {
            for target in link.captures_iter(line).filter_map(|c| c.get(1)) {
                if !target.as_str().contains(':') {
                    found.push((file.path.as_str(), i + 1, normal(&folder.join(target.as_str()))));
                }
            }
        }
    }
    found
}

/// The path with `.` and `..` resolved lexically.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if normal.file_name().is_some() => _ = normal.pop(),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn relative_links_are_found() {
        let text = "[a](../README.md#top) and [b](https://example.org/x)\n![c](absent.png) [d](#here)\n";
        let page = [file("docs/page.md", text)];
        assert_eq!(
            targets(&page),
            [("docs/page.md", 1, PathBuf::from("README.md")), ("docs/page.md", 2, PathBuf::from("docs/absent.png"))]
        );
        assert_eq!(check(&page), ["docs/page.md:2: the link leads to docs/absent.png, which does not exist"]);
    }
}
