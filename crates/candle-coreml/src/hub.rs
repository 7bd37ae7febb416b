//! Models by name, from the Hugging Face hub or a server that speaks like it.
//!
//! [`ensure_model_downloaded`] gives the folder of a model and downloads it when the cache does not have it;
//! [`download_model`] asks the hub for the newest commit first. Both take `org/name` or `org/name@revision` and the
//! settings of the environment; [`Hub`] has them as values.
//!
//! Only the needed files are fetched: the components, each in its best format, with tokenizer and configuration.
//! Every file is verified by the checksum in the hub's listing. A model's folder gets its name when the model is
//! complete; what an interrupted download left is continued by the next one.
//!
//! | variable | meaning |
//! |---|---|
//! | `CANDLE_COREML_CACHE` | the cache; else `candle-coreml` in `XDG_CACHE_HOME` or `~/.cache` |
//! | `HF_ENDPOINT` | the hub; else `https://huggingface.co` |
//! | `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME/token` | access to models that are not public |
//! | `HF_HUB_OFFLINE` | `1`: no network |
//! | `HF_HUB_CACHE`, `HF_HOME/hub` | a cache of Hugging Face's tools; models that are complete there are used |
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

use download::{Download, Places, lock};
use http::{Client, ClientSettings};
use select::Selection;

/// Results of the hub.
pub type Result<T> = std::result::Result<T, HubError>;

/// How to learn the free bytes of the file system that a path is on.
#[derive(Clone)]
struct FreeSpace(Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>);

impl FreeSpace {
    fn of(&self, path: &Path) -> io::Result<u64> {
        (self.0)(path)
    }
}

/// A hub, a cache, and how to get models from one to the other.
#[derive(Clone)]
pub struct Hub {
    settings: ClientSettings,
    root: PathBuf,
    foreign: Option<PathBuf>,
    offline: bool,
    free: FreeSpace,
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
    /// The public hub, with a cache in `root`, without a token; the environment is not looked at.
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
        }
    }

    /// As the environment says; see the [module](self).
    ///
    /// # Errors
    /// When there is neither `CANDLE_COREML_CACHE` nor a home folder.
    pub fn from_environment() -> Result<Self> {
        let root = paths::default_root().ok_or_else(|| {
            HubError::Settings("there is no home folder for the cache; set CANDLE_COREML_CACHE".to_owned())
        })?;
        let hub = Self::new(root).endpoint(environment::endpoint()).token(environment::token());
        Ok(hub.foreign_cache(environment::foreign_cache()).offline(environment::offline()))
    }

    /// The URL of the hub.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.settings.endpoint = endpoint.into();
        self
    }

    /// The access token; only the endpoint's own host receives it.
    #[must_use]
    pub fn token(mut self, token: Option<String>) -> Self {
        self.settings.token = token;
        self
    }

    /// A cache of Hugging Face's tools that may have a model already.
    #[must_use]
    pub fn foreign_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.foreign = folder;
        self
    }

    /// Whether the network is forbidden.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Who is told of progress.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.observer = observer;
        self
    }

    /// When failed requests are repeated.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How long a server may be silent; 30 s by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.settings.patience = patience;
        self
    }

    /// Replaces how the free bytes of a file system are learnt.
    #[must_use]
    pub fn free_space(mut self, free: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static) -> Self {
        self.free = FreeSpace(Arc::new(free));
        self
    }

    /// The cache.
    pub fn cache_root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model, when it is complete in the cache or in the foreign one. No network.
    ///
    /// # Errors
    /// [`HubError::Id`].
    pub fn cached(&self, id: &str) -> Result<Option<PathBuf>> {
        Ok(self.find(&ModelId::parse(id)?, &Selection::Model))
    }

    /// The folder of a model; it is downloaded when the cache does not have it.
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

    /// The folder of the newest commit of a model's revision; what the cache lacks of it is downloaded.
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

    /// Where notes about the model in a folder are kept: for one of our snapshots in the model's folder of the cache,
    /// for a foreign one too, under its name there.
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

    /// One component or file of a repository; nothing else of it is downloaded.
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

    /// Downloads a model into a folder of its own, which must be missing, empty, or hold this commit already.
    ///
    /// Until it is complete, its files are in a hidden folder beside it.
    ///
    /// # Errors
    /// Any [`HubError`]; [`HubError::Settings`] when the folder holds something else.
    pub fn download_to(&self, id: &str, folder: &Path) -> Result<PathBuf> {
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
        if self.is_target_done(&target, &id, &commit)? {
            return Ok(target);
        }
        let files = self.list(&client, &id, &commit, &Selection::Model)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".candle-coreml");
        let work = parent.join(hidden);
        let places = Places { parts: work.join("parts"), partial: work.join(&commit), published: target.clone() };
        self.run(&client, &id, &commit, &files, &places)?;
        fs::remove_dir_all(&work).map_err(HubError::io(&work))?;
        Ok(target)
    }

    /// Whether a folder holds a commit already; an error when it holds something else.
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

    /// Name of the snapshot of a commit: single files have folders of their own.
    fn snapshot_name(commit: &str, selection: &Selection) -> String {
        match selection {
            Selection::Model => commit.to_owned(),
            Selection::File(path) => format!("{commit}-{}", digest::name_hash(path)),
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

    /// Looks into both caches.
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

    /// The wanted files of a commit.
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

    /// Asks the hub what a revision means, and downloads what is missing of it.
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
        Download { client, free: &self.free, repository: id.repository(), commit, files }.run(places)
    }
}

/// The folder of the newest commit of `org/name[@revision]`, downloaded as far as needed.
///
/// # Errors
/// Any [`HubError`].
pub fn download_model(id: &str) -> Result<PathBuf> {
    Hub::from_environment()?.download(id)
}

/// Downloads a model into a folder of its own; see [`Hub::download_to`].
///
/// # Errors
/// Any [`HubError`].
pub fn download_model_to(id: &str, folder: impl AsRef<Path>) -> Result<PathBuf> {
    Hub::from_environment()?.download_to(id, folder.as_ref())
}

/// The folder of a model; it is downloaded when the cache does not have it.
///
/// # Errors
/// Any [`HubError`].
pub fn ensure_model_downloaded(id: &str) -> Result<PathBuf> {
    Hub::from_environment()?.ensure(id)
}

/// The folder of a model that is complete in the cache; none for names that are no models' names, too.
pub fn get_cached_model_path(id: &str) -> Option<PathBuf> {
    Hub::from_environment().ok()?.cached(id).ok()?
}
