//! Tests of the state machine alone.

use secrecy::ExposeSecret;

use super::*;

const GB: u64 = 1_000_000_000;

fn facts() -> Facts {
    let there = |device, present: bool, detail: &str| Availability {
        device,
        compiled: present,
        present,
        detail: detail.to_owned(),
    };
    Facts {
        path: "/home/me/config.toml".into(),
        existing: Layer::default(),
        devices: vec![
            there(BackendDevice::CoreML, true, "the portable engine"),
            there(BackendDevice::Cuda, false, "this build has no cuda backend"),
            there(BackendDevice::Cpu, true, "2 threads"),
        ],
        memory: Memory { total: 16 * GB, available: 12 * GB },
    }
}

fn next(wizard: &mut Wizard) -> Step {
    assert!(matches!(wizard.take(Input::Next), After::Stay));
    wizard.step()
}

/// A wizard that asks for the first key.
fn at_the_keys(facts: Facts) -> Wizard {
    let mut wizard = Wizard::new(facts);
    while wizard.step() != Step::ApiKey {
        next(&mut wizard);
    }
    wizard
}

fn write(wizard: &mut Wizard, text: &str) {
    wizard.take(Input::Text(text.to_owned()));
}

fn save(wizard: &mut Wizard) -> Layer {
    match wizard.take(Input::Next) {
        After::Save(layer) => *layer,
        other => panic!("{other:?} at {:?}", wizard.step()),
    }
}

#[test]
fn enter_alone_gives_a_device_and_the_recommended_model_and_no_remote() {
    let mut w = Wizard::new(facts());
    let mut seen = vec![w.step()];
    while w.step() != Step::Summary {
        seen.push(next(&mut w));
    }
    assert_eq!(seen, [Step::Device, Step::Model, Step::ApiKey, Step::HubToken, Step::Summary]);
    let rows = w.summary();
    let layer = save(&mut w);
    assert_eq!(layer.device, Some(BackendDevice::Auto));
    let repository = layer.model_repo.expect("a model");
    assert!(repository.starts_with("anemll/"), "{repository}");
    assert!(rows.contains(&("backend.model_repo".to_owned(), repository)), "{rows:?}");
    assert!(layer.api_key.is_none() && layer.hf_token.is_none() && layer.remote_enabled.is_none());
}

#[test]
fn a_key_brings_the_question_of_the_remote_and_back_keeps_what_was_typed() {
    let mut w = at_the_keys(facts());
    write(&mut w, "sk-ant-0123456789abcdef");
    assert_eq!(next(&mut w), Step::Remote);
    assert_eq!(w.position(), (4, 6));
    w.take(Input::Down);
    assert_eq!(next(&mut w), Step::HubToken);
    write(&mut w, "hf_x");
    for _ in 0..6 {
        w.take(Input::Back);
    }
    assert_eq!(w.step(), Step::Device, "before the first there is nothing");
    let steps = [Step::Model, Step::ApiKey, Step::Remote, Step::HubToken, Step::Summary];
    for step in steps {
        assert_eq!(next(&mut w), step);
    }
    let shown = format!("{:?}", w.summary());
    assert!(shown.contains("••••cdef") && !shown.contains("0123") && !shown.contains("hf_x"), "{shown}");
    let layer = save(&mut w);
    assert_eq!(layer.api_key.expect("a key").expose_secret(), "sk-ant-0123456789abcdef");
    assert_eq!(layer.hf_token.expect("a token").expose_secret(), "hf_x");
    assert_eq!(layer.remote_enabled, Some(true));
}

#[test]
fn the_models_are_those_of_the_device() {
    let mut w = Wizard::new(facts());
    let devices: Vec<String> = w.choices().into_iter().map(|c| c.label).collect();
    assert_eq!(devices, ["auto", "coreml", "cuda", "cpu"]);
    w.take(Input::Choose(2));
    assert!(matches!(w.take(Input::Next), After::Stay));
    assert_eq!(w.step(), Step::Device, "what is not there is not taken");
    assert!(w.complaint().is_some_and(|c| c.contains("cuda can't be used: this build has no cuda")));
    w.take(Input::End);
    assert!(w.complaint().is_none());
    assert_eq!(next(&mut w), Step::Model);
    let choices = w.choices();
    assert!(choices.iter().all(|c| !c.label.starts_with("anemll/") && c.label != "tiny-qwen3"), "{choices:?}");
    let detail = |name: &str| choices.iter().find(|c| c.label == name).map(|c| c.detail.clone()).expect("there");
    assert!(detail("Qwen/Qwen3-14B").contains("too large"));
    assert!(
        detail("Qwen/Qwen3-1.7B").contains("4.1 GB to download") && detail("Qwen/Qwen3-1.7B").contains("fits, rec")
    );
    assert_eq!(choices[w.selected()].label, "Qwen/Qwen3-1.7B");
    while w.step() != Step::Summary {
        next(&mut w);
    }
    let layer = save(&mut w);
    assert_eq!(layer.device, Some(BackendDevice::Cpu));
    assert_eq!(layer.model_repo.as_deref(), Some("Qwen/Qwen3-1.7B"));
}

#[test]
fn another_model_is_asked_for_by_name_and_needs_one() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, is_folder) in [("org/name@v1", false), (folder.path().to_str().expect("UTF-8"), true)] {
        let mut w = Wizard::new(facts());
        next(&mut w);
        w.take(Input::End);
        assert_eq!(next(&mut w), Step::ModelName);
        assert_eq!(next(&mut w), Step::ModelName);
        assert!(w.complaint().is_some_and(|c| c.contains("found nothing")));
        write(&mut w, &format!(" {name} "));
        while w.step() != Step::Summary {
            next(&mut w);
        }
        let layer = save(&mut w);
        let found = layer.model_path.map(|p| p.display().to_string());
        assert_eq!(
            (found.as_deref(), layer.model_repo.as_deref()),
            if is_folder { (Some(name), None) } else { (None, Some(name)) }
        );
    }
}

#[test]
fn what_is_set_stays_unless_it_is_changed_or_removed() {
    let existing = Layer {
        api_key: Some("old-key".into()),
        hf_token: Some("old-token".into()),
        remote_enabled: Some(true),
        device: Some(BackendDevice::Cpu),
        model_path: Some("/models/mine".into()),
        fallback_chain: Some(vec![BackendDevice::CoreML]),
        streaming_enabled: Some(false),
        ..Layer::default()
    };
    let facts = Facts { existing, ..facts() };
    let mut w = at_the_keys(facts.clone());
    assert!(w.text().contains("empty keeps it") && !w.text().contains("old-key"));
    while w.step() != Step::Summary {
        next(&mut w);
    }
    let layer = save(&mut w);
    for key in Key::ALL {
        assert_eq!(layer.get(key), facts.existing.get(key), "{}", key.name());
    }
    let mut w = at_the_keys(facts);
    write(&mut w, "-");
    assert_eq!(next(&mut w), Step::HubToken, "without a key there is no remote model");
    write(&mut w, "new");
    while w.step() != Step::Summary {
        next(&mut w);
    }
    let layer = save(&mut w);
    assert!(layer.api_key.is_none());
    assert_eq!(layer.remote_enabled, Some(false), "a switch that was on does not stay on unseen");
    assert_eq!(layer.hf_token.expect("a token").expose_secret(), "new");
}

#[test]
fn odd_input_is_refused_or_does_nothing() {
    let mut w = at_the_keys(facts());
    write(&mut w, "sk with spaces");
    assert_eq!(next(&mut w), Step::ApiKey);
    assert!(w.complaint().is_some_and(|c| c.contains("without spaces")));
    w.take(Input::Clear);
    w.take(Input::Back);
    w.take(Input::Back);
    for input in [Input::Up, Input::Home, Input::Text("x".to_owned()), Input::Backspace, Input::Left, Input::Clear] {
        w.take(input);
        assert_eq!((w.step(), w.selected()), (Step::Device, 0));
    }
    w.take(Input::Choose(99));
    assert!(w.complaint().is_some_and(|c| c.contains("from 1 to 4")));
    for _ in 0..50 {
        w.take(Input::Down);
    }
    assert_eq!(w.selected(), 3);
    assert!(matches!(w.take(Input::Leave), After::Left));
}
