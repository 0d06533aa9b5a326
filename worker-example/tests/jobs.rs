//! The store, jobs, and what they leave behind.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use photo_pipeline::results::{Death, forget_records, tally, write_results};
use photo_pipeline::sample::{PHOTOS, sample_jobs};
use photo_pipeline::*;

fn place() -> (tempfile::TempDir, Store, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    (dir, store, out)
}

/// Every plain file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[test]
fn store_gives_back_what_was_put_and_keeps_it_once() {
    let (_dir, store, _) = place();
    for bytes in [&b""[..], b"a", PHOTOS[0].file] {
        let hash = store.put(bytes).unwrap();
        assert_eq!(store.put(bytes).unwrap(), hash);
        assert_eq!(store.get(hash).unwrap(), bytes);
        assert_eq!(hash.to_string().parse::<PhotoHash>().unwrap(), hash);
    }
    assert_eq!(files(store.dir()).len(), 3);
    // SHA-256 of "a", FIPS 180-4 as everyone computes it: the layout is kept for ever.
    let name = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert!(store.dir().join("ca").join(name).is_file());
}

#[test]
fn store_does_not_write_anew_what_is_there() {
    let (_dir, store, _) = place();
    let path = store.path_of(store.put(b"photo").unwrap());
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    store.put(b"photo").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn store_finds_damage_and_mends_it_when_the_photo_comes_again() {
    let (_dir, store, _) = place();
    let hash = store.put(b"photo").unwrap();
    for damage in [&b"phot"[..], b"Photo", b"", b"photos"] {
        fs::write(store.path_of(hash), damage).unwrap();
        let error = store.get(hash).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }) && !error.is_passing(), "{error}");
        assert_eq!(store.put(b"photo").unwrap(), hash);
        assert_eq!(store.get(hash).unwrap(), b"photo");
    }
}

#[test]
fn store_says_what_is_missing() {
    let (_dir, store, _) = place();
    let error = store.get(PhotoHash::of(b"nothing")).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }) && error.is_passing(), "{error}");
    let error = store.put_file(Path::new("/nowhere/a.jpg")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nowhere/a.jpg: "), "{error}");
    let error = store.put_file(store.dir()).unwrap_err();
    assert!(error.to_string().contains("not a plain file"), "{error}");
}

#[test]
fn many_threads_put_the_same_photo() {
    let (_dir, store, _) = place();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..20_u8 {
                    store.put(&vec![i; 10_000]).unwrap();
                }
            });
        }
    });
    assert_eq!(files(store.dir()).len(), 20);
}

#[test]
fn hash_has_one_spelling() {
    let good = PhotoHash::of(b"a").to_string();
    for bad in [&good[1..], &good.to_uppercase(), &good.replace('c', "g"), "", &format!("{good}0")] {
        assert_eq!(bad.parse::<PhotoHash>(), Err(BadHash), "{bad}");
    }
}

#[test]
fn same_job_twice_gives_one_file_with_the_same_bytes() {
    let (_dir, store, out) = place();
    let job = job(&store, PHOTOS[0].file, "china.jpg", "crop=0.8,blur=2,sharpen=1,resize=300");
    let first = run_and_record(&store, &job, &out, 1).unwrap();
    let path = out.join(first.output.as_ref().unwrap());
    let bytes = fs::read(&path).unwrap();
    let second = run_and_record(&store, &job, &out, 2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!((second.output, second.width, second.height), (first.output, Some(300), Some(200)));
    // One picture and one record.
    assert_eq!(files(&out).len(), 2, "{:?}", files(&out));
    let tally = tally(&out, &[job.clone(), job], &BTreeMap::new()).unwrap();
    assert_eq!(tally.records.len(), 1);
    assert_eq!(tally.records[0].attempts, 2);
    let picture = Picture::decode(&bytes).unwrap();
    assert_eq!((picture.width(), picture.height()), (300, 200));
}

#[test]
fn permanent_and_passing_errors_are_told_apart() {
    let (_dir, store, out) = place();
    let cut = &PHOTOS[0].file[..PHOTOS[0].file.len() / 2];
    let permanent = [
        job(&store, cut, "cut.jpg", "crop=0.5"),
        job(&store, b"no picture", "text.jpg", "crop=0.5"),
        job(&store, PHOTOS[0].file, "china.jpg", "crop=641x10+0+0"),
        job(&store, PHOTOS[0].file, "china.jpg", "resize=20000"),
    ];
    for job in permanent {
        let error = run_job(&store, &job, &out).unwrap_err();
        assert!(!error.is_passing() && error.to_string().starts_with(&job.input), "{error}");
    }
    assert_eq!(files(&out), Vec::<PathBuf>::new());

    let good = job(&store, PHOTOS[0].file, "china.jpg", "crop=0.5");
    let mut missing = good.clone();
    missing.photo = PhotoHash::of(b"never stored");
    let error = run_job(&store, &missing, &out).unwrap_err();
    assert!(error.is_passing() && matches!(error, JobError::Store(_)), "{error}");
    // A directory that cannot be made, since a file has its name.
    let blocked = out.join("blocked");
    fs::write(&blocked, b"").unwrap();
    let error = run_job(&store, &good, &blocked).unwrap_err();
    assert!(error.is_passing() && matches!(error, JobError::File(_)), "{error}");
}

#[test]
fn results_have_one_line_for_every_photo() {
    let (_dir, store, out) = place();
    let mut jobs = sample_jobs(&store, 4).unwrap();
    for job in &mut jobs {
        job.ops = ops("resize=64");
        job.input = format!("sub/{}", job.input);
    }
    jobs.truncate(2);
    let dead = job(&store, b"no picture", "text.jpg", "crop=0.5");
    let open = job(&store, PHOTOS[1].file, "open.jpg", "crop=0.5");
    for job in &jobs {
        run_and_record(&store, job, &out, 1).unwrap();
    }
    let reason = run_job(&store, &dead, &out).unwrap_err().to_string();
    let deaths = BTreeMap::from([
        (dead.id(), Death { reason, attempts: 1 }),
        // Died by the clock while its worker was just finishing: the result counts.
        (jobs[0].id(), Death { reason: "too many attempts".into(), attempts: 5 }),
    ]);
    let all = [&jobs[..], &[dead.clone(), open.clone(), jobs[1].clone()]].concat();
    let tally = tally(&out, &all, &deaths).unwrap();
    assert_eq!(tally.open, [open.id()]);

    let path = write_results(&out, &tally.records).unwrap();
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut expected = ["input", "output", "status", "error", "ops", "width", "height", "ms", "attempts"];
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
    assert_eq!(lines[0]["status"], "done");
    assert_eq!(lines[0]["input"], "sub/china.jpg");
    assert!(out.join(lines[0]["output"].as_str().unwrap()).is_file());
    assert_eq!(lines[0]["error"], serde_json::Value::Null);
    assert_eq!(lines[2]["status"], "dead");
    assert_eq!(lines[2]["output"], serde_json::Value::Null);
    assert_eq!(lines[2]["error"], "text.jpg: not a JPEG or PNG file");

    forget_records(&out, &all).unwrap();
    assert_eq!(photo_pipeline::results::tally(&out, &all, &BTreeMap::new()).unwrap().open.len(), 4);
}

#[test]
fn what_killed_workers_leave_is_taken_away() {
    let (_dir, store, out) = place();
    fs::create_dir(out.join(".tmp")).unwrap();
    fs::write(out.join(".tmp/123-0"), b"half a pic").unwrap();
    job::remove_temps(&out).unwrap();
    job::remove_temps(&out).unwrap();
    assert_eq!(files(&out), Vec::<PathBuf>::new());
    // A worker makes the directory anew when it needs it.
    let job = job(&store, PHOTOS[0].file, "a.jpg", "crop=0.5");
    run_and_record(&store, &job, &out, 1).unwrap();
    assert_eq!(files(&out.join(".tmp")), Vec::<PathBuf>::new());
}

#[test]
fn every_sample_job_of_the_default_set_fits_its_photo() {
    let (_dir, store, out) = place();
    // Every seventh, so that all crops, blurs, amounts and orders occur.
    for job in sample_jobs(&store, sample::SAMPLE_JOBS_DEFAULT).unwrap().iter().step_by(7) {
        let result = run_job(&store, job, &out).unwrap();
        assert!(result.bytes > 0);
    }
}
