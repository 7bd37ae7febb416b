//! Connections: accept loop, limits, and graceful shutdown.
//!
//! HTTP/1.1 is implemented here rather than by a library, because every wait needs a deadline that the client cannot
//! extend, every response must be OpenAI-style JSON, and a server that shuts down must know which requests are being
//! computed. httparse parses heads; anything ambiguous is refused.

mod body;
mod exchange;
mod head;
mod places;
mod reply;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::error::ServeError;
use crate::models::Models;
use crate::routes;
use crate::settings::Settings;
use crate::state::App;
use exchange::{Connection, Host};
use places::Places;
pub(crate) use places::Room;
use wire::Wire;

/// Delay after a failed accept, for instance until files are closed.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// A listening server.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    router: Router,
    settings: Settings,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address; requests are answered once it [runs](Server::run).
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the address is unavailable.
    pub async fn bind(models: Models, settings: Settings) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address: settings.address, source };
        let listener = TcpListener::bind(settings.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (app, router) = routes::router(models, &settings);
        Ok(Self { listener, address, app, router, settings })
    }

    /// Listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests until `shutdown` resolves; then accepts no more, and returns once running and queued requests
    /// have finished or the grace period ([`Settings::grace`]) is over.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, app, router, settings, .. } = self;
        let places = Arc::new(Places::new(&settings));
        let (end, ending) = watch::channel(false);
        let grace = settings.grace;
        let host = Host { app, router, settings: Arc::new(settings), ending };
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                // Reaps finished tasks.
                Some(ended) = tasks.join_next() => note(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => serve(&mut tasks, &host, &places, stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        if is_full(&error) {
                            places.shrink();
                        }
                        tokio::time::sleep(AFTER_REFUSAL).await;
                    }
                },
            }
        }
        drop(listener);
        tracing::info!("ending");
        // Connections hold receivers: fails only if there are none.
        let _ = end.send(true);
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                note(ended);
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("answers were cut off: they took longer than the time for ending");
        }
        tasks.shutdown().await;
    }
}

fn serve(tasks: &mut JoinSet<()>, host: &Host, places: &Arc<Places>, stream: TcpStream, peer: SocketAddr) {
    // Parts of an answer are small and latency-sensitive.
    let _ = stream.set_nodelay(true);
    let place = places.enter(peer.ip());
    let number = place.number();
    let task = tasks.spawn(Connection::new(host.clone(), Wire::new(stream), place).serve());
    places.serves(number, task);
}

/// Returns true if the system cannot hold another connection: too many open files system-wide (`ENFILE`) or in this
/// process (`EMFILE`, on Windows `WSAEMFILE`). Other failures concern a single connection.
fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 10_024)) || error.kind() == std::io::ErrorKind::OutOfMemory
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection ended in a panic");
    }
}
