//! Specifications edited without decoding what is not edited, so that every model type and unknown fields survive.

use coreml_format::description::Metadata;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Field of the description in a model.
const DESCRIPTION: u32 = 2;
/// Field of the default function's name in a description.
const DEFAULT_FUNCTION: u32 = 21;
/// Field of the metadata in a description.
const METADATA: u32 = 100;

/// A field with its key, as it lies in a message.
struct Field<'a> {
    number: u32,
    whole: &'a [u8],
    /// Content of a length-delimited field.
    content: &'a [u8],
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &b) in bytes.iter().take(10).enumerate() {
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32)?;
        if b & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Fields of a message; `None` if the bytes are none.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (key, at) = varint(bytes)?;
        let number = u32::try_from(key >> 3).ok()?;
        let (start, end) = match key & 7 {
            0 => (at, at + varint(&bytes[at..])?.1),
            1 => (at, at + 8),
            5 => (at, at + 4),
            2 => {
                let (length, size) = varint(&bytes[at..])?;
                (at + size, (at + size).checked_add(usize::try_from(length).ok()?)?)
            }
            _ => return None,
        };
        out.push(Field { number, whole: bytes.get(..end)?, content: &bytes[start..end] });
        bytes = &bytes[end..];
    }
    Some(out)
}

fn put(field: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn metadata(m: &Metadata) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, text) in [(1, &m.description), (2, &m.version), (3, &m.author), (4, &m.license)] {
        if !text.is_empty() {
            put(field, text.as_bytes(), &mut out);
        }
    }
    for (key, value) in &m.user {
        let mut entry = Vec::new();
        put(1, key.as_bytes(), &mut entry);
        put(2, value.as_bytes(), &mut entry);
        put(100, &entry, &mut out);
    }
    out
}

/// A specification with other metadata and, if given, another default function; all else as it was. `None` if the bytes
/// are no message.
pub(crate) fn with_metadata(specification: &[u8], new: &Metadata, default_function: Option<&str>) -> Option<Vec<u8>> {
    let mut description = Vec::new();
    let mut out = Vec::with_capacity(specification.len() + 256);
    for field in fields(specification)? {
        if field.number != DESCRIPTION {
            out.extend_from_slice(field.whole);
            continue;
        }
        for inner in fields(field.content)? {
            if inner.number != METADATA && (inner.number != DEFAULT_FUNCTION || default_function.is_none()) {
                description.extend_from_slice(inner.whole);
            }
        }
    }
    if let Some(name) = default_function {
        put(DEFAULT_FUNCTION, name.as_bytes(), &mut description);
    }
    put(METADATA, &metadata(new), &mut description);
    put(DESCRIPTION, &description, &mut out);
    Some(out)
}

/// A pipeline (field 202) of these models: description as an encoded message.
pub(crate) fn pipeline(version: i32, description: &[u8], models: &[Vec<u8>], names: &[String]) -> Vec<u8> {
    let mut body = Vec::new();
    models.iter().for_each(|m| put(1, m, &mut body));
    names.iter().for_each(|n| put(2, n.as_bytes(), &mut body));
    let mut out = Vec::new();
    encode_key(1, WireType::Varint, &mut out);
    encode_varint(version as u64, &mut out);
    put(DESCRIPTION, description, &mut out);
    put(202, &body, &mut out);
    out
}

/// Bytes of the description in a specification; `None` if the bytes are no message.
pub(crate) fn description(specification: &[u8]) -> Option<Vec<u8>> {
    let all = fields(specification)?;
    Some(all.iter().filter(|f| f.number == DESCRIPTION).flat_map(|f| f.content).copied().collect())
}

/// [`description`] with metadata, empty if there are none, as compiled models have it.
pub(crate) fn description_with_metadata(specification: &[u8]) -> Option<Vec<u8>> {
    let mut out = description(specification)?;
    if fields(&out)?.iter().all(|f| f.number != METADATA) {
        put(METADATA, &[], &mut out);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_fields_are_kept() {
        let mut spec = vec![8, 9];
        let mut d = Vec::new();
        put(21, b"infer", &mut d);
        put(77, b"unknown", &mut d);
        put(100, &metadata(&Metadata { author: "old".to_owned(), ..Default::default() }), &mut d);
        put(2, &d, &mut spec);
        put(502, b"body", &mut spec);
        let new = Metadata {
            version: "2".to_owned(),
            user: [("k".to_owned(), "v".to_owned())].into_iter().collect(),
            ..Default::default()
        };
        let edited = with_metadata(&spec, &new, Some("prefill")).expect("a message");
        let find = |part: &[u8]| edited.windows(part.len()).any(|w| w == part);
        assert!(find(b"unknown") && find(b"body") && find(b"prefill") && find(b"v"));
        assert!(!find(b"old") && !find(b"infer"));
        for cut in 1..spec.len() {
            // Never a panic; some prefixes are messages.
            let _ = with_metadata(&spec[..cut], &new, None);
        }
    }
}
