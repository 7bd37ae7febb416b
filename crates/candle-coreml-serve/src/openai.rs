//! OpenAI's interface: fields of requests, objects of answers.
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
mod request;
mod stream;
pub(crate) mod text;

pub(crate) use request::complete;
