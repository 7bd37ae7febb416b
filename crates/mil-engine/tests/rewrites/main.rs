//! Programs that rewrites join, and what they must leave alone.

mod forms;
mod rotary;
