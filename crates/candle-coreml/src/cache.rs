//! Caches on this machine: where they are.

pub(crate) mod layout;

pub use layout::{Receipt, ReceiptFile, default_root};
