//! Mutations of protobuf messages, field by field, so that lengths stay right and most inputs decode.

/// A field: its number and its content.
#[derive(Clone)]
struct Field {
    number: u64,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
}

/// Random numbers from a seed (xorshift).
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 up to `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn parse(mut rest: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let content = match key & 7 {
            0 => Content::Varint(varint(&mut rest)?),
            1 => {
                let (bytes, after) = rest.split_first_chunk()?;
                rest = after;
                Content::Fixed64(*bytes)
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let bytes = rest.get(..length)?.to_vec();
                rest = &rest[length..];
                Content::Bytes(bytes)
            }
            5 => {
                let (bytes, after) = rest.split_first_chunk()?;
                rest = after;
                Content::Fixed32(*bytes)
            }
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push(Field { number: key >> 3, content });
    }
    Some(fields)
}

fn put_varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, content } in fields {
        let wire = match content {
            Content::Varint(_) => 0,
            Content::Fixed64(_) => 1,
            Content::Bytes(_) => 2,
            Content::Fixed32(_) => 5,
        };
        put_varint(number << 3 | wire, &mut out);
        match content {
            Content::Varint(value) => put_varint(*value, &mut out),
            Content::Fixed64(bytes) => out.extend(bytes),
            Content::Fixed32(bytes) => out.extend(bytes),
            Content::Bytes(bytes) => {
                put_varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
        }
    }
    out
}

const INTS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    16,
    100,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 53,
    u64::MAX,
    u64::MAX - 1,
];
const FLOATS: &[f64] =
    &[0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e30, -1e300, 5e-324, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// Changes one field somewhere in a message.
pub fn mutate(message: &[u8], dice: &mut Dice) -> Vec<u8> {
    match parse(message) {
        Some(fields) if !fields.is_empty() => encode(&change(fields, dice, 0)),
        _ => message.to_vec(),
    }
}

fn change(mut fields: Vec<Field>, dice: &mut Dice, depth: usize) -> Vec<Field> {
    let which = dice.roll(fields.len());
    if let Content::Bytes(bytes) = &fields[which].content
        && depth < 12
        && dice.roll(8) != 0
        && let Some(inner) = parse(bytes).filter(|inner| !inner.is_empty())
    {
        let inner = encode(&change(inner, dice, depth + 1));
        fields[which].content = Content::Bytes(inner);
        return fields;
    }
    match dice.roll(12) {
        0 => drop(fields.remove(which)),
        1 => {
            let copy = fields[which].clone();
            fields.insert(which, copy);
        }
        2 => {
            let other = dice.roll(fields.len());
            fields.swap(which, other);
        }
        3 => fields[which].number = dice.pick(&[1, 2, 3, 4, 5, 10, 11, 12, 20, 30, 100, 110, 200]),
        4 => {
            let other = dice.roll(fields.len());
            fields[which].content = fields[other].content.clone();
        }
        _ => match &mut fields[which].content {
            Content::Varint(value) => {
                *value = match dice.roll(3) {
                    0 => value.wrapping_add(1),
                    1 => value.wrapping_sub(1),
                    _ => dice.pick(INTS),
                }
            }
            Content::Fixed64(bytes) => *bytes = dice.pick(FLOATS).to_le_bytes(),
            Content::Fixed32(bytes) => *bytes = (dice.pick(FLOATS) as f32).to_le_bytes(),
            Content::Bytes(bytes) => blob(bytes, dice),
        },
    }
    fields
}

/// Changes bytes: text, packed numbers, weights.
fn blob(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(bytes.len() + 1);
    match dice.roll(6) {
        0 => bytes.truncate(at),
        1 => bytes.clear(),
        2 => bytes.extend_from_within(..at.min(64)),
        3 if bytes.len() >= 8 => {
            let at = at / 8 * 8;
            if let Some(slot) = bytes.get_mut(at..at + 8) {
                slot.copy_from_slice(&dice.pick(FLOATS).to_le_bytes());
            }
        }
        4 => bytes.push(dice.roll(256) as u8),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.roll(256) as u8;
            }
        }
    }
}
