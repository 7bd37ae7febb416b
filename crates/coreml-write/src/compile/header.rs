//! `coremldata.bin`: the description of a compiled model, and what its analytics say. Both as in the six models of
//! Apple's compilers 3402, 3500 and 3520 that were read byte by byte.

/// Field of an ML Program in the specification, which stands before and after the description.
const ML_PROGRAM: u32 = 502;
/// Specification version from which the second word is 9; it is 5 in models of version 6 and 7. What it counts is not
/// known.
const LATER: i32 = 9;

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// `coremldata.bin` with an encoded `ModelDescription`.
pub(super) fn description(version: i32, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 99);
    out.extend(ML_PROGRAM.to_le_bytes());
    out.extend(if version >= LATER { 9u32 } else { 5 }.to_le_bytes());
    out.extend([0; 20]);
    string(&mut out, b"generic");
    out.extend(version.to_le_bytes());
    out.extend([0; 28]);
    string(&mut out, message);
    out.extend(u64::from(ML_PROGRAM).to_le_bytes());
    out.extend([0; 8]);
    out
}

/// `analytics/coremldata.bin`: names and texts, each behind its length; `hash` is the SHA-256 of `model.mlmodel`.
pub(super) fn analytics(hash: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(243);
    let mut group = |name: &str, entries: [(&str, &str); 2]| {
        string(&mut out, name.as_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        for (key, value) in entries {
            string(&mut out, key.as_bytes());
            string(&mut out, value.as_bytes());
        }
    };
    group("NeuralNetworkModelDetails", [("containsCustomLayer", "0"), ("modelDimension", "0")]);
    group("SpecificationDetails", [("modelHash", &base64(hash)), ("modelName", "model")]);
    out
}

/// Base64 of RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        // RFC 4648, section 10.
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
