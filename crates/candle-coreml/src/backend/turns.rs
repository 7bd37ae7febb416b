//! Decoding steps of several conversations, taken together.
//!
//! Every conversation has a thread that asks for one token at a time. One of those that wait leads: it takes the requests
//! that are there, runs them as one step, hands the results out and lets the next one lead. Conversations so join and leave
//! at every token, requests are served in the order in which they came, and nothing is shared but weights.

use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::anemll::{Pipeline, Session};
use crate::error::{Error, Result};

/// Most conversations in one step.
const MOST: usize = 16;
/// The leader waits for conversations that were in the last step no longer than this part of a step.
const PATIENCE: u32 = 4;
/// Longest wait.
const LONGEST: Duration = Duration::from_millis(20);

/// A conversation after a step, with the logits.
type Done = (Session, Result<Vec<f32>>);

/// A request for the token after this one.
struct Request {
    session: Session,
    id: u32,
    /// Whether to make room if the context is full.
    slide: bool,
    reply: Sender<Done>,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    /// Whether a thread leads.
    led: bool,
    /// Conversations of the last step that still decode: they are about to ask again, unless their readers are slow.
    expected: usize,
    /// Length of the last step of several.
    last: Duration,
}

/// The conversations of one model.
#[derive(Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Lets the next thread lead, also after a panic.
struct Lead<'t>(&'t Turns);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.lock().led = false;
        self.0.changed.notify_all();
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent even if a holder panicked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A conversation that took steps takes no more.
    pub(super) fn leave(&self) {
        let mut queue = self.lock();
        queue.expected = queue.expected.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Appends a token to a conversation, together with those of others that wait: the conversation and the logits `[vocab]`.
    /// No conversation if a thread has panicked that had it. `slide` makes room if the context is full.
    pub(super) fn step(
        &self,
        pipeline: &Pipeline,
        session: Session,
        id: u32,
        slide: bool,
    ) -> (Option<Session>, Result<Vec<f32>>) {
        let (reply, answer) = channel();
        let mut queue = self.lock();
        queue.requests.push(Request { session, id, slide, reply });
        self.changed.notify_all();
        loop {
            match answer.try_recv() {
                Ok((session, logits)) => return (Some(session), logits),
                Err(TryRecvError::Disconnected) => {
                    return (None, Err(Error::Unavailable("a step of this conversation was lost".to_owned())));
                }
                Err(TryRecvError::Empty) => {}
            }
            if queue.led {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.led = true;
            let lead = Lead(self);
            let requests = self.gather(queue);
            let took = run(pipeline, requests);
            if let Some(took) = took {
                self.lock().last = took;
            }
            drop(lead);
            queue = self.lock();
        }
    }

    /// Takes the requests that are there, once those that are about to come have come.
    fn gather(&self, mut queue: MutexGuard<'_, Queue>) -> Vec<Request> {
        let until = Instant::now() + (queue.last / PATIENCE).min(LONGEST);
        while queue.requests.len() < queue.expected.min(MOST) {
            let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else { break };
            queue = self.changed.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = queue.requests.len().min(MOST);
        queue.expected = count;
        queue.requests.drain(..count).collect()
    }
}

/// Runs requests and hands out their results; how long it took several.
fn run(pipeline: &Pipeline, mut requests: Vec<Request>) -> Option<Duration> {
    let started = Instant::now();
    let together = if requests.len() > 1 {
        let tokens: Vec<(usize, u32)> = requests.iter().enumerate().map(|(i, r)| (i, r.id)).collect();
        let mut sessions: Vec<&mut Session> = requests.iter_mut().map(|r| &mut r.session).collect();
        pipeline.forward_together(&mut sessions, &tokens)
    } else {
        None
    };
    let took = (requests.len() > 1).then(|| started.elapsed());
    match together {
        Some(Ok(logits)) => requests.into_iter().zip(logits).for_each(|(r, logits)| give(r, Ok(logits))),
        // One by one they tell whose failure it is.
        _ => {
            for mut request in requests {
                let logits = match request.slide {
                    true => pipeline.forward_with_shift(&mut request.session, request.id),
                    false => pipeline.forward(&mut request.session, &[request.id]),
                };
                give(request, logits);
            }
        }
    }
    took
}

fn give(request: Request, logits: Result<Vec<f32>>) {
    // A thread that is gone needs no answer.
    let _ = request.reply.send((request.session, logits));
}
