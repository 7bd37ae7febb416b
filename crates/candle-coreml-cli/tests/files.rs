//! Invalid, endless and oversized files, given to the command wherever it reads one. Each run is a process of its own,
//! killed on timeout.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use candle_core::{Device, Tensor};

const PROGRAM: &str = r#"program(1.3)
{
    func main<ios17>(tensor<int32, [2]> ids, tensor<fp32, [2]> x) {
        tensor<fp32, [2]> w = const()[name = string("w"), val = tensor<fp32, [2]>(BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64(64)))];
        tensor<fp32, [2]> y = add(x = x, y = w)[name = string("y")];
        tensor<int32, [2]> z = identity(x = ids)[name = string("z")];
    } -> (y, z);
}
"#;

/// A weight file of one constant: [1, 2].
fn weights() -> Vec<u8> {
    let mut file = vec![0; 128];
    file[0] = 1;
    file[4] = 2;
    file[64..68].copy_from_slice(&0xDEAD_BEEF_u32.to_le_bytes());
    file[68..72].copy_from_slice(&2_u32.to_le_bytes());
    file[72..80].copy_from_slice(&8_u64.to_le_bytes());
    file[80..88].copy_from_slice(&128_u64.to_le_bytes());
    file.extend([1_f32, 2.0].map(f32::to_le_bytes).as_flattened());
    file
}

fn write(folder: &Path) -> PathBuf {
    let model = folder.join("m.mlmodelc");
    std::fs::create_dir_all(model.join("weights")).expect("folders");
    std::fs::write(model.join("model.mil"), PROGRAM).expect("written");
    std::fs::write(model.join("weights/weight.bin"), weights()).expect("written");
    model
}

fn fifo(path: &Path) {
    std::fs::remove_file(path).ok();
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
    assert!(made.success());
}

fn predict(model: &Path) -> Command {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    command.env("CANDLE_COREML_CONFIG", "/dev/null").timeout(Duration::from_secs(60));
    command.args(["predict", "--engine", "portable"]).arg(model);
    command
}

/// Error message of a failing run; a killed run has no exit code.
#[track_caller]
fn failure(command: &mut Command) -> String {
    let out = command.output().expect("runs");
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{message}");
    message
}

/// A file of two safetensors, `x` with these bytes and this type.
fn safetensors(dtype: &str, bytes: &[u8], ids: [i64; 2]) -> Vec<u8> {
    let (n, m) = (bytes.len(), bytes.len() + 16);
    let header = format!(
        r#"{{"x":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{n}]}},"ids":{{"dtype":"I64","shape":[2],"data_offsets":[{n},{m}]}}}}"#
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    file.extend(ids.map(i64::to_le_bytes).as_flattened());
    file
}

#[test]
fn tensors_come_from_safetensors_and_from_numpy_and_only_in_types_that_are_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (write(folder.path()), |name: &str| folder.path().join(name));
    let outputs = |inputs: &str, ids: &str| {
        let mut c = predict(&model);
        c.arg("--inputs").arg(path(inputs)).arg("--outputs").arg(path("out"));
        if !ids.is_empty() {
            std::fs::write(path("values.json"), ids).expect("written");
            c.arg("--values").arg(path("values.json"));
        }
        let out = c.output().expect("runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let all = candle_core::safetensors::load(path("out"), &Device::Cpu).expect("tensors");
        let numbers =
            |t: &Tensor| t.to_dtype(candle_core::DType::F64).and_then(|t| t.to_vec1::<f64>()).expect("numbers");
        (numbers(&all["y"]), numbers(&all["z"]))
    };
    let halves = [0x00, 0x3e, 0x00, 0xc0];
    std::fs::write(path("in.safetensors"), safetensors("F16", &halves, [3, -4])).expect("written");
    assert_eq!(outputs("in.safetensors", ""), (vec![2.5, 0.0], vec![3.0, -4.0]));
    // A big-endian NumPy array, named by its file; the other input as a value.
    let header = "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }";
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    array.extend([1.5_f32, -2.0].map(f32::to_be_bytes).as_flattened());
    std::fs::write(path("x.npy"), array).expect("written");
    assert_eq!(outputs("x.npy", r#"{"ids": [3, -4]}"#), (vec![2.5, 0.0], vec![3.0, -4.0]));

    // 8-bit floats, one of which Candle never finishes decoding, at either input; integers that do not fit.
    for byte in [0x00, 0x01, 0x38, 0xff] {
        std::fs::write(path("f8"), safetensors("F8_E4M3", &[byte; 2], [0, 0])).expect("written");
        let message = failure(predict(&model).arg("--inputs").arg(path("f8")));
        assert!(
            message.contains("f8: `x`: expected elements of type BOOL") && message.contains("F8_E4M3"),
            "{message}"
        );
    }
    std::fs::write(path("ids"), safetensors("F16", &halves, [0, 1 << 31])).expect("written");
    let message = failure(predict(&model).arg("--inputs").arg(path("ids")));
    assert!(message.contains("`ids`: expected int32 values, found the value 2147483648"), "{message}");
    std::fs::write(path("v.json"), r#"{"ids": [9007199254740993, 0.5]}"#).expect("written");
    let message = failure(predict(&model).arg("--values").arg(path("v.json")));
    assert!(message.contains("the integer 9007199254740993"), "{message}");
    // Larger than the limit on the command line.
    let mut c = predict(&model);
    let message = failure(c.arg("--inputs").arg(path("in.safetensors")).args(["--input-limit", "8B"]));
    assert!(message.contains("tensors of at most 8 bytes"), "{message}");
}

#[test]
fn pipes_sockets_folders_and_devices_are_named_wherever_a_file_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (write(folder.path()), |name: &str| folder.path().join(name));
    std::fs::write(path("in"), safetensors("F32", &[0; 8], [0, 0])).expect("written");
    fifo(&path("pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
    let kinds = [
        (path("pipe"), "a named pipe"),
        (path("socket"), "a socket"),
        (path("m.mlmodelc"), "a folder"),
        ("/dev/zero".into(), "a character device"),
    ];
    for (file, kind) in &kinds {
        let expected = format!("{}: expected a regular file, found {kind}", file.display());
        for option in ["--inputs", "--values", "--image"] {
            let argument =
                if option == "--image" { format!("x={}", file.display()) } else { file.display().to_string() };
            let message = failure(predict(&model).arg(option).arg(argument));
            let image = option == "--image" && message.contains("is not an image");
            assert!(message.contains(&expected) || image, "{option}: {message}");
        }
        if *kind != "a folder" {
            let message = failure(&mut predict(file));
            assert!(message.contains(&expected), "{message}");
            let message = failure(
                Command::cargo_bin("candle-coreml")
                    .expect("built")
                    .timeout(Duration::from_secs(60))
                    .arg("inspect")
                    .arg(file),
            );
            assert!(message.contains(&expected), "{message}");
        }
    }

    // Files inside models.
    let package = path("p.mlpackage");
    let spec = package.join("Data/com.apple.CoreML");
    std::fs::create_dir_all(&spec).expect("folders");
    fifo(&spec.join("model.mlmodel"));
    assert!(failure(&mut predict(&package)).contains("model.mlmodel: expected a regular file, found a named pipe"));
    fifo(&package.join("Manifest.json"));
    assert!(failure(&mut predict(&package)).contains("Manifest.json: expected a regular file, found a named pipe"));
    fifo(&model.join("weights/weight.bin"));
    let message = failure(predict(&model).arg("--inputs").arg(path("in")));
    assert!(message.contains("weight.bin: expected a regular file, found a named pipe"), "{message}");
    fifo(&model.join("model.mil"));
    assert!(failure(&mut predict(&model)).contains("model.mil: expected a regular file, found a named pipe"));
    // Links are followed.
    std::fs::remove_file(model.join("model.mil")).expect("removed");
    std::os::unix::fs::symlink("/dev/zero", model.join("model.mil")).expect("a link");
    assert!(failure(&mut predict(&model)).contains("model.mil: expected a regular file, found a character device"));
}

#[test]
fn files_that_are_too_large_are_refused_by_their_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let sparse = |path: &Path| std::fs::File::create(path).and_then(|f| f.set_len(1 << 40));
    let path = folder.path().join("m.mlmodel");
    if sparse(&path).is_err() {
        // The file system does not support files of a tebibyte.
        return;
    }
    assert!(failure(&mut predict(&path)).contains("expected at most 2147483647 bytes, found 1099511627776"));
    let model = write(folder.path());
    let message = failure(predict(&model).arg("--values").arg(&path));
    assert!(message.contains("expected at most 67108864 bytes"), "{message}");
    let message = failure(predict(&model).arg("--inputs").arg(&path));
    assert!(message.contains("header"), "{message}");
    sparse(&model.join("model.mil")).expect("as before");
    assert!(failure(&mut predict(&model)).contains("expected at most 536870912 bytes"));
}

#[test]
fn images_are_refused_by_their_size_before_their_pixels_are_decoded() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/images/rgb-bgr.mlpackage");
    // A PNG that claims 2^31 - 1 by 3 pixels in 100 bytes; its data are those of 5 by 3.
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/images/wide.png");
    let file = folder.path().join("wide.png");
    std::fs::write(&file, &std::fs::read(seed).expect("a seed")[1..]).expect("written");
    let message = failure(predict(&model).arg("--image").arg(format!("x={}", file.display())));
    assert!(message.contains("wide.png"), "{message}");
    let other = folder.path().join("other.png");
    image::RgbImage::new(3, 1000).save(&other).expect("saved");
    let message = failure(predict(&model).arg("--image").arg(format!("x={}", other.display())));
    assert!(message.contains("expected an image, shape [1, 3,") && message.contains("[1, 3, 1000, 3]"), "{message}");
    let message = failure(predict(&model).arg("--image").arg(format!("x={}", folder.path().display())));
    assert!(message.contains("expected a regular file, found a folder"), "{message}");
}
