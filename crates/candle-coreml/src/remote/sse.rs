//! Server-sent events (WHATWG HTML, section 9.2.6), read from a blocking stream with bounded memory.

use std::io::BufRead;

use super::RemoteError;

/// Maximum size of an event in bytes.
const LONGEST: usize = 1 << 20;

/// Iterates over the `data` of events; event names, ids and comments are skipped.
pub(super) struct Events<R> {
    reader: R,
    line: Vec<u8>,
    /// True if the last line ended in CR, which LF may follow.
    after_cr: bool,
}

fn broken(cause: impl Into<String>) -> RemoteError {
    RemoteError::Broken { cause: cause.into() }
}

impl<R: BufRead> Events<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), after_cr: false }
    }

    /// Reads a line without its terminator into `self.line`; returns false at the end of the stream, where an
    /// unterminated line is discarded.
    fn next_line(&mut self) -> Result<bool, RemoteError> {
        self.line.clear();
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(e.to_string())),
            };
            let Some(&first) = buffer.first() else { return Ok(false) };
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                self.reader.consume(1);
                continue;
            }
            let end = buffer.iter().position(|b| matches!(b, b'\r' | b'\n'));
            let used = end.unwrap_or(buffer.len());
            if self.line.len() + used > LONGEST {
                return Err(broken(format!("an event is longer than {LONGEST} bytes")));
            }
            self.line.extend_from_slice(&buffer[..used]);
            self.after_cr = end.is_some_and(|i| buffer[i] == b'\r');
            self.reader.consume(used + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// The data of the next event; `None` at the end of the stream.
    pub(super) fn next(&mut self) -> Result<Option<String>, RemoteError> {
        let mut data: Option<Vec<u8>> = None;
        while self.next_line()? {
            if self.line.is_empty() {
                let Some(data) = data.take() else { continue };
                return String::from_utf8(data).map(Some).map_err(|_| broken("an event is not UTF-8"));
            }
            let at = self.line.iter().position(|&b| b == b':').unwrap_or(self.line.len());
            if &self.line[..at] != b"data" {
                continue;
            }
            let value = self.line.get(at + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let data = match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data
                }
                None => data.insert(Vec::new()),
            };
            if data.len() + value.len() > LONGEST {
                return Err(broken(format!("an event is longer than {LONGEST} bytes")));
            }
            data.extend_from_slice(value);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use super::*;

    /// Returns at most this many bytes per read.
    struct Slices<'a>(&'a [u8], usize);

    impl Read for Slices<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(to.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all(text: &[u8], step: usize) -> Result<Vec<String>, RemoteError> {
        let mut events = Events::new(BufReader::with_capacity(7, Slices(text, step)));
        std::iter::from_fn(|| events.next().transpose()).collect()
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text =
            "event: a\ndata: {\"x\": \"ü→🦀\"}\n\n: a comment\nid: 3\ndata:one\r\ndata:  two\r\rdata\n\n\n\ndata: lost";
        for step in 1..text.len() {
            let events = all(text.as_bytes(), step).expect("events");
            assert_eq!(events, ["{\"x\": \"ü→🦀\"}", "one\n two", ""], "{step} bytes at a time");
        }
        assert!(all(b"", 1).expect("none").is_empty());
    }

    #[test]
    fn what_is_no_text_or_has_no_end_is_refused() {
        assert!(all(b"data: \xff\xfe\n\n", 3).is_err());
        let mut endless = Events::new(BufReader::new(std::io::repeat(b'x')));
        assert!(endless.next().is_err());
        let lines = "data: 0123456789abcdef\n".repeat(70_000);
        assert!(all(lines.as_bytes(), 4096).is_err());
    }
}
