//! Downloads models by name from the Hugging Face hub or a compatible server.
//!
//! [`ensure_model_downloaded`] returns the folder of a model and downloads it if it is not cached; [`download_model`]
//! first checks the hub for the newest commit. Both take `org/name` or `org/name@revision` and the settings of the
//! environment; [`Hub`] makes them explicit.
//!
//! Only required files are downloaded: the components, each in its best format, with tokenizer and configuration. Every
//! file is verified against the checksum in the hub's listing. A model's folder gets its final name once the model is
//! complete; interrupted downloads are resumed.
//!
//! | variable | meaning |
//! |---|---|
//! | `CANDLE_COREML_CACHE` | the cache; default: `candle-coreml` in `XDG_CACHE_HOME` or `~/.cache` |
//! | `HF_ENDPOINT` | the hub; default: `https://huggingface.co` |
//! | `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME/token` | access to private and gated models |
//! | `HF_HUB_OFFLINE` | `1`: no network |
//! | `HF_HUB_CACHE`, `HF_HOME/hub` | Hugging Face cache; complete models there are used in place |
//! | `HTTPS_PROXY`, `NO_PROXY`, … | a proxy |
//! | `SSL_CERT_FILE`, `SSL_CERT_DIR` | trusted certificates instead of the system's |

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cache::paths::{self, ModelFolder, PARTIAL, Receipt, is_commit, read_small, write_small};

mod digest;
mod download;
mod environment;
mod error;
mod fetch;
mod foreign;
mod http;
mod id;
mod listing;
mod progress;
mod retry;
mod select;
mod unzip;

pub use error::HubError;
pub use id::ModelId;
pub use progress::{Event, Observer};
pub use retry::RetryPolicy;
pub use select::Patterns;

use download::{Download, Places, lock};
use http::{Client, ClientSettings};
use select::Selection;

/// Result of hub operations.
pub type Result<T> = std::result::Result<T, HubError>;

/// Returns the free bytes of the file system of a path.
#[derive(Clone)]
struct FreeSpace(Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>);

impl FreeSpace {
    fn of(&self, path: &Path) -> io::Result<u64> {
        (self.0)(path)
    }
}

/// A hub and a cache, with download settings.
#[derive(Clone)]
pub struct Hub {
    settings: ClientSettings,
    root: PathBuf,
    foreign: Option<PathBuf>,
    offline: bool,
    free: FreeSpace,
    consent: Arc<dyn Fn(u64) -> bool + Send + Sync>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, root, foreign, offline, .. } = self;
        f.debug_struct("Hub")
            .field("endpoint", &settings.endpoint)
            .field("token", &settings.token.as_ref().map(|_| "…"))
            .field("cache", root)
            .field("foreign_cache", foreign)
            .field("offline", offline)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// The public hub, with a cache in `root` and no token; ignores the environment.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            settings: ClientSettings {
                endpoint: "https://huggingface.co".to_owned(),
                token: None,
                retry: RetryPolicy::default(),
                observer: Arc::new(|_: &Event<'_>| {}),
                patience: Duration::from_secs(30),
            },
            root: root.into(),
            foreign: None,
            offline: false,
            free: FreeSpace(Arc::new(|path| fs4::available_space(path))),
            consent: Arc::new(|_| true),
        }
    }

    /// Settings from the environment; see the [module](self).
    ///
    /// # Errors
    /// If there is neither `CANDLE_COREML_CACHE` nor a home folder.
    pub fn from_environment() -> Result<Self> {
        let root = paths::default_root().ok_or_else(|| {
            HubError::Settings("there is no home folder for the cache; set CANDLE_COREML_CACHE".to_owned())
        })?;
        let hub = Self::new(root).endpoint(environment::endpoint()).token(environment::token());
        Ok(hub.foreign_cache(environment::foreign_cache()).offline(environment::offline()))
    }

    /// Sets the URL of the hub.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.settings.endpoint = endpoint.into();
        self
    }

    /// Sets the access token; it is sent only to the endpoint's own host.
    #[must_use]
    pub fn token(mut self, token: Option<String>) -> Self {
        self.settings.token = token;
        self
    }

    /// Sets a Hugging Face cache to search for complete models.
    #[must_use]
    pub fn foreign_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.foreign = folder;
        self
    }

    /// Disables network access.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the observer of progress.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.observer = observer;
        self
    }

    /// Sets the retry policy.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Sets the longest silence of a server; 30 s by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.settings.patience = patience;
        self
    }

    /// Asks before a download: the function gets the number of bytes that are missing, and its `false` ends in
    /// [`HubError::Declined`].
    #[must_use]
    pub fn consent(mut self, consent: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        self.consent = Arc::new(consent);
        self
    }

    /// Replaces the query for free disk space.
    #[must_use]
    pub fn free_space(mut self, free: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Self {
        self.free = FreeSpace(Arc::new(free));
        self
    }

    /// The cache folder.
    pub fn cache_root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model if it is complete in our cache or the Hugging Face cache. No network access.
    ///
    /// # Errors
    /// [`HubError::Id`].
    pub fn cached(&self, id: &str) -> Result<Option<PathBuf>> {
        Ok(self.find(&ModelId::parse(id)?, &Selection::Model))
    }

    /// The folder of a model; downloads it if it is not cached.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn ensure(&self, id: &str) -> Result<PathBuf> {
        let id = ModelId::parse(id)?;
        match self.find(&id, &Selection::Model) {
            Some(folder) => Ok(folder),
            None => self.obtain(&id, &Selection::Model),
        }
    }

    /// The folder of the newest commit of a model's revision; downloads missing files.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn download(&self, id: &str) -> Result<PathBuf> {
        let id = ModelId::parse(id)?;
        match self.offline {
            true => self.find(&id, &Selection::Model).ok_or_else(|| self.offline_error(&id)),
            false => self.obtain(&id, &Selection::Model),
        }
    }

    /// The folder of the files of a model's newest commit that match; downloads missing ones. It is apart from the folder
    /// of the whole model.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn download_matching(&self, id: &str, patterns: &Patterns) -> Result<PathBuf> {
        self.obtain(&ModelId::parse(id)?, &Selection::Matching(patterns.clone()))
    }

    /// Path for notes about the model in a folder: in the model's folder of our cache, also for snapshots of the
    /// Hugging Face cache, under the model's name.
    pub(crate) fn notes(&self, id: &ModelId, snapshot: &Path) -> Result<PathBuf> {
        let folder = ModelFolder::new(&self.root, id.repository());
        let name = snapshot.file_name().and_then(|n| n.to_str()).filter(|n| paths::is_snapshot(n));
        let Some(name) = name else {
            return Err(HubError::Settings(format!("{} is not a snapshot of a model", snapshot.display())));
        };
        let _lock = lock(&self.client()?, &folder.lock_file())?;
        folder.create().map_err(HubError::io(folder.path()))?;
        Ok(folder.config(name))
    }

    /// One component or file of a repository; downloads nothing else.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn ensure_file(&self, id: &str, file: &str) -> Result<PathBuf> {
        let id = ModelId::parse(id)?;
        listing::check_name(file).map_err(|reason| HubError::Name {
            what: id.to_string(),
            name: file.chars().take(200).collect(),
            reason,
        })?;
        let whole = self.find(&id, &Selection::Model).map(|f| f.join(file)).filter(|p| p.exists());
        if let Some(path) = whole {
            return Ok(path);
        }
        let selection = Selection::File(file.to_owned());
        let folder = match self.find(&id, &selection) {
            Some(folder) => folder,
            None => self.obtain(&id, &selection)?,
        };
        Ok(folder.join(file))
    }

    /// Downloads a model into a given folder, which must be missing, empty, or hold this commit already.
    ///
    /// Until the download is complete, its files are in a hidden folder beside it.
    ///
    /// # Errors
    /// Any [`HubError`]; [`HubError::Settings`] if the folder holds something else.
    pub fn download_to(&self, id: &str, folder: &Path) -> Result<PathBuf> {
        self.place(id, folder, &Selection::Model)
    }

    /// [`download_to`](Self::download_to) of the files that match.
    ///
    /// # Errors
    /// Same as [`download_to`](Self::download_to).
    pub fn download_matching_to(&self, id: &str, folder: &Path, patterns: &Patterns) -> Result<PathBuf> {
        self.place(id, folder, &Selection::Matching(patterns.clone()))
    }

    fn place(&self, id: &str, folder: &Path, selection: &Selection) -> Result<PathBuf> {
        let id = ModelId::parse(id)?;
        if self.offline {
            return Err(self.offline_error(&id));
        }
        let Some(name) = folder.file_name() else {
            return Err(HubError::Settings(format!("{} does not name a folder", folder.display())));
        };
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        let parent = parent.canonicalize().map_err(HubError::io(parent))?;
        let target = parent.join(name);
        let client = self.client()?;
        let key = digest::name_hash(&target.to_string_lossy());
        let _lock = lock(&client, &self.root.join(".locks").join(format!("folder-{key}.lock")))?;
        let commit = listing::commit(&client, &id)?;
        // A folder does not say which files were chosen for it.
        if self.is_target_done(&target, &id, &commit)? && *selection == Selection::Model {
            return Ok(target);
        }
        let files = self.list(&client, &id, &commit, selection)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".candle-coreml");
        let work = parent.join(hidden);
        let places = Places { parts: work.join("parts"), partial: work.join(&commit), published: target.clone() };
        self.run(&client, &id, &commit, &files, &places)?;
        fs::remove_dir_all(&work).map_err(HubError::io(&work))?;
        Ok(target)
    }

    /// Returns true if a folder already holds a commit; an error if it holds something else.
    fn is_target_done(&self, target: &Path, id: &ModelId, commit: &str) -> Result<bool> {
        let refuse = |what: String| Err(HubError::Settings(format!("{} {what}", target.display())));
        let metadata = match fs::symlink_metadata(target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(HubError::io(target))?,
        };
        if !metadata.is_dir() {
            return refuse("is not a folder".to_owned());
        }
        match Receipt::read(target) {
            Some(r) if r.model == id.repository() && r.commit == commit => Ok(r.is_intact(target)),
            Some(r) => refuse(format!("holds {} at {}; choose another folder or delete it", r.model, r.commit)),
            None if fs::read_dir(target).map_err(HubError::io(target))?.next().is_none() => Ok(false),
            None => refuse("is not empty, and not from an earlier download".to_owned()),
        }
    }

    fn client(&self) -> Result<Client> {
        Client::new(self.settings.clone())
    }

    fn offline_error(&self, id: &ModelId) -> HubError {
        HubError::Offline { id: id.to_string(), cache: self.root.clone() }
    }

    /// Name of a commit's snapshot: single files have separate folders.
    fn snapshot_name(commit: &str, selection: &Selection) -> String {
        match selection {
            Selection::Model => commit.to_owned(),
            Selection::File(path) => format!("{commit}-{}", digest::name_hash(path)),
            Selection::Matching(patterns) => format!("{commit}-{}", digest::name_hash(&patterns.name())),
        }
    }

    /// A complete snapshot of a commit in our cache.
    fn published(folder: &ModelFolder, commit: &str, selection: &Selection) -> Option<PathBuf> {
        let snapshot = folder.snapshots().join(Self::snapshot_name(commit, selection));
        let receipt = Receipt::read(&snapshot)?;
        if !receipt.is_intact(&snapshot) {
            return None;
        }
        paths::touch(&snapshot);
        Some(snapshot)
    }

    /// Searches both caches.
    fn find(&self, id: &ModelId, selection: &Selection) -> Option<PathBuf> {
        let folder = ModelFolder::new(&self.root, id.repository());
        let commit = if is_commit(id.revision()) {
            Some(id.revision().to_owned())
        } else {
            let text = read_small(&folder.reference(id.revision())).ok();
            text.and_then(|t| String::from_utf8(t).ok()).filter(|c| is_commit(c))
        };
        commit
            .and_then(|commit| Self::published(&folder, &commit, selection))
            .or_else(|| foreign::plausible(self.foreign.as_deref()?, id, selection))
    }

    /// The required files of a commit.
    fn list(
        &self,
        client: &Client,
        id: &ModelId,
        commit: &str,
        selection: &Selection,
    ) -> Result<Vec<listing::RemoteFile>> {
        let files = listing::files(client, id, commit)?;
        select::select(files, selection).map_err(|message| HubError::Answer { what: id.to_string(), message })
    }

    /// Resolves a revision on the hub and downloads missing files.
    fn obtain(&self, id: &ModelId, selection: &Selection) -> Result<PathBuf> {
        if self.offline {
            return Err(self.offline_error(id));
        }
        let client = self.client()?;
        let commit = listing::commit(&client, id)?;
        let folder = ModelFolder::new(&self.root, id.repository());
        let _lock = lock(&client, &folder.lock_file())?;
        folder.create().map_err(HubError::io(folder.path()))?;
        let path = match Self::published(&folder, &commit, selection) {
            Some(snapshot) => snapshot,
            None => {
                let files = self.list(&client, id, &commit, selection)?;
                let foreign = self.foreign.as_deref().and_then(|f| foreign::complete(f, id, &commit, &files));
                if let Some(snapshot) = foreign {
                    return Ok(snapshot);
                }
                let name = Self::snapshot_name(&commit, selection);
                let published = folder.snapshots().join(&name);
                let partial = folder.snapshots().join(format!("{name}{PARTIAL}"));
                let places = Places { parts: folder.parts(), partial, published };
                self.run(&client, id, &commit, &files, &places)?;
                places.published
            }
        };
        if !is_commit(id.revision()) {
            let reference = folder.reference(id.revision());
            write_small(&reference, commit.as_bytes()).map_err(HubError::io(reference))?;
        }
        Ok(path)
    }

    fn run(
        &self,
        client: &Client,
        id: &ModelId,
        commit: &str,
        files: &[listing::RemoteFile],
        places: &Places,
    ) -> Result<()> {
        let (free, consent) = (&self.free, self.consent.as_ref());
        Download { client, free, consent, repository: id.repository(), commit, files }.run(places)
    }
}

/// The folder of the newest commit of `org/name[@revision]`; downloads missing files.
///
/// # Errors
/// Any [`HubError`].
pub fn download_model(id: &str) -> Result<PathBuf> {
    Hub::from_environment()?.download(id)
}

/// Downloads a model into a given folder; see [`Hub::download_to`].
///
/// # Errors
/// Any [`HubError`].
pub fn download_model_to(id: &str, folder: impl AsRef<Path>) -> Result<PathBuf> {
    Hub::from_environment()?.download_to(id, folder.as_ref())
}

/// The folder of a model; downloads it if it is not cached.
///
/// # Errors
/// Any [`HubError`].
pub fn ensure_model_downloaded(id: &str) -> Result<PathBuf> {
    Hub::from_environment()?.ensure(id)
}

/// The folder of a model if it is complete in the cache; `None` also for invalid names.
pub fn get_cached_model_path(id: &str) -> Option<PathBuf> {
    Hub::from_environment().ok()?.cached(id).ok()?
}
