//! Hints below errors: similar names, and the next step.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;

use candle_coreml::format::model::LoadError;

/// Minimum similarity of names.
const NEAR: f64 = 0.8;

/// The most similar name, if any is close enough.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |n: &str| strsim::jaro_winkler(&n.to_lowercase(), &wrong.to_lowercase());
    let best = names.filter(|n| *n != wrong).max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(best) >= NEAR).then_some(best)
}

/// Suggestion for a missing path.
pub(crate) fn path(missing: &Path) -> Option<String> {
    // The first missing component is the misspelt one.
    let wrong = missing.ancestors().filter(|a| !a.as_os_str().is_empty() && !a.exists()).last()?;
    let folder = wrong.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).ok()?.take(10_000).filter_map(Result::ok);
    let names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let near = nearest(&wrong.file_name()?.to_string_lossy(), names.iter().map(String::as_str))?;
    let rest = missing.strip_prefix(wrong).ok()?;
    let meant = wrong.with_file_name(near);
    let meant = if rest.as_os_str().is_empty() { meant } else { meant.join(rest) };
    Some(format!("did you mean {}?", meant.display()))
}

/// Hint for an error or one of its causes.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(hint) = one(e) {
            return Some(hint);
        }
        next = e.source();
    }
    None
}

/// Returns true for a folder with model files.
pub(crate) fn holds_models(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|all| all.filter_map(Result::ok).any(|e| is_model(&e.path())))
}

fn one(error: &(dyn Error + 'static)) -> Option<String> {
    use candle_coreml::Error as E;
    let missing = |file: &Path, e: &std::io::Error| if e.kind() == ErrorKind::NotFound { path(file) } else { None };
    if let Some(LoadError::Io { path, source }) = error.downcast_ref() {
        return missing(path, source);
    }
    if let Some(LoadError::NotAModel { path, .. }) = error.downcast_ref()
        && holds_models(path)
    {
        return Some("the folder holds models; name one of them, or use it with generate, chat or bench".to_owned());
    }
    if let Some(unknown) = error.downcast_ref::<coreml_inspect::picture::UnknownFunction>() {
        return nearest(&unknown.name, unknown.available.iter().map(String::as_str))
            .map(|n| format!("did you mean {n}?"));
    }
    match error.downcast_ref::<E>()? {
        // Transparent errors do not appear among the sources.
        E::Load(load) => one(load),
        E::Io { path, source } => missing(path, source),
        E::NotFound { name, available, .. } => {
            nearest(name, available.split(", ")).map(|n| format!("did you mean {n}?"))
        }
        _ => None,
    }
}

fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["mlpackage", "mlmodelc", "mlmodel"].iter().any(|m| e == *m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_close_are_found() {
        let names = ["hidden_states", "position_ids", "causal_mask"];
        assert_eq!(nearest("hiden_states", names.into_iter()), Some("hidden_states"));
        assert_eq!(nearest("Position_IDs", names.into_iter()), Some("position_ids"));
        assert_eq!(nearest("zzz", names.into_iter()), None);
        assert_eq!(nearest("x", std::iter::empty()), None);
    }

    #[test]
    fn wrong_parts_of_paths_are_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("models/tiny.mlpackage")).expect("made");
        let hint = path(&folder.path().join("modles/tiny.mlpackage")).expect("a hint");
        assert!(hint.ends_with(&format!("{}?", Path::new("models").join("tiny.mlpackage").display())), "{hint}");
        assert!(path(&folder.path().join("models/tny.mlpackage")).is_some_and(|h| h.contains("tiny.mlpackage")));
        assert_eq!(path(&folder.path().join("other/x")), None);
    }
}
