//! Every source file starts with a module comment (`//!`) that describes it.

use super::File;

pub(super) fn check(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|f| f.path.ends_with(".rs") && !begins_with_its_subject(&f.text))
        .map(|f| format!("{}: no `//!` line that says what the file is", f.path))
        .collect()
}

/// Returns true if the first line that is neither empty nor an inner attribute is a module comment.
fn begins_with_its_subject(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#!["));
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn the_first_line_is_a_module_comment() {
        assert!(check(&[file("a.rs", "#![no_main]\n\n//! Fuzz target.\n")]).is_empty());
        assert_eq!(check(&[file("a.rs", "use std::fs;\n//! Late.\n"), file("b.rs", "")]).len(), 2);
    }
}
