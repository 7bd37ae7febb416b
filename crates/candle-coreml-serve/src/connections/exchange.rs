//! Request loop of one connection.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::body::{Failed, Incoming, Pace};
use super::head::{self, Head, Length};
use super::places::{Beyond, Place};
use super::reply::{self, Asked};
use super::wire::{Patience, Wire};
use crate::error::ApiError;
use crate::origins::Asked as Origin;
use crate::settings::Settings;
use crate::state::App;

/// Time to wait for a client to close a connection with unread bytes.
const LINGER: Duration = Duration::from_secs(2);

/// Time to wait for a request head on a reserve connection.
const RESERVE: Duration = Duration::from_secs(2);

/// State shared by all connections of a server.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    pub(super) settings: Arc<Settings>,
    /// Becomes true when the server shuts down.
    pub(super) ending: watch::Receiver<bool>,
}

/// A connection.
pub(super) struct Connection {
    host: Host,
    wire: Wire,
    place: Place,
    /// True before the first response.
    fresh: bool,
}

/// Next action after a request.
enum Next {
    /// Read another request.
    Request,
    /// Close; `unread` if the client may still be sending.
    End { unread: bool },
}

/// Reason why there is no request to answer.
enum Without {
    /// The client disconnected, idled too long, or the server is shutting down.
    Silence,
    Refused(ApiError),
}

impl From<Failed> for Without {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) => Self::Refused(error),
            Failed::Gone => Self::Silence,
        }
    }
}

/// Resolves when the server shuts down.
async fn ends(ending: &mut watch::Receiver<bool>) {
    if ending.wait_for(|&ends| ends).await.is_err() {
        // The server was dropped: its tasks are aborted with it.
        std::future::pending::<()>().await;
    }
}

impl Connection {
    pub(super) fn new(host: Host, wire: Wire, place: Place) -> Self {
        Self { host, wire, place, fresh: true }
    }

    /// Answers requests until either side closes the connection.
    pub(super) async fn serve(mut self) {
        let unread = loop {
            match self.exchange().await {
                Next::Request => self.fresh = false,
                Next::End { unread } => break unread,
            }
        };
        self.place.waits(true);
        let wait = if unread { LINGER } else { Duration::ZERO };
        tokio::select! {
            () = self.wire.close(Instant::now() + wait) => {}
            () = ends(&mut self.host.ending) => {}
        }
    }

    fn ends(&self) -> bool {
        *self.host.ending.borrow()
    }

    async fn exchange(&mut self) -> Next {
        self.wire.release();
        self.place.waits(true);
        let mut ending = self.host.ending.clone();
        let head = tokio::select! {
            head = self.head() => head,
            () = ends(&mut ending) => return Next::End { unread: false },
        };
        let head = match head {
            Ok(head) => head,
            Err(without) => {
                let origin = self.host.app.origins.asked(&head::origins(self.wire.unread()));
                return self.refuse(without, Method::GET, origin).await;
            }
        };
        let app = &self.host.app;
        let origin = app.origins.asked(&head.parts.headers);
        let trusted = app.admits(&head.parts.headers) && app.is_meant(&head.parts.headers);
        let mut asked = Asked {
            version: head.parts.version,
            method: head.parts.method.clone(),
            keep_alive: head.keep_alive && trusted && self.place.beyond().is_none(),
        };
        if let Some(beyond) = self.place.beyond()
            && !["/health", "/metrics"].contains(&head.parts.uri.path())
        {
            return self.refuse(Without::Refused(beyond.into()), asked.method, origin).await;
        }
        let reads = trusted && ![Method::GET, Method::HEAD].contains(&asked.method);
        let body = match head.body.filter(|_| reads) {
            None => Ok((Vec::new(), None)),
            Some(length) => tokio::select! {
                body = self.body(length, head.expects, asked.version) => body,
                () = ends(&mut ending) => Err(Without::Refused(ApiError::ending())),
            },
        };
        let (body, room) = match body {
            Ok(body) => body,
            Err(without) => return self.refuse(without, asked.method, origin).await,
        };
        // An unread body would be parsed as a request.
        let unread = head.body.is_some() && !reads;
        asked.keep_alive &= !unread;
        let mut request = Request::from_parts(head.parts, Body::from(body));
        if let Some(room) = room {
            request.extensions_mut().insert(Arc::new(room));
        }
        self.place.waits(false);
        let Some(response) = self.answer(request, origin).await else { return Next::End { unread: false } };
        self.send(response, asked, unread).await
    }

    /// Reads the next request head.
    async fn head(&mut self) -> Result<Head, Without> {
        let settings = &self.host.settings;
        let time = if self.place.beyond().is_some() { settings.head_time.min(RESERVE) } else { settings.head_time };
        let mut deadline = Instant::now() + if self.fresh { time } else { settings.idle_time };
        let (mut seen, mut tried, mut begun) = (0, 0, self.fresh);
        loop {
            let here = self.wire.unread();
            // Do not reparse a fragmented head for each fragment.
            if here.len() > seen && (head::may_end(here, seen) || here.len() >= (2 * tried).min(head::HEAD)) {
                tried = here.len();
                if let Some((head, length)) = head::parse(here).map_err(Without::Refused)? {
                    self.wire.consume(length);
                    return Ok(head);
                }
            }
            seen = here.len();
            if seen > 0 && !begun {
                (begun, deadline) = (true, Instant::now() + time);
            }
            match self.wire.fill(deadline).await {
                Ok(0) if seen > 0 => {
                    let message = "malformed request: the connection was closed in the middle of its head";
                    return Err(Without::Refused(ApiError::head(StatusCode::BAD_REQUEST, message)));
                }
                Ok(0) => return Err(Without::Silence),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::TimedOut && seen > 0 => {
                    return Err(Without::Refused(ApiError::slow("head", time)));
                }
                Err(_) => return Err(Without::Silence),
            }
        }
    }

    /// Reads the body of an authorized request, and reserves memory for it.
    async fn body(
        &mut self,
        length: Length,
        expects: bool,
        version: Version,
    ) -> Result<(Vec<u8>, Option<super::places::Room>), Without> {
        let settings = self.host.settings.clone();
        let most = settings.max_body;
        let size = match length {
            Length::Known(length) => usize::try_from(length).ok().filter(|&n| n <= most),
            Length::Chunked => Some(most),
        };
        let size = size.ok_or_else(|| Without::Refused(ApiError::too_large(most)))?;
        let room = timeout_at(Instant::now() + settings.body_time, self.place.room(size)).await;
        let busy = || Without::Refused(ApiError::overloaded("too many large requests are being read"));
        let room = room.ok().flatten().ok_or_else(busy)?;
        if expects && version == Version::HTTP_11 && self.wire.unread().is_empty() {
            self.wire.invite(self.patience()).await.map_err(|_| Without::Silence)?;
        }
        let body = Incoming::new(&mut self.wire, Pace::new(&settings), most).read(length).await?;
        Ok((body, Some(room)))
    }

    /// Calls the routes; `None` if the client disconnected.
    async fn answer(&mut self, request: Request<Body>, mut origin: Option<Origin>) -> Option<Response> {
        let probe = request.version() == Version::HTTP_11;
        let mut call = Box::pin(self.host.router.call(request));
        let caught = poll_fn(|context| {
            // A future that panicked is dropped, never polled again.
            match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(Ok(response))) => Poll::Ready(response),
                Err(_) => Poll::Ready(self.host.app.refused(ApiError::panicked(), origin.take())),
            }
        });
        tokio::select! {
            biased;
            response = caught => Some(response),
            () = self.wire.gone(probe) => None,
        }
    }

    async fn refuse(&mut self, without: Without, method: Method, origin: Option<Origin>) -> Next {
        let Without::Refused(error) = without else { return Next::End { unread: false } };
        let asked = Asked { version: Version::HTTP_11, method, keep_alive: false };
        let response = self.host.app.refused(error, origin);
        self.send(response, asked, true).await
    }

    async fn send(&mut self, response: Response, mut asked: Asked, unread: bool) -> Next {
        asked.keep_alive &= !self.ends();
        let patience = self.patience();
        match reply::write(&mut self.wire, response, &asked, patience).await {
            Ok(true) => Next::Request,
            Ok(false) => Next::End { unread: unread || !self.wire.unread().is_empty() },
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                Next::End { unread: false }
            }
        }
    }

    fn patience(&self) -> Patience {
        let settings = &self.host.settings;
        Patience { each: settings.patience, until: Instant::now() + settings.timeout + settings.patience }
    }
}

impl From<Beyond> for ApiError {
    fn from(beyond: Beyond) -> Self {
        match beyond {
            Beyond::Share => Self::share(),
            Beyond::All => Self::overloaded("there are too many connections"),
        }
    }
}

impl App {
    /// Response to a request that reached no route. Pages of an allowed origin may read it.
    fn refused(&self, error: ApiError, origin: Option<Origin>) -> Response {
        let status = error.status.as_u16();
        tracing::info!(status, "{}", error.message);
        self.models.metrics.request("other", status);
        let mut response = error.into_response();
        if let Some(origin) = origin {
            origin.allow(response.headers_mut());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::super::places::Places;
    use super::*;
    use crate::models::Models;

    async fn fail() -> &'static str {
        std::panic::resume_unwind(Box::new("a fault"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_handler_that_panics_is_an_error_and_the_connection_goes_on() {
        let settings = Settings::default();
        let (app, _) = crate::routes::router(Models::default(), &settings);
        let router = Router::new().route("/fail", get(fail)).route("/fine", get(async || "fine"));
        let (end, ending) = watch::channel(false);
        let places = Arc::new(Places::new(&settings));
        let host = Host { app, router, settings: Arc::new(settings), ending };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
            let requests = get("/fail", "") + &get("/fine", "Connection: close\r\n");
            stream.write_all(requests.as_bytes()).expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            text
        });
        let (stream, peer) = listener.accept().await.expect("a client");
        Connection::new(host, Wire::new(stream), places.enter(peer.ip())).serve().await;
        drop(end);
        let text = client.join().expect("no panic");
        let (failed, fine) = text.split_once("}}").expect("two answers");
        assert!(failed.starts_with("HTTP/1.1 500 ") && failed.contains("server_error"), "{text}");
        assert!(fine.starts_with("HTTP/1.1 200 ") && fine.ends_with("fine"), "{text}");
    }
}
