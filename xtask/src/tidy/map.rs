//! The map in ARCHITECTURE.md names every source file of the crates, or its folder, and nothing that does not exist.
//!
//! The map is the fenced block that contains `crates/`. A crate is indented by two columns, its files and folders by
//! four: names (`a.rs`, `a/`) separated by single spaces, then two spaces and a description. Entries indented by six
//! columns are in the last folder of the line above, or in the crate itself.

use super::File;

pub(super) fn check(files: &[File]) -> Vec<String> {
    let Some(page) = files.iter().find(|f| f.path == "ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md is missing".to_owned()];
    };
    let Some(entries) = entries(&page.text) else {
        return vec!["ARCHITECTURE.md has no fenced block with `crates/`".to_owned()];
    };
    let sources: Vec<&str> = files
        .iter()
        .map(|f| f.path.as_str())
        .filter(|p| p.starts_with("crates/") && p.contains("/src/") && p.ends_with(".rs") && !p.ends_with("/lib.rs"))
        .collect();
    let covers = |entry: &str, path: &str| if entry.ends_with('/') { path.starts_with(entry) } else { path == entry };
    let named = |path: &str| entries.iter().flatten().any(|entry| covers(entry, path));
    let missing = sources.iter().filter(|p| !named(p)).map(|p| format!("{p} is not on the map in ARCHITECTURE.md"));
    let exists = |places: &&Vec<String>| places.iter().any(|entry| files.iter().any(|f| covers(entry, &f.path)));
    let gone = entries
        .iter()
        .filter(|places| !exists(places))
        .map(|places| format!("the map in ARCHITECTURE.md names {}, which does not exist", places.join(" or ")));
    missing.chain(gone).collect()
}

/// Entries of the map: for each, the paths that it can refer to.
fn entries(page: &str) -> Option<Vec<Vec<String>>> {
    let block = page.split("```").skip(1).step_by(2).find(|block| block.contains("crates/\n"))?;
    let mut entries = Vec::new();
    let (mut source, mut folder) = (String::new(), None);
    for line in block.lines().skip_while(|line| *line != "crates/").skip(1) {
        let text = line.trim_start();
        let names = text.split("  ").next().unwrap_or_default().split(' ');
        let names = names.filter(|n| n.ends_with(".rs") || n.ends_with('/'));
        match line.len() - text.len() {
            0 => break,
            2 => source = format!("crates/{}src/", text.split(' ').next().unwrap_or_default()),
            4 => {
                let names: Vec<String> = names.map(|name| format!("{source}{name}")).collect();
                folder = names.iter().rfind(|name| name.ends_with('/')).cloned();
                entries.extend(names.into_iter().map(|name| vec![name]));
            }
            _ => entries.extend(names.map(|name| {
                let inner = folder.iter().map(|folder| format!("{folder}{name}"));
                inner.chain([format!("{source}{name}")]).collect()
            })),
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    const PAGE: &str = "# Map\n\n```text\ncrates/\n  engine/ runs\n    run.rs plan.rs   steps of a/\n    ops/     operations\n      \
                        a/ b.rs  the first\n      main.rs\nxtask/\n```\n";

    fn breaches(sources: &[&str]) -> Vec<String> {
        let mut files = vec![file("ARCHITECTURE.md", PAGE)];
        files.extend(sources.iter().map(|path| file(path, "")));
        check(&files)
    }

    const ALL: [&str; 5] = [
        "crates/engine/src/run.rs",
        "crates/engine/src/plan.rs",
        "crates/engine/src/main.rs",
        "crates/engine/src/ops/b.rs",
        "crates/engine/src/ops/a/c.rs",
    ];

    #[test]
    fn every_file_is_on_the_map() {
        assert_eq!(breaches(&ALL), [""; 0]);
        let more = [&ALL[..], &["crates/engine/src/new.rs", "crates/other/src/main.rs"]].concat();
        assert_eq!(breaches(&more).len(), 2);
    }

    #[test]
    fn what_the_map_names_exists() {
        assert_eq!(
            breaches(&ALL[1..]),
            ["the map in ARCHITECTURE.md names crates/engine/src/run.rs, which does not exist"]
        );
        assert_eq!(breaches(&ALL[..4]).len(), 1);
    }
}
