//! Tests of the cache: any order of steps, several threads, damage, links.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

fn cache() -> (tempfile::TempDir, ModelCache) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = ModelCache::new(folder.path().join("deep/root")).with_patience(Duration::from_secs(60));
    (folder, cache)
}

fn key(n: u64) -> CacheKey {
    CacheKey::parse(&format!("{n:064x}")).expect("64 digits")
}

/// A folder in the form that the compiler produces.
fn compiled(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join(format!("compiled-{content}"));
    std::fs::create_dir_all(path.join("weights")).expect("folders");
    std::fs::write(path.join("model.mil"), content).expect("a file");
    std::fs::write(path.join("weights/weight.bin"), content).expect("a file");
    path
}

fn vacant(cache: &ModelCache, key: &CacheKey) -> Reservation {
    match cache.slot(key).expect("a slot") {
        Slot::Vacant(reservation) => reservation,
        Slot::Ready(path) => panic!("{}", path.display()),
    }
}

fn content(path: &Path) -> String {
    let model = std::fs::read_to_string(path.join("model.mil")).expect("a file");
    assert_eq!(std::fs::read_to_string(path.join("weights/weight.bin")).expect("a file"), model, "whole");
    model
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Build(u64),
    Fail(u64),
    Crash(u64),
    Evict(u64),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u64..3, 0_usize..5).prop_map(|(k, s)| match s {
        0 => Step::Build(k),
        1 => Step::Fail(k),
        2 => Step::Crash(k),
        3 => Step::Evict(k),
        _ => Step::Sweep,
    });
    prop::collection::vec(step, 0..16)
}

proptest! {
    #![proptest_config(crate::cases(48))]
    /// Any sequence of steps behaves like a map from keys to contents.
    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn the_cache_is_a_map_whatever_fails(steps in steps()) {
        let (folder, cache) = cache();
        let (mut want, mut left) = (BTreeMap::new(), 0);
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Build(k) => match cache.slot(&key(k)).expect("a slot") {
                    Slot::Ready(path) => prop_assert_eq!(Some(&content(&path)), want.get(&k)),
                    Slot::Vacant(reservation) => {
                        prop_assert!(!want.contains_key(&k));
                        let path = reservation.publish(&compiled(folder.path(), &i.to_string()), "15").expect("published");
                        want.insert(k, content(&path));
                    }
                },
                Step::Fail(k) => if let Slot::Vacant(reservation) = cache.slot(&key(k)).expect("a slot") {
                    prop_assert!(reservation.publish(&folder.path().join("none"), "15").is_err());
                },
                // A crashed process leaves its folder and loses its lock.
                Step::Crash(k) => {
                    std::fs::create_dir_all(cache.place(&key(k), "tmp/half")).expect("folders");
                    left += 1;
                }
                Step::Evict(k) => {
                    cache.evict(&key(k)).expect("evicted");
                    want.remove(&k);
                }
                Step::Sweep => {
                    prop_assert!(cache.sweep().expect("swept") <= left);
                    prop_assert_eq!(cache.sweep().expect("swept"), 0);
                }
            }
            let entries = cache.entries().expect("entries");
            let found: BTreeMap<_, _> = entries.iter().map(|e| (e.key.clone(), content(&e.path))).collect();
            let wanted: BTreeMap<_, _> = want.iter().map(|(k, v)| (key(*k), v.clone())).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn many_threads_build_a_model_once() {
    let (folder, cache) = cache();
    let builds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (cache, builds, folder) = (&cache, &builds, folder.path());
            scope.spawn(move || {
                let path = match cache.slot(&key(1)).expect("a slot") {
                    Slot::Ready(path) => path,
                    Slot::Vacant(reservation) => {
                        builds.fetch_add(1, Ordering::SeqCst);
                        reservation.publish(&compiled(folder, &i.to_string()), "15").expect("published")
                    }
                };
                content(&path);
            });
        }
    });
    assert_eq!(builds.load(Ordering::SeqCst), 1);
    let entries = cache.entries().expect("entries");
    assert_eq!((entries.len(), entries[0].bytes), (1, 2));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn a_lock_that_is_held_is_waited_for_but_not_for_ever() {
    let (folder, cache) = cache();
    let reservation = vacant(&cache, &key(1));
    std::fs::create_dir(&reservation.staging).expect("half a model");
    assert_eq!(cache.sweep().expect("swept"), 0, "what is being built stays");
    let hasty = cache.clone().with_patience(Duration::ZERO);
    assert!(matches!(hasty.slot(&key(1)), Err(CacheError::Busy { .. })));
    assert!(matches!(hasty.slot(&key(2)), Ok(Slot::Vacant(_))), "another model is free");
    let waits = std::thread::spawn({
        let cache = cache.clone();
        move || matches!(cache.slot(&key(1)), Ok(Slot::Ready(_)))
    });
    std::fs::remove_dir(&reservation.staging).expect("removed");
    reservation.publish(&compiled(folder.path(), "late"), "15").expect("published");
    assert!(waits.join().expect("a slot"));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn failures_leave_nothing_and_name_the_path() {
    let (folder, cache) = cache();
    assert_eq!((cache.entries().expect("none").len(), cache.sweep().expect("none")), (0, 0));
    let reservation = vacant(&cache, &key(1));
    let error = reservation.publish(&folder.path().join("missing"), "15").expect_err("no such folder");
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(cache.lookup(&key(1)).is_none());
    drop(vacant(&cache, &key(1)));
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("a file");
    assert!(matches!(ModelCache::new(&file).slot(&key(1)), Err(CacheError::Io { .. })));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn compiled_models_are_told_from_sources() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        path
    };
    let (source, named, bare) = (make("a.mlpackage"), make("b.mlmodelc"), make("c"));
    std::fs::write(bare.join("coremldata.bin"), b"").expect("a file");
    assert_eq!([&source, &named, &bare].map(|p| is_compiled(p)), [false, true, true]);
    assert!(!is_compiled(&folder.path().join("none.mlmodelc")));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn folders_are_copied_whole_from_other_volumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("copy");
    copy(&compiled(folder.path(), "x"), &to, 0).expect("copied");
    assert_eq!(content(&to), "x");
    assert!(copy(&folder.path().join("none"), &folder.path().join("other"), 0).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn damage_is_repaired_and_what_is_whole_stays() {
    let (folder, cache) = cache();
    let build = |content: &str| {
        let path = vacant(&cache, &key(1)).publish(&compiled(folder.path(), content), "15").expect("published");
        assert_eq!((cache.damage(&key(1)), content.to_owned()), (None, self::content(&path)));
        path
    };
    let weights = |path: &Path| path.join("weights/weight.bin");
    type Harm = fn(&Path, &Path);
    let harms: [(Harm, &str); 5] = [
        (|model, _| std::fs::remove_file(model.join("model.mil")).expect("removed"), "model.mil is missing"),
        (|model, _| std::fs::remove_dir_all(model.join("weights")).expect("removed"), "weights/weight.bin is missing"),
        (|model, _| std::fs::write(model.join("weights/weight.bin"), "").expect("cut"), "weight.bin has 0 bytes"),
        (|_, list| std::fs::remove_file(list).expect("removed"), "list of its files can't be read"),
        (
            |_, list| std::fs::write(list, "candle-coreml files 2\nsystem 15\nx model.mil\n").expect("written"),
            "has the line `x",
        ),
    ];
    for (i, (harm, said)) in harms.into_iter().enumerate() {
        let path = build(&i.to_string());
        harm(&path, &cache.place(&key(1), "files"));
        let damage = cache.damage(&key(1)).expect("damage");
        assert!(damage.contains(said), "{damage}");
        assert!(path.is_dir(), "nobody but the next builder removes it");
    }
    // More or longer files are no damage: the framework may keep its own beside ours.
    let path = build("whole");
    std::fs::write(weights(&path), "whole and more").expect("a file");
    std::fs::write(path.join("analytics.bin"), "x").expect("a file");
    assert!(matches!(cache.slot(&key(1)), Ok(Slot::Ready(_))));
    cache.evict(&key(1)).expect("evicted");
    assert!(!cache.place(&key(1), "files").exists());
}

#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn sources_with_links_are_compiled_from_a_copy_without() {
    use std::os::unix::fs::symlink;
    let (folder, cache) = cache();
    // As in Hugging Face's cache.
    let blobs = folder.path().join("blobs");
    let package = folder.path().join("snapshots/c0ffee/a.mlpackage");
    std::fs::create_dir_all(package.join("Data/com.apple.CoreML/weights")).expect("folders");
    std::fs::create_dir(&blobs).expect("a folder");
    std::fs::write(blobs.join("1"), "weights").expect("a file");
    std::fs::write(package.join("Manifest.json"), "{}").expect("a file");
    std::fs::write(package.join("Data/com.apple.CoreML/model.mlmodel"), "specification").expect("a file");
    let link = package.join("Data/com.apple.CoreML/weights/weight.bin");
    let reservation = vacant(&cache, &key(1));
    assert_eq!(reservation.plain_source(&package).expect("plain"), (package.clone(), false));
    symlink("../../../../../../blobs/1", &link).expect("a link");
    let (plain, copied) = reservation.plain_source(&package).expect("a copy");
    assert!(copied && plain.starts_with(cache.root()) && plain.ends_with("a.mlpackage"));
    let copy = plain.join("Data/com.apple.CoreML/weights/weight.bin");
    assert!(std::fs::symlink_metadata(&copy).expect("there").is_file());
    assert_eq!(std::fs::read_to_string(&copy).expect("read"), "weights");
    assert_eq!(cache.sweep().expect("swept"), 0, "what is being compiled stays");
    drop(reservation);
    assert!(!plain.exists(), "the copy goes with the right to build");

    // A file of its own that is a link, as `.mlmodel` files are there.
    std::fs::write(blobs.join("2"), "a model").expect("a file");
    let single = folder.path().join("b.mlmodel");
    symlink("blobs/2", &single).expect("a link");
    let reservation = vacant(&cache, &key(2));
    let (plain, copied) = reservation.plain_source(&single).expect("a copy");
    assert_eq!((std::fs::read_to_string(&plain).expect("read").as_str(), copied), ("a model", true));
    drop(reservation);

    // Links to nothing and to themselves are errors that name them, and leave nothing behind.
    for target in ["nowhere", "weight.bin", "../../.."] {
        std::fs::remove_file(&link).expect("removed");
        symlink(target, &link).expect("a link");
        let reservation = vacant(&cache, &key(3));
        let error = reservation.plain_source(&package).expect_err("no such file").to_string();
        assert!(error.contains("weight.bin"), "{error}");
        drop(reservation);
    }
    // A crash leaves the copy to the next sweep.
    std::fs::create_dir_all(cache.place(&key(4), "source/a.mlpackage")).expect("folders");
    assert_eq!(cache.sweep().expect("swept"), 1);
    let left = std::fs::read_dir(cache.root())
        .expect("read")
        .filter(|e| e.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x != "lock")));
    assert_eq!(left.count(), 0);
}

#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn a_compiled_model_with_a_link_is_not_published() {
    let (folder, cache) = cache();
    let model = compiled(folder.path(), "x");
    std::fs::remove_file(model.join("weights/weight.bin")).expect("removed");
    std::os::unix::fs::symlink("../../nowhere", model.join("weights/weight.bin")).expect("a link");
    let error = vacant(&cache, &key(1)).publish(&model, "15").expect_err("a link").to_string();
    assert!(error.contains("weight.bin") && error.contains("symbolic link"), "{error}");
    assert!(cache.lookup(&key(1)).is_none() && cache.entries().expect("none").is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn packages_without_a_manifest_are_compiled_by_their_specification() {
    let (folder, cache) = cache();
    let package = folder.path().join("a.mlpackage");
    let specification = package.join("Data/com.apple.CoreML/model.mlmodel");
    std::fs::create_dir_all(specification.parent().expect("a folder")).expect("folders");
    std::fs::write(&specification, "x").expect("a file");
    let plain = |key| vacant(&cache, &key).plain_source(&package).expect("plain");
    assert_eq!(plain(key(1)), (specification, false));
    std::fs::write(package.join("Manifest.json"), "{}").expect("a file");
    assert_eq!(plain(key(1)), (package.clone(), false));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn a_wait_can_be_given_up() {
    let (_folder, cache) = cache();
    let _reservation = vacant(&cache, &key(1));
    let asked = AtomicUsize::new(0);
    let more = || asked.fetch_add(1, Ordering::SeqCst) < 3;
    assert!(matches!(cache.slot_while(&key(1), &more), Err(CacheError::Busy { .. })));
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn keys_are_remembered_until_a_file_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.mlmodel");
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    let write = |content: &str, time| {
        std::fs::write(&file, content).expect("a file");
        File::options().write(true).open(&file).and_then(|f| f.set_modified(time)).expect("a time");
    };
    let keys = || {
        let remembered = CacheKey::remembered(&file, "15").expect("a key");
        (remembered, CacheKey::of(&file, "15").expect("a key"))
    };
    write("one", old);
    let (first, want) = keys();
    assert_eq!(first, want);
    // The same size and time, in place: only the memory can still say the old key.
    write("two", old);
    let (second, changed) = keys();
    assert_eq!((&second, second == changed), (&first, false), "the content was not read again");
    assert_ne!(CacheKey::remembered(&file, "16").expect("a key"), first);
    write("two", old + Duration::from_secs(1));
    assert_eq!(keys().0, changed, "another time");
    write("three", old + Duration::from_secs(1));
    let (third, want) = keys();
    assert_eq!(third, want, "another size");
    // What changed just now may change again within one tick of the clock.
    write("four!", std::time::SystemTime::now());
    keys();
    write("five!", std::time::SystemTime::now());
    let (last, want) = keys();
    assert_eq!(last, want);
    assert!(CacheKey::remembered(&folder.path().join("none"), "15").is_err());
}

#[test]
fn keys_of_several_models_are_joined_in_order() {
    let joined = |keys: &[CacheKey]| CacheKey::joined(keys);
    assert_ne!(joined(&[key(1), key(2)]), joined(&[key(2), key(1)]));
    assert_ne!(joined(&[key(1)]), key(1));
    assert_eq!(joined(&[key(1), key(2)]), joined(&[key(1), key(2)]));
}

#[test]
#[cfg_attr(miri, ignore = "needs files")]
fn a_new_system_removes_what_the_old_one_left() {
    let (folder, cache) = cache();
    for (k, system) in [(1, "15.1 24B83"), (2, "15.2 24C1"), (3, "15.1 24B83")] {
        vacant(&cache, &key(k)).publish(&compiled(folder.path(), "m"), system).expect("published");
    }
    // A list of an earlier version names no system.
    std::fs::write(cache.place(&key(3), "files"), "candle-coreml files 1\n1 x\n").expect("a list");
    for (k, system, function) in [(1, "15.1 24B83", None), (2, "15.2 24C1", None), (4, "15.1 24B83", Some("infer"))] {
        let question = Question {
            units: crate::options::ComputeUnits::All,
            function: function.map(str::to_owned),
            system: system.to_owned(),
        };
        let verdict = Verdict { question, model: "/m".into(), outcome: Outcome::Proved };
        cache.record(&key(k), &verdict).expect("recorded");
    }
    let held = cache.lock(&key(3), Duration::ZERO).expect("a lock");
    assert_eq!(cache.retire("15.2 24C1").expect("retired"), 3, "model 1, records of 1 and 4");
    drop(held);
    assert_eq!(cache.retire("15.2 24C1").expect("retired"), 1, "model 3, when its lock is free");
    let left: Vec<CacheKey> = cache.entries().expect("entries").into_iter().map(|e| e.key).collect();
    assert_eq!(left, [key(2)]);
    assert_eq!(cache.damage(&key(2)), None);
    let verdicts = cache.verdicts().expect("verdicts");
    assert_eq!((verdicts.len(), &verdicts[0].0), (1, &key(2)));
    assert_eq!(cache.retire("15.2 24C1").expect("nothing left"), 0);
}
