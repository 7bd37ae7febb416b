//! OpenAI's interface: what requests may say, and how answers look.
//!
//! Fields that would change the answer and that are not supported are refused by name; others that are not known are
//! left alone, as clients send many that only concern OpenAI's service.

pub(crate) mod chat;
pub(crate) mod embeddings;
mod inputs;
pub(crate) mod models;
mod options;
mod parsed;
mod reply;
mod stream;
pub(crate) mod text;
