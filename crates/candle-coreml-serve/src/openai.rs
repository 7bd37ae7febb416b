//! OpenAI's interface: request fields and response objects.
//!
//! An unsupported field that would change the answer is refused with an error that names it; other unknown fields are
//! ignored, as clients send many that concern only OpenAI's service.

mod calls;
pub(crate) mod chat;
pub(crate) mod embeddings;
mod inputs;
mod logprobs;
pub(crate) mod models;
mod options;
mod parsed;
mod reply;
mod request;
pub(crate) mod responses;
mod split;
mod stream;
pub(crate) mod text;
mod tools;

pub(crate) use request::complete;
