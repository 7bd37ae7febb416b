//! From a model's name to its text, without any configuration.
#![cfg(feature = "hub")]

use candle_coreml::hub::Hub;
use candle_coreml::{ModelConfig, UnifiedModelLoader};

mod hub_server;
use hub_server::{COMMIT, Server, tiny};

#[test]
fn a_model_is_downloaded_configured_and_loaded() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let hub = Hub::new(root.path()).endpoint(server.url());
    let loader = UnifiedModelLoader::with_hub(hub.clone());
    assert!(loader.list_cached_models().expect("empty").is_empty());
    let mut model = loader.load_model("org/tiny").expect("loaded");
    assert!(model.forward_text("2 + 2 =").is_ok());
    assert!(model.config().shapes().is_ok(), "the tensors' shapes are known");
    let models = loader.list_cached_models().expect("one");
    assert_eq!((models.len(), models[0].name.as_str()), (1, "org/tiny"));
    // The configuration was kept, is an ordinary one, and is used again.
    let kept = root.path().join("models--org--tiny/configs").join(format!("{COMMIT}.json"));
    let config = ModelConfig::load(&kept).expect("kept");
    assert_eq!(config, loader.generate_config("org/tiny").expect("the same"));
    assert_eq!(config.model_id, "org/tiny");
    let marked = std::fs::read_to_string(&kept).expect("read").replace("\"org/tiny\"", "\"marked\"");
    std::fs::write(&kept, marked).expect("written");
    assert_eq!(loader.generate_config("org/tiny").expect("again").model_id, "marked", "it is read, not made again");
    // It is made again when the model's files changed, or when the notes are damaged.
    let meta = root.path().join("models--org--tiny/snapshots").join(COMMIT).join("meta.yaml");
    let file = std::fs::File::options().write(true).open(meta).expect("meta.yaml");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    assert_eq!(loader.generate_config("org/tiny").expect("made").model_id, "org/tiny");
    std::fs::write(&kept, "{").expect("written");
    assert_eq!(loader.generate_config("org/tiny").expect("made").model_id, "org/tiny");
    let offline = UnifiedModelLoader::with_hub(hub.offline(true));
    assert!(offline.load_model("org/tiny").is_ok());
    assert!(offline.load_model("org/other").is_err());
}

#[test]
fn a_folder_is_a_model_too() {
    let root = tempfile::tempdir().expect("a folder");
    let copy = root.path().join("model");
    for (path, content) in hub_server::read_tree(&tiny()) {
        let target = copy.join(path);
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("a folder");
        std::fs::write(target, content).expect("written");
    }
    let loader = UnifiedModelLoader::with_hub(Hub::new(root.path().join("cache")).offline(true));
    let config = loader.generate_config(&copy.to_string_lossy()).expect("discovered");
    assert_eq!(config.components.len(), 6);
    assert!(copy.join(".candle-coreml-config.json").is_file());
    assert!(loader.load_model(&copy.to_string_lossy()).is_ok());
}
