//! Ctrl-C: stops an answer; a second time, or between answers, it ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_coreml::backend::CancelHandle;

/// Whether an answer is on its way. Signals concern the whole process, and so does this.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// Says that an answer is on its way, as long as it lives.
pub(super) struct Answering;

impl Answering {
    pub(super) fn begin() -> Self {
        ANSWERING.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}

/// Takes Ctrl-C from now on.
pub(super) fn install(handle: CancelHandle) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if !ANSWERING.load(Ordering::SeqCst) || handle.is_cancelled() {
            // What the shell makes of a program that SIGINT ended.
            std::process::exit(130);
        }
        handle.cancel();
    })
}
