//! Ctrl-C: stops the answer; a second one, or one between answers, exits.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_coreml::backend::CancelHandle;

/// True while there is something to cancel. Process-wide, because signals are.
static WORKING: AtomicBool = AtomicBool::new(false);

/// Guard: an answer is in progress while it lives.
pub(super) struct Working;

impl Working {
    pub(super) fn begin() -> Self {
        WORKING.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        WORKING.store(false, Ordering::SeqCst);
    }
}

/// Installs the Ctrl-C handler.
pub(super) fn install(handle: CancelHandle) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if !WORKING.load(Ordering::SeqCst) || handle.is_cancelled() {
            // Exit code that shells report for SIGINT.
            std::process::exit(130);
        }
        handle.cancel();
    })
}
