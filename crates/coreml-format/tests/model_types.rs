//! Checks that every message and field of the format is declared, with the right number and kind: compares
//! `conformance/model_types.json`, written by `tools/model_types.py`, with what `model_types` decodes and encodes
//! again. An undeclared field would be dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use coreml_format::model_types::{self, Body, Bytes, TYPES};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

#[path = "model_types/enums.rs"]
mod enums;
#[path = "model_types/weights.rs"]
mod weights;
#[path = "model_types/zoo.rs"]
mod zoo;

/// Content of the format.
#[derive(serde::Deserialize)]
struct Format {
    messages: BTreeMap<String, Vec<Field>>,
    enums: BTreeMap<String, BTreeMap<String, i32>>,
}

#[derive(serde::Deserialize)]
struct Field {
    name: String,
    number: u32,
    kind: String,
    of: Option<String>,
    key: Option<String>,
    value: Option<String>,
    #[serde(default)]
    repeated: bool,
    oneof: Option<String>,
}

/// Messages kept as bytes.
const OPAQUE: [&str; 3] = ["Model", "NetworkUpdateParameters", "MILSpec.Program"];
/// Repeated floats kept as bytes.
const STORED: [(&str, &str); 5] = [
    ("WeightParams", "floatValue"),
    ("LinearQuantizationParams", "scale"),
    ("LinearQuantizationParams", "bias"),
    ("LookUpTableQuantizationParams", "floatValue"),
    ("NeuralNetworkMeanImage", "meanImage"),
];

fn format() -> Format {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/model_types.json");
    serde_json::from_slice(&std::fs::read(path).expect("definitions")).expect("definitions")
}

fn encode(body: &Body) -> Vec<u8> {
    match body {
        Body::PipelineClassifier(m) => m.encode_to_vec(),
        Body::PipelineRegressor(m) => m.encode_to_vec(),
        Body::Pipeline(m) => m.encode_to_vec(),
        Body::GlmRegressor(m) => m.encode_to_vec(),
        Body::SupportVectorRegressor(m) => m.encode_to_vec(),
        Body::TreeEnsembleRegressor(m) => m.encode_to_vec(),
        Body::NeuralNetworkRegressor(m) => m.encode_to_vec(),
        Body::BayesianProbitRegressor(m) => m.encode_to_vec(),
        Body::GlmClassifier(m) => m.encode_to_vec(),
        Body::SupportVectorClassifier(m) => m.encode_to_vec(),
        Body::TreeEnsembleClassifier(m) => m.encode_to_vec(),
        Body::NeuralNetworkClassifier(m) => m.encode_to_vec(),
        Body::KNearestNeighborsClassifier(m) => m.encode_to_vec(),
        Body::NeuralNetwork(m) => m.encode_to_vec(),
        Body::ItemSimilarityRecommender(m) => m.encode_to_vec(),
        Body::CustomModel(m) => m.encode_to_vec(),
        Body::LinkedModel(m) => m.encode_to_vec(),
        Body::ClassConfidenceThresholding(m) => m.encode_to_vec(),
        Body::OneHotEncoder(m) => m.encode_to_vec(),
        Body::Imputer(m) => m.encode_to_vec(),
        Body::FeatureVectorizer(m) => m.encode_to_vec(),
        Body::DictVectorizer(m) => m.encode_to_vec(),
        Body::Scaler(m) => m.encode_to_vec(),
        Body::CategoricalMapping(m) => m.encode_to_vec(),
        Body::Normalizer(m) => m.encode_to_vec(),
        Body::ArrayFeatureExtractor(m) => m.encode_to_vec(),
        Body::NonMaximumSuppression(m) => m.encode_to_vec(),
        Body::Identity(m) => m.encode_to_vec(),
        Body::TextClassifier(m) => m.encode_to_vec(),
        Body::WordTagger(m) => m.encode_to_vec(),
        Body::VisionFeaturePrint(m) => m.encode_to_vec(),
        Body::SoundAnalysisPreprocessing(m) => m.encode_to_vec(),
        Body::Gazetteer(m) => m.encode_to_vec(),
        Body::WordEmbedding(m) => m.encode_to_vec(),
        Body::AudioFeaturePrint(m) => m.encode_to_vec(),
        Body::SerializedModel(m) => m.encode_to_vec(),
        other => panic!("{other:?}"),
    }
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// A value of a kind: its wire type and bytes, its bytes after decoding and encoding, and its debug form.
struct Sample {
    wire: WireType,
    bytes: Vec<u8>,
    encoded: Vec<u8>,
    shown: &'static str,
}

/// Values that distinguish a kind from all others.
fn samples(kind: &str) -> Vec<Sample> {
    let sample = |wire, bytes: Vec<u8>, encoded: Vec<u8>, shown| Sample { wire, bytes, encoded, shown };
    let number = |value: u64, kept: u64, shown| {
        let bytes = |value| {
            let mut bytes = Vec::new();
            encode_varint(value, &mut bytes);
            bytes
        };
        sample(WireType::Varint, bytes(value), bytes(kept), shown)
    };
    let same = |wire, bytes: &[u8], shown| sample(wire, bytes.to_vec(), bytes.to_vec(), shown);
    let low = (1 << 32) + 7;
    match kind {
        "bool" => vec![number(1, 1, "true"), number(2, 1, "true")],
        "int32" | "enum" => vec![number(-5_i64 as u64, -5_i64 as u64, "-5"), number(low, 7, "7")],
        "int64" => vec![number(-5_i64 as u64, -5_i64 as u64, "-5"), number(low, low, "4294967303")],
        "uint32" => vec![number(u32::MAX.into(), u32::MAX.into(), "4294967295"), number(low, 7, "7")],
        "uint64" => vec![number(u64::MAX, u64::MAX, "18446744073709551615"), number(low, low, "4294967303")],
        "float" => vec![same(WireType::ThirtyTwoBit, &1.5_f32.to_le_bytes(), "1.5")],
        "double" => vec![same(WireType::SixtyFourBit, &1.5_f64.to_le_bytes(), "1.5")],
        "string" => vec![same(WireType::LengthDelimited, "\u{2002}x".as_bytes(), "\"\\u{2002}x\"")],
        "bytes" => vec![same(WireType::LengthDelimited, &[0xff, 0x00], "b\"\\xff\\0\"")],
        other => panic!("{other}"),
    }
}

fn keyed(number: u32, wire: WireType, value: &[u8]) -> Vec<u8> {
    match wire {
        WireType::LengthDelimited => delimited(number, value),
        _ => {
            let mut bytes = Vec::new();
            encode_key(number, wire, &mut bytes);
            bytes.extend_from_slice(value);
            bytes
        }
    }
}

/// The default of a scalar kind.
fn zero(number: u32, kind: &str) -> Vec<u8> {
    match kind {
        "float" => keyed(number, WireType::ThirtyTwoBit, &[0; 4]),
        "double" => keyed(number, WireType::SixtyFourBit, &[0; 8]),
        "string" | "bytes" => delimited(number, &[]),
        _ => varint(number, 0),
    }
}

/// Field numbers from a model down to a message; a map counts as the field of its entries and the field of their value.
#[derive(Clone, Debug)]
struct Route {
    /// Type of the model.
    model: u32,
    steps: Vec<Step>,
    /// The final message.
    message: String,
}

#[derive(Clone, Debug)]
enum Step {
    Field(u32),
    Entry(u32),
}

impl Route {
    /// The message of the model around `content`.
    fn wrap(&self, content: &[u8]) -> Vec<u8> {
        self.steps.iter().rev().fold(content.to_vec(), |content, step| match *step {
            Step::Field(number) => delimited(number, &content),
            // A default value is omitted.
            Step::Entry(number) if content.is_empty() => delimited(number, &delimited(1, b"k")),
            Step::Entry(number) => delimited(number, &[delimited(1, b"k"), delimited(2, &content)].concat()),
        })
    }

    fn decode(&self, content: &[u8]) -> Result<Body, String> {
        model_types::decode(self.model, self.wrap(content).into()).map_err(|e| e.to_string())
    }

    /// Decodes and encodes `content`; returns its debug form.
    #[track_caller]
    fn check(&self, what: &str, content: &[u8], expected: &[u8]) -> String {
        let body = self.decode(content).unwrap_or_else(|e| panic!("{self:?}, {what}: {e}"));
        assert!(encode(&body) == self.wrap(expected), "{self:?}, {what}: {body:?}");
        format!("{body:?}")
    }
}

/// One route to every message through each field that contains it.
fn routes(format: &Format) -> Vec<Route> {
    let mut known = BTreeSet::new();
    let mut queue: VecDeque<Route> = VecDeque::new();
    let mut all = Vec::new();
    for field in &format.messages["Model"] {
        let message = field.of.clone().expect("a message");
        if !OPAQUE.contains(&message.as_str()) {
            queue.push_back(Route { model: field.number, steps: Vec::new(), message });
        }
    }
    while let Some(route) = queue.pop_front() {
        if known.insert(route.message.clone()) {
            for field in &format.messages[&route.message] {
                let Some(of) = &field.of else { continue };
                if field.kind == "enum" || OPAQUE.contains(&of.as_str()) {
                    continue;
                }
                let step = if field.kind == "map" { Step::Entry(field.number) } else { Step::Field(field.number) };
                let steps = route.steps.iter().cloned().chain([step]).collect();
                queue.push_back(Route { model: route.model, steps, message: of.clone() });
            }
        }
        all.push(route);
    }
    assert_eq!(known.len() + 1, format.messages.len(), "messages that nothing holds");
    all
}

#[test]
fn the_table_has_every_model_type() {
    let format = format();
    let defined: Vec<(u32, &str)> = format.messages["Model"].iter().map(|f| (f.number, f.name.as_str())).collect();
    let rows: Vec<(u32, &str)> = TYPES.iter().map(|row| (row.field, row.name)).collect();
    assert_eq!(rows, defined);
    assert_eq!(rows.len(), 37);
    assert_eq!(format.messages["NeuralNetworkLayer"].iter().filter(|f| f.oneof.is_some()).count(), 158);
    assert!(model_types::decode(605, Bytes::new()).is_err());
}

#[test]
fn every_field_of_every_message_is_declared() {
    let format = format();
    let mut count = 0;
    for route in routes(&format) {
        for field in &format.messages[&route.message] {
            count += 1;
            let number = field.number;
            match field.kind.as_str() {
                "map" => map(&route, field),
                "message" => {
                    let opaque = OPAQUE.contains(&field.of.as_deref().expect("a message"));
                    let one = delimited(number, if opaque { &[0xff, 0x00] } else { &[] });
                    let many = if field.repeated { one.repeat(3) } else { one };
                    route.check(&field.name, &many, &many);
                }
                "string" | "bytes" if field.repeated => {
                    let many = delimited(number, &samples(&field.kind)[0].bytes).repeat(3);
                    route.check(&field.name, &many, &many);
                }
                _ if field.repeated => packed(&route, field),
                _ => scalar(&route, field),
            }
        }
    }
    assert!(count > 1500, "{count} fields");
}

fn scalar(route: &Route, field: &Field) {
    for Sample { wire, bytes, encoded, shown } in samples(&field.kind) {
        let content = keyed(field.number, wire, &bytes);
        let debug = route.check(&field.name, &content, &keyed(field.number, wire, &encoded));
        assert!(debug.contains(shown), "{route:?}, {}: {debug}", field.name);
    }
    if field.kind == "string" {
        assert!(route.decode(&delimited(field.number, &[0xff])).is_err(), "{route:?}, {}", field.name);
    }
    // A default is kept in a oneof.
    let zero = zero(field.number, &field.kind);
    route.check(&field.name, &zero, if field.oneof.is_some() { &zero } else { &[] });
}

fn packed(route: &Route, field: &Field) {
    let stored = STORED.contains(&(route.message.as_str(), field.name.as_str()));
    for Sample { wire, bytes, encoded, shown } in samples(&field.kind) {
        let [content, expected] = [bytes.repeat(3), encoded.repeat(3)].map(|v| delimited(field.number, &v));
        let debug = route.check(&field.name, &content, &expected);
        let one_by_one = keyed(field.number, wire, &bytes).repeat(3);
        if stored {
            route.check(&field.name, &content.repeat(2), &content.repeat(2));
            let refused = route.decode(&one_by_one).expect_err("floats one by one");
            assert!(refused.contains("wire type") && refused.contains("LengthDelimited"), "{refused}");
        } else {
            assert!(debug.contains(shown), "{route:?}, {}: {debug}", field.name);
            route.check(&field.name, &one_by_one, &expected);
        }
    }
}

fn map(route: &Route, field: &Field) {
    let sample = |kind: &Option<String>| samples(kind.as_deref().expect("a kind")).remove(0);
    let key = sample(&field.key);
    let mut entry = keyed(1, key.wire, &key.bytes);
    // Message values have routes of their own.
    if field.value.as_deref() != Some("message") {
        let value = sample(&field.value);
        entry.extend(keyed(2, value.wire, &value.bytes));
    }
    let content = delimited(field.number, &entry);
    let debug = route.check(&field.name, &content, &content);
    assert!(debug.contains(key.shown), "{route:?}, {}: {debug}", field.name);
}

/// The fuzz target's seeds contain every field of every message.
#[test]
fn all_fields_at_once_stay() {
    for field in format().messages["Model"].iter().filter(|f| f.name != "mlProgram") {
        let name = format!("../../fuzz/corpus/specification/{}.mlmodel", field.name);
        let model = Bytes::from(std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a seed"));
        let (row, message) = model_types::locate(&model).expect("a model").expect("a type");
        assert_eq!(row.name, field.name);
        let body = row.decode(message.clone()).unwrap_or_else(|e| panic!("{}: {e}", row.name));
        assert!(encode(&body) == message, "{}: {body:?}", row.name);
    }
}

#[test]
fn no_other_field_is_declared() {
    let format = format();
    for route in routes(&format) {
        let declared: BTreeSet<u32> = format.messages[&route.message].iter().map(|f| f.number).collect();
        let others = (1..4000).filter(|n| !declared.contains(n));
        let content: Vec<u8> = others.flat_map(|n| varint(n, 1)).collect();
        route.check("other fields", &content, &[]);
    }
}

#[test]
fn of_a_oneof_the_last_counts() {
    let format = format();
    let mut count = 0;
    let content = |field: &Field| match field.kind.as_str() {
        "message" => delimited(field.number, &[]),
        kind => zero(field.number, kind),
    };
    for route in routes(&format) {
        let mut groups: BTreeMap<&str, Vec<&Field>> = BTreeMap::new();
        for field in &format.messages[&route.message] {
            groups.entry(field.oneof.as_deref().unwrap_or_default()).or_default().push(field);
        }
        for (name, fields) in groups.into_iter().filter(|(name, _)| !name.is_empty()) {
            for (i, last) in fields.iter().enumerate() {
                let first = fields[(i + 1) % fields.len()];
                route.check(name, &[content(first), content(last)].concat(), &content(last));
                count += usize::from(first.number != last.number);
            }
        }
    }
    assert!(count > 300, "{count} pairs");
}

#[test]
fn of_several_types_the_last_counts_and_parts_are_joined() {
    let [scaler, identity] = [604, 900];
    let [shift, scale] = [1, 2].map(|n| delimited(n, &2.0_f64.to_le_bytes()));
    let described = delimited(2, &delimited(11, b"y"));
    let locate = |parts: &[&[u8]]| {
        let model = Bytes::from(parts.concat());
        model_types::locate(&model).map(|found| found.map(|(row, bytes)| (row.name, bytes.to_vec())))
    };
    let [first, second] = [&shift, &scale].map(|part| delimited(scaler, part));
    let other = delimited(identity, &[]);
    assert_eq!(locate(&[&varint(1, 1), &described]), Ok(None));
    assert_eq!(locate(&[&first, &described, &other]), Ok(Some(("identity", Vec::new()))));
    assert_eq!(locate(&[&other, &first, &second]), Ok(Some(("scaler", [&shift[..], &scale].concat()))));
    assert_eq!(locate(&[&first, &other, &second]), Ok(Some(("scaler", scale.clone()))));
    let cut = locate(&[&first[..first.len() - 1]]).expect_err("cut short").to_string();
    assert!(cut.contains("`scaler` has 10 bytes, but 9 are left"), "{cut}");
    assert!(locate(&[&[0xff]]).is_err());
}

fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("CANDLE_COREML_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    path.is_dir().then_some(path)
}
