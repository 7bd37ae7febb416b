//! `metadata.json` of a compiled model, with the keys and spellings of Apple's compiler ("3.0").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coreml_format::description::{
    ColorLayout, DimRange, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint,
};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Argument, Binding, Block, Function, Operation, Opset, Program, TensorData, ValueData};
use serde_json::{Map, Value, json};

use crate::edit::{EditError, Result};

/// The file for a model with this program.
pub(super) fn write(model: &Model, program: &Program) -> Result<Vec<u8>> {
    let d = &model.description;
    let missing = || EditError::invalid(&model.path, "the description", "a default function", "none");
    let mut entry = function(d.function(None).ok_or_else(missing)?, program.functions.get(&d.default_function));
    let texts = [
        ("shortDescription", &d.metadata.description),
        ("version", &d.metadata.version),
        ("author", &d.metadata.author),
        ("license", &d.metadata.license),
    ];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        entry.insert(key.to_owned(), json!(text));
    }
    let rest = json!({
        "metadataOutputVersion": "3.0",
        "modelParameters": [],
        "specificationVersion": d.specification_version,
        "isUpdatable": "0",
        "availability": availability(d.specification_version),
        "modelType": {"name": "MLModelType_mlProgram"},
        "userDefinedMetadata": d.metadata.user,
        "generatedClassName": class_name(&model.path),
        "method": "predict",
    });
    if let Value::Object(rest) = rest {
        entry.extend(rest);
    }
    if d.functions.len() > 1 || !d.functions.contains_key("main") {
        let named = d.functions.iter().map(|(name, f)| {
            let mut entry = function(f, program.functions.get(name));
            entry.insert("name".to_owned(), json!(name));
            Value::Object(entry)
        });
        entry.insert("functions".to_owned(), named.collect());
        entry.insert("defaultFunctionName".to_owned(), json!(d.default_function));
    }
    let whole = Value::Array(vec![Value::Object(entry)]);
    serde_json::to_vec_pretty(&whole).map_err(|e| EditError::io(&model.path)(e.into()))
}

/// Systems that read a specification version: macOS, iOS, tvOS, watchOS, visionOS.
fn availability(version: i32) -> Value {
    let (mac, ios, watch, vision) = match version {
        ..=6 => ("12.0", "15.0", "8.0", "1.0"),
        7 => ("13.0", "16.0", "9.0", "1.0"),
        8 => ("14.0", "17.0", "10.0", "1.0"),
        9 => ("15.0", "18.0", "11.0", "2.0"),
        _ => ("26.0", "26.0", "26.0", "26.0"),
    };
    json!({"macOS": mac, "iOS": ios, "macCatalyst": ios, "tvOS": ios, "watchOS": watch, "visionOS": vision})
}

/// Name of the class that Xcode makes: an identifier of the file's name.
fn class_name(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn function(d: &FunctionDescription, program: Option<&Function>) -> Map<String, Value> {
    let mut out = Map::new();
    let schema = |all: &[FeatureDescription]| all.iter().map(feature).collect::<Value>();
    out.insert("inputSchema".to_owned(), schema(&d.inputs));
    out.insert("outputSchema".to_owned(), schema(&d.outputs));
    out.insert("stateSchema".to_owned(), schema(&d.states));
    for (key, name) in
        [("predictedFeatureName", &d.predicted_feature), ("predictedProbabilitiesName", &d.predicted_probabilities)]
    {
        if let Some(name) = name {
            out.insert(key.to_owned(), json!(name));
        }
    }
    if let Some(f) = program {
        let mut counts = Counts { opset: Some(f.opset), ..Counts::default() };
        counts.block(&f.block);
        out.insert("mlProgramOperationTypeHistogram".to_owned(), json!(counts.operations));
        for (key, found) in [("computePrecision", counts.computed), ("storagePrecision", counts.stored)] {
            if let Some(text) = precision(found) {
                out.insert(key.to_owned(), json!(text));
            }
        }
    }
    out
}

/// `Float16`, or `Mixed (Float16, Int32)`.
fn precision(found: BTreeSet<String>) -> Option<String> {
    let all: Vec<String> = found.into_iter().collect();
    match all.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("Mixed ({})", many.join(", "))),
    }
}

/// What a function consists of.
#[derive(Default)]
struct Counts {
    opset: Option<Opset>,
    /// Operations that are no constants, by the name that Apple's compiler prints: `Ios16.maxPool`, without the opset
    /// for iOS 15.
    operations: BTreeMap<String, usize>,
    /// Number types of results.
    computed: BTreeSet<String>,
    /// Number types of weights.
    stored: BTreeSet<String>,
}

impl Counts {
    fn block(&mut self, block: &Block) {
        for op in &block.operations {
            if op.kind != "const" {
                *self.operations.entry(self.name(&op.kind)).or_default() += 1;
            }
            let results = op.outputs.iter().filter_map(|o| o.ty.tensor()).filter_map(|t| number(t.dtype));
            self.computed.extend(results.map(str::to_owned));
            self.weights(op);
            op.blocks.iter().for_each(|nested| self.block(nested));
        }
    }

    fn name(&self, kind: &str) -> String {
        let mut words = kind.split('_').filter(|w| !w.is_empty());
        let capital = |w: &str| {
            let mut letters = w.chars();
            letters.next().map(|c| c.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
        };
        let first = words.next().unwrap_or_default();
        let rest: String = words.map(capital).collect();
        match self.opset {
            None | Some(Opset::Ios15) => format!("{}{rest}", capital(first)),
            Some(opset) => format!("{}.{first}{rest}", capital(opset.text_name())),
        }
    }

    fn weights(&mut self, op: &Operation) {
        let arguments = op.inputs.values().flat_map(Argument::bindings).filter_map(|b| match b {
            Binding::Value(value) => Some(value),
            Binding::Name(_) => None,
        });
        for value in arguments.chain(op.attributes.values()) {
            let in_file = matches!(value.data, ValueData::Tensor(TensorData::Blob(_)));
            if let Some(name) = value.ty.tensor().filter(|_| in_file).and_then(|t| number(t.dtype)) {
                self.stored.insert(name.to_owned());
            }
        }
        let indices = op.inputs.get("indices").and_then(|a| match a.bindings() {
            [Binding::Value(value)] => Some(value),
            _ => None,
        });
        if op.kind == "constexpr_lut_to_dense"
            && let Some(bits) = indices.and_then(|v| v.ty.tensor()?.dtype.bits())
        {
            self.stored.insert(format!("Palettized ({bits} bits)"));
        }
    }
}

/// The spelling of a number type.
fn number(dtype: DataType) -> Option<&'static str> {
    Some(match dtype {
        DataType::F16 => "Float16",
        DataType::F32 => "Float32",
        DataType::F64 => "Double",
        DataType::BF16 => "BFloat16",
        DataType::F8E4M3FN => "Float8E4M3FN",
        DataType::F8E5M2 => "Float8E5M2",
        DataType::I4 => "Int4",
        DataType::I8 => "Int8",
        DataType::I16 => "Int16",
        DataType::I32 => "Int32",
        DataType::I64 => "Int64",
        DataType::U1 => "UInt1",
        DataType::U2 => "UInt2",
        DataType::U3 => "UInt3",
        DataType::U4 => "UInt4",
        DataType::U6 => "UInt6",
        DataType::U8 => "UInt8",
        DataType::U16 => "UInt16",
        DataType::U32 => "UInt32",
        DataType::U64 => "UInt64",
        DataType::Bool | DataType::String => return None,
    })
}

/// `1 × 128`.
fn crosses<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" × ")
}

fn span(r: &DimRange) -> String {
    match r.max {
        Some(max) if max == r.min => max.to_string(),
        Some(max) => format!("{}...{max}", r.min),
        None => format!("{}...", r.min),
    }
}

/// Keys of flexible shapes; `sizes` are those of images.
fn flexibility(out: &mut Map<String, Value>, constraint: &ShapeConstraint, sizes: bool) {
    let key = |array: &str, image: &str| if sizes { image } else { array }.to_owned();
    let flexible = matches!(constraint, ShapeConstraint::Enumerated(_) | ShapeConstraint::Ranges(_));
    out.insert(key("hasShapeFlexibility", "hasSizeFlexibility"), json!(if flexible { "1" } else { "0" }));
    let text = match constraint {
        ShapeConstraint::Ranges(all) => {
            let pairs: Vec<String> =
                all.iter().map(|r| format!("[{}, {}]", r.min, r.max.map_or(-1, |m| m as i64))).collect();
            out.insert(key("shapeRange", "sizeRange"), json!(format!("[{}]", pairs.join(", "))));
            crosses(all.iter().map(span))
        }
        ShapeConstraint::Enumerated(all) => {
            out.insert(key("enumeratedShapes", "enumeratedSizes"), json!(format!("{all:?}")));
            all.iter().map(crosses).collect::<Vec<_>>().join(" | ")
        }
        ShapeConstraint::Fixed | ShapeConstraint::Unspecified => return,
    };
    out.insert(key("shapeFlexibility", "sizeFlexibility"), json!(text));
}

fn feature(f: &FeatureDescription) -> Value {
    let mut out = Map::new();
    let (ty, formatted) = match &f.ty {
        FeatureType::Int64 => ("Int64", "Int64".to_owned()),
        FeatureType::Double => ("Double", "Double".to_owned()),
        FeatureType::String => ("String", "String".to_owned()),
        FeatureType::Dictionary { int_keys } => {
            let key = if *int_keys { "Int64" } else { "String" };
            out.insert("keyType".to_owned(), json!(key));
            ("Dictionary", format!("Dictionary ({key} → Double)"))
        }
        FeatureType::Sequence { ints } => {
            let of = if *ints { "Int64" } else { "String" };
            out.insert("valueType".to_owned(), json!(of));
            ("Sequence", format!("Sequence ({of})"))
        }
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            out.insert("dataType".to_owned(), json!(number(*dtype)));
            out.insert("shape".to_owned(), json!(format!("{shape:?}")));
            flexibility(&mut out, constraint, false);
            ("MultiArray", array("MultiArray", *dtype, shape))
        }
        FeatureType::State { dtype, shape } => {
            out.insert("dataType".to_owned(), json!(number(*dtype)));
            out.insert("shape".to_owned(), json!(format!("{shape:?}")));
            ("State", array("State", *dtype, shape))
        }
        FeatureType::Image { layout, width, height, sizes } => {
            let (space, color, word) = match layout {
                ColorLayout::Rgb => ("RGB", "1", "Color"),
                ColorLayout::Bgr => ("BGR", "1", "Color"),
                ColorLayout::Grayscale => ("Grayscale", "0", "Grayscale"),
                ColorLayout::GrayscaleFloat16 => ("Grayscale16Half", "0", "Grayscale16Half"),
            };
            for (key, text) in [("width", width.to_string()), ("height", height.to_string())] {
                out.insert(key.to_owned(), json!(text));
            }
            out.insert("colorspace".to_owned(), json!(space));
            out.insert("isColor".to_owned(), json!(color));
            flexibility(&mut out, sizes, true);
            ("Image", format!("Image ({word} {width} × {height})"))
        }
    };
    for (key, text) in [
        ("name", f.name.as_str()),
        ("shortDescription", &f.description),
        ("type", ty),
        ("formattedType", &formatted),
        ("isOptional", if f.optional { "1" } else { "0" }),
    ] {
        out.insert(key.to_owned(), json!(text));
    }
    Value::Object(out)
}

fn array(kind: &str, dtype: DataType, shape: &[usize]) -> String {
    let dtype = number(dtype).unwrap_or_default();
    if shape.is_empty() { format!("{kind} ({dtype})") } else { format!("{kind} ({dtype} {})", crosses(shape)) }
}
