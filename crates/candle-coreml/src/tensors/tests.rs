//! Tensor files: each format, each element type, hostile headers.

use std::io::{Cursor, Write};

use candle_core::DType;
use zip::write::SimpleFileOptions;

use super::*;

const SMALL: Limits = Limits { bytes: 1 << 16, header: 1 << 12, tensors: 8 };

fn file(header: &str, elements: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), elements].concat()
}

/// A safetensors file with one tensor `x`.
fn one(dtype: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let n = elements.len();
    file(&format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{n}]}}}}"#), elements)
}

fn npy(descr: &str, fortran: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), elements].concat()
}

fn npz(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).expect("an entry");
        zip.write_all(content).expect("written");
    }
    zip.finish().expect("a zip").into_inner()
}

fn read(bytes: &[u8]) -> Result<IndexMap<String, Tensor>, String> {
    read_from(&mut Cursor::new(bytes), "x", &SMALL).map_err(|e| e.to_string())
}

/// Dtype, shape and elements of `x` as numbers.
fn numbers(bytes: &[u8]) -> (DType, Vec<usize>, Vec<f64>) {
    let x = read(bytes).expect("readable").swap_remove("x").expect("x");
    let values = x.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers");
    (x.dtype(), x.dims().to_vec(), values)
}

/// Names of a type in safetensors and NumPy, the little-endian bytes of two elements, and their values.
const TYPES: [(&str, &str, &[u8], DType, [f64; 2]); 12] = [
    ("BOOL", "|b1", &[0, 1], DType::U8, [0.0, 1.0]),
    ("U8", "|u1", &[0, 255], DType::U8, [0.0, 255.0]),
    ("I8", "|i1", &[0x80, 0x7f], DType::I16, [-128.0, 127.0]),
    ("U16", "<u2", &[0xff, 0xff, 1, 2], DType::I32, [65_535.0, 513.0]),
    ("I16", "<i2", &[0, 0x80, 1, 2], DType::I16, [-32_768.0, 513.0]),
    ("U32", "<u4", &[255, 255, 255, 255, 1, 2, 0, 0], DType::U32, [4_294_967_295.0, 513.0]),
    ("I32", "<i4", &[0, 0, 0, 0x80, 1, 2, 0, 0], DType::I32, [-2_147_483_648.0, 513.0]),
    (
        "U64",
        "<u8",
        &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40],
        DType::I64,
        [513.0, 4_611_686_018_427_387_904.0],
    ),
    (
        "I64",
        "<i8",
        &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80],
        DType::I64,
        [513.0, -9_223_372_036_854_775_808.0],
    ),
    ("F16", "<f2", &[0, 0x3e, 0, 0xc0], DType::F16, [1.5, -2.0]),
    ("F32", "<f4", &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0], DType::F32, [1.5, -2.0]),
    ("F64", "<f8", &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0], DType::F64, [1.5, -2.0]),
];

#[test]
fn every_listed_type_is_read_with_its_values_from_every_format() {
    for (name, descr, bytes, dtype, values) in TYPES {
        let want = (dtype, vec![2, 1], values.to_vec());
        assert_eq!(numbers(&one(name, "[2,1]", bytes)), want, "{name}");
        let array = npy(descr, "False", "(2, 1)", bytes);
        assert_eq!(numbers(&array), want, "{descr}");
        assert_eq!(numbers(&npz(&[("x.npy", &array)])), want, "{descr}");
        // Big-endian: the bytes of each element reversed.
        let width = bytes.len() / 2;
        let swapped: Vec<u8> = bytes.chunks(width).flat_map(|c| c.iter().rev().copied()).collect();
        if width > 1 {
            let descr = descr.replace('<', ">");
            assert_eq!(numbers(&npy(&descr, "False", "(2, 1)", &swapped)), want, "{descr}");
        }
    }
    let brain = numbers(&one("BF16", "[2]", &[0xc0, 0x3f, 0, 0xc0]));
    assert_eq!(brain, (DType::BF16, vec![2], vec![1.5, -2.0]));
}

#[test]
fn all_other_types_are_refused_by_name() {
    for (name, elements) in [
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("F8_E8M0", 1),
        ("F8_E4M3FNUZ", 1),
        ("F8_E5M2FNUZ", 1),
        ("F6_E2M3", 4),
        ("F6_E3M2", 4),
        ("F4", 2),
        ("C64", 1),
    ] {
        let bytes = match name {
            "C64" => 8,
            "F6_E2M3" | "F6_E3M2" => 3,
            _ => 1,
        };
        let error = read(&one(name, &format!("[1,{elements}]"), &vec![0x38; bytes])).expect_err(name);
        assert!(error.starts_with("`x`: expected elements of type BOOL, U8"), "{error}");
        assert!(error.ends_with(&format!("found type {name}")), "{error}");
    }
    assert!(read(&one("Q4", "[1]", &[0])).expect_err("unknown").contains("Q4"));
}

#[test]
fn values_that_tensors_do_not_have_are_refused() {
    let error = read(&one("BOOL", "[2]", &[1, 2])).expect_err("no boolean");
    assert_eq!(error, "`x`: expected booleans of 0 or 1, found the byte 2");
    let error = read(&one("U64", "[1]", &[0, 0, 0, 0, 0, 0, 0, 0x80])).expect_err("2^63");
    assert!(error.ends_with("the value 9223372036854775808"), "{error}");
}

#[test]
fn fortran_order_and_odd_shapes_keep_their_elements() {
    // Column-major: element (i, j) is at i + 2 j.
    let array = npy("|u1", "True", "(2, 3)", &[0, 10, 1, 11, 2, 12]);
    assert_eq!(numbers(&array), (DType::U8, vec![2, 3], vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0]));
    for fortran in ["True", "False"] {
        assert_eq!(numbers(&npy("|u1", fortran, "()", &[7])), (DType::U8, vec![], vec![7.0]));
        assert_eq!(numbers(&npy("<f8", fortran, "(3, 0)", &[])), (DType::F64, vec![3, 0], vec![]));
    }
    assert_eq!(numbers(&one("F32", "[0,5]", &[])), (DType::F32, vec![0, 5], vec![]));
    assert_eq!(numbers(&one("U8", "[]", &[7])), (DType::U8, vec![], vec![7.0]));
}

#[test]
fn sizes_that_a_file_only_claims_take_no_memory() {
    let huge = "18446744073709551615";
    let most = "9223372036854775807";
    for (what, bytes) in [
        ("an empty file", vec![]),
        ("no header", vec![0xff; 7]),
        ("a header of 2^64 - 1 bytes", u64::MAX.to_le_bytes().to_vec()),
        ("a header larger than the file", file("{}", b"")[..9].to_vec()),
        ("a header larger than the limit", file(&format!("{{{}}}", " ".repeat(1 << 12)), b"")),
        ("elements that overflow", one("F32", &format!("[{huge},{huge}]"), &[0; 4])),
        ("elements that are not there", one("F32", "[1000000000]", &[0; 4])),
        ("strides that overflow", one("F32", &format!("[0,{most},4]"), &[])),
        ("33 dimensions", one("U8", &format!("[{}1]", "1,".repeat(32)), &[1])),
        ("deep nesting", file(&"[".repeat(4000), b"")),
        ("bytes behind the elements", [one("U8", "[1]", &[1]), vec![0]].concat()),
        ("an array larger than its file", npy("<f8", "False", "(1000000000,)", &[0; 8])),
        ("an array smaller than its file", npy("|u1", "False", "(1,)", &[0; 2])),
        ("an array that overflows", npy("<f8", "False", &format!("({most}, 2)"), &[])),
        ("an array whose strides overflow", npy("<f8", "True", &format!("(0, {most})"), &[])),
        ("a header of an array that is cut", npy("<f8", "False", "(1,)", &[0; 8])[..40].to_vec()),
        ("a header of an array larger than the limit", [b"\x93NUMPY\x02\x00".as_slice(), &[0xff; 4]].concat()),
        ("an unknown version", b"\x93NUMPY\x09\x00\x00\x00".to_vec()),
        ("a zip that is cut", npz(&[("x.npy", &npy("|u1", "False", "(1,)", &[1]))])[..60].to_vec()),
        ("something else in a zip", npz(&[("x.txt", b"x")])),
        ("a file in a zip that is no array", npz(&[("x.npy", b"not NumPy's")])),
        ("an array in a zip that is cut", npz(&[("x.npy", &npy("|u1", "False", "(2,)", &[1]))])),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
}

#[test]
fn all_tensors_together_stay_within_the_limit() {
    let zeros = vec![0; 40_000];
    let half = npy("|u1", "False", "(40000,)", &zeros);
    assert_eq!(read(&npz(&[("x.npy", &half)])).expect("one fits").len(), 1);
    let error = read(&npz(&[("x.npy", &half), ("y.npy", &half)])).expect_err("two do not");
    assert_eq!(error, "`y.npy`: expected tensors of at most 65536 bytes together, found 40000 bytes more than 40000");
    // Widened tensors count in both types: 40,000 bytes become 80,000.
    assert!(read(&npy("|i1", "False", "(40000,)", &zeros)).is_err());
    let mut header = String::from("{");
    for i in 0..9 {
        header += &format!(r#""{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}},"#, i + 1);
    }
    header.pop();
    assert!(read(&file(&(header + "}"), &[0; 9])).expect_err("nine tensors").contains("at most 8 tensors"));
    let empty = npy("|u1", "False", "(0,)", &[]);
    let entries: Vec<String> = (0..9).map(|i| format!("{i}.npy")).collect();
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|n| (n.as_str(), empty.as_slice())).collect();
    assert!(read(&npz(&entries)).expect_err("nine arrays").contains("at most 8 tensors"));
}

#[test]
fn archives_that_claim_more_than_deflate_can_pack_are_refused() {
    // 64 MB of zeros, within a limit of 1 GiB, in 65 kB: deflate's maximum ratio.
    let zeros = npy("|u1", "False", "(64000000,)", &vec![0; 64_000_000]);
    let honest = npz(&[("x.npy", &zeros)]);
    let limits = Limits { bytes: 1 << 30, ..SMALL };
    let found = read_from(&mut Cursor::new(&honest), "", &limits).expect("within the limit");
    assert_eq!(found["x"].elem_count(), 64_000_000);
    // The same archive, claiming 4,000 MB: 0xffff_ffff bytes in both headers, which have the size at different offsets
    // (APPNOTE 4.3.7, 4.3.12).
    let mut bomb = honest.clone();
    let directory = bomb.windows(4).rposition(|w| w == b"PK\x01\x02").expect("a directory");
    bomb[22..26].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    bomb[directory + 24..directory + 28].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    let error = read_from(&mut Cursor::new(&bomb), "", &limits).expect_err("a bomb").to_string();
    assert!(error.contains("1032 times") && error.contains("4026531840 bytes"), "{error}");
}

#[test]
fn damaged_and_ambiguous_archives_are_refused() {
    let array = npy("|u1", "False", "(4,)", &[1, 2, 3, 4]);
    let whole = npz(&[("x.npy", &array)]);
    // A byte of the checksum in the central directory.
    let mut wrong = whole.clone();
    let directory = wrong.windows(4).rposition(|w| w == b"PK\x01\x02").expect("a directory");
    wrong[directory + 16] ^= 1;
    assert!(read(&wrong).is_err(), "the checksum is held against what was read");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ids.npy");
    std::fs::write(&path, &array).expect("written");
    assert_eq!(super::read(&path, &SMALL).expect("an array")["ids"].dims(), [4]);
    let error = super::read(folder.path(), &SMALL).expect_err("a folder").to_string();
    assert!(error.contains("expected a regular file, found a folder"), "{error}");
    std::fs::write(&path, "a,b\n1,2\n").expect("written");
    let error = super::read(&path, &SMALL).expect_err("a table").to_string();
    assert!(error.contains("ids.npy") && error.contains("safetensors, .npz or .npy"), "{error}");
}

#[test]
fn arrays_that_are_written_read_back_and_start_at_a_multiple_of_64() {
    let x = Tensor::arange(0f32, 12.0, &candle_core::Device::Cpu).and_then(|t| t.reshape((3, 4))).expect("a tensor");
    let types =
        [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64];
    let mut all: Vec<(String, Tensor)> =
        types.iter().map(|&d| (format!("{d:?}"), x.to_dtype(d).expect("a cast"))).collect();
    all.push(("turned".to_owned(), x.t().expect("turned")));
    all.push(("one".to_owned(), x.flatten_all().expect("flat")));
    all.push(("scalar".to_owned(), x.sum_all().expect("a scalar")));
    all.push(("empty".to_owned(), Tensor::zeros((0, 3), DType::F32, &candle_core::Device::Cpu).expect("none")));
    let mut archive = Cursor::new(Vec::new());
    write_npz(&mut archive, all.iter().map(|(name, t)| (name.as_str(), t))).expect("written");
    let wide = Limits::default();
    let read = read_from(&mut archive, "x", &wide).expect("it reads back");
    assert_eq!(read.len(), all.len());
    let numbers =
        |t: &Tensor| -> Vec<f64> { t.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers") };
    for (name, tensor) in &all {
        let dtype = if tensor.dtype() == DType::BF16 { DType::F32 } else { tensor.dtype() };
        let found = &read[name.as_str()];
        assert_eq!((found.dtype(), found.dims(), numbers(found)), (dtype, tensor.dims(), numbers(tensor)), "{name}");
        let mut array = Vec::new();
        write_npy(&mut array, tensor).expect("written");
        let elements = tensor.elem_count() * dtype.size_in_bytes();
        assert!((array.len() - elements).is_multiple_of(64), "{name}: {}", array.len());
    }
    assert!(write_npy(&mut Vec::new(), &x.to_dtype(DType::F8E4M3).expect("a cast")).is_err());
}
