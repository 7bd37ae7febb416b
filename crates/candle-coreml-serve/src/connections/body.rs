//! Request bodies, read completely within time and size limits.

use std::io::ErrorKind;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;

use super::head::Length;
use super::wire::Wire;
use crate::error::ApiError;
use crate::settings::Settings;

/// Maximum bytes of a chunk-size line, and of all trailer lines.
const LINE: usize = 256;
const TRAILERS: usize = 8 << 10;

/// Reason why reading a body failed.
#[derive(Debug)]
pub(super) enum Failed {
    Refused(ApiError),
    /// The client disconnected.
    Gone,
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

fn malformed(what: &str) -> Failed {
    ApiError::head(StatusCode::BAD_REQUEST, format!("malformed body: {what}")).into()
}

/// Deadline of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    began: Instant,
    time: Duration,
    rate: usize,
}

impl Pace {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { began: Instant::now(), time: settings.body_time, rate: settings.body_rate.max(1) }
    }

    /// Time allowed for a body of which `received` bytes have arrived.
    fn allowed(&self, received: usize) -> Duration {
        self.time + Duration::from_secs_f64(received as f64 / self.rate as f64)
    }

    /// Deadline of the whole body, given `received` bytes.
    pub(super) fn deadline(&self, received: usize) -> Instant {
        self.began + self.allowed(received)
    }
}

/// A body being received.
pub(super) struct Incoming<'w> {
    wire: &'w mut Wire,
    pace: Pace,
    most: usize,
    body: Vec<u8>,
}

impl<'w> Incoming<'w> {
    /// Creates a reader for at most `most` bytes.
    pub(super) fn new(wire: &'w mut Wire, pace: Pace, most: usize) -> Self {
        Self { wire, pace, most, body: Vec::new() }
    }

    /// Reads the body.
    pub(super) async fn read(mut self, length: Length) -> Result<Vec<u8>, Failed> {
        match length {
            Length::Known(length) => {
                let length = usize::try_from(length).ok().filter(|&n| n <= self.most);
                self.data(length.ok_or_else(|| ApiError::too_large(self.most))?).await?;
            }
            Length::Chunked => self.chunks().await?,
        }
        Ok(self.body)
    }

    /// Waits for more bytes.
    async fn fill(&mut self) -> Result<(), Failed> {
        match self.wire.fill(self.pace.deadline(self.body.len())).await {
            Ok(0) => Err(malformed("the connection was closed in the middle of it")),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                Err(ApiError::slow("body", self.pace.allowed(self.body.len())).into())
            }
            Err(_) => Err(Failed::Gone),
        }
    }

    /// Reads `count` bytes of content.
    async fn data(&mut self, mut count: usize) -> Result<(), Failed> {
        while count > 0 {
            if self.wire.unread().is_empty() {
                self.fill().await?;
            }
            let here = &self.wire.unread()[..count.min(self.wire.unread().len())];
            let used = here.len();
            self.body.try_reserve(used).map_err(|_| ApiError::overloaded("out of memory for the body"))?;
            self.body.extend_from_slice(here);
            self.wire.consume(used);
            count -= used;
        }
        Ok(())
    }

    /// Reads a CRLF-terminated line of at most `most` bytes, without the terminator.
    async fn line(&mut self, most: usize) -> Result<Vec<u8>, Failed> {
        let mut seen = 0;
        loop {
            let here = self.wire.unread();
            if let Some(end) = here[seen..].iter().position(|&b| b == b'\n').map(|i| seen + i) {
                let line = here[..end].strip_suffix(b"\r").filter(|l| !l.contains(&b'\r') && l.len() <= most);
                let line = line.ok_or_else(|| malformed("a line that does not end as it must"))?.to_vec();
                self.wire.consume(end + 1);
                return Ok(line);
            }
            seen = here.len();
            if seen > most + 1 {
                return Err(malformed("a line is too long"));
            }
            self.fill().await?;
        }
    }

    /// Reads chunks and trailers (RFC 9112, 7.1); extensions and trailers are ignored.
    async fn chunks(&mut self) -> Result<(), Failed> {
        loop {
            let line = self.line(LINE).await?;
            let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            let (size, extension) = line.split_at(digits);
            let ends = extension.trim_ascii_start().first().is_none_or(|&b| b == b';');
            let size = std::str::from_utf8(size).ok().filter(|s| ends && s.len() <= 16);
            let size =
                size.and_then(|s| u64::from_str_radix(s, 16).ok()).ok_or_else(|| malformed("size of a chunk"))?;
            if size == 0 {
                break;
            }
            let room = self.most - self.body.len();
            let size = usize::try_from(size).ok().filter(|&n| n <= room);
            self.data(size.ok_or_else(|| ApiError::too_large(self.most))?).await?;
            if !self.line(0).await?.is_empty() {
                return Err(malformed("a chunk is longer than its size"));
            }
        }
        let mut trailers = 0;
        loop {
            let line = self.line(TRAILERS - trailers).await?;
            if line.is_empty() {
                return Ok(());
            }
            trailers += line.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Reads a body from bytes followed by EOF; returns the result and the unread rest.
    async fn read(bytes: &[u8], length: Length, most: usize) -> (Result<Vec<u8>, u16>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        client.write_all(bytes).expect("sent");
        client.shutdown(std::net::Shutdown::Write).expect("closed");
        let mut wire = Wire::new(listener.accept().await.expect("a client").0);
        let pace = Pace { began: Instant::now(), time: Duration::from_secs(30), rate: 1 };
        let found = Incoming::new(&mut wire, pace, most).read(length).await;
        let status = |f: Failed| if let Failed::Refused(e) = f { e.status.as_u16() } else { 0 };
        (found.map_err(status), wire.unread().to_vec())
    }

    #[tokio::test]
    async fn bodies_end_where_they_say() {
        let whole = |body: &str, rest: &str| (Ok(body.as_bytes().to_vec()), rest.as_bytes().to_vec());
        assert_eq!(read(b"abcGET", Length::Known(3), 3).await, whole("abc", "GET"));
        let chunked = b"3;x=\"y\"\r\nabc\r\n00A \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nGET";
        assert_eq!(read(chunked, Length::Chunked, 13).await, whole("abc0123456789", "GET"));
        assert_eq!(read(b"0\r\n\r\n", Length::Chunked, 0).await, whole("", ""));
        for (bytes, length, most, status) in [
            (&b"abc"[..], Length::Known(4), 9, 400),
            (b"", Length::Known(u64::MAX), 9, 413),
            (b"abcd", Length::Known(4), 3, 413),
            (b"4\r\nabcd\r\n0\r\n\r\n", Length::Chunked, 3, 413),
            (b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n", Length::Chunked, 3, 413),
            (b"ffffffffffffffff\r\n", Length::Chunked, 9, 413),
            (b"10000000000000000\r\n", Length::Chunked, 9, 400),
            (b"\r\n", Length::Chunked, 9, 400),
            (b"-1\r\n", Length::Chunked, 9, 400),
            (b"0x1\r\na\r\n", Length::Chunked, 9, 400),
            (b"1\na\r\n0\r\n\r\n", Length::Chunked, 9, 400),
            (b"1\r\nab\r\n0\r\n\r\n", Length::Chunked, 9, 400),
            (b"1\r\na\r\n0\r\n", Length::Chunked, 9, 400),
        ] {
            assert_eq!(read(bytes, length, most).await.0, Err(status), "{}", String::from_utf8_lossy(bytes));
        }
        let long = format!("1;{}", "x".repeat(LINE));
        assert_eq!(read(long.as_bytes(), Length::Chunked, 9).await.0, Err(400));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILERS));
        assert_eq!(read(trailers.as_bytes(), Length::Chunked, 9).await.0, Err(400));
    }

    #[test]
    fn a_body_gets_time_for_what_has_come() {
        let pace = Pace { began: Instant::now(), time: Duration::from_secs(2), rate: 1000 };
        assert_eq!(pace.deadline(0) - pace.began, Duration::from_secs(2));
        assert_eq!(pace.deadline(500) - pace.began, Duration::from_millis(2500));
    }
}
