//! `candle-coreml serve`: an OpenAI-compatible HTTP server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_coreml::backend::BackendDevice;
use candle_coreml_serve::{Models, Server, Settings, signals};

use crate::{CommandResult, model, secret};

/// How long computations may take to notice that nobody waits for them any more.
const LAST_TOKENS: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with a language model or an encoder, or a model of the hub (repeatable). `NAME=MODEL` gives it the name
    /// that requests call it by. Without it, the small model that comes with the project.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<String>,
    /// Address to listen on. Anything but a loopback address lets others in: set a key then.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Key that requests must name as `Authorization: Bearer KEY`. Other users of the machine see arguments, and a
    /// warning says so: better is `--api-key-file`, or the environment variable CANDLE_COREML_SERVE_KEY.
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file")]
    api_key: Option<String>,
    /// File with that key; `-`: standard input.
    #[arg(long, value_name = "FILE|-")]
    api_key_file: Option<PathBuf>,
    /// Answers that are computed at once, and conversations whose caches are kept, for each model.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Requests that may wait for a slot, for each model; more are told to try again later.
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Largest request in bytes.
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Longest time for a request, waiting included.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// How long answers may still take after SIGINT or SIGTERM; a second one ends at once.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u32,
    /// Where language models run: auto, coreml, metal, cuda, cpu.
    #[arg(long, default_value_t)]
    device: BackendDevice,
    /// Devices that take over when that one can't be had or fails at its start.
    #[arg(long, value_delimiter = ',', value_name = "cuda,cpu")]
    fallback: Vec<BackendDevice>,
}

/// Name and folder of a model. Without a name it is called as the hub or its folder calls it.
fn named(given: &str) -> Result<(String, PathBuf), Box<dyn std::error::Error>> {
    if let Some((name, place)) = given.split_once('=')
        && !name.is_empty()
        && !Path::new(given).exists()
    {
        return Ok((name.to_owned(), model::folder(Path::new(place))?));
    }
    let folder = model::folder(Path::new(given))?;
    let path = Path::new(given);
    if !path.exists() {
        return Ok((given.to_owned(), folder));
    }
    let name = std::fs::canonicalize(path)?.file_name().map(|n| n.to_string_lossy().into_owned());
    Ok((name.ok_or_else(|| format!("`{given}` has no name; give it one: --model NAME={given}"))?, folder))
}

/// The variable with the key.
const KEY_VARIABLE: &str = "CANDLE_COREML_SERVE_KEY";

/// The key: from an argument, a file or the environment.
fn key(arguments: &mut Arguments) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let key = match (arguments.api_key.take(), &arguments.api_key_file) {
        (Some(key), _) => {
            secret::warn_of_argument("the key", &format!("use --api-key-file or {KEY_VARIABLE}"));
            Some(key)
        }
        (None, Some(file)) => Some(secret::read(file)?),
        (None, None) => match std::env::var(KEY_VARIABLE) {
            Ok(key) => Some(key),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{KEY_VARIABLE} is not UTF-8").into()),
        },
    };
    match key {
        Some(key) if key.trim().is_empty() => Err("the key is empty: everybody would be let in".into()),
        key => Ok(key),
    }
}

pub(crate) fn run(mut arguments: Arguments) -> CommandResult {
    let api_key = key(&mut arguments)?;
    let models = match arguments.model.as_slice() {
        [] => vec![("tiny-qwen3".to_owned(), model::shipped()?)],
        given => given.iter().map(|g| named(g)).collect::<Result<Vec<_>, _>>()?,
    };
    if api_key.is_none() && !arguments.host.is_loopback() {
        eprintln!(
            "warning: everybody who reaches {} is served; --api-key-file or {KEY_VARIABLE} sets a key",
            arguments.host
        );
    }
    let seconds = |n: u32| Duration::from_secs(u64::from(n));
    let settings = Settings {
        address: SocketAddr::new(arguments.host, arguments.port),
        api_key: api_key.map(Into::into),
        slots: usize::from(arguments.slots),
        queue: arguments.queue,
        max_body: arguments.max_body,
        timeout: seconds(arguments.timeout),
        grace: seconds(arguments.grace),
        device: arguments.device,
        fallback: arguments.fallback,
        ..Settings::default()
    };
    let models = Models::load(&models, &settings)?;
    for line in models.lines() {
        eprintln!("{line}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let ending = signals()?;
        let server = Server::bind(models, settings).await?;
        // On standard output, for scripts that let the system choose the port.
        println!("listening on http://{}", server.address());
        server.run(ending).await;
        Ok::<_, candle_coreml_serve::ServeError>(())
    })?;
    runtime.shutdown_timeout(LAST_TOKENS);
    Ok(())
}
