//! A folder that appears under its name when it is complete.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use coreml_format::task;

use crate::edit::{EditError, Result};

/// A hidden folder beside the final path; dropped before [`Partial::finish`], it leaves nothing.
pub(super) struct Partial {
    to: PathBuf,
    folder: tempfile::TempDir,
}

fn exists(to: &Path) -> Result<()> {
    if to.exists() {
        return Err(EditError::invalid(to, "the new model", "a path that does not exist yet", "one that exists"));
    }
    Ok(())
}

impl Partial {
    pub(super) fn create(to: &Path) -> Result<Self> {
        exists(to)?;
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .tempdir_in(parent)
            .map_err(EditError::io(to))?;
        Ok(Self { to: to.to_owned(), folder })
    }

    fn place(&self, relative: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(relative);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(EditError::io(&self.to))?;
        }
        Ok(path)
    }

    pub(super) fn write(&self, relative: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(relative)?;
        let mut file = File::create(path).map_err(EditError::io(&self.to))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(EditError::io(&self.to))
    }

    pub(super) fn copy(&self, relative: &str, from: &Path) -> Result<()> {
        let path = self.place(relative)?;
        let mut source = File::open(from).map_err(EditError::io(from))?;
        let mut file = File::create(path).map_err(EditError::io(&self.to))?;
        task::copy(&mut source, &mut file).and_then(|()| file.sync_all()).map_err(EditError::io(&self.to))
    }

    pub(super) fn finish(self) -> Result<()> {
        exists(&self.to)?;
        #[cfg(unix)]
        {
            // Temporary folders are private; a model is as readable as other new folders.
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(self.folder.path(), mode).map_err(EditError::io(&self.to))?;
        }
        std::fs::rename(self.folder.path(), &self.to).map_err(EditError::io(&self.to))
    }
}
