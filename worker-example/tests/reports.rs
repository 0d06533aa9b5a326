//! The contact sheet and the plot. `REPORT_DIR=… cargo test` keeps them to be looked at.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::*;
use photo_pipeline::report::*;
use photo_pipeline::results::{Death, Record};
use photo_pipeline::sample::sample_jobs;
use photo_pipeline::*;

/// Encodes, checks that it is a PNG of that size, and keeps it if somebody wants to look.
fn check_png(picture: &Picture, name: &str, size: (u32, u32)) {
    let file = picture.encode(OutputFormat::Png, Quality::default()).unwrap();
    if let Some(dir) = std::env::var_os("REPORT_DIR") {
        fs::write(std::path::Path::new(&dir).join(name), &file).unwrap();
    }
    assert_eq!(png_size(&file), size, "{name}");
    assert_eq!(Picture::decode(&file).unwrap(), *picture, "{name}");
}

/// A run as the demo has it: 200 jobs at once, workers 0 to 4 and back to 0.
fn run() -> Vec<ScaleSample> {
    let mut backlog = 200.0_f64;
    let mut samples = Vec::new();
    for i in 0..=110_u64 {
        let at_ms = i * 200;
        let workers = match at_ms {
            0..800 => 0,
            800..2400 => 1,
            2400..4200 => 2,
            4200..13000 => 4,
            13000..15000 => 2,
            15000..19000 => 1,
            _ => 0,
        };
        backlog = (backlog - f64::from(workers) * 4.3 * 0.9).max(0.0);
        samples.push(ScaleSample { at_ms, backlog: backlog as u64, workers });
    }
    samples
}

#[test]
fn plot_is_a_png_of_the_promised_size() {
    let size = (PLOT_WIDTH_PX, PLOT_HEIGHT_PX);
    check_png(&autoscale_plot(&run()), "autoscale.png", size);
    let long: Vec<_> = run()
        .iter()
        .map(|s| ScaleSample { at_ms: s.at_ms * 40, backlog: s.backlog * 1234, workers: s.workers * 7 })
        .collect();
    check_png(&autoscale_plot(&long), "autoscale-long.png", size);
}

#[test]
fn plot_shows_both_lines() {
    let plot = autoscale_plot(&run());
    let count = |colour: [u8; 3]| plot.rgb().chunks_exact(3).filter(|p| *p == colour).count();
    let empty = autoscale_plot(&[]);
    let axes = |colour: [u8; 3]| empty.rgb().chunks_exact(3).filter(|p| *p == colour).count();
    for colour in [[0, 114, 178], [213, 94, 0]] {
        assert!(count(colour) > axes(colour) + 1000, "{colour:?}");
    }
}

#[test]
fn plot_survives_odd_samples() {
    let sample = |at_ms, backlog, workers| ScaleSample { at_ms, backlog, workers };
    let odd = [
        vec![],
        vec![sample(0, 0, 0)],
        vec![sample(5, 7, 1)],
        vec![sample(0, 1, 1), sample(0, 2, 2), sample(0, 0, 0)],
        vec![sample(9_000, 1, 1), sample(1_000, 2, 2)],
        vec![sample(0, u64::MAX / 4, u32::MAX), sample(u64::MAX / 4, 0, 0)],
    ];
    for samples in odd {
        let plot = autoscale_plot(&samples);
        assert_eq!((plot.width(), plot.height()), (PLOT_WIDTH_PX, PLOT_HEIGHT_PX), "{samples:?}");
    }
}

#[test]
fn contact_sheet_is_made_of_what_a_run_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut pairs = Vec::new();
    for job in sample_jobs(&store, 200).unwrap().into_iter().step_by(23) {
        let record = run_and_record(&store, &job, &out, 1).unwrap();
        pairs.push((job, record));
    }
    let mut narrow = job(
        &store,
        tall_photo().as_slice(),
        "tall, with a very long name that goes on and on and has to be cut somewhere.jpg",
        "resize=300",
    );
    narrow.format = OutputFormat::Png;
    pairs.push((narrow.clone(), run_and_record(&store, &narrow, &out, 1).unwrap()));
    let dead = job(&store, &sample::PHOTOS[0].file[..9000], "truncated.jpg", "crop=0.5");
    let reason = run_job(&store, &dead, &out).unwrap_err().to_string();
    let deaths = BTreeMap::from([(dead.id(), Death { reason, attempts: 1 })]);
    let record = Record::dead(&dead, &deaths[&dead.id()]);
    pairs.push((dead, record));

    let entries = sheet_entries(&store, &out, &pairs, 24);
    assert_eq!(entries.len(), pairs.len());
    assert!(entries[0].before.is_none() && entries[0].after.is_none());
    assert!(entries[1..].iter().all(|e| e.before.is_some() && e.after.is_some()));
    let sheet = contact_sheet(&entries);
    check_png(&sheet, "contact-sheet.png", (sheet.width(), sheet.height()));
    assert_eq!(sheet.width(), 2 * 28 + 3 * 470 + 2 * 26);

    let few = sheet_entries(&store, &out, &pairs, 5);
    assert_eq!(few.len(), 5);
}

fn tall_photo() -> Vec<u8> {
    let tall = apply(&photo(), "crop=90x420+200+3");
    tall.encode(OutputFormat::Jpeg, Quality::default()).unwrap()
}

#[test]
fn contact_sheet_is_bounded() {
    let entry = SheetEntry::new(Some(photo()), None, "a.jpg", "b");
    let many = vec![entry; 3 * SHEET_ENTRIES_MAX];
    let full = contact_sheet(&many[..SHEET_ENTRIES_MAX]);
    let more = contact_sheet(&many);
    assert_eq!((more.width(), more.height()), (full.width(), full.height()));
    let none = contact_sheet(&[]);
    assert!(none.width() > 400 && none.height() > 200);
}
