//! Bit streams of elements of up to eight bits: least significant bit first, as weight files pack them.

/// Element `index` of a stream of elements of `width` bits, at most 8; bits behind the end are zero.
#[inline]
pub fn unpack(width: usize, bytes: &[u8], index: usize) -> u8 {
    let (start, shift) = (index * width / 8, index * width % 8);
    let low = u16::from(bytes.get(start).copied().unwrap_or(0));
    let high = u16::from(bytes.get(start + 1).copied().unwrap_or(0));
    (((low | high << 8) >> shift) & ((1 << width) - 1)) as u8
}

/// Packs the lowest `width` bits, at most 8, of each value.
pub fn pack(width: usize, values: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let mut out = vec![0u8; (values.len() * width).div_ceil(8)];
    for (i, value) in values.enumerate() {
        let (start, shift) = (i * width / 8, i * width % 8);
        let wide = (u16::from(value) & ((1 << width) - 1)) << shift;
        out[start] |= wide as u8;
        if wide > 0xff {
            out[start + 1] |= (wide >> 8) as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_read_back_at_every_width() {
        for width in 1..=8 {
            let values: Vec<u8> = (0..37u32).map(|i| (i * 29 % (1 << width)) as u8).collect();
            let packed = pack(width, values.iter().copied());
            assert_eq!(packed.len(), (37 * width).div_ceil(8));
            let found: Vec<u8> = (0..37).map(|i| unpack(width, &packed, i)).collect();
            assert_eq!(found, values, "{width}");
            assert_eq!(unpack(width, &packed, 37 * 9), 0);
        }
        // Three 3-bit numbers 5, 3, 6 from the least significant bit: 0b110_011_101.
        assert_eq!(pack(3, [5, 3, 6].into_iter()), [0b1001_1101, 0b1]);
        // Higher bits are left out.
        assert_eq!(pack(4, [0xF2, 0x11].into_iter()), [0x12]);
        assert!(pack(4, [].into_iter()).is_empty());
    }
}
