//! Safetensors: header length (`u64`, little-endian), header in JSON, elements.
//!
//! The `safetensors` crate parses and checks the header; we read the elements, tensor by tensor.

use std::io::{Read, Seek};

use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;
use candle_core::Tensor;
use indexmap::IndexMap;

use super::element::{Element, NAMES, Order};
use super::{Budget, Limits, TensorsCause};

/// Maps an element type, if supported. Types added by later versions are rejected until listed here.
fn element(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::BOOL => Some(Element::Bool),
        Dtype::U8 => Some(Element::U8),
        Dtype::I8 => Some(Element::I8),
        Dtype::I16 => Some(Element::I16),
        Dtype::U16 => Some(Element::U16),
        Dtype::I32 => Some(Element::I32),
        Dtype::U32 => Some(Element::U32),
        Dtype::I64 => Some(Element::I64),
        Dtype::U64 => Some(Element::U64),
        Dtype::F16 => Some(Element::F16),
        Dtype::BF16 => Some(Element::BF16),
        Dtype::F32 => Some(Element::F32),
        Dtype::F64 => Some(Element::F64),
        Dtype::F4
        | Dtype::F6_E2M3
        | Dtype::F6_E3M2
        | Dtype::F8_E5M2
        | Dtype::F8_E4M3
        | Dtype::F8_E8M0
        | Dtype::F8_E4M3FNUZ
        | Dtype::F8_E5M2FNUZ
        | Dtype::C64 => None,
        _ => None,
    }
}

pub(super) fn read(
    source: &mut (impl Read + Seek),
    size: u64,
    limits: &Limits,
    budget: &mut Budget,
) -> Result<IndexMap<String, Tensor>, TensorsCause> {
    let mut length = [0; 8];
    let short = |_| TensorsCause::content("a file of safetensors, .npz or .npy", format!("a file of {size} bytes"));
    source.read_exact(&mut length).map_err(short)?;
    let length = u64::from_le_bytes(length);
    let left = size.saturating_sub(8);
    if length > limits.header || length > left {
        let most = limits.header.min(left);
        return Err(TensorsCause::content(
            "a file of safetensors, .npz or .npy",
            format!("a header of {length} bytes where at most {most} can be"),
        ));
    }
    let mut header = Vec::new();
    source.take(length).read_to_end(&mut header)?;
    let parsed: Metadata =
        serde_json::from_slice(&header).map_err(|e| TensorsCause::content("a header of safetensors", e))?;
    let data = parsed.data_len() as u64;
    if data != left - length {
        let found = format!("{} bytes", left - length);
        return Err(TensorsCause::content(format!("{data} bytes of elements, as the header says"), found));
    }
    // In offset order, without gaps: checked with the header.
    let names = parsed.offset_keys();
    if names.len() > limits.tensors {
        let found = format!("{} tensors", names.len());
        return Err(TensorsCause::content(format!("at most {} tensors", limits.tensors), found));
    }
    // Check all tensors before reading any.
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let Some(info) = parsed.info(&name) else { continue };
        let element = element(info.dtype).ok_or_else(|| {
            TensorsCause::content(format!("elements of type {NAMES}"), format!("type {}", info.dtype)).of(&name)
        })?;
        all.push((name, element, info));
    }
    let mut out = IndexMap::with_capacity(all.len());
    for (name, element, info) in all {
        let tensor = element.read(source, &info.shape, Order::C, budget).map_err(|e| e.of(&name))?;
        out.insert(name, tensor);
    }
    Ok(out)
}
