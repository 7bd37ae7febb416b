//! Shutdown signals.

use std::future::Future;

use crate::error::ServeError;

/// Resolves at the first SIGINT or SIGTERM (Ctrl-C on systems other than Unix). The second one exits the process at
/// once.
///
/// # Errors
/// [`ServeError::Signals`] if the handlers cannot be installed.
pub fn signals() -> Result<impl Future<Output = ()>, ServeError> {
    let mut received = Received::new().map_err(ServeError::Signals)?;
    Ok(async move {
        received.next().await;
        tokio::spawn(async move {
            received.next().await;
            std::process::exit(130);
        });
    })
}

#[cfg(unix)]
struct Received {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Received {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Received;

#[cfg(not(unix))]
impl Received {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // No signal will come: never resolves.
            std::future::pending::<()>().await;
        }
    }
}
