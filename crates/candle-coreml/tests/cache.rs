//! Cleaning caches in a synthetic tree: only recognised entries are deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use candle_coreml::cache::{CacheEntry, CacheManager, CleanMode, CleanRule, EntryKind};

const RUNTIME: &str = "com.apple.e5rt.e5bundlecache";
const DAY: Duration = Duration::from_secs(86_400);

fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn write(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, vec![b'x'; bytes]).expect("written");
}

/// A complete model, last used this many days ago.
fn model(root: &Path, name: &str, commit: &str, bytes: usize, days: u32) -> PathBuf {
    let folder = root.join(format!("models--{}", name.replace('/', "--")));
    write(&folder.join(".candle-coreml"), 1);
    let snapshot = folder.join("snapshots").join(commit);
    write(&snapshot.join("a.mlpackage/weights/weight.bin"), bytes);
    let receipt = snapshot.join(".candle-coreml-receipt.json");
    fs::write(&receipt, format!("{{\"model\":\"{name}\",\"commit\":\"{commit}\",\"files\":[]}}")).expect("written");
    let file = fs::File::options().write(true).open(receipt).expect("a receipt");
    file.set_modified(SystemTime::now() - days * DAY).expect("a time");
    snapshot
}

struct Tree {
    _folder: tempfile::TempDir,
    models: PathBuf,
    runtime: PathBuf,
    manager: CacheManager,
}

/// Two models, an unfinished download, a runtime cache, and many foreign files.
fn tree() -> Tree {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, runtime) = (folder.path().join("models"), folder.path().join("Library/Caches"));
    model(&models, "org/old", &commit('a'), 1000, 50);
    model(&models, "org/new", &commit('b'), 2000, 1);
    write(&models.join(format!("models--org--new/snapshots/{}.partial/x", commit('c'))), 300);
    write(&models.join("models--org--new/parts/1.part"), 30);
    write(&models.join("models--org--new/refs/main"), 40);
    write(&runtime.join("qwen-0123456789abcdef").join(RUNTIME).join("bundle/H13.bin"), 500);
    // Foreign: another tool's model cache, folders with other names or without a receipt, regular files.
    write(&models.join(format!("models--foreign--m/snapshots/{}/x", commit('d'))), 10);
    write(&models.join("datasets--a--b/x"), 10);
    write(&models.join("models--org--new/snapshots/backup/x"), 10);
    write(&models.join(format!("models--org--new/snapshots/{}/no-receipt", commit('e'))), 10);
    write(&runtime.join("qwen-0123456789abcdef/other/x"), 10);
    write(&runtime.join("com.apple.Safari/x"), 10);
    write(&runtime.join("Safari").join(RUNTIME).join("x"), 10);
    write(&runtime.join("notes-0123456789abcdef/x"), 10);
    let manager = CacheManager::new(Some(models.clone()), vec![runtime.clone()]);
    Tree { _folder: folder, models, runtime, manager }
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).expect("a folder").flatten() {
            if entry.file_type().expect("a type").is_dir() {
                folders.push(entry.path())
            } else {
                files.push(entry.path())
            }
        }
    }
    files.sort();
    files
}

#[test]
fn entries_have_kind_size_and_age() {
    let tree = tree();
    let entries = tree.manager.entries().expect("entries");
    let of = |kind| entries.iter().filter(|e| e.kind == kind).collect::<Vec<_>>();
    let names: Vec<_> = of(EntryKind::Model).iter().map(|e| e.name.clone()).collect();
    assert_eq!(names, ["org/new", "org/old"]);
    assert_eq!(of(EntryKind::Unfinished).iter().map(|e| e.bytes).sum::<u64>(), 330);
    let runtime = of(EntryKind::Runtime);
    assert_eq!((runtime.len(), runtime[0].name.as_str(), runtime[0].bytes), (1, "qwen-0123456789abcdef", 500));
    let old = of(EntryKind::Model)[1];
    let days = old.age(SystemTime::now()).as_secs() / DAY.as_secs();
    assert!(old.bytes > 1000 && (49..=50).contains(&days), "{old:?}");
    assert_eq!(old.commit, Some(commit('a')));
    assert_eq!(tree.manager.list_models().expect("models").len(), 2);
    let nothing = CacheManager::new(Some(tree.models.join("no such folder")), vec![]);
    assert!(nothing.entries().expect("a missing root is empty").is_empty());
}

#[test]
fn a_dry_run_deletes_nothing() {
    let tree = tree();
    let before = all_files(tree.models.parent().expect("a parent"));
    let report = tree.manager.clean(&CleanRule::All, CleanMode::default()).expect("a report");
    assert_eq!((report.removed.len(), report.kept.len()), (5, 0));
    assert!(report.bytes() > 3800);
    assert_eq!(all_files(tree.models.parent().expect("a parent")), before);
}

#[test]
fn cleaning_everything_leaves_what_is_not_ours() {
    let tree = tree();
    let report = tree.manager.clean(&CleanRule::All, CleanMode::Delete).expect("a report");
    assert_eq!((report.removed.len(), report.kept.len()), (5, 0), "{report:?}");
    assert!(tree.manager.entries().expect("entries").is_empty());
    for stays in [
        tree.models.join(format!("models--foreign--m/snapshots/{}/x", commit('d'))),
        tree.models.join("datasets--a--b/x"),
        tree.models.join("models--org--new/snapshots/backup/x"),
        tree.models.join(format!("models--org--new/snapshots/{}/no-receipt", commit('e'))),
        tree.runtime.join("qwen-0123456789abcdef/other/x"),
        tree.runtime.join("com.apple.Safari/x"),
        tree.runtime.join("Safari").join(RUNTIME).join("x"),
        tree.runtime.join("notes-0123456789abcdef/x"),
    ] {
        assert!(stays.is_file(), "{}", stays.display());
    }
}

#[test]
fn age_budget_and_pattern_choose() {
    let clean = |rule: CleanRule| {
        let report = tree().manager.clean(&rule, CleanMode::Delete).expect("a report");
        assert!(report.kept.is_empty());
        report.removed.into_iter().map(|e| e.name).collect::<Vec<_>>()
    };
    assert_eq!(clean(CleanRule::OlderThan(30 * DAY)), ["org/old"]);
    assert_eq!(clean(CleanRule::Matching("*/old".to_owned())), ["org/old"]);
    assert_eq!(clean(CleanRule::Matching("qwen-*".to_owned())), ["qwen-0123456789abcdef"]);
    assert_eq!(clean(CleanRule::Budget(2600)), ["org/new", "org/new", "org/old"], "unfinished first, then the oldest");
    assert!(clean(CleanRule::Budget(1 << 20)).is_empty());
}

#[test]
fn a_model_is_removed_with_its_notes() {
    let tree = tree();
    let report = tree.manager.remove_model("org/old", CleanMode::Delete).expect("a report");
    assert_eq!(report.removed.len(), 1);
    assert!(!tree.models.join("models--org--old").exists());
    // An unknown file keeps its folder.
    tree.manager.remove_model("org/new", CleanMode::Delete).expect("a report");
    assert!(tree.models.join("models--org--new/snapshots/backup/x").is_file());
    assert!(tree.manager.remove_model("org/none", CleanMode::Delete).expect("a report").removed.is_empty());
    assert!(tree.manager.remove_model("foreign/m", CleanMode::Delete).expect("a report").removed.is_empty());
}

#[test]
fn entries_outside_the_roots_are_refused() {
    let tree = tree();
    let other = tempfile::tempdir().expect("a folder");
    let outside = model(other.path(), "org/x", &commit('f'), 10, 0);
    let entry = |path: PathBuf| CacheEntry {
        kind: EntryKind::Model,
        name: "org/x".to_owned(),
        commit: None,
        path,
        bytes: 0,
        last_used: SystemTime::now(),
    };
    let sneaky = tree.models.join("..").join("models/models--org--old/snapshots").join(commit('a'));
    let unknown = tree.models.join("models--org--new/snapshots/backup");
    let whole = tree.models.join("models--org--new");
    for path in [outside.clone(), sneaky, unknown, whole, tree.models.clone()] {
        let report = tree.manager.delete(vec![entry(path.clone())], CleanMode::Delete);
        assert_eq!((report.removed.len(), report.kept.len()), (0, 1), "{}", path.display());
        assert_eq!(report.kept[0].1.kind(), "refused");
        assert!(path.exists());
    }
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_neither_listed_nor_followed() {
    use std::os::unix::fs::symlink;
    let tree = tree();
    let other = tempfile::tempdir().expect("a folder");
    let precious = model(other.path(), "org/precious", &commit('f'), 10, 0);
    symlink(other.path().join("models--org--precious"), tree.models.join("models--org--precious")).expect("a link");
    symlink(&precious, tree.models.join("models--org--new/snapshots").join(commit('f'))).expect("a link");
    let bundle = other.path().join(RUNTIME);
    write(&bundle.join("x"), 10);
    fs::create_dir_all(tree.runtime.join("evil-0123456789abcdef")).expect("a folder");
    symlink(&bundle, tree.runtime.join("evil-0123456789abcdef").join(RUNTIME)).expect("a link");
    // A link inside a model is deleted, its target is not.
    symlink(&precious, tree.models.join("models--org--old/snapshots").join(commit('a')).join("link")).expect("a link");
    let mut linked = tree.manager.entries().expect("entries").remove(0);
    linked.path = tree.models.join("models--org--precious/snapshots").join(commit('f'));
    assert_eq!(tree.manager.delete(vec![linked], CleanMode::Delete).kept.len(), 1);
    let report = tree.manager.clean(&CleanRule::All, CleanMode::Delete).expect("a report");
    assert_eq!(report.removed.len(), 5);
    assert!(precious.join("a.mlpackage/weights/weight.bin").is_file() && bundle.join("x").is_file());
}

#[test]
fn a_model_that_is_being_downloaded_is_kept() {
    let tree = tree();
    let lock = tree.models.join(".locks/models--org--new.lock");
    write(&lock, 0);
    let file = fs::File::options().write(true).open(lock).expect("a lock");
    file.lock().expect("locked");
    let report = tree.manager.clean(&CleanRule::All, CleanMode::Delete).expect("a report");
    assert_eq!((report.removed.len(), report.kept.len()), (2, 3));
    assert!(report.kept.iter().all(|(_, e)| e.to_string().contains("download")));
    drop(file);
    assert_eq!(tree.manager.clean(&CleanRule::All, CleanMode::Delete).expect("a report").removed.len(), 3);
}
