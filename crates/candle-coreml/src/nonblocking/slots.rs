//! Conversation slots of a model, and the choice of one for a prompt.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::SharedModel;
use crate::error::Result;
use crate::generation::Decoder;

/// A conversation with its cache.
pub(super) type Slot = Box<dyn Decoder + Send>;

/// Idle conversations, least recently used first.
pub(super) struct Slots(Mutex<Vec<Slot>>);

/// Index of the slot for a prompt: the one with the longest common prefix, if that is at least half of the slot's
/// tokens or all of the prompt (a repeated request); else the least recently used one, so that a prompt that shares
/// only a system message does not evict another conversation while there is an older one.
fn choose<'a>(slots: impl Iterator<Item = &'a [u32]>, prompt: &[u32]) -> usize {
    let common = |held: &[u32]| held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    let mut best = (0, 0);
    for (index, held) in slots.enumerate() {
        let known = common(held);
        let continues = 2 * known >= held.len() || known + 1 >= prompt.len();
        if known > best.1 && continues {
            best = (index, known);
        }
    }
    best.0
}

impl Slots {
    pub(super) fn new(model: &SharedModel, count: usize) -> Result<Self> {
        let slots = (0..count.max(1)).map(|_| model.conversation()).collect::<Result<Vec<_>>>()?;
        Ok(Self(Mutex::new(slots)))
    }

    /// Whether the model gives nothing but the best token.
    pub(super) fn greedy_only(&self) -> bool {
        self.idle().first().is_some_and(|slot| slot.greedy_only())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Slot>> {
        // The list is consistent even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot; creates one if a panic has lost one.
    pub(super) fn take(&self, model: &SharedModel, prompt: &[u32]) -> Result<Slot> {
        let mut idle = self.idle();
        if idle.is_empty() {
            return model.conversation();
        }
        let index = choose(idle.iter().map(|s| s.tokens()), prompt);
        Ok(idle.remove(index))
    }

    /// Returns a slot as the most recently used one.
    pub(super) fn put(&self, mut slot: Slot) {
        slot.rest();
        self.idle().push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn conversations_continue_where_they_are_and_others_take_the_oldest() {
        let slots: [&[u32]; 4] = [&[9, 9, 9], &[], &[1, 2, 3, 4], &[1, 2, 3, 4, 5, 6]];
        let chosen = |prompt: &[u32]| choose(slots.iter().copied(), prompt);
        assert_eq!(chosen(&[1, 2, 3, 4, 5, 6, 7]), 3, "the longest");
        assert_eq!(chosen(&[1, 2, 3, 4, 8]), 2, "as long as in the other one, of which more would be lost");
        assert_eq!(chosen(&[1, 2]), 2, "all of it is there");
        assert_eq!(chosen(&[1, 8, 8, 8]), 0, "a short beginning in common is not worth another conversation");
        assert_eq!(chosen(&[7]), 0, "the oldest");
        assert_eq!(chosen(&[]), 0);
        assert_eq!(choose([&[5u32][..]].into_iter(), &[1]), 0);
    }
}
