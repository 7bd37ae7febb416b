//! Ctrl-C: cancels the work of a verb, which then leaves nothing that looks complete. A second one, or work that does not
//! end soon, ends the process.

use std::sync::LazyLock;
use std::time::Duration;

use candle_coreml::Task;

use crate::CommandResult;

/// Exit code that shells report for SIGINT.
pub(crate) const CODE: u8 = 130;

/// Time in which cancelled work has to end: it may wait for input, or for Core ML.
const SOON: Duration = Duration::from_secs(2);

/// The work of this process.
static WORK: LazyLock<Task> = LazyLock::new(Task::new);

/// Runs work that Ctrl-C cancels.
pub(crate) fn run(work: impl FnOnce() -> CommandResult) -> CommandResult {
    ctrlc::set_handler(|| {
        if WORK.is_cancelled() {
            std::process::exit(CODE.into());
        }
        WORK.cancel();
        std::thread::spawn(|| {
            std::thread::sleep(SOON);
            std::process::exit(CODE.into());
        });
    })?;
    WORK.run(work)
}

/// True after Ctrl-C.
pub(crate) fn happened() -> bool {
    WORK.is_cancelled()
}
