//! Model types that no portable engine can run: what is missing, and what users can do.

use coreml_format::model_types::Body;
use coreml_format::model_types::custom::CustomModelValue;
use coreml_format::model_types::vision_feature_print::VisionFeaturePrintKind;

/// On a Mac the file's own framework has what the file lacks.
const ON_A_MAC: &str = "On a Mac the native engine (`--engine native`) runs it";

/// Which part of a model is not in its file, and what to do; `None` for types that a file holds whole.
///
/// ```text
/// its network (scene, version 1) is part of Apple's systems, not of the file. On a Mac …
/// ```
pub fn reason(body: &Body) -> Option<String> {
    let network = |what: String| {
        format!(
            "its network ({what}) is part of Apple's systems, not of the file. {ON_A_MAC}; elsewhere, retrain the model on \
             a feature extractor of your own, exported as a .mlpackage"
        )
    };
    let language = |what: &str, revision: u32, language: &str, bytes: usize| {
        let language = if language.is_empty() { "no language given" } else { language };
        format!(
            "its {bytes} bytes of parameters ({what}, revision {revision}, {language}) are in a private form of Apple's \
             NaturalLanguage framework. {ON_A_MAC}; elsewhere, retrain it as a text model of another library"
        )
    };
    Some(match body {
        Body::VisionFeaturePrint(m) => network(match &m.kind {
            Some(VisionFeaturePrintKind::Scene(s)) => format!("scene, version {}", s.version),
            Some(VisionFeaturePrintKind::Objects(o)) => format!("objects, version {}", o.version),
            None => "kind not given".to_owned(),
        }),
        Body::AudioFeaturePrint(m) => network(m.sound.map_or_else(
            || "kind not given".to_owned(),
            |sound| format!("sound, version {}", sound.version),
        )),
        Body::TextClassifier(m) => language("text classifier", m.revision, &m.language, m.model_parameter_data.len()),
        Body::WordTagger(m) => language("word tagger", m.revision, &m.language, m.model_parameter_data.len()),
        Body::Gazetteer(m) => language("gazetteer", m.revision, &m.language, m.model_parameter_data.len()),
        Body::WordEmbedding(m) => language("word embedding", m.revision, &m.language, m.model_parameter_data.len()),
        Body::CustomModel(m) => {
            let parameters: Vec<String> = m.parameters.iter().map(|(name, p)| parameter(name, p.value.as_ref())).collect();
            let parameters = if parameters.is_empty() { "none".to_owned() } else { parameters.join(", ") };
            let about = if m.description.is_empty() { String::new() } else { format!(", \"{}\"", m.description) };
            format!(
                "it is computed by the class `{}` of the application that it was made for{about}, and the file holds only \
                 its parameters ({parameters}). Ask its author for a model without custom code, or supply the class from a program in \
                 Rust (`CoreMLModelBuilder::custom_model`)",
                m.class_name
            )
        }
        Body::SerializedModel(m) => format!(
            "it holds {} bytes of a type that the format does not define, `{}`. {ON_A_MAC} if the system knows the type",
            m.model.len(),
            m.identifier
        ),
        Body::SoundAnalysisPreprocessing(_) => {
            "its log-mel features of a waveform are computed by Apple's SoundAnalysis framework, with no reference to check \
             another implementation against. On a Mac the native engine (`--engine native`) runs it"
                .to_owned()
        }
        Body::LinkedModel(m) => {
            let (name, search) = m.target();
            let search = if search.is_empty() { "." } else { search };
            format!("it links to `{name}` in `{search}`, which was not opened (`Model::follow_links`)")
        }
        Body::Compiled(content) => format!(
            "it is compiled, and its content is in {}, which is not public. {ON_A_MAC}; elsewhere, use the .mlmodel or \
             .mlpackage that it was compiled from",
            content.form
        ),
        _ => return None,
    })
}

fn parameter(name: &str, value: Option<&CustomModelValue>) -> String {
    match value {
        None => name.to_owned(),
        Some(CustomModelValue::Double(x)) => format!("{name} = {x}"),
        Some(CustomModelValue::String(text)) => format!("{name} = {text:?}"),
        Some(CustomModelValue::Int32(n)) => format!("{name} = {n}"),
        Some(CustomModelValue::Int64(n)) => format!("{name} = {n}"),
        Some(CustomModelValue::Bool(b)) => format!("{name} = {b}"),
        Some(CustomModelValue::Bytes(bytes)) => format!("{name}: {} bytes", bytes.len()),
    }
}
