//! The folder of a conversion: it has its name when everything is in it, and packages that an interrupted conversion
//! finished are kept.

use std::path::{Path, PathBuf};

use coreml_format::task;

use crate::error::{ConvertError, Result};

/// A conversion that is being written, into `.NAME.partial` beside its folder.
pub(crate) struct Job {
    to: PathBuf,
    partial: PathBuf,
    done: usize,
    total: usize,
    /// True if a package was there.
    resumed: bool,
}

/// File that says what an unfinished folder is being made of.
const PLAN: &str = "plan.txt";

impl Job {
    /// Starts or goes on. `plan` describes source and options: a folder of another plan starts anew.
    pub(crate) fn start(to: &Path, plan: &str, total: usize) -> Result<Self> {
        if to.exists() {
            return Err(ConvertError::invalid(to, "the folder", "one that does not exist yet", "it"));
        }
        let name = to.file_name().ok_or_else(|| ConvertError::invalid(to, "the folder", "a name", "none"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let partial = to.with_file_name(hidden);
        let old = std::fs::read_to_string(partial.join(PLAN)).unwrap_or_default();
        if partial.exists() && old != plan {
            std::fs::remove_dir_all(&partial).map_err(ConvertError::io(&partial))?;
        }
        std::fs::create_dir_all(&partial).map_err(ConvertError::io(&partial))?;
        let file = partial.join(PLAN);
        std::fs::write(&file, plan).map_err(ConvertError::io(&file))?;
        Ok(Self { to: to.to_owned(), partial, done: 0, total, resumed: false })
    }

    /// True if a package was there already, so that not every tensor was read.
    pub(crate) fn resumed(&self) -> bool {
        self.resumed
    }

    /// Name of the folder.
    pub(crate) fn name(&self) -> &str {
        self.to.file_name().and_then(|n| n.to_str()).unwrap_or("model")
    }

    fn step(&mut self, package: &str) {
        self.done += 1;
        task::report(package, self.done as u64, self.total as u64);
    }

    /// Writes a package, unless it is there.
    pub(crate) fn package(
        &mut self,
        name: &str,
        write: impl FnOnce(&Path, &mut dyn FnMut(usize)) -> Result<()>,
    ) -> Result<()> {
        task::check().map_err(|_| ConvertError::cancelled(&self.to))?;
        let path = self.partial.join(format!("{name}.mlpackage"));
        if path.exists() {
            self.resumed = true;
        } else {
            write(&path, &mut |_| self.step(name))?;
        }
        self.step(name);
        Ok(())
    }

    /// Writes a small file.
    pub(crate) fn text(&self, name: &str, content: &str) -> Result<()> {
        let path = self.partial.join(name);
        std::fs::write(&path, content).map_err(ConvertError::io(&path))
    }

    /// Copies the files of this name that the source has.
    pub(crate) fn copy(&self, from: &Path, names: &[&str]) -> Result<()> {
        for name in names {
            let source = from.join(name);
            if source.is_file() {
                let folder = self.partial.join(name);
                let folder = folder.parent().unwrap_or(&self.partial);
                std::fs::create_dir_all(folder).map_err(ConvertError::io(folder))?;
                std::fs::copy(&source, self.partial.join(name)).map_err(ConvertError::io(&source))?;
            }
        }
        Ok(())
    }

    /// Leaves nothing to go on with.
    pub(crate) fn discard(self) {
        // The reason for it counts, not what cleaning up says.
        let _ = std::fs::remove_dir_all(&self.partial);
    }

    /// Gives the folder its name.
    pub(crate) fn finish(self) -> Result<()> {
        task::check().map_err(|_| ConvertError::cancelled(&self.to))?;
        let plan = self.partial.join(PLAN);
        std::fs::remove_file(&plan).map_err(ConvertError::io(&plan))?;
        // What an interrupted writer left.
        for entry in std::fs::read_dir(&self.partial).map_err(ConvertError::io(&self.partial))?.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with('.') && n.ends_with(".partial")) {
                std::fs::remove_dir_all(entry.path()).map_err(ConvertError::io(&entry.path()))?;
            }
        }
        std::fs::rename(&self.partial, &self.to).map_err(ConvertError::io(&self.to))
    }
}
