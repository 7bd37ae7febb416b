//! `candle-coreml config`: shows and changes single settings.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use candle_coreml::settings::{self, Key, Layer};
use serde_json::{Value, json};

use crate::settings::ConfigArgument;
use crate::{CommandResult, setup};

const EXAMPLES: &str = "\
Examples:
  candle-coreml config show                               all settings, and where they come from
  candle-coreml config get backend.device
  candle-coreml config set backend.fallback_chain coreml,cpu
  candle-coreml config set api_key < key.txt              secrets from standard input or a prompt";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show all settings and their sources; secrets are masked.
    Show {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Print the value of one setting; secrets are masked.
    Get {
        /// Name of the setting, such as `backend.device`; `config show` lists them.
        key: Key,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Print the path of the settings file.
    Path(ConfigArgument),
    /// Change one setting.
    Set {
        /// Name of the setting, such as `backend.device`; `config show` lists them.
        key: Key,
        /// New value. Secrets are never arguments, which other users can see: they are asked for, or read from standard
        /// input.
        value: Option<String>,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Remove one setting from the file.
    Unset {
        /// Name of the setting.
        key: Key,
        #[command(flatten)]
        config: ConfigArgument,
    },
}

/// Shown where a setting has no value.
const UNSET: &str = "(not set)";
/// Maximum size of a value.
const LARGEST: u64 = 64 << 10;

/// Reads a value from a prompt or standard input, out of sight of other users and the shell history.
fn value(key: Key) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let mut stdin = std::io::stdin().lock();
    match (stdin.is_terminal(), key.is_secret()) {
        (true, true) => {
            drop(stdin);
            Ok(rpassword::prompt_password(format!("{}: ", key.name()))?)
        }
        (true, false) => Err(format!("{} needs a value", key.name()).into()),
        (false, _) => {
            Read::by_ref(&mut stdin).take(LARGEST).read_to_string(&mut text)?;
            Ok(text)
        }
    }
}

/// All settings with their sources, last layer first.
fn rows(environment: &Layer, file: &Layer) -> Vec<(Key, String, &'static str)> {
    let defaults = Layer::defaults();
    let all = environment.clone().over(file.clone()).over(defaults);
    let source = |key| match (environment.get(key), file.get(key)) {
        (Some(_), _) => "environment",
        (None, Some(_)) => "file",
        (None, None) => "default",
    };
    Key::ALL
        .into_iter()
        .map(|key| match all.get(key) {
            Some(value) => (key, value, source(key)),
            None => (key, UNSET.to_owned(), "default"),
        })
        .collect()
}

/// The file, and the settings of all layers.
fn layers(config: &ConfigArgument) -> Result<(PathBuf, Layer, Layer), Box<dyn std::error::Error>> {
    let (path, named) = config.location()?;
    if named && !path.exists() {
        return Err(format!("{}: no such file", path.display()).into());
    }
    let (file, environment) = (setup::existing(&path)?, Layer::from_environment()?);
    Ok((path, environment, file))
}

/// `config get`
fn get(key: Key, config: &ConfigArgument) -> CommandResult {
    let (_, environment, file) = layers(config)?;
    match environment.over(file).over(Layer::defaults()).get(key) {
        Some(value) => out!("{value}"),
        None => Err(format!("{} is not set", key.name()).into()),
    }
}

fn show(config: &ConfigArgument, json: bool) -> CommandResult {
    let (path, environment, file) = layers(config)?;
    if json {
        let settings = rows(&environment, &file).into_iter().map(|(key, value, source)| {
            let value = if value == UNSET { Value::Null } else { Value::from(value) };
            (key.name().to_owned(), json!({ "value": value, "source": source }))
        });
        let settings: serde_json::Map<_, _> = settings.collect();
        return out!("{}", json!({ "file": path, "exists": path.exists(), "settings": settings }));
    }
    let mut out = std::io::stdout().lock();
    let there = if path.exists() { "" } else { " (not there)" };
    writeln!(out, "file: {}{there}", path.display())?;
    for (key, value, source) in rows(&environment, &file) {
        writeln!(out, "{:24}{value:40} {source}", key.name())?;
    }
    Ok(())
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.command {
        Command::Show { json, config } => show(&config, json),
        Command::Get { key, config } => get(key, &config),
        Command::Path(config) => {
            out!("{}", config.location()?.0.display())?;
            Ok(())
        }
        Command::Set { key, value: given, config } => {
            let (path, _) = config.location()?;
            let mut layer = setup::existing(&path)?;
            let text = match given {
                Some(_) if key.is_secret() => {
                    return Err(format!(
                        "{} is a secret, and arguments can be seen by others: give no value to be asked for it, or \
                         standard input",
                        key.name()
                    )
                    .into());
                }
                Some(text) => text,
                None => value(key)?,
            };
            layer.set(key, &text)?;
            Ok(settings::save(&layer, &path)?)
        }
        Command::Unset { key, config } => {
            let (path, _) = config.location()?;
            let mut layer = setup::existing(&path)?;
            if !layer.unset(key) {
                return Err(format!("{} is not set in {}", key.name(), path.display()).into());
            }
            Ok(settings::save(&layer, &path)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_source() {
        let environment = Layer { model_repo: Some("env/model".to_owned()), ..Layer::default() };
        let file = Layer {
            model_path: Some("/file/model".into()),
            api_key: Some("sk-ant-0123456789abcdef".into()),
            ..Layer::default()
        };
        let rows = rows(&environment, &file);
        let of = |name: &str| {
            let row = rows.iter().find(|r| r.0.name() == name).expect(name);
            (row.1.as_str(), row.2)
        };
        assert_eq!(rows.len(), Key::ALL.len());
        assert_eq!(of("backend.model_repo"), ("env/model", "environment"));
        assert_eq!(of("backend.model_path"), ("(not set)", "default"), "what the environment names hides it");
        assert_eq!(of("api_key"), ("••••cdef", "file"));
        assert_eq!(of("backend.device"), ("auto", "default"));
        assert_eq!(of("remote.enabled"), ("false", "default"));
    }
}
