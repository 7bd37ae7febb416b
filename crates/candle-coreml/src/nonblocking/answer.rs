//! An answer in progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::generation::{Probabilities, Summary};

/// Part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The token; `None` for text held back until the end.
    pub token: Option<u32>,
    /// Text completed by this token; may be empty.
    pub text: String,
    /// Log-probabilities of the token, if [`Options::probabilities`](crate::generation::Options::probabilities) asks for them.
    pub probabilities: Option<Probabilities>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The generated text and tokens.
    pub summary: Summary,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Number of prompt tokens found in a cache.
    pub cached_tokens: usize,
}

/// Messages from the computing thread.
pub(super) enum Event {
    Piece(Piece),
    End(Result<Summary>),
}

/// Cancels a computation on drop.
#[derive(Debug, Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An answer in progress: a stream of [`Piece`]s. Dropping it stops the computation at the next token.
#[derive(Debug)]
pub struct Answer {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) summary: Option<Summary>,
    pub(super) ended: bool,
    pub(super) _cancel: CancelOnDrop,
}

impl Answer {
    /// Number of prompt tokens.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Number of prompt tokens found in a cache.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    /// The summary, once the stream has ended without an error.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Piece>> {
        std::future::poll_fn(|context| self.poll_piece(context)).await
    }

    /// Waits for the complete answer.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn finish(mut self) -> Result<Completion> {
        while let Some(piece) = self.next().await {
            piece?;
        }
        let summary = self.summary.take().ok_or_else(lost)?;
        Ok(Completion { summary, prompt_tokens: self.prompt_tokens, cached_tokens: self.cached_tokens })
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Piece>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll_recv(context));
        self.ended = !matches!(event, Some(Event::Piece(_)));
        Poll::Ready(match event {
            Some(Event::Piece(piece)) => Some(Ok(piece)),
            Some(Event::End(Ok(summary))) => {
                self.summary = Some(summary);
                None
            }
            Some(Event::End(Err(error))) => Some(Err(error)),
            None => Some(Err(lost())),
        })
    }
}

impl Stream for Answer {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_piece(context)
    }
}

/// The thread is gone: it panicked, or the runtime shut down.
pub(super) fn lost() -> Error {
    Error::Aborted("its thread has panicked or was shut down".to_owned())
}
