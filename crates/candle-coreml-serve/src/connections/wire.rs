//! A socket with a read buffer. Every wait has a deadline.

use std::future::poll_fn;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// Bytes per read.
const READ: usize = 16 << 10;

/// Maximum bytes of pipelined requests buffered while one is computed; more stay in the system's buffers.
const AHEAD: usize = 16 << 10;

/// Interim response, which every HTTP/1.1 client skips (RFC 9110, 15.2).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// First and longest interval between probes of a half-closed client.
const PROBES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(15)];

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
    ended: bool,
}

/// Time limits for a client to read each part, and a whole response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) each: Duration,
    pub(super) until: Instant,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), used: 0, ended: false }
    }

    /// Buffered bytes not yet consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Consumes the first `count` buffered bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.used = self.buffer.len().min(self.used + count);
        if self.used == self.buffer.len() {
            self.used = 0;
            self.buffer.clear();
        }
    }

    /// Frees the buffer if it is empty.
    pub(super) fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// Reads available bytes; returns 0 at EOF.
    fn take(&mut self) -> Result<usize> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ, 0);
        let read = self.stream.try_read(&mut self.buffer[length..]);
        self.buffer.truncate(length + read.as_ref().map_or(0, |&n| n));
        self.ended |= matches!(read, Ok(0));
        read
    }

    /// Waits for more bytes and returns their number; 0 if the client closed its side.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] after the deadline, even if bytes are available; connection errors.
    pub(super) async fn fill(&mut self, deadline: Instant) -> Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        loop {
            timeout_at(deadline, self.stream.readable()).await.map_err(|_| Error::from(ErrorKind::TimedOut))??;
            match self.take() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if the client does not read; connection errors.
    pub(super) async fn write(&mut self, mut bytes: &[u8], patience: Patience) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let deadline = patience.until.min(Instant::now() + patience.each);
                    let writable = timeout_at(deadline, self.stream.writable()).await;
                    writable.map_err(|_| Error::from(ErrorKind::TimedOut))??;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sends `100 Continue` to a client that waits for it.
    pub(super) async fn invite(&mut self, patience: Patience) -> Result<()> {
        self.write(CONTINUE, patience).await
    }

    /// Resolves when the client can no longer read a response.
    ///
    /// A half-closed client may still read. If `probe` is set (before the response, HTTP/1.1 only), interim responses
    /// are sent: a system without a reader resets the connection.
    pub(super) async fn gone(&mut self, probe: bool) {
        while !self.ended {
            if self.unread().len() >= AHEAD {
                sleep(PROBES[1]).await;
            } else if self.stream.readable().await.is_err() {
                return;
            } else if let Err(error) = self.take()
                && error.kind() != ErrorKind::WouldBlock
            {
                return;
            }
        }
        let mut pause = PROBES[0];
        loop {
            // Closed in both directions: reset by the client.
            match self.stream.ready(Interest::READABLE | Interest::WRITABLE).await {
                Ok(ready) if !ready.is_write_closed() => {}
                _ => return,
            }
            if probe {
                match self.stream.try_write(CONTINUE) {
                    Ok(count) if count == CONTINUE.len() => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    // A partial one would corrupt the response.
                    _ => return,
                }
            }
            sleep(pause).await;
            pause = PROBES[1].min(2 * pause);
        }
    }

    /// Closes the connection so that the client can read the response: unread bytes would make the system reset it.
    /// Bounded by the deadline.
    pub(super) async fn close(mut self, deadline: Instant) {
        if poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await.is_err() {
            return;
        }
        while !self.ended {
            self.buffer.clear();
            self.used = 0;
            match self.fill(deadline).await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }
}
