//! What is known of running a model on Core ML: that it was proved, or why it was refused.
//!
//! One line for each set of compute units and function in `KEY.refused` or `KEY.proved`, fields separated by tabs:
//!
//! ```text
//! cpu-and-ne ⇥ infer ⇥ 15.1.0 24B83 ⇥ /models/a.mlpackage ⇥ ended by signal 6 while predicting
//! ```
//!
//! A line of another system counts for nothing, and neither does one that can't be read: the model is then tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coreml_format::file;

use super::folders::{self, remove};
use super::{CacheError, CacheKey, ModelCache};
use crate::options::ComputeUnits;

/// Most bytes of a file of verdicts.
const LARGEST: u64 = 1 << 20;

/// Most characters of a reason.
const REASON: usize = 2000;

/// Wait for another process that writes a verdict, or compiles the model.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a verdict is about, besides the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Processors.
    pub units: ComputeUnits,
    /// Function; `None`: the default one, or all components of a language model.
    pub function: Option<String>,
    /// Version and build of the system.
    pub system: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Core ML loaded the model and ran it.
    Proved,
    /// Core ML can't, for this reason.
    Refused(String),
}

/// A recorded answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The question.
    pub question: Question,
    /// Path of the model when it was tried.
    pub model: PathBuf,
    /// The answer.
    pub outcome: Outcome,
}

const EXTENSIONS: [&str; 2] = ["refused", "proved"];

impl ModelCache {
    /// The recorded answer, if there is one for this very question.
    pub fn verdict(&self, key: &CacheKey, question: &Question) -> Option<Outcome> {
        let all = EXTENSIONS.into_iter().flat_map(|extension| self.read_verdicts(key, extension));
        all.into_iter().find(|v| v.question == *question).map(|v| v.outcome)
    }

    /// Records an answer in place of earlier ones to the same question; drops those of other systems.
    ///
    /// # Errors
    /// If the files cannot be written; [`CacheError::Busy`] if another process holds the lock of the model.
    pub fn record(&self, key: &CacheKey, verdict: &Verdict) -> Result<(), CacheError> {
        std::fs::create_dir_all(self.root()).map_err(|e| CacheError::io(self.root(), e))?;
        let _lock = self.lock(key, PATIENCE)?;
        for extension in EXTENSIONS {
            let mut all = self.read_verdicts(key, extension);
            let before = all.clone();
            all.retain(|v| v.question != verdict.question && v.question.system == verdict.question.system);
            if extension == extension_of(&verdict.outcome) {
                all.push(verdict.clone());
            }
            if all.is_empty() || all != before {
                self.write_verdicts(key, extension, &all)?;
            }
        }
        Ok(())
    }

    /// All recorded answers, by key.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn verdicts(&self) -> Result<Vec<(CacheKey, Verdict)>, CacheError> {
        let mut all = Vec::new();
        for extension in EXTENSIONS {
            for key in self.keys(extension)? {
                all.extend(self.read_verdicts(&key, extension).into_iter().map(|v| (key.clone(), v)));
            }
        }
        all.sort_by(|(a, v), (b, w)| (&v.model, a).cmp(&(&w.model, b)));
        Ok(all)
    }

    /// Forgets what is known of a model.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn forget(&self, key: &CacheKey) -> Result<bool, CacheError> {
        let mut any = false;
        for extension in EXTENSIONS {
            any |= remove(&self.place(key, extension))?;
        }
        Ok(any)
    }

    /// Removes records of other systems; returns their number.
    pub(super) fn retire_verdicts(&self, system: &str) -> Result<usize, CacheError> {
        let mut removed = 0;
        for extension in EXTENSIONS {
            for key in self.keys(extension)? {
                if self.read_verdicts(&key, extension).iter().all(|v| v.question.system == system) {
                    continue;
                }
                let Some(_lock) = self.free_lock(&key)? else { continue };
                // Read again: it may have changed before it was locked.
                let (kept, old): (Vec<_>, Vec<_>) =
                    self.read_verdicts(&key, extension).into_iter().partition(|v| v.question.system == system);
                self.write_verdicts(&key, extension, &kept)?;
                removed += old.len();
            }
        }
        Ok(removed)
    }

    /// Writes the file of these answers; without any there is none. The caller holds the lock.
    fn write_verdicts(&self, key: &CacheKey, extension: &str, all: &[Verdict]) -> Result<(), CacheError> {
        let path = self.place(key, extension);
        match all {
            [] => remove(&path).map(drop),
            _ => folders::write(&path, &all.iter().map(line).collect::<String>()),
        }
    }

    fn read_verdicts(&self, key: &CacheKey, extension: &'static str) -> Vec<Verdict> {
        let text = file::read(&self.place(key, extension), LARGEST).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter_map(|line| parse(line, extension)).collect()
    }
}

fn extension_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Refused(_) => "refused",
        Outcome::Proved => "proved",
    }
}

fn line(verdict: &Verdict) -> String {
    let Question { units, function, system } = &verdict.question;
    let reason = match &verdict.outcome {
        Outcome::Refused(reason) => reason.as_str(),
        Outcome::Proved => "",
    };
    let reason: String = reason.chars().take(REASON).collect();
    let model = verdict.model.to_string_lossy();
    let fields = [units.name(), function.as_deref().unwrap_or(""), system, &model, &reason];
    fields.map(escape).join("\t") + "\n"
}

fn parse(line: &str, extension: &str) -> Option<Verdict> {
    let fields: Vec<String> = line.split('\t').map(unescape).collect::<Option<_>>()?;
    let [units, function, system, model, reason] = <[String; 5]>::try_from(fields).ok()?;
    let function = (!function.is_empty()).then_some(function);
    let outcome = if extension == "refused" { Outcome::Refused(reason) } else { Outcome::Proved };
    let question = Question { units: units.parse().ok()?, function, system };
    Some(Verdict { question, model: Path::new(&model).to_owned(), outcome })
}

fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

/// `None` for an escape that [`escape`] does not write.
fn unescape(field: &str) -> Option<String> {
    let mut text = String::with_capacity(field.len());
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '\\' => match letters.next()? {
                '\\' => '\\',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u64) -> CacheKey {
        CacheKey::parse(&format!("{n:064x}")).expect("64 digits")
    }

    fn question(units: ComputeUnits, function: Option<&str>, system: &str) -> Question {
        Question { units, function: function.map(str::to_owned), system: system.to_owned() }
    }

    fn verdict(question: &Question, outcome: Outcome) -> Verdict {
        Verdict { question: question.clone(), model: "/models/a b.mlpackage".into(), outcome }
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn an_answer_holds_for_its_own_question_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = ModelCache::new(folder.path().join("cache"));
        let asked = question(ComputeUnits::CpuAndNeuralEngine, Some("infer"), "15.1 24B83");
        assert_eq!(cache.verdict(&key(1), &asked), None);
        let refused = Outcome::Refused("signal 6".to_owned());
        cache.record(&key(1), &verdict(&asked, refused.clone())).expect("recorded");
        assert_eq!(cache.verdict(&key(1), &asked), Some(refused.clone()));
        for other in [
            question(ComputeUnits::All, Some("infer"), "15.1 24B83"),
            question(ComputeUnits::CpuAndNeuralEngine, None, "15.1 24B83"),
            question(ComputeUnits::CpuAndNeuralEngine, Some("infer"), "15.2 24C1"),
        ] {
            assert_eq!(cache.verdict(&key(1), &other), None, "{other:?}");
        }
        assert_eq!(cache.verdict(&key(2), &asked), None);

        // A later answer replaces the earlier one; another function's stays.
        let other = question(ComputeUnits::All, None, "15.1 24B83");
        cache.record(&key(1), &verdict(&other, refused.clone())).expect("recorded");
        cache.record(&key(1), &verdict(&asked, Outcome::Proved)).expect("recorded");
        assert_eq!(cache.verdict(&key(1), &asked), Some(Outcome::Proved));
        assert_eq!(cache.verdict(&key(1), &other), Some(refused.clone()));
        assert_eq!(cache.verdicts().expect("read").len(), 2);

        // A new system drops what an old one said.
        let newer = question(ComputeUnits::All, None, "15.2 24C1");
        cache.record(&key(1), &verdict(&newer, Outcome::Proved)).expect("recorded");
        assert_eq!(cache.verdict(&key(1), &other), None);
        assert!(cache.forget(&key(1)).expect("forgotten") && !cache.forget(&key(1)).expect("nothing left"));
        assert_eq!(cache.verdict(&key(1), &newer), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn what_cannot_be_read_is_no_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = ModelCache::new(folder.path());
        let asked = question(ComputeUnits::All, None, "15");
        let place = cache.place(&key(1), "refused");
        for rubbish in
            ["", "all", "all\t\t15\t/m\n\u{0}", "gpu\t\t15\t/m\tr\n", "all\t\t15\t/m\t\\x\n", "all\t\t15\t/m\tr\t\n"]
        {
            std::fs::write(&place, rubbish).expect("a file");
            assert_eq!(cache.verdict(&key(1), &asked), None, "{rubbish:?}");
        }
        std::fs::write(&place, b"\xff\xfe\nall\t\t15\t/m\tr\n").expect("a file");
        assert_eq!(cache.verdict(&key(1), &asked), Some(Outcome::Refused("r".to_owned())));
        std::fs::write(&place, "x".repeat((LARGEST + 1) as usize)).expect("a file");
        assert_eq!(cache.verdict(&key(1), &asked), None);
        std::fs::remove_file(&place).expect("removed");
        std::fs::create_dir(&place).expect("a folder");
        assert_eq!(cache.verdict(&key(1), &asked), None);
    }

    proptest! {
        #![proptest_config(crate::cases(128))]
        #[test]
        fn lines_read_back(reason in "[\\PC\t\n\r\\\\]{0,40}", function in prop::option::of("[a-z\t]{1,5}"), system in ".{0,8}") {
            let asked = question(ComputeUnits::CpuOnly, function.as_deref(), &system);
            let wanted = verdict(&asked, Outcome::Refused(reason));
            let text = line(&wanted);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert_eq!(parse(text.trim_end_matches('\n'), "refused"), Some(wanted));
        }
    }
}
