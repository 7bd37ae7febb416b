//! `candle-coreml setup`: interactive configuration, on a full terminal, line by line, or from flags.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use candle_coreml::backend::{BackendDevice, availability};
use candle_coreml::settings::{self, Key, Layer};

use crate::settings::{ConfigArgument, ModelArguments};
use crate::{CommandResult, model, secret};

mod field;
mod plain;
mod terminal;
mod tui;
mod wizard;

use plain::{Lines, Person};
use wizard::{Facts, Wizard};

const EXAMPLES: &str = "\
Examples:
  candle-coreml setup                                     asks for device, model and keys
  candle-coreml setup --non-interactive --device cpu --model Qwen/Qwen3-0.6B";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Ask line by line instead of using the full screen; the default without a full terminal.
    #[arg(long)]
    plain: bool,
    /// Ask nothing; write what the other flags say.
    #[arg(long, conflicts_with = "plain")]
    non_interactive: bool,
    /// Run models on this device: auto, coreml, metal, cuda, cpu.
    #[arg(long)]
    device: Option<BackendDevice>,
    /// Use this model: a folder, a name on the Hub, or `auto`.
    #[arg(long)]
    model: Option<String>,
    /// Read the API key from this file; `-` reads standard input.
    #[arg(long, value_name = "FILE|-")]
    api_key_file: Option<PathBuf>,
    /// Read the Hub token from this file; `-` reads standard input.
    #[arg(long, value_name = "FILE|-")]
    hf_token_file: Option<PathBuf>,
    /// Allow the chat to ask the remote model.
    #[arg(long, value_name = "true|false")]
    remote: Option<bool>,
    /// Show answers as they are generated.
    #[arg(long, value_name = "true|false")]
    streaming: Option<bool>,
}

/// Maximum length of an answer, in bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Arguments {
    /// Applies the flags to the settings.
    fn apply(&self, layer: &mut Layer) -> Outcome<()> {
        layer.device = self.device.or(layer.device);
        if let Some(name) = &self.model {
            let path = Path::new(name);
            if path.exists() {
                let path = std::path::absolute(path)?;
                layer.set(Key::ModelPath, path.to_str().ok_or("the folder of the model has no UTF-8 name")?)?;
            } else {
                layer.set(Key::ModelRepo, name)?;
            }
        }
        if let Some(file) = &self.api_key_file {
            layer.set(Key::ApiKey, &secret::read(file)?)?;
        }
        if let Some(file) = &self.hf_token_file {
            layer.set(Key::HfToken, &secret::read(file)?)?;
        }
        layer.remote_enabled = self.remote.or(layer.remote_enabled);
        layer.streaming_enabled = self.streaming.or(layer.streaming_enabled);
        Ok(())
    }
}

/// Settings in a file; `None` if there is no file. Prints warnings about it.
pub(crate) fn existing(path: &Path) -> Outcome<Layer> {
    if !path.exists() {
        return Ok(Layer::default());
    }
    let (layer, warnings) = settings::read(path)?;
    for warning in warnings {
        note!("warning: {warning}");
    }
    Ok(layer)
}

/// Returns true if a full-screen terminal is available.
fn is_full_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && (cfg!(windows) || !dumb)
}

/// Runs the wizard; `None` if the user quit.
fn ask(path: &Path, existing: Layer, plain: bool) -> Outcome<Option<Layer>> {
    let devices = BackendDevice::ALL.map(availability).to_vec();
    let mut wizard = Wizard::new(Facts { path: path.to_owned(), existing, devices, memory: model::memory() });
    let layer = if !plain && is_full_terminal() {
        terminal::run(&mut wizard)?
    } else if io::stdin().is_terminal() {
        plain::run(&mut wizard, &mut Person, &mut io::stdout())?
    } else {
        plain::run(&mut wizard, &mut Lines(io::stdin().lock()), &mut io::stdout())?
    };
    Ok(layer)
}

/// Writes the settings and prints the next steps.
fn save(layer: &Layer, path: &Path) -> CommandResult {
    settings::save(layer, path)?;
    let mut out = io::stdout();
    writeln!(out, "settings written to {}", path.display())?;
    if let Some(name) = layer.model_repo.as_deref().filter(|n| n.contains('/')) {
        writeln!(
            out,
            "`candle-coreml chat` downloads {name} when it starts first; `candle-coreml pull {name}` does now"
        )?;
    }
    Ok(())
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let (path, _) = arguments.config.location()?;
    let mut layer = existing(&path)?;
    arguments.apply(&mut layer)?;
    if !arguments.non_interactive {
        layer = ask(&path, layer, arguments.plain)?.ok_or("left: nothing was changed")?;
    } else if let Some(device) = layer.device {
        let found = availability(device);
        if !found.usable() {
            note!("warning: {device} can't be used on this machine: {}", found.detail);
        }
    }
    save(&layer, &path)
}

/// Before the first conversation: offers the setup if there are no settings and no arguments.
pub(crate) fn offer(arguments: &ModelArguments) -> CommandResult {
    let (path, named) = match arguments.config.location() {
        Ok(location) => location,
        // Without a settings location there is nothing to offer.
        Err(_) => return Ok(()),
    };
    let given = arguments.model.is_some() || arguments.device.is_some();
    let set = Layer::from_environment()?;
    let set = set.model_path.is_some() || set.model_repo.is_some() || set.device.is_some();
    if named || given || set || path.exists() {
        return Ok(());
    }
    let mut out = io::stdout();
    write!(out, "There are no settings yet. Set up now? [Y]es, [n]ot now, n[e]ver: ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(LONGEST_ANSWER).read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "" if answer.is_empty() => {}
        "" | "y" | "yes" => match ask(&path, Layer::default(), false)? {
            Some(layer) => save(&layer, &path)?,
            None => writeln!(out, "nothing was changed; `candle-coreml setup` asks again")?,
        },
        // An empty settings file records the answer.
        "e" | "never" => settings::save(&Layer::default(), &path)?,
        _ => writeln!(out, "with the demo model; `candle-coreml setup` asks again")?,
    }
    Ok(())
}
