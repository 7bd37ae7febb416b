//! From a model's name to generated text, without any configuration.
#![cfg(feature = "hub")]

use candle_coreml::hub::{self, Hub};
use candle_coreml::{Config, CoreMLModelBuilder, ModelConfig, QwenConfig, QwenModel, UnifiedModelLoader};

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
    // The configuration was saved, is an ordinary one, and is reused.
    let kept = root.path().join("models--org--tiny/configs").join(format!("{COMMIT}.json"));
    let config = ModelConfig::load(&kept).expect("kept");
    assert_eq!(config, loader.generate_config("org/tiny").expect("the same"));
    assert_eq!(config.model_id, "org/tiny");
    let marked = std::fs::read_to_string(&kept).expect("read").replace("\"org/tiny\"", "\"marked\"");
    std::fs::write(&kept, marked).expect("written");
    assert_eq!(loader.generate_config("org/tiny").expect("again").model_id, "marked", "it is read, not made again");
    // It is regenerated if the model's files change or the notes are damaged.
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

/// The Hugging Face cache holds links to blobs; models load through them.
#[cfg(unix)]
#[test]
fn a_model_in_the_cache_of_hugging_face_is_loaded_through_its_links() {
    let root = tempfile::tempdir().expect("a folder");
    let model = root.path().join("hf/models--org--tiny");
    std::fs::create_dir_all(model.join("blobs")).expect("a folder");
    std::fs::create_dir_all(model.join("refs")).expect("a folder");
    std::fs::write(model.join("refs/main"), COMMIT).expect("written");
    for (path, content) in hub_server::wanted() {
        let blob = model.join("blobs").join(hub_server::sha256(&content));
        std::fs::write(&blob, content).expect("written");
        let link = model.join("snapshots").join(COMMIT).join(path);
        std::fs::create_dir_all(link.parent().expect("a parent")).expect("a folder");
        std::os::unix::fs::symlink(blob, link).expect("a link");
    }
    let hub = Hub::new(root.path().join("cache")).foreign_cache(Some(root.path().join("hf"))).offline(true);
    let loader = UnifiedModelLoader::with_hub(hub);
    assert!(loader.load_model("org/tiny").expect("loaded").forward_text("2 + 2 =").is_ok());
    assert!(root.path().join("cache/models--org--tiny/configs").join(format!("{COMMIT}.json")).is_file());
    assert!(loader.list_cached_models().expect("ours").is_empty());
}

/// The functions without a [`Hub`], in a separate process with the environment.
#[test]
fn the_environment_says_where_models_come_from() {
    const NAME: &str = "the_environment_says_where_models_come_from";
    if let Some(folder) = std::env::var_os("CANDLE_COREML_TEST_FOLDER") {
        return with_environment(std::path::Path::new(&folder));
    }
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
    for variable in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"] {
        child.env_remove(variable);
    }
    child.env_remove("ALL_PROXY").env_remove("all_proxy").env_remove("CANDLE_COREML_CACHE").args(["--exact", NAME]);
    child.env("HF_ENDPOINT", server.url()).env("XDG_CACHE_HOME", root.path().join("xdg")).env_remove("HF_HOME");
    let output = child.env("CANDLE_COREML_TEST_FOLDER", root.path()).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(server.count("/resolve/") > 0);
}

fn with_environment(folder: &std::path::Path) {
    assert_eq!(hub::get_cached_model_path("org/tiny"), None);
    assert_eq!(hub::get_cached_model_path("no model's name"), None);
    // One component before the whole model: downloads nothing else.
    let head = CoreMLModelBuilder::load_from_hub("org/tiny", "qwen_lm_head_lut8.mlpackage", Config::default());
    assert_eq!(head.and_then(|b| b.build_model()).expect("a model").input_names(), ["hidden_states"]);
    assert_eq!(hub::get_cached_model_path("org/tiny"), None);
    let path = hub::ensure_model_downloaded("org/tiny").expect("downloaded");
    assert!(path.starts_with(folder.join("xdg/candle-coreml")), "{}", path.display());
    assert_eq!(hub::get_cached_model_path("org/tiny"), Some(path.clone()));
    assert_eq!(hub::download_model("org/tiny").expect("the same"), path);
    let own = hub::download_model_to("org/tiny", folder.join("own")).expect("downloaded");
    assert!(QwenModel::load_from_directory(own, None).is_ok());
    assert!(QwenModel::load_from_hub("org/tiny").is_ok());
    assert!(QwenModel::load_from_hub("org/none").is_err());
    assert!(QwenConfig::for_model_id("org/tiny").expect("settings").shapes().is_ok());
    let models = UnifiedModelLoader::new().and_then(|l| l.list_cached_models()).expect("models");
    assert_eq!(models.len(), 1);
}
