//! Tensor element types and their codes in the specification, weight files and MIL text.

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name says it: kind and bits")]
pub enum DataType {
    Bool,
    String,
    F16,
    F32,
    F64,
    BF16,
    F8E4M3FN,
    F8E5M2,
    I4,
    I8,
    I16,
    I32,
    I64,
    U1,
    U2,
    U3,
    U4,
    U6,
    U8,
    U16,
    U32,
    U64,
}

/// One row per type: type, code in the specification (`DataType`), code in weight files (0: none),
/// name in MIL text, bits per element (0: not fixed).
const TABLE: &[(DataType, i32, u32, &str, usize)] = &[
    (DataType::Bool, 1, 0, "bool", 8),
    (DataType::String, 2, 0, "string", 0),
    (DataType::F16, 10, 1, "fp16", 16),
    (DataType::F32, 11, 2, "fp32", 32),
    (DataType::F64, 12, 0, "fp64", 64),
    (DataType::BF16, 13, 5, "bf16", 16),
    (DataType::I8, 21, 4, "int8", 8),
    (DataType::I16, 22, 6, "int16", 16),
    (DataType::I32, 23, 14, "int32", 32),
    (DataType::I64, 24, 0, "int64", 64),
    (DataType::I4, 25, 8, "int4", 4),
    (DataType::U8, 31, 3, "uint8", 8),
    (DataType::U16, 32, 7, "uint16", 16),
    (DataType::U32, 33, 15, "uint32", 32),
    (DataType::U64, 34, 0, "uint64", 64),
    (DataType::U4, 35, 11, "uint4", 4),
    (DataType::U2, 36, 10, "uint2", 2),
    (DataType::U1, 37, 9, "uint1", 1),
    (DataType::U6, 38, 13, "uint6", 6),
    (DataType::U3, 39, 12, "uint3", 3),
    (DataType::F8E4M3FN, 40, 16, "fp8e4m3fn", 8),
    (DataType::F8E5M2, 41, 17, "fp8e5m2", 8),
];

impl DataType {
    fn row(self) -> (i32, u32, &'static str, usize) {
        // The table lists every variant; the fallback only satisfies the compiler (see the test below).
        TABLE
            .iter()
            .find(|r| r.0 == self)
            .map_or((0, 0, "?", 0), |&(_, spec, blob, name, bits)| (spec, blob, name, bits))
    }

    /// Unsigned integers of 1, 2, 3, 4 or 6 bits; of 8 for any other number.
    pub fn unsigned(bits: usize) -> Self {
        match bits {
            1 => Self::U1,
            2 => Self::U2,
            3 => Self::U3,
            4 => Self::U4,
            6 => Self::U6,
            _ => Self::U8,
        }
    }

    /// Code in the protobuf specification.
    pub fn spec_code(self) -> i32 {
        self.row().0
    }

    /// The type with this code in the protobuf specification.
    pub fn from_spec_code(code: i32) -> Option<Self> {
        TABLE.iter().find(|r| r.1 == code).map(|r| r.0)
    }

    /// Code in weight files; `None` for types that cannot be stored there.
    pub fn blob_code(self) -> Option<u32> {
        Some(self.row().1).filter(|&c| c != 0)
    }

    /// The type with this code in weight files.
    pub fn from_blob_code(code: u32) -> Option<Self> {
        TABLE.iter().find(|r| r.2 == code && code != 0).map(|r| r.0)
    }

    /// Name in MIL text, for example `fp16`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The type with this name in MIL text.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|r| r.3 == name).map(|r| r.0)
    }

    /// Bits per element, in memory and in files; `None` for strings.
    pub fn bits(self) -> Option<usize> {
        Some(self.row().3).filter(|&b| b != 0)
    }

    /// Bytes occupied by `elements` packed elements; `None` for strings or on overflow.
    pub fn packed_len(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits()?)?.div_ceil(8))
    }

    /// Returns true for floating-point types.
    pub fn is_float(self) -> bool {
        use DataType::*;
        matches!(self, F16 | F32 | F64 | BF16 | F8E4M3FN | F8E5M2)
    }

    /// Returns true for integer types (not booleans).
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DataType::Bool | DataType::String)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_read_back() {
        for &(dtype, spec, blob, name, _) in TABLE {
            assert_eq!(DataType::from_spec_code(spec), Some(dtype));
            assert_eq!(DataType::from_name(name), Some(dtype));
            if blob != 0 {
                assert_eq!(DataType::from_blob_code(blob), Some(dtype));
            }
            assert_ne!(dtype.name(), "?");
        }
        assert_eq!(DataType::from_blob_code(0), None);
        assert_eq!(DataType::from_spec_code(99), None);
        for bits in [1, 2, 3, 4, 6, 8] {
            let dtype = DataType::unsigned(bits);
            assert!(dtype.bits() == Some(bits) && dtype.name().starts_with("uint"), "{dtype}");
        }
        assert_eq!(DataType::from_name("float"), None);
    }

    #[test]
    fn packed_length_rounds_up_to_bytes() {
        assert_eq!(DataType::U6.packed_len(0), Some(0));
        assert_eq!(DataType::U3.packed_len(3), Some(2));
        assert_eq!(DataType::F16.packed_len(3), Some(6));
        assert_eq!(DataType::F64.packed_len(usize::MAX), None);
        assert_eq!(DataType::String.packed_len(1), None);
    }
}
