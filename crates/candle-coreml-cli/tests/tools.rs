//! `doctor`, `completions`, `man`, help texts and hints, from outside.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

#[cfg(all(unix, not(target_vendor = "apple"), feature = "hub", feature = "serve"))]
#[path = "tools/examples.rs"]
mod examples;

fn command() -> Command {
    Command::cargo_bin("candle-coreml").expect("the command is built")
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let run = command.output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.code(), text(&run.stdout), text(&run.stderr))
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[test]
fn an_instruction_set_is_limited_or_refused_by_name() {
    let doctor = |set: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut c = command();
        c.args(["doctor", "--json"]).env("CANDLE_COREML_ISA", set);
        c.env("CANDLE_COREML_CACHE", folder.path()).env("CANDLE_COREML_CONFIG", folder.path().join("none.toml"));
        run(&mut c)
    };
    let (_, out, errors) = doctor("scalar");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{errors}"));
    assert_eq!(report["machine"]["instructions"], serde_json::json!(["scalar"]), "{out}");
    let (code, _, errors) = doctor("sse9");
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("CANDLE_COREML_ISA is `sse9`") && errors.contains("scalar"), "{errors}");
}

#[test]
fn the_doctor_asks_the_shipped_model_and_tells_what_is_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    let doctor = || {
        let mut c = command();
        c.args(["doctor", "--json"]);
        c.env("CANDLE_COREML_CACHE", folder.path().join("cache")).env("CANDLE_COREML_CONFIG", &config);
        c.env_remove("RUST_LOG");
        c
    };
    std::fs::write(&config, "[backend]\ndevice = \"cpu\"\n").expect("written");
    let (code, out, errors) = run(&mut doctor());
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, Some(0), "{out}{errors}");
    let status = |report: &serde_json::Value, area: &str| {
        let checks = report["checks"].as_array().expect("checks");
        checks.iter().find(|c| c["area"] == area).map(|c| c["status"].as_str().unwrap_or("").to_owned())
    };
    for area in ["device", "settings", "cache", "self-test"] {
        assert_eq!(status(&report, area).as_deref(), Some("ok"), "{area} in {out}");
    }
    assert!(out.contains("Lima"), "{out}");
    assert!(report["machine"]["threads"].as_u64().is_some_and(|n| n > 0));
    assert_eq!(status(&report, "hub"), None, "nothing uses the network unasked");
    std::fs::write(&config, "[backend\n").expect("written");
    let (code, out, errors) = run(&mut doctor());
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, status(&report, "settings").as_deref()), (Some(1), Some("broken")), "{out}");
    assert!(errors.contains("broken: settings"), "{errors}");
}

#[test]
fn shells_get_completions_and_man_gets_pages() {
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c"), ("powershell", "Register")]
    {
        let (code, out, _) = run(command().args(["completions", shell]));
        assert!(code == Some(0) && out.contains(part) && out.contains("inspect"), "{shell}");
    }
    assert_eq!(run(command().args(["completions", "tcsh"])).0, Some(2));
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    assert_eq!(run(command().args(["man", "--out"]).arg(&pages)).0, Some(0));
    for (page, part) in [
        ("candle-coreml.1", "SYNOPSIS"),
        ("candle-coreml-bench.1", "profile"),
        ("candle-coreml-cache-clean.1", "older"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains(".TH") && text.contains(part), "{page}");
    }
}

/// What a shell completes after a line; `None` where the shell is not installed.
#[cfg(unix)]
fn completed(shell: &str, script: &Path, line: &str) -> Option<String> {
    let script = script.display();
    let program = match shell {
        "bash" => format!(
            "source '{script}'; read -ra COMP_WORDS <<< '{line}'; [[ '{line}' == *' ' ]] && COMP_WORDS+=('')
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             f=$(complete -p candle-coreml | sed 's/.*-F \\([^ ]*\\).*/\\1/')
             $f candle-coreml \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
             printf '%s\n' \"${{COMPREPLY[@]}}\""
        ),
        "fish" => format!("source '{script}'; complete -C'{line}'"),
        // A terminal in the shell, in which Tab is pressed; `_arguments` needs one.
        "zsh" => format!(
            "zmodload zsh/zpty; zpty z zsh -f -i
             zpty -w z 'PROMPT=; autoload -U compinit; compinit -u -D; source {script}; \
             compdef _candle-coreml candle-coreml; print REA''DY'
             zpty -r -m z r '*READY*'; zpty -w -n z '{line}'$'\\t\\t'; sleep 1
             while zpty -r -t z out; do print -rn -- $out; done; zpty -d z"
        ),
        other => panic!("{other}"),
    };
    let run = std::process::Command::new(shell).arg("-c").arg(program).env("TERM", "dumb").output().ok()?;
    Some(String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr))
}

#[cfg(unix)]
#[test]
fn completions_work_in_the_shells_themselves() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "fish", "zsh"] {
        let script = folder.path().join(format!("candle-coreml.{shell}"));
        std::fs::write(&script, run(command().args(["completions", shell])).1).expect("written");
        for (line, part) in [
            ("candle-coreml cac", "cache"),
            ("candle-coreml cache ", "clean"),
            ("candle-coreml cache clean --", "--older-than"),
            ("candle-coreml config s", "show"),
            ("candle-coreml generate --dev", "--device"),
        ] {
            let Some(found) = completed(shell, &script, line) else { break };
            assert!(found.contains(part), "{shell}: {line}: {found}");
        }
    }
}

#[test]
fn every_verb_has_examples_in_its_help() {
    let (_, help, _) = run(command().arg("--help"));
    assert!(help.contains("Examples:") && help.contains("Exit codes") && help.contains("NO_COLOR"));
    let mut verbs = vec![
        "predict",
        "generate",
        "chat",
        "bench",
        "inspect",
        "list",
        "rm",
        "cache",
        "doctor",
        "completions",
        "man",
        "weights",
        "edit",
        "merge",
        "split",
        "compress",
        "convert",
        "decompress",
        "compile",
        "run",
        "compare",
        "serve",
        "setup",
        "config",
    ];
    if cfg!(feature = "serve") {
        verbs.extend(["ps", "stop"]);
    }
    if cfg!(feature = "hub") {
        verbs.extend(["pull", "path"]);
    }
    for verb in verbs {
        let (code, text, _) = run(command().args([verb, "--help"]));
        assert!(
            code == Some(0) && text.contains("Examples:") && text.contains(&format!("candle-coreml {verb}")),
            "{verb}: {text}"
        );
    }
}

#[test]
fn weights_are_told_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let chunk = models().join("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage").to_string_lossy().into_owned();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (code, out, errors) = run(command().arg("weights").args(arguments).arg("--json"));
        assert_eq!(code, Some(0), "{arguments:?}: {errors}");
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    };
    let listed = json(&["list", &chunk]);
    let count = listed.as_array().map_or(0, Vec::len);
    assert!(count > 20, "{listed}");
    for field in ["function", "name", "dtype", "shape", "form", "bytes", "uses"] {
        assert!(!listed[0][field].is_null(), "{field}: {}", listed[0]);
    }
    let (tensors, tuned, small) = (at("w.safetensors"), at("tuned.mlpackage"), at("small.mlpackage"));
    let extracted = json(&["extract", &chunk, &tensors]);
    assert_eq!(
        (&extracted["path"], extracted["tensors"].as_u64().is_some_and(|n| n > 20)),
        (&tensors.clone().into(), true)
    );
    let replaced = json(&["replace", &chunk, &tensors, "--out", &tuned]);
    assert_eq!((&replaced["path"], replaced["weights"].as_u64().is_some_and(|n| n > 20)), (&tuned.into(), true));
    let sizes = json(&["dedupe", &chunk, "--out", &small]);
    assert!(sizes["bytes_after"].as_u64() <= sizes["bytes_before"].as_u64() && sizes["path"] == *small, "{sizes}");
}

#[test]
fn wrong_names_get_hints() {
    let (code, _, errors) = run(command().arg("inspect").arg(models().join("tiny-inten/intent.mlpackage")));
    assert_eq!(code, Some(1));
    assert!(errors.contains("hint: did you mean") && errors.contains("tiny-intent"), "{errors}");
    let (_, _, errors) = run(command().arg("inspect").arg(models().join("tiny-intent")));
    assert!(errors.contains("hint: the folder holds models"), "{errors}");
    let chunk = models().join("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let (_, _, errors) = run(command().args(["inspect", "--ane", "--function", "prefil"]).arg(&chunk));
    assert!(errors.contains("hint: did you mean prefill?"), "{errors}");
    // Nothing similar: no hint.
    let (_, _, errors) = run(command().args(["inspect", "/no/such/place"]));
    assert!(!errors.contains("hint"), "{errors}");
}

#[test]
fn logs_have_colours_only_on_terminals() {
    let (_, _, errors) =
        run(command().arg("inspect").arg(models().join("tiny-intent/intent.mlpackage")).env("RUST_LOG", "trace"));
    assert!(!errors.contains('\u{1b}'), "{errors}");
}

/// The scripts of a page: fences marked `sh`. Those that need a network, a Mac or files of the reader are `console`.
#[cfg(unix)]
fn scripts(page: &str) -> Vec<String> {
    let fences = page.split("```").skip(1).step_by(2);
    fences.filter_map(|fence| fence.strip_prefix("sh\n")).map(str::to_owned).collect()
}

#[cfg(unix)]
#[test]
fn the_commands_of_the_pages_run_as_they_stand() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let bin = Path::new(env!("CARGO_BIN_EXE_candle-coreml")).parent().expect("a folder").to_owned();
    let cache = tempfile::tempdir().expect("a folder");
    for page in ["start-rust", "start-data", "start-apps", "start-ollama", "start-offline"] {
        let text = std::fs::read_to_string(docs.join(page).with_extension("md")).expect(page);
        let scripts = scripts(&text);
        assert!(!scripts.is_empty(), "{page}");
        for script in scripts {
            // A folder whose name has spaces and other scripts.
            let folder = tempfile::Builder::new().prefix("ein Ordner 試 ").tempdir().expect("a folder");
            let mut shell = std::process::Command::new("bash");
            let path = std::env::join_paths([bin.clone(), "/usr/bin".into(), "/bin".into()]).expect("a path");
            shell.args(["-euo", "pipefail", "-c", &script]).current_dir(folder.path()).env("PATH", path);
            shell.env("CANDLE_COREML_CACHE", cache.path().join("the cache")).env("HOME", folder.path());
            shell
                .env("HF_HUB_OFFLINE", "1")
                .env_remove("CANDLE_COREML_CONFIG")
                .env("COLUMNS", "40")
                .env("NO_COLOR", "1");
            let out = shell.output().expect("bash");
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{page}: {script}\n{errors}");
            let all = String::from_utf8_lossy(&out.stdout).into_owned() + &errors;
            assert!(!all.contains('\u{1b}'), "{page}: colours where they are turned off");
        }
    }
}
