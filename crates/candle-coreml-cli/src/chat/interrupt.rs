//! Ctrl-C: stops an answer; a second time, or between answers, it ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_coreml::backend::CancelHandle;

/// Whether something is on its way that can be stopped. Signals concern the whole process, and so does this.
static WORKING: AtomicBool = AtomicBool::new(false);

/// Says that something is on its way, as long as it lives.
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

/// Takes Ctrl-C from now on.
pub(super) fn install(handle: CancelHandle) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if !WORKING.load(Ordering::SeqCst) || handle.is_cancelled() {
            // What the shell makes of a program that SIGINT ended.
            std::process::exit(130);
        }
        handle.cancel();
    })
}
