//! Fields of a protobuf message: <https://protobuf.dev/programming-guides/encoding/>.

/// Value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'m> {
    /// A varint.
    Number(u64),
    /// Four bytes.
    Float(f32),
    /// A text, bytes or a message.
    Bytes(&'m [u8]),
    /// Eight bytes, which no field that is read has.
    Other,
}

/// Fields of a message, in order; ends after the first error.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| "expected a SentencePiece model, found a damaged protobuf message".to_owned()))
    })
}

fn next<'m>(rest: &mut &'m [u8]) -> Option<(u64, Field<'m>)> {
    let key = varint(rest)?;
    let field = match key & 7 {
        0 => Field::Number(varint(rest)?),
        1 => {
            take(rest, 8)?;
            Field::Other
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Field::Bytes(take(rest, length)?)
        }
        5 => Field::Float(f32::from_le_bytes(take(rest, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((key >> 3, field))
}

fn take<'m>(rest: &mut &'m [u8], length: usize) -> Option<&'m [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_damage_ends_them() {
        fn all(bytes: &[u8]) -> Vec<Result<(u64, Field<'_>), String>> {
            fields(bytes).collect()
        }
        assert_eq!(all(&[0x08, 0x96, 0x01]), [Ok((1, Field::Number(150)))]);
        assert_eq!(all(&[0x12, 2, b'h', b'i']), [Ok((2, Field::Bytes(b"hi")))]);
        assert_eq!(all(&[0x15, 0, 0, 0x80, 0x3f]), [Ok((2, Field::Float(1.0)))]);
        assert_eq!(all(&[0x09, 0, 0, 0, 0, 0, 0, 0, 0]), [Ok((1, Field::Other))]);
        for damaged in [&[0x08][..], &[0x12, 9, b'h'], &[0x0b], &[0x15, 0], &[0xff; 12]] {
            assert!(all(damaged).last().is_some_and(Result::is_err), "{damaged:?}");
        }
        assert!(all(&[]).is_empty());
    }
}
