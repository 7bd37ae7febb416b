//! No import cycles between modules of the crates that promise it: each file imports only files below it.

use std::collections::{BTreeMap, BTreeSet};

use super::File;

/// Source folders of these crates.
const ROOTS: [&str; 1] = ["crates/coreml-engine/src/"];

pub(super) fn check(files: &[File]) -> Vec<String> {
    ROOTS.iter().flat_map(|root| circles(root, files)).collect()
}

/// One line for each file that reaches itself through others.
fn circles(root: &str, files: &[File]) -> Vec<String> {
    let own: BTreeMap<&str, &str> = files
        .iter()
        .filter_map(|f| Some((f.path.strip_prefix(root)?.strip_suffix(".rs")?, f.text.as_str())))
        .filter(|(module, _)| *module != "lib")
        .collect();
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        own.iter().map(|(module, text)| (*module, imports(module, text, &own))).collect();
    let through = |start: &str| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(module) = left.pop() {
            left.extend(arrows[module].iter().copied().filter(|next| seen.insert(*next)));
        }
        seen.contains(start)
    };
    arrows
        .keys()
        .filter(|module| through(module))
        .map(|m| format!("{root}{m}.rs imports itself through others"))
        .collect()
}

/// Modules that a file imports or names, excluding tests and comments.
fn imports<'a>(module: &str, text: &str, known: &BTreeMap<&'a str, &str>) -> BTreeSet<&'a str> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if whole {
                expand(&code[at..], String::new(), &mut paths);
            }
        }
    }
    let resolve = |path: &String| {
        let mut parts: Vec<&str> = path.split("::").collect();
        let mut found: Vec<&str> = Vec::new();
        if parts[0] == "super" {
            found = module.split('/').collect();
        }
        while parts.first() == Some(&"super") {
            parts.remove(0);
            found.pop();
        }
        found.extend(parts.into_iter().filter(|part| *part != "crate"));
        while !found.is_empty() {
            if let Some((name, _)) = known.get_key_value(found.join("/").as_str()) {
                return Some(*name);
            }
            found.pop();
        }
        None
    };
    paths.iter().filter_map(resolve).filter(|found| *found != module).collect()
}

/// Expands the paths of a tree such as `a::{b, c::{d, e}}`; returns the rest of the text.
fn expand<'t>(mut text: &'t str, mut before: String, paths: &mut Vec<String>) -> &'t str {
    loop {
        text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (part, rest) = text.split_at(end);
        if !part.is_empty() {
            before = if before.is_empty() { part.to_owned() } else { format!("{before}::{part}") };
        }
        let Some(next) = rest.strip_prefix("::") else {
            paths.push(before);
            return rest;
        };
        let Some(mut inner) = next.strip_prefix('{') else {
            text = next;
            continue;
        };
        loop {
            inner = expand(inner, before.clone(), paths);
            // `as` and a name.
            let end = inner.find([',', '}']).unwrap_or(inner.len());
            inner = &inner[end..];
            match inner.strip_prefix(',') {
                Some(more) if !more.trim_start().starts_with('}') => inner = more,
                Some(more) => return more.trim_start().get(1..).unwrap_or_default(),
                None => return inner.get(1..).unwrap_or_default(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files.iter().map(|(name, text)| file(&format!("{}{name}.rs", ROOTS[0]), text)).collect();
        check(&files)
    }

    #[test]
    fn circles_are_found_through_trees_and_inline_paths() {
        assert_eq!(found(&[("a", "use crate::{c, b::{X as Y, Z}};"), ("b", ""), ("c", "")]), [] as [String; 0]);
        assert_eq!(
            found(&[("a", "use crate::{c, b::{X, Z}};"), ("b", "fn f() -> crate::a::A {}"), ("c", "")]).len(),
            2
        );
        assert_eq!(
            found(&[("a", "use std::x;"), ("a/d", "use super::e::F;"), ("a/e", "use super::super::a::d;")]).len(),
            2
        );
    }

    #[test]
    fn tests_and_comments_do_not_count() {
        let up = "// crate::a\n#[cfg(test)]\nmod tests { use crate::a; }";
        assert_eq!(found(&[("a", "use crate::b;"), ("b", up)]), [] as [String; 0]);
    }
}
