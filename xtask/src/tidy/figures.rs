//! Performance figures belong in docs/performance.md, where they are measured together.

use regex::Regex;

use super::File;

/// Files that may contain figures; the changelog may state speedups.
const ALLOWED: &[&str] = &["docs/performance.md", "CHANGELOG.md"];

pub(super) fn check(files: &[File]) -> Vec<String> {
    let figure = Regex::new(r"\d ?(tokens/s|tok/s|GB/s|µs|GFLOP)|\d (times )?as fast as").expect("a valid pattern");
    files
        .iter()
        .filter(|f| f.path.ends_with(".md") && !ALLOWED.contains(&f.path.as_str()))
        .flat_map(|f| f.text.lines().enumerate().map(move |(i, line)| (f, i + 1, line)))
        .filter(|(_, _, line)| figure.is_match(line))
        .map(|(f, line, _)| format!("{}:{line}: a figure of speed outside docs/performance.md", f.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn figures_stand_on_one_page() {
        let text = "a\n| 4 bits | 60 tokens/s |\nWithin 5 seconds.\n";
        assert_eq!(check(&[file("README.md", text)]), ["README.md:2: a figure of speed outside docs/performance.md"]);
        assert!(check(&[file("docs/performance.md", text)]).is_empty());
    }
}
