//! Images in and out, through the command and the library: models from coremltools, expected pixels from NumPy
//! (`tools/images.py`).

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use candle_coreml::{CoreMLModel, EngineChoice, FeatureValue};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/images")
}

fn reference() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join("reference.safetensors"), &Device::Cpu).expect("reference")
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("elements")
}

fn bytes(t: &Tensor) -> Vec<u8> {
    floats(t).into_iter().map(|v| v as u8).collect()
}

/// Planes of a tensor as interleaved red, green, blue pixels.
fn interleaved(t: &Tensor, order: [usize; 3]) -> Vec<u8> {
    let (planes, size) = (bytes(t), t.dims()[2] * t.dims()[3]);
    (0..size).flat_map(|i| order.map(|c| planes[c * size + i])).collect()
}

const RGB: [usize; 3] = [0, 1, 2];
const BGR: [usize; 3] = [2, 1, 0];

/// Runs a model from image file to image file; also returns the output as a tensor.
fn predict(model: &str, input: &Path, output: &Path) -> Tensor {
    let tensors = output.with_extension("safetensors");
    let mut c = Command::cargo_bin("candle-coreml").expect("the command is built");
    c.arg("predict").arg(folder().join(format!("{model}.mlpackage")));
    c.arg("--image").arg(format!("x={}", input.display())).arg("--outputs").arg(&tensors);
    c.arg("--image-out").arg(format!("y={}", output.display()));
    let run = c.output().expect("runs");
    assert!(run.status.success(), "{model}: {}", String::from_utf8_lossy(&run.stderr));
    candle_core::safetensors::load(tensors, &Device::Cpu).expect("tensors")["y"].clone()
}

#[test]
fn eight_bit_images_are_rounded_and_cut_off_and_have_their_colours() {
    let (here, all) = (tempfile::tempdir().expect("a folder"), reference());
    for (model, from, to) in
        [("rgb-bgr", Some(RGB), Some(BGR)), ("bgr-rgb", Some(BGR), Some(RGB)), ("gray-gray", None, None)]
    {
        let (x, y) = (&all[&format!("{model}/x")], &all[&format!("{model}/y")]);
        let (height, width) = (x.dims()[2] as u32, x.dims()[3] as u32);
        let (input, output) = (here.path().join("x.png"), here.path().join("y.png"));
        match from {
            Some(order) => {
                image::RgbImage::from_raw(width, height, interleaved(x, order)).expect("pixels").save(&input)
            }
            None => image::GrayImage::from_raw(width, height, bytes(x)).expect("pixels").save(&input),
        }
        .expect("saved");
        let found = predict(model, &input, &output);
        assert_eq!((found.dtype(), found.dims()), (DType::U8, y.dims()), "{model}");
        assert_eq!(floats(&found), floats(y), "{model}");
        let file = image::open(&output).expect("an image");
        match to {
            Some(order) => assert_eq!(file.to_rgb8().into_raw(), interleaved(y, order), "{model}"),
            None => assert_eq!(file.as_luma8().expect("grayscale").as_raw(), &bytes(y), "{model}"),
        }
    }
}

#[test]
fn sixteen_bit_grayscale_comes_and_goes_as_floats() {
    let (here, all) = (tempfile::tempdir().expect("a folder"), reference());
    let (x, y) = (&all["gray16-gray16/x"], &all["gray16-gray16/y"]);
    let (input, output) = (here.path().join("x.tiff"), here.path().join("y.tiff"));
    let file = File::create(&input).expect("a file");
    let mut encoder = TiffEncoder::new(file).expect("an encoder");
    encoder.write_image::<Gray32Float>(x.dims()[3] as u32, x.dims()[2] as u32, &floats(x)).expect("written");
    let found = predict("gray16-gray16", &input, &output);
    assert_eq!(found.dtype(), DType::F16);
    // The program rounds to fp16 twice, the reference once.
    for (found, wanted) in floats(&found).into_iter().zip(floats(y)) {
        assert!((found - wanted).abs() <= 2f32.powi(-9) * wanted.abs().max(64.0), "{found} for {wanted}");
    }
    let mut decoder = Decoder::new(File::open(&output).expect("a file")).expect("a TIFF");
    assert_eq!(decoder.colortype().expect("a colour type"), tiff::ColorType::Gray(32));
    let DecodingResult::F32(pixels) = decoder.read_image().expect("pixels") else { panic!("floats") };
    assert_eq!(pixels, floats(&found));
}

#[test]
fn the_library_returns_the_same_pixels() {
    let all = reference();
    for model in ["rgb-bgr", "bgr-rgb", "gray-gray"] {
        let path = folder().join(format!("{model}.mlpackage"));
        let loaded = CoreMLModel::builder(path).engine(EngineChoice::Portable).load();
        let found = loaded.expect("it loads").predict(&[("x", all[&format!("{model}/x")].clone())], None);
        let FeatureValue::Tensor(found) = &found.expect("it runs")["y"] else { panic!("a tensor") };
        assert_eq!(found.dtype(), DType::U8);
        assert_eq!(floats(found), floats(&all[&format!("{model}/y")]), "{model}");
    }
}

#[test]
fn files_that_can_not_hold_an_output_are_refused_before_the_model_runs() {
    for (model, out, part) in [
        ("rgb-bgr", "y=/no/such/folder/y.gif", "png"),
        ("gray16-gray16", "y=y.png", "tif"),
        ("rgb-bgr", "z=z.png", "no output `z`"),
        ("rgb-bgr", "y", "NAME=FILE"),
    ] {
        let mut c = Command::cargo_bin("candle-coreml").expect("the command is built");
        c.arg("predict").arg(folder().join(format!("{model}.mlpackage"))).arg("--image-out").arg(out);
        let run = c.output().expect("runs");
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1));
        assert!(message.contains(part), "{message}");
    }
}

/// The command on images of a folder.
fn images(arguments: &[&str], inputs: &[&Path]) -> (Option<i32>, String, String) {
    let mut c = Command::cargo_bin("candle-coreml").expect("the command is built");
    c.arg("predict").arg(folder().join("rgb-bgr.mlpackage")).args(arguments);
    for path in inputs {
        c.arg("--images").arg(path);
    }
    let run = c.output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.code(), text(&run.stdout), text(&run.stderr))
}

#[test]
fn folders_and_lists_of_images_are_predicted_in_one_run() {
    let here = tempfile::tempdir().expect("a folder");
    let all = reference();
    let x = &all["rgb-bgr/x"];
    let (height, width) = (x.dims()[2] as u32, x.dims()[3] as u32);
    // Names with spaces and other scripts; a size that must be cut.
    let photos = here.path().join("my photos ü");
    std::fs::create_dir(&photos).expect("a folder");
    let same = image::RgbImage::from_raw(width, height, interleaved(x, RGB)).expect("pixels");
    same.save(photos.join("a 東京.png")).expect("saved");
    image::RgbImage::new(3 * width, height).save(photos.join("b.bmp")).expect("saved");
    same.save(photos.join("c.webp")).expect("saved");
    let (code, out, errors) = images(&["--resize", "crop"], &[&photos]);
    assert_eq!(code, Some(0), "{errors}");
    let rows: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let names: Vec<&str> = rows.iter().map(|r| r["image"].as_str().expect("a path")).collect();
    assert!(names[0].ends_with("a 東京.png") && names[1].ends_with("b.bmp") && names.len() == 3, "{names:?}");
    // WebP is stored without loss.
    assert_eq!(rows[0]["y"], rows[2]["y"]);
    let wanted = floats(&all["rgb-bgr/y"]);
    let mut found = Vec::new();
    fn flat(value: &serde_json::Value, into: &mut Vec<f32>) {
        match value {
            serde_json::Value::Array(items) => items.iter().for_each(|v| flat(v, into)),
            other => into.push(other.as_f64().expect("a number") as f32),
        }
    }
    flat(&rows[0]["y"], &mut found);
    assert_eq!(found, wanted);

    // A list; one file is no image, the others are predicted.
    std::fs::write(photos.join("d.png"), b"no image").expect("written");
    let list = here.path().join("list.txt");
    let lines = ["a 東京.png", "d.png", "c.webp"].map(|n| photos.join(n).display().to_string() + "\n").concat();
    std::fs::write(&list, lines).expect("written");
    let (code, out, errors) = images(&[], &[&list]);
    assert_eq!((code, out.lines().count()), (Some(1), 3), "{errors}");
    assert!(out.lines().nth(1).expect("a line").contains("\"error\":"), "{out}");
    assert!(errors.contains("1 of 3 images failed; the first: ") && errors.contains("d.png"), "{errors}");
    // Without a way to bring it to size.
    let (code, _, errors) = images(&[], &[&photos.join("b.bmp")]);
    assert!(code == Some(1) && errors.contains("shape [1, 3,"), "{errors}");
    let mut one = Command::cargo_bin("candle-coreml").expect("the command is built");
    one.arg("predict").arg(folder().join("rgb-bgr.mlpackage"));
    one.arg("--image").arg(format!("x={}", photos.join("b.bmp").display()));
    let errors = String::from_utf8(one.output().expect("runs").stderr).expect("text");
    assert!(errors.contains("--resize fit, crop or stretch"), "{errors}");
    // Tables and tensors.
    let table = here.path().join("out.csv");
    let tensors = here.path().join("out.npz");
    let good = [photos.join("a 東京.png"), photos.join("c.webp")];
    let good: Vec<&Path> = good.iter().map(PathBuf::as_path).collect();
    for path in [&table, &tensors] {
        let (code, _, errors) = images(&["--outputs", path.to_str().expect("UTF-8")], &good);
        assert_eq!(code, Some(0), "{errors}");
    }
    let text = std::fs::read_to_string(&table).expect("read");
    assert!(text.starts_with("image,y[0][0][0][0],") && text.lines().count() == 3, "{text}");
    let stacked = candle_coreml::tensors::read(&tensors, &Default::default()).expect("tensors");
    assert_eq!(stacked["y"].dims()[0], 2);
    let (code, _, errors) = images(&[], &[&here.path().join("gone.png")]);
    assert!(code == Some(1) && errors.contains("gone.png"), "{errors}");
}
