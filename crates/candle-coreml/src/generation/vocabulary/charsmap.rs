//! SentencePiece's precompiled normalization: a double-array trie over bytes
//! ([darts-clone](https://github.com/s-yata/darts-clone)) whose values are offsets into a block of NUL-terminated
//! texts. The library follows its links without bounds checks.

/// Maximum size of the map in bytes; that of XLM-R, the largest known, has 316 kB.
const LARGEST: usize = 4 << 20;

/// Bytes in Base64.
pub(super) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= part.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    let body = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    for byte in body.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// Relative position of a unit's children.
fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

/// Maximum growth factor of a text under this map, given in Base64.
///
/// # Errors
/// The problem with the map: a link or an offset out of bounds.
pub(super) fn growth(map: &str) -> Result<usize, String> {
    if map.len() / 4 * 3 > LARGEST {
        return Err(format!("more than {LARGEST} bytes"));
    }
    let bytes = decode(map).ok_or("text that is not Base64")?;
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or("less than 4 bytes")?;
    let size = u32::from_le_bytes(*size) as usize;
    let (trie, texts) =
        rest.split_at_checked(size / 4 * 4).ok_or_else(|| format!("a trie of {size} bytes in {}", rest.len()))?;
    let texts = std::str::from_utf8(texts).map_err(|_| "texts that are not UTF-8")?;
    let units: Vec<usize> = trie.as_chunks::<4>().0.iter().map(|u| u32::from_le_bytes(*u) as usize).collect();
    let unit =
        |place: usize| units.get(place).copied().ok_or_else(|| format!("a link to unit {place} of {}", units.len()));
    let mut seen = vec![false; units.len()];
    // Breadth first: reaches each unit by its shortest key.
    let mut next = std::collections::VecDeque::from([(0usize, 0usize)]);
    let mut growth = 1;
    unit(0)?;
    seen[0] = true;
    while let Some((place, depth)) = next.pop_front() {
        let base = place ^ offset(unit(place)?);
        if depth > 0 && unit(place)? >> 8 & 1 == 1 {
            let value = unit(base)? & ((1 << 31) - 1);
            let text = texts.get(value..).ok_or_else(|| format!("a text at byte {value} of {}", texts.len()))?;
            let length = text.find('\0').unwrap_or(text.len());
            growth = growth.max(length.div_ceil(depth));
        }
        for byte in 1..256 {
            let child = base ^ byte;
            // A label has its highest bit clear, a value has it set.
            if unit(child)? & (1 << 31 | 0xff) == byte && !seen[child] {
                seen[child] = true;
                next.push_back((child, depth + 1));
            }
        }
    }
    Ok(growth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let n = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63];
                out.push(if i > chunk.len() { '=' } else { char::from(digit) });
            }
        }
        out
    }

    fn map(units: &[u32], texts: &[u8]) -> String {
        let size = (units.len() * 4) as u32;
        let trie = units.iter().flat_map(|u| u.to_le_bytes());
        encode(&size.to_le_bytes().into_iter().chain(trie).chain(texts.iter().copied()).collect::<Vec<u8>>())
    }

    /// A trie that maps `a` to the text at `value`.
    fn one(value: u32) -> Vec<u32> {
        let mut units = vec![0u32; 1024];
        units[0] = 256 << 10;
        units[256 ^ usize::from(b'a')] = u32::from(b'a') | 1 << 8 | (512 << 10);
        units[256 ^ usize::from(b'a') ^ 512] = 1 << 31 | value;
        units
    }

    #[test]
    fn links_and_places_stay_inside() {
        assert_eq!(growth(&map(&one(0), b"xyz\0")), Ok(3));
        assert_eq!(growth(&map(&one(3), b"xyz\0")), Ok(1));
        assert_eq!(growth(&map(&one(4), b"xyz\0")), Ok(1), "an empty text at the end");
        for (map, part) in [
            ("AAAA/////w==".to_owned(), "a trie of 4278190080"),
            ("AAAAAA==".to_owned(), "a link to unit 0 of 0"),
            (String::new(), "less than 4"),
            ("AAA".to_owned(), "not Base64"),
            ("AA?A".to_owned(), "not Base64"),
            (map(&one(5), b"xyz\0"), "a text at byte 5 of 4"),
            (map(&one(1), "ü\0".as_bytes()), "a text at byte 1"),
            (map(&one(0)[..700], b"xyz\0"), "a link to unit"),
            (map(&[1 << 31 | 0x3fff << 10], b""), "a link to unit"),
            (map(&one(0), &[0xff]), "not UTF-8"),
        ] {
            let found = growth(&map).expect_err(part);
            assert!(found.contains(part), "{part}: {found}");
        }
    }
}
