//! Every operation against outputs computed by PyTorch and NumPy (`tools/op_cases` writes `conformance/operations`),
//! and with hostile parameters.

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
