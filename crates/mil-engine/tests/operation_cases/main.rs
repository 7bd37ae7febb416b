//! Every operation against outputs that PyTorch and NumPy computed (`tools/op_cases` writes
//! `conformance/operations`), and with parameters that nobody should send.

mod agreement;
mod cases;
mod core_ml;
mod declared;
mod fusions;
mod hostile;
mod limits;
mod others;
mod parameters;
mod table;
mod text;
