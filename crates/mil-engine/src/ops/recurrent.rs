//! Recurrent networks: `rnn`, `gru`, `lstm`.
//!
//! Semantics after the reference documentation of coremltools' `recurrent` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
