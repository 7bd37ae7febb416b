//! Running servers: each leaves a record in the cache while it runs, which `ps` lists and `stop` uses.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_coreml::CacheManager;
use candle_coreml::format::file;
use serde::{Deserialize, Serialize};
use sysinfo::{Pid, Process, ProcessesToUpdate, Signal, System};

use crate::{CommandResult, write};

/// Largest record, in bytes.
const LARGEST: u64 = 1 << 20;
/// Time that a server has to end.
const PATIENCE: Duration = Duration::from_secs(40);

/// A running server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// Its process.
    pub(crate) pid: u32,
    /// When the process began, in seconds since 1970: another process may get the same number later.
    pub(crate) started: u64,
    /// Where it listens.
    pub(crate) address: String,
    /// The names of its models.
    pub(crate) models: Vec<String>,
}

/// A record that is deleted when the server ends.
pub(crate) struct Record(PathBuf);

impl Drop for Record {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn folder() -> Option<PathBuf> {
    CacheManager::from_environment().models().map(|root| root.join("running"))
}

/// This process or another one.
fn with_process<T>(pid: u32, see: impl FnOnce(&Process) -> T) -> Option<T> {
    let mut system = System::new().ok()?;
    let pid = Pid::from_u32(pid);
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).map(see)
}

fn started(pid: u32) -> Option<u64> {
    with_process(pid, Process::start_time)
}

/// Records that this process serves; without a cache there is no record.
pub(crate) fn record(address: String, models: Vec<String>) -> Option<Record> {
    let (folder, pid) = (folder()?, std::process::id());
    let server = Server { pid, started: started(pid)?, address, models };
    std::fs::create_dir_all(&folder).ok()?;
    let path = folder.join(format!("{pid}.json"));
    write::bytes(&path, serde_json::to_string(&server).ok()?.as_bytes()).ok()?;
    Some(Record(path))
}

/// The servers in a folder that still run; records of others are deleted.
fn alive(folder: &Path) -> Vec<Server> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = file::read_text(&path, LARGEST).ok();
        let Some(server) = text.and_then(|text| serde_json::from_str::<Server>(&text).ok()) else { continue };
        if started(server.pid) == Some(server.started) {
            all.push(server);
        } else {
            let _ = std::fs::remove_file(path);
        }
    }
    all.sort_by_key(|s| s.started);
    all
}

/// Arguments of `ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArguments {
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// `ps`: the running servers.
pub(crate) fn ps(arguments: PsArguments) -> CommandResult {
    let servers = folder().map(|f| alive(&f)).unwrap_or_default();
    if arguments.json {
        return out!("{}", serde_json::to_string(&servers)?);
    }
    for Server { pid, address, models, .. } in servers {
        out!("{pid:>8}  {address}  {}", models.join(", "))?;
    }
    Ok(())
}

/// Arguments of `stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArguments {
    /// The server: its process, its address, or one of its models [default: the only one].
    server: Option<String>,
}

/// The server that is meant.
fn chosen(servers: Vec<Server>, name: Option<&str>) -> Result<Server, String> {
    let all: Vec<String> = servers.iter().map(|s| format!("{} ({})", s.pid, s.address)).collect();
    let fits = |s: &Server| match name {
        None => true,
        Some(name) => {
            let address = name.trim_start_matches("http://").trim_end_matches('/');
            s.pid.to_string() == name || s.address == address || s.models.iter().any(|m| m == name)
        }
    };
    let mut fitting = servers.into_iter().filter(fits);
    match (fitting.next(), fitting.next(), name) {
        (Some(one), None, _) => Ok(one),
        (Some(_), Some(_), _) => Err(format!("several servers run: name one of {}", all.join(", "))),
        (None, _, Some(name)) if !all.is_empty() => Err(format!("no server is `{name}`; running: {}", all.join(", "))),
        _ => Err("no server runs".to_owned()),
    }
}

/// `stop`: ends a server as SIGTERM does, and waits for its end.
pub(crate) fn stop(arguments: StopArguments) -> CommandResult {
    let servers = folder().map(|f| alive(&f)).unwrap_or_default();
    let server = chosen(servers, arguments.server.as_deref())?;
    // Where there are no signals, the process is ended.
    let sent = with_process(server.pid, |p| p.kill_with(Signal::Term).unwrap_or_else(|| p.kill()));
    if sent != Some(true) {
        return Err(format!("{}: the process can't be ended", server.pid).into());
    }
    let began = Instant::now();
    while started(server.pid) == Some(server.started) {
        if began.elapsed() > PATIENCE {
            return Err(format!("{}: still answers requests after {} s", server.pid, PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    out!("stopped {} ({})", server.pid, server.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(pid: u32, address: &str, model: &str) -> Server {
        Server { pid, started: 1, address: address.to_owned(), models: vec![model.to_owned()] }
    }

    #[test]
    fn servers_are_chosen_by_process_address_and_model() {
        let all = || vec![server(7, "127.0.0.1:8080", "a"), server(8, "127.0.0.1:8081", "b")];
        for name in ["8", "127.0.0.1:8081", "http://127.0.0.1:8081/", "b"] {
            assert_eq!(chosen(all(), Some(name)).expect(name).pid, 8);
        }
        assert!(chosen(all(), None).expect_err("two").contains("several servers run: name one of 7"));
        assert!(chosen(all(), Some("c")).expect_err("none").contains("no server is `c`"));
        assert_eq!(chosen(all()[..1].to_vec(), None).expect("the only one").pid, 7);
        assert_eq!(chosen(Vec::new(), None).expect_err("none"), "no server runs");
    }

    #[test]
    fn records_of_processes_that_ended_are_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = Server {
            started: started(std::process::id()).expect("this process"),
            ..server(std::process::id(), "x", "a")
        };
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("own.json"), serde_json::to_string(&own).expect("JSON")).expect("written");
        // The same number, but an earlier process.
        let gone = Server { started: 1, ..own.clone() };
        std::fs::write(path("gone.json"), serde_json::to_string(&gone).expect("JSON")).expect("written");
        std::fs::write(path("other"), "no record").expect("written");
        assert_eq!(alive(folder.path()), [own]);
        assert!(!path("gone.json").exists() && path("other").exists());
    }
}
