//! Connections: accepting them, their limits, and ending without cutting answers off.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use crate::app;
use crate::error::ServeError;
use crate::models::Models;
use crate::settings::Settings;

/// How long to wait after the system refused a connection, for instance because too many files are open.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Router,
    settings: Settings,
}

impl Server {
    /// Listens; requests are answered when it [runs](Server::run).
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(models: Models, settings: Settings) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address: settings.address, source };
        let listener = TcpListener::bind(settings.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, app: app::router(models, &settings), settings })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown` is ready; then takes no more, and returns when those under way have ended
    /// or the time for it ([`Settings::grace`]) is over.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, app, settings, .. } = self;
        let places = Arc::new(Semaphore::new(settings.connections.clamp(1, Semaphore::MAX_PERMITS)));
        let graceful = GracefulShutdown::new();
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut shutdown => break,
                next = next => next,
                // Takes ended tasks out of the set.
                Some(_) = tasks.join_next() => continue,
            };
            match (place, accepted) {
                (Ok(place), Ok((stream, _))) => serve(&mut tasks, &graceful, &app, &settings, stream, place),
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(AFTER_REFUSAL).await;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => break,
            }
        }
        drop(listener);
        tracing::info!("ending");
        if tokio::time::timeout(settings.grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("answers were cut off: they took longer than the time for ending");
        }
        tasks.shutdown().await;
    }
}

fn serve(
    tasks: &mut JoinSet<()>,
    graceful: &GracefulShutdown,
    app: &Router,
    settings: &Settings,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
) {
    // Pieces of an answer are small and wanted at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(settings.patience));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.patience)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app.clone()));
    let connection = graceful.watch(connection);
    tasks.spawn(async move {
        let _place = place;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}

/// Ready at the first SIGINT or SIGTERM (elsewhere than on Unix: Ctrl-C). The second one ends the process at once.
///
/// # Errors
/// When the system does not let signals be received.
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
            // Nothing will come: never ready.
            std::future::pending::<()>().await;
        }
    }
}
