//! `candle-coreml list`: the downloaded models.

use std::time::SystemTime;

use candle_coreml::CacheManager;

use crate::{CommandResult, format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let models = CacheManager::from_environment().list_models()?;
    if arguments.json {
        out!("{}", serde_json::to_string(&models)?)?;
        return Ok(());
    }
    let now = SystemTime::now();
    let width = models.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    for model in &models {
        let commit: String = model.commit.iter().flat_map(|c| c.chars()).take(10).collect();
        let (bytes, age) = (format::bytes(model.bytes), format::age(model.age(now)));
        out!("{:width$}  {commit}  {bytes:>9}  used {age} ago", model.name)?;
    }
    Ok(())
}
