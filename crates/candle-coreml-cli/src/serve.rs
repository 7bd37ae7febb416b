//! `candle-coreml serve`: an OpenAI-compatible HTTP server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_coreml::backend::BackendDevice;
use candle_coreml_serve::{Models, Server, Settings, signals};

use crate::model::Consent;
use crate::{CommandResult, demo, hint, model, running, secret};

/// Time for running computations to notice that they were cancelled.
const LAST_TOKENS: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  candle-coreml serve                                     the demo model, on 127.0.0.1:8080
  candle-coreml serve --model org/name --port 9000
  candle-coreml serve --model path/to/model --host 0.0.0.0 --api-key-file key.txt";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Serve the language model or encoder in this folder, or a model on the Hub (repeatable). `NAME=MODEL` sets the
    /// name used in requests. Without it, serve the demo model.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<String>,
    /// Listen on this address. Anything but a loopback address admits other machines: set a key then.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Listen on this port; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Require the key in this file as `Authorization: Bearer KEY`; `-` reads it from standard input. Without it, the
    /// environment variable CANDLE_COREML_SERVE_KEY may have the key.
    #[arg(long, value_name = "FILE|-")]
    api_key_file: Option<PathBuf>,
    /// Let web pages of this origin use the server, such as https://example.com (repeatable); `*` lets all.
    #[arg(long, value_name = "ORIGIN|*")]
    allow_origin: Vec<String>,
    /// Compute this many answers at once per model, and keep the caches of as many conversations.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Let this many requests per model wait for a slot; others get status 429.
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Refuse requests with larger bodies.
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Keep at most this many bytes of bodies in memory; at most a quarter of them per address.
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    bodies: usize,
    /// Abort requests that take longer, including waiting.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Refuse requests whose head takes longer to arrive.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    head_time: u32,
    /// Refuse requests whose body takes longer than this plus one second per 64 KiB.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    body_time: u32,
    /// Close connections that stay idle for longer.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle_time: u32,
    /// Keep at most this many connections; beyond them, only /health and /metrics are answered.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Keep at most this many connections per address (IPv6: per /64). Behind a proxy, all share one address.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    share: u32,
    /// Seconds to let requests finish after SIGINT or SIGTERM; a second signal stops immediately.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u32,
    /// Run language models on this device: auto, coreml, metal, cuda, cpu.
    #[arg(long, default_value_t)]
    device: BackendDevice,
    /// Devices to try if the first is unavailable or fails to start.
    #[arg(long, value_delimiter = ',', value_name = "cuda,cpu")]
    fallback: Vec<BackendDevice>,
    #[command(flatten)]
    consent: Consent,
}

/// Name and folder of a model. The default name is the Hub name or the folder name.
fn named(given: &str, consent: Consent) -> Result<(String, PathBuf), Box<dyn std::error::Error>> {
    let (name, folder) = name_and_folder(given, consent)?;
    if !folder.exists() {
        let meant = hint::path(&folder).map(|h| format!("; {h}")).unwrap_or_default();
        return Err(format!("there is no folder `{}`{meant}", folder.display()).into());
    }
    Ok((name, folder))
}

fn name_and_folder(given: &str, consent: Consent) -> Result<(String, PathBuf), Box<dyn std::error::Error>> {
    if let Some((name, place)) = given.split_once('=')
        && !name.is_empty()
        && !Path::new(given).exists()
    {
        return Ok((name.to_owned(), model::folder(Path::new(place), consent)?));
    }
    let folder = model::folder(Path::new(given), consent)?;
    let path = Path::new(given);
    if !path.exists() {
        return Ok((given.to_owned(), folder));
    }
    let name = std::fs::canonicalize(path)?.file_name().map(|n| n.to_string_lossy().into_owned());
    Ok((name.ok_or_else(|| format!("`{given}` has no name; give it one: --model NAME={given}"))?, folder))
}

/// Environment variable with the key.
const KEY_VARIABLE: &str = "CANDLE_COREML_SERVE_KEY";

/// The API key: from a file, standard input or the environment.
fn key(arguments: &Arguments) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let key = match &arguments.api_key_file {
        Some(file) => Some(secret::read(file)?),
        None => match std::env::var(KEY_VARIABLE) {
            Ok(key) => Some(key),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{KEY_VARIABLE} is not UTF-8").into()),
        },
    };
    match key {
        Some(key) if key.trim().is_empty() => Err("the key is empty; any client could connect".into()),
        key => Ok(key),
    }
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let api_key = key(&arguments)?;
    let models = match arguments.model.as_slice() {
        [] => {
            demo::announce();
            vec![(demo::MODEL.to_owned(), demo::folder()?)]
        }
        given => given.iter().map(|g| named(g, arguments.consent)).collect::<Result<Vec<_>, _>>()?,
    };
    if api_key.is_none() && !arguments.host.is_loopback() {
        note!(
            "warning: any client that can reach {} is served; --api-key-file or {KEY_VARIABLE} sets a key",
            arguments.host
        );
    }
    let seconds = |n: u32| Duration::from_secs(u64::from(n));
    let settings = Settings {
        address: SocketAddr::new(arguments.host, arguments.port),
        api_key: api_key.map(Into::into),
        allow_origins: arguments.allow_origin,
        slots: usize::from(arguments.slots),
        queue: arguments.queue,
        max_body: arguments.max_body,
        bodies: arguments.bodies,
        timeout: seconds(arguments.timeout),
        head_time: seconds(arguments.head_time),
        body_time: seconds(arguments.body_time),
        idle_time: seconds(arguments.idle_time),
        connections: arguments.connections as usize,
        share: arguments.share as usize,
        grace: seconds(arguments.grace),
        device: arguments.device,
        fallback: arguments.fallback,
        ..Settings::default()
    };
    let names = models.iter().map(|(name, _)| name.clone()).collect();
    let models = Models::load(&models, &settings)?;
    for line in models.lines() {
        note!("{line}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let ending = signals()?;
        let server = Server::bind(models, settings).await?;
        let _record = running::record(server.address().to_string(), names);
        // On standard output, for scripts that let the system pick the port.
        out!("listening on http://{}", server.address())?;
        server.run(ending).await;
        CommandResult::Ok(())
    })?;
    runtime.shutdown_timeout(LAST_TOKENS);
    Ok(())
}
