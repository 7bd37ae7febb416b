//! The settings file: reads with warnings, writes without loss of comments or unknown keys.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use toml_edit::{DocumentMut, Item, Table, Value, value};

use super::{Key, Layer};
use crate::backend::BackendDevice;
use crate::error::{Error, Result};

/// Maximum size of the file in bytes.
const LIMIT: u64 = 1 << 20;
const TABLES: [&str; 2] = ["backend", "remote"];

/// A problem that does not prevent the use of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// An unknown key.
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: String,
        /// The most similar known key.
        suggestion: Option<String>,
    },
    /// Other users can read the secrets in the file.
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKey { path, key, suggestion } => {
                write!(f, "{}: unknown key `{key}`", path.display())?;
                suggestion.as_ref().map_or(Ok(()), |s| write!(f, "; did you mean `{s}`?"))
            }
            Self::Exposed { path } => {
                write!(
                    f,
                    "{} holds secrets and can be read by other users; make it readable by you only (mode 600)",
                    path.display()
                )
            }
        }
    }
}

fn bad(path: &Path, message: String) -> Error {
    Error::File { path: path.to_owned(), message }
}

/// Parses a file. Errors give the line, never its text, which might hold a secret.
fn document(path: &Path) -> Result<DocumentMut> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(io)?.take(LIMIT + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LIMIT {
        return Err(bad(path, format!("the settings file is longer than {LIMIT} bytes")));
    }
    text.parse().map_err(|e: toml_edit::TomlError| {
        let at = e.span().map_or(0, |s| s.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        bad(path, format!("line {line} is not TOML"))
    })
}

fn expected(path: &Path, key: &str, what: &str, found: &Item) -> Error {
    bad(path, format!("`{key}`: expected {what}, found {}", found.type_name()))
}

fn text(path: &Path, table: &Table, key: &str) -> Result<Option<String>> {
    let Some(item) = table.get(key) else { return Ok(None) };
    item.as_str().map(|s| Some(s.to_owned())).ok_or_else(|| expected(path, key, "a string", item))
}

fn secret(path: &Path, table: &Table, key: &str) -> Result<Option<SecretString>> {
    Ok(text(path, table, key)?.filter(|s| !s.is_empty()).map(SecretString::from))
}

fn device(path: &Path, key: &str, name: &str) -> Result<BackendDevice> {
    name.parse().map_err(|e| bad(path, format!("`{key}`: {e}")))
}

/// Warns of unknown keys in a table; `prefix` is its name with a dot, or empty at the top level.
fn unknown(path: &Path, table: &Table, prefix: &str, warnings: &mut Vec<Warning>) {
    for (name, _) in table.iter() {
        let key = format!("{prefix}{name}");
        if Key::ALL.iter().any(|k| k.name() == key) || (prefix.is_empty() && TABLES.contains(&name)) {
            continue;
        }
        let suggestion = Key::nearest(name).map(|k| k.name().to_owned());
        warnings.push(Warning::UnknownKey { path: path.to_owned(), key, suggestion });
    }
}

/// A table of the document; empty if missing.
fn table<'d>(path: &Path, document: &'d DocumentMut, name: &str, empty: &'d Table) -> Result<&'d Table> {
    let Some(item) = document.get(name) else { return Ok(empty) };
    item.as_table().ok_or_else(|| expected(path, name, &format!("a table `[{name}]`"), item))
}

fn flag(path: &Path, table: &Table, key: &str) -> Result<Option<bool>> {
    let Some(item) = table.get(key) else { return Ok(None) };
    item.as_bool().map(Some).ok_or_else(|| expected(path, key, "true or false", item))
}

/// Returns true if users other than the owner can read a file.
#[cfg(unix)]
fn exposed(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

/// On other systems the user's folder protects it.
#[cfg(not(unix))]
fn exposed(_: &Path) -> bool {
    false
}

/// Reads the layer of a file, with warnings.
///
/// # Errors
/// If the file can't be read, exceeds 1 MiB, is not TOML, or has a value of the wrong type.
pub fn read(path: &Path) -> Result<(Layer, Vec<Warning>)> {
    let document = document(path)?;
    let mut warnings = Vec::new();
    unknown(path, &document, "", &mut warnings);
    let empty = Table::new();
    let (backend, remote) = (table(path, &document, "backend", &empty)?, table(path, &document, "remote", &empty)?);
    unknown(path, backend, "backend.", &mut warnings);
    unknown(path, remote, "remote.", &mut warnings);
    let chain = match backend.get("fallback_chain") {
        None => None,
        Some(item) => {
            let wrong = || expected(path, "fallback_chain", "a list of strings", item);
            let names = item.as_array().ok_or_else(wrong)?.iter();
            let names = names.map(|v| v.as_str().ok_or_else(wrong)).collect::<Result<Vec<&str>>>()?;
            Some(names.into_iter().map(|n| device(path, "fallback_chain", n)).collect::<Result<_>>()?)
        }
    };
    let layer = Layer {
        device: text(path, backend, "device")?.map(|n| device(path, "device", &n)).transpose()?,
        model_repo: text(path, backend, "model_repo")?,
        model_path: text(path, backend, "model_path")?.map(PathBuf::from),
        fallback_chain: chain,
        api_key: secret(path, &document, "api_key")?,
        hf_token: secret(path, &document, "hf_token")?,
        streaming_enabled: flag(path, &document, "streaming_enabled")?,
        remote_enabled: flag(path, remote, "enabled")?,
        remote_model: text(path, remote, "model")?,
        remote_base_url: text(path, remote, "base_url")?,
    };
    if (layer.api_key.is_some() || layer.hf_token.is_some()) && exposed(path) {
        warnings.push(Warning::Exposed { path: path.to_owned() });
    }
    Ok((layer, warnings))
}

/// Sets or removes a value of a table, preserving the user's formatting around it.
fn put(table: &mut Table, key: &str, new: Option<Value>) {
    match new {
        None => {
            table.remove(key);
        }
        Some(new) => match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                let around = old.decor().clone();
                *old = new;
                *old.decor_mut() = around;
            }
            None => {
                table.insert(key, value(new));
            }
        },
    }
}

/// Writes a layer to a file: sets its values, removes unset ones, and preserves comments and unknown keys. The write is
/// atomic, only the owner can read the file, and missing folders are created.
///
/// # Errors
/// If an existing file is not TOML (it is left unchanged), the path is not UTF-8, or the system fails.
pub fn save(layer: &Layer, path: &Path) -> Result<()> {
    let mut document = if path.exists() { document(path)? } else { DocumentMut::new() };
    let exposed = |s: &SecretString| Value::from(s.expose_secret());
    put(&mut document, "api_key", layer.api_key.as_ref().map(exposed));
    put(&mut document, "hf_token", layer.hf_token.as_ref().map(exposed));
    put(&mut document, "streaming_enabled", layer.streaming_enabled.map(Value::from));
    let model_path = match &layer.model_path {
        None => None,
        Some(p) => Some(p.to_str().ok_or_else(|| bad(p, "a path in the settings must be UTF-8".to_owned()))?),
    };
    let names = |chain: &Vec<BackendDevice>| Value::from_iter(chain.iter().map(|d| d.name()));
    let values = [
        ("backend", "device", layer.device.map(|d| d.name().into())),
        ("backend", "model_repo", layer.model_repo.as_deref().map(Value::from)),
        ("backend", "model_path", model_path.map(Value::from)),
        ("backend", "fallback_chain", layer.fallback_chain.as_ref().map(names)),
        ("remote", "enabled", layer.remote_enabled.map(Value::from)),
        ("remote", "model", layer.remote_model.as_deref().map(Value::from)),
        ("remote", "base_url", layer.remote_base_url.as_deref().map(Value::from)),
    ];
    for (name, key, new) in values {
        if new.is_none() && document.get(name).is_none() {
            continue;
        }
        let item = document.entry(name).or_insert(Item::Table(Table::new()));
        match item {
            Item::Table(table) => put(table, key, new),
            other => return Err(expected(path, name, &format!("a table `[{name}]`"), other)),
        }
    }
    write(path, document.to_string().as_bytes())
}

/// Replaces a file atomically; only its owner can read it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // Keep a symbolic link: replace its target.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let io = |source| Error::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    // Temporary files have mode 600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(io)?;
    file.persist(path).map(|_| ()).map_err(|e| io(e.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        (folder, path)
    }

    fn full() -> Layer {
        Layer {
            device: Some(BackendDevice::Cuda),
            model_repo: Some("x/y".to_owned()),
            model_path: Some("/m \"q\"".into()),
            fallback_chain: Some(vec![BackendDevice::Cpu]),
            api_key: Some("sk-1".into()),
            hf_token: Some("hf-1".into()),
            streaming_enabled: Some(false),
            remote_enabled: Some(true),
            remote_model: Some("m".to_owned()),
            remote_base_url: Some("https://example.com".to_owned()),
        }
    }

    #[test]
    fn what_is_saved_is_read_again_by_the_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/folder/config.toml");
        save(&full(), &path).expect("saved");
        let (layer, warnings) = read(&path).expect("read");
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(layer.device, Some(BackendDevice::Cuda));
        assert_eq!(layer.model_path, full().model_path);
        assert_eq!(layer.fallback_chain, full().fallback_chain);
        assert_eq!(layer.api_key.as_ref().expect("a key").expose_secret(), "sk-1");
        let remote = layer.settings().remote;
        assert_eq!(
            (remote.enabled, remote.model.as_str(), remote.base_url.as_str()),
            (true, "m", "https://example.com")
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = || std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
            assert_eq!(mode(), 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened");
            assert_eq!(read(&path).expect("read").1, [Warning::Exposed { path: path.clone() }]);
            save(&full(), &path).expect("saved again");
            assert_eq!(mode(), 0o600);
        }
    }

    #[test]
    fn saving_keeps_comments_and_unknown_keys_and_removes_what_is_unset() {
        let (_folder, path) = file("# mine\nfuture = 1\napi_key = \"old\"\n[backend]\ndevice = \"cpu\" # slow\n");
        save(&Layer { device: Some(BackendDevice::Metal), ..Layer::default() }, &path).expect("saved");
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, "# mine\nfuture = 1\n[backend]\ndevice = \"metal\" # slow\n");
    }

    #[test]
    fn unknown_keys_come_with_a_suggestion() {
        let (_folder, path) = file(
            "api_kye = \"sk\"\ndevice = \"cpu\"\n[backend]\nmodel_pth = \"x\"\nzzz = 1\n[remote]\nenbled = true\n",
        );
        let (_, warnings) = read(&path).expect("read");
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let name = path.display();
        assert_eq!(
            told,
            [
                format!("{name}: unknown key `api_kye`; did you mean `api_key`?"),
                format!("{name}: unknown key `device`; did you mean `backend.device`?"),
                format!("{name}: unknown key `backend.model_pth`; did you mean `backend.model_path`?"),
                format!("{name}: unknown key `backend.zzz`"),
                format!("{name}: unknown key `remote.enbled`; did you mean `remote.enabled`?"),
            ]
        );
    }

    #[test]
    fn malformed_files_are_refused_kept_and_not_quoted() {
        for (text, part) in [
            ("\napi_key = sk-hidden\n", "line 2 is not TOML"),
            ("api_key = [\"sk-hidden\"]", "`api_key`: expected a string, found array"),
            ("backend = \"sk-hidden\"", "`backend`: expected a table"),
            ("remote = 1", "`remote`: expected a table"),
            ("[remote]\nenabled = 1", "true or false"),
            ("streaming_enabled = \"yes\"", "true or false"),
            ("[backend]\ndevice = \"gpu\"", "`device`"),
            ("[backend]\nfallback_chain = \"cpu\"", "a list"),
            ("[backend]\nfallback_chain = [1]", "a list"),
        ] {
            let (_folder, path) = file(text);
            let message = read(&path).expect_err(text).to_string();
            assert!(message.contains(part) && message.contains("config.toml"), "{message}");
            assert!(!message.contains("hidden"), "{message}");
        }
        let (_folder, path) = file("half = ");
        assert!(save(&full(), &path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "half = ");
        let (_folder, path) = file(&"#".repeat((1 << 20) + 1));
        assert!(read(&path).expect_err("too long").to_string().contains("longer"));
        assert!(read(Path::new("/nowhere/config.toml")).is_err());
    }
}
