//! Proof that Core ML runs a model, before [`EngineChoice::Auto`](super::EngineChoice) trusts it.
//!
//! Core ML loads models that it can't run: the first prediction then fails, or ends the process inside the GPU's or
//! the Neural Engine's compiler, where there is no error to catch. So `Auto` tries a language model first: one prefill,
//! one step and the head, on a state that is thrown away. A program that sets [`in_child_processes`] does this in a
//! child process, which may die; the command does. The outcome is kept beside the compiled models, by content of the
//! files, system, compute units and function, and holds until one of them changes.
//!
//! ```text
//! recorded: refused ──────────────────────────────▶ portable
//! recorded: proved ───────────────▶ load ─ error ─▶ portable, recorded if Core ML refused
//! nothing ─▶ child ─ proved ──────▶ load
//!              │──── refused ─────────────────────▶ portable, recorded
//!              │──── no clear answer ─────────────▶ portable, this time
//!              └──── none, or it can't start ─▶ load and try here ─ error ─▶ portable
//! ```

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) use child::Ended;
use coreml_format::model::Model;
use coreml_framework::cache::{CacheKey, ModelCache, Outcome, Question, Verdict};

use super::{ComputeUnits, EngineOptions};
use crate::error::{Error, Result};

mod child;
mod scratch;
pub use scratch::answer;

/// The program that proves models.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Proves models in child processes from now on: `program prove-native PATH …`. The program is the command
/// `candle-coreml`, or answers as [`answer`] does. Later calls change nothing.
pub fn in_child_processes(program: impl Into<PathBuf>) {
    let _ = PROGRAM.set(program.into());
}

/// A recorded outcome.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// Path of the model or, for a language model, its folder.
    pub model: PathBuf,
    /// Compute units it was tried with.
    pub compute_units: String,
    /// Function; `None`: the default one, or all of a language model.
    pub function: Option<String>,
    /// Version and build of the system.
    pub system: String,
    /// Why Core ML can't run it; `None` if it can.
    pub refused: Option<String>,
    /// The file that says so. Without it, the model is tried again.
    pub file: PathBuf,
}

/// All recorded outcomes; `cache` is the folder of compiled models, by default the user's.
///
/// # Errors
/// If the folder can't be read.
pub fn recorded(cache: Option<&Path>) -> Result<Vec<Record>> {
    let Some(root) = cache.map(Path::to_owned).or_else(ModelCache::default_root) else { return Ok(Vec::new()) };
    let cache = ModelCache::new(root);
    let all = cache.verdicts().map_err(|e| Error::Request(e.to_string()))?;
    let record = |(key, verdict): (CacheKey, Verdict)| {
        let (refused, extension) = match verdict.outcome {
            Outcome::Refused(reason) => (Some(reason), "refused"),
            Outcome::Proved => (None, "proved"),
        };
        Record {
            model: verdict.model,
            compute_units: verdict.question.units.name().to_owned(),
            function: verdict.question.function,
            system: verdict.question.system,
            refused,
            file: cache.root().join(format!("{key}.{extension}")),
        }
    };
    Ok(all.into_iter().map(record).collect())
}

/// Where the outcome for a model is kept, and what is asked.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None` if there is no cache folder or the model can't be read: nothing is known, and nothing is kept.
    kept: Option<(ModelCache, CacheKey)>,
    question: Question,
    model: PathBuf,
}

impl Place {
    /// The place for one function of a model.
    pub(crate) fn of_model(package: &Model, function: Option<&str>, options: &EngineOptions, system: String) -> Self {
        Self::new(&package.path, std::iter::once(&*package.path), function, options, system)
    }

    /// The place for several files that run together.
    pub(crate) fn new<'a>(
        model: &Path,
        files: impl Iterator<Item = &'a Path>,
        function: Option<&str>,
        options: &EngineOptions,
        system: String,
    ) -> Self {
        let root = options.cache.clone().or_else(ModelCache::default_root);
        let key = |path: &Path| {
            let compiled = coreml_framework::cache::is_compiled(path);
            if compiled { CacheKey::of_stamps(path, &system) } else { CacheKey::remembered(path, &system) }
        };
        let keys = files.map(key).collect::<std::result::Result<Vec<_>, _>>();
        let keys = keys.inspect_err(|error| tracing::debug!(%error, "no key, so no record")).ok();
        let key = keys.map(|keys| if let [one] = keys.as_slice() { one.clone() } else { CacheKey::joined(&keys) });
        let kept = root.map(ModelCache::new).zip(key);
        let question = Question { units: options.compute_units, function: function.map(str::to_owned), system };
        Self { kept, question, model: std::path::absolute(model).unwrap_or_else(|_| model.to_owned()) }
    }

    fn known(&self) -> Option<Outcome> {
        let (cache, key) = self.kept.as_ref()?;
        cache.verdict(key, &self.question)
    }

    fn record(&self, outcome: Outcome) {
        let Some((cache, key)) = &self.kept else { return };
        let verdict = Verdict { question: self.question.clone(), model: self.model.clone(), outcome };
        if let Err(error) = cache.record(key, &verdict) {
            tracing::warn!(%error, "the outcome is not kept");
        }
    }

    /// Digits of the key, by which a child tells that it found the same files.
    fn digits(&self) -> Option<&str> {
        self.kept.as_ref().map(|(_, key)| key.as_str())
    }

    /// Proves the model in a child process; `None` if no program is set.
    pub(crate) fn in_child(&self, options: &EngineOptions) -> Option<Ended> {
        let mut command = std::process::Command::new(PROGRAM.get()?);
        command.arg("prove-native").arg(&self.model).args(["--compute-units", self.question.units.name()]);
        if let Some(function) = &self.question.function {
            command.args(["--function", function]);
        }
        if let Some(cache) = &options.cache {
            command.arg("--compiled-models").arg(cache);
        }
        if let Some(digits) = self.digits() {
            command.args(["--expect", digits]);
        }
        tracing::info!(model = %self.model.display(), "trying the model on Core ML in a child process");
        Some(child::run(&mut command, child::limit()))
    }
}

/// The choice between the engines.
#[derive(Debug)]
pub(crate) enum Choice<T> {
    /// Core ML, with the reason.
    Native(T, String),
    /// The portable engine, with the reason; and Core ML's error, if there is one.
    Portable(String, Option<Error>),
}

/// Chooses an engine: see the module. `trial` runs what was loaded; without one, loading proves nothing.
pub(crate) fn choose<T>(
    place: &Place,
    child: impl FnOnce() -> Option<Ended>,
    load: impl FnOnce() -> Result<T>,
    trial: Option<&dyn Fn(&T) -> Result<()>>,
) -> Choice<T> {
    let mut proved = match place.known() {
        Some(Outcome::Refused(reason)) => {
            return Choice::Portable(format!("Core ML refused it before: {reason}"), None);
        }
        Some(Outcome::Proved) => Some("Core ML ran it before"),
        None => None,
    };
    if proved.is_none() {
        match child() {
            Some(Ended::Proved) => {
                place.record(Outcome::Proved);
                proved = Some("Core ML ran it in a trial");
            }
            Some(Ended::Refused(reason)) => {
                place.record(Outcome::Refused(reason.clone()));
                return Choice::Portable(format!("Core ML failed in a trial: {reason}"), None);
            }
            Some(Ended::Unclear(reason)) => {
                return Choice::Portable(format!("a trial of Core ML had no clear end: {reason}"), None);
            }
            Some(Ended::NotStarted(reason)) => tracing::warn!(reason, "no trial in a child process"),
            None => {}
        }
    }
    let refused = |error: Error, doing: &str| {
        let reason = error.to_string();
        if is_refusal(&error) {
            place.record(Outcome::Refused(reason.clone()));
        }
        Choice::Portable(format!("Core ML {doing}: {reason}"), Some(error))
    };
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => return refused(error, "does not load it"),
    };
    let reason = match (proved, trial) {
        (Some(reason), _) => reason,
        (None, None) => "Core ML loads the model",
        (None, Some(trial)) => match trial(&loaded) {
            Ok(()) => {
                place.record(Outcome::Proved);
                "Core ML loads and runs all components"
            }
            Err(error) => return refused(error, "loads it, but can't run it"),
        },
    };
    Choice::Native(loaded, reason.to_owned())
}

/// True for errors that the same files, system and options give again.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Native { source, .. } if source.is_refusal())
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_framework::NativeError;
    use std::cell::Cell;

    fn place(folder: &Path, system: &str) -> Place {
        let model = folder.join("a.mlmodel");
        std::fs::write(&model, "a model").expect("a file");
        let options = EngineOptions { cache: Some(folder.join("cache")), ..EngineOptions::default() };
        Place::new(&model, std::iter::once(&*model), Some("infer"), &options, system.to_owned())
    }

    fn refusal() -> Error {
        let source =
            NativeError::Exception { doing: "predicting".into(), name: "E".into(), reason: "on purpose".into() };
        Error::Native { path: "a.mlmodel".into(), source: Box::new(source) }
    }

    /// Name of the outcome, with what is recorded afterwards.
    fn outcome(
        place: &Place,
        ended: Option<Ended>,
        load: Result<()>,
        trial: Option<Result<()>>,
    ) -> (&'static str, String, Option<Outcome>) {
        let trial = trial.map(|result| Cell::new(Some(result)));
        let run = |_: &()| trial.as_ref().and_then(Cell::take).expect("tried once");
        let choice = choose(place, || ended, || load, trial.as_ref().map(|_| &run as &dyn Fn(&()) -> Result<()>));
        let (name, reason) = match choice {
            Choice::Native((), reason) => ("native", reason),
            Choice::Portable(reason, _) => ("portable", reason),
        };
        (name, reason, place.known())
    }

    fn refused(reason: &str) -> Option<Outcome> {
        Some(Outcome::Refused(reason.to_owned()))
    }

    #[test]
    fn a_child_decides_and_its_answer_holds_until_the_system_changes() {
        for (ended, name, kept, said) in [
            (Ended::Proved, "native", Some(Outcome::Proved), "in a trial"),
            (Ended::Refused("signal 6".into()), "portable", refused("signal 6"), "signal 6"),
            (Ended::Unclear("signal 15".into()), "portable", None, "no clear end: signal 15"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let at = place(folder.path(), "15.1");
            let (found, reason, known) = outcome(&at, Some(ended), Ok(()), None);
            assert!(found == name && known == kept && reason.contains(said), "{found} {reason} {known:?}");
            // The second time nobody asks a child, and a refused model is not even loaded.
            let again = choose(
                &at,
                || if kept.is_some() { panic!("asked again") } else { None },
                || if name == "portable" && kept.is_some() { panic!("loaded") } else { Ok(()) },
                None,
            );
            assert_eq!(matches!(again, Choice::Native(..)), name == "native" || kept.is_none());
            // Another system, other units, another content: all anew.
            assert_eq!(place(folder.path(), "15.2").known(), None);
            std::fs::write(folder.path().join("a.mlmodel"), "another").expect("a file");
            let model = folder.path().join("a.mlmodel");
            let options = EngineOptions { cache: Some(folder.path().join("cache")), ..EngineOptions::default() };
            let files = std::iter::once(&*model);
            assert_eq!(Place::new(&model, files, Some("infer"), &options, "15.1".to_owned()).known(), None);
        }
    }

    #[test]
    fn without_a_child_the_model_is_tried_here() {
        let not_started = || Some(Ended::NotStarted("no such program".to_owned()));
        for ended in [|| None, not_started] {
            let folder = tempfile::tempdir().expect("a folder");
            let at = place(folder.path(), "15.1");
            // Loading alone proves nothing.
            assert_eq!(outcome(&at, ended(), Ok(()), None).2, None);
            // An error that may pass is not kept.
            let passing = || Err(Error::Request("the disk is full".to_owned()));
            assert_eq!((outcome(&at, ended(), passing(), None).0, at.known()), ("portable", None));
            let (name, reason, known) = outcome(&at, ended(), Ok(()), Some(Ok(())));
            assert!(name == "native" && known == Some(Outcome::Proved) && reason.contains("runs all"), "{reason}");

            let folder = tempfile::tempdir().expect("a folder");
            let at = place(folder.path(), "15.1");
            let (name, reason, known) = outcome(&at, ended(), Ok(()), Some(Err(refusal())));
            assert!(name == "portable" && reason.contains("on purpose"), "{reason}");
            assert!(matches!(known, Some(Outcome::Refused(why)) if why.contains("on purpose")));
        }
    }

    #[test]
    fn a_proved_model_that_no_longer_loads_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = place(folder.path(), "15.1");
        at.record(Outcome::Proved);
        let (name, _, known) = outcome(&at, Some(Ended::Unclear("not asked".into())), Err(refusal()), None);
        assert!(name == "portable" && matches!(known, Some(Outcome::Refused(_))));
        let all = recorded(Some(&folder.path().join("cache"))).expect("read");
        assert_eq!(all.len(), 1);
        let record = &all[0];
        assert_eq!((record.compute_units.as_str(), record.function.as_deref()), ("cpu-and-ne", Some("infer")));
        assert!(record.model.ends_with("a.mlmodel") && record.system == "15.1" && record.file.is_file());
        assert!(record.refused.as_ref().is_some_and(|r| r.contains("on purpose")));
        std::fs::remove_file(&record.file).expect("removed");
        assert_eq!(at.known(), None);
    }

    #[test]
    fn without_a_place_nothing_is_kept_and_everything_works() {
        let options = EngineOptions { cache: Some("/dev/null/none".into()), ..EngineOptions::default() };
        let nowhere = Path::new("no/such/model");
        let at = Place::new(nowhere, std::iter::once(nowhere), None, &options, "15".to_owned());
        assert_eq!(at.digits(), None);
        let (name, _, known) = outcome(&at, Some(Ended::Refused("signal 6".into())), Ok(()), None);
        assert_eq!((name, known), ("portable", None));
        assert!(at.in_child(&options).is_none(), "no program is set");
        assert_eq!(recorded(Some(Path::new("/no/such/folder"))).expect("nothing"), []);
    }
}
