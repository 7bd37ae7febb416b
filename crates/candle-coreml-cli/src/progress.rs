//! Progress: bars of downloads, one per active file and one in total, on terminals only; steps of other long work.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use candle_coreml::hub::{Event, Hub, HubError, Observer};
use candle_coreml::settings::{self, Layer};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::{ExposeSecret, SecretString};

/// Hub client configured from the environment, with the token from the settings; progress bars on standard error if it
/// is a terminal, log lines otherwise.
pub(crate) fn hub() -> Result<Hub, HubError> {
    // Commands that need the settings report unreadable ones.
    let settings = settings::load(None, Layer::default()).inspect_err(|e| tracing::warn!("{e}")).ok();
    hub_with(settings.and_then(|(settings, _)| settings.hf_token).as_ref())
}

/// [`hub`] with a token that takes precedence over the environment's.
pub(crate) fn hub_with(token: Option<&SecretString>) -> Result<Hub, HubError> {
    let bars = std::io::stderr().is_terminal();
    let mut hub = Hub::from_environment()?;
    if let Some(token) = token {
        hub = hub.token(Some(token.expose_secret().to_owned()));
    }
    Ok(hub.observer(if bars { Arc::new(Bars::new(ProgressDrawTarget::stderr())) } else { Arc::new(lines) }))
}

/// Log line for an event, if it merits one.
fn line(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Waiting => Some("another process downloads this model; waiting for it".to_owned()),
        Event::Retry { what, cause, delay } => Some(format!("{what}: {cause}; again in {:.1} s", delay.as_secs_f32())),
        _ => None,
    }
}

fn lines(event: &Event<'_>) {
    if let Some(line) = line(event) {
        note!("{line}");
    }
}

/// Shows a step on standard error: on a terminal in place of the one before, else as a line of its own.
pub(crate) fn show(terminal: bool, step: impl Display) {
    if terminal {
        // A terminal that is gone takes no progress.
        drop(write!(std::io::stderr(), "\r\x1b[K{step}"));
    } else {
        note!("{step}");
    }
}

struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    /// Bars and positions of active files.
    files: Mutex<HashMap<String, (ProgressBar, u64)>>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Bars {
    fn new(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let total = all.add(ProgressBar::new(0));
        total.set_style(style("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"));
        Self { all, total, files: Mutex::default() }
    }

    fn place(&self, file: &str, position: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bar, last)) = files.get_mut(file) {
            bar.set_position(position);
            // A restarted transfer also resets the total.
            self.total.set_position((self.total.position() + position).saturating_sub(*last));
            *last = position;
        }
    }
}

impl Observer for Bars {
    fn event(&self, event: &Event<'_>) {
        if let Some(line) = line(event) {
            // Ignore a terminal that cannot be written to.
            let _ = self.all.println(line);
        }
        match *event {
            Event::Planned { bytes, present, .. } => {
                self.total.set_length(bytes);
                self.total.set_position(present);
                self.total.reset_eta();
            }
            Event::Started { file, size, position } => {
                let bar = self.all.insert_before(&self.total, ProgressBar::new(size));
                bar.set_style(style("{bar:30} {bytes:>10}/{total_bytes:10} {wide_msg}"));
                bar.set_message(file.to_owned());
                bar.set_position(position);
                let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                files.insert(file.to_owned(), (bar, position));
            }
            Event::Progress { file, position } => self.place(file, position),
            Event::Finished { file } => {
                let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((bar, _)) = files.remove(file) {
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.total.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_follows_the_files_also_back() {
        let bars = Bars::new(ProgressDrawTarget::hidden());
        bars.event(&Event::Planned { files: 3, bytes: 100, present: 30 });
        // 20 of the 30 bytes are complete files, for which no event is sent.
        bars.event(&Event::Started { file: "a", size: 50, position: 10 });
        bars.event(&Event::Started { file: "b", size: 30, position: 0 });
        let total = |file, position| {
            bars.event(&Event::Progress { file, position });
            bars.total.position()
        };
        assert_eq!(
            [total("a", 40), total("b", 5), total("a", 0), total("a", 50), total("b", 30)],
            [60, 65, 25, 75, 100]
        );
        bars.event(&Event::Finished { file: "a" });
        assert_eq!(total("a", 0), 100, "a finished file has no bar");
        assert_eq!(bars.total.length(), Some(100));
    }
}
