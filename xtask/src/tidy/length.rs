//! Maximum file length: [`LONGEST`] lines before the tests. Tests and tables may be longer.

use super::File;

/// Maximum lines of a source file, excluding unit tests.
const LONGEST: usize = 500;

/// Files that consist of one table, which may have any length.
const TABLES: &[&str] = &["crates/coreml-format/src/spec/proto.rs"];

pub(super) fn check(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|f| f.path.ends_with(".rs") && !f.path.contains("/tests/") && !TABLES.contains(&f.path.as_str()))
        .filter_map(|f| {
            let lines = f.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
            (lines > LONGEST)
                .then(|| format!("{}: {lines} lines, at most {LONGEST}: look for its second subject", f.path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn tests_and_tables_do_not_count() {
        let code = "fn f() {}\n".repeat(LONGEST);
        assert!(check(&[file("a.rs", &format!("{code}#[cfg(test)]\n{code}"))]).is_empty());
        assert!(check(&[file(TABLES[0], &code.repeat(2))]).is_empty());
        assert!(check(&[file("crates/a/tests/b.rs", &code.repeat(2))]).is_empty());
        assert_eq!(check(&[file("a.rs", &format!("{code}\n"))]).len(), 1);
    }
}
