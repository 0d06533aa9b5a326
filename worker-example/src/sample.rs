//! The photos that ship with the repository, and a few hundred jobs made of them.

use crate::job::Job;
use crate::ops::Ops;
use crate::picture::{OutputFormat, Quality};
use crate::store::{Store, StoreError};

/// How many jobs the demo makes unless told otherwise.
pub const SAMPLE_JOBS_DEFAULT: usize = 600;
/// How many distinct jobs there are at most.
pub const SAMPLE_JOBS_MAX: usize = PHOTOS.len() * CROPS.len() * BLURS.len() * SHARPENS.len() * EDGES.len();

const CROPS: [&str; 5] = ["0.9", "0.8", "0.7", "0.6", "0.5"];
const BLURS: [&str; 5] = ["0.8", "1.5", "2.5", "4", "6"];
const SHARPENS: [&str; 4] = ["0.5", "1", "1.5", "2"];
const EDGES: [u32; 5] = [320, 400, 480, 560, 640];

/// The photos are small; enlarged first, a job takes about as long as one with a camera's photo,
/// so that there is a backlog to scale with.
const ENLARGED_PX: u32 = 2800;

/// A real photograph under a free licence; see `photos/ATTRIBUTION.md`.
#[derive(Debug, Clone, Copy)]
pub struct SamplePhoto {
    /// Its file name.
    pub name: &'static str,
    /// Its file, a JPEG.
    pub file: &'static [u8],
    /// Who took it and under which licence it may be used.
    pub attribution: &'static str,
}

/// The photos.
pub const PHOTOS: [SamplePhoto; 2] = [
    SamplePhoto {
        name: "china.jpg",
        file: include_bytes!("../photos/china.jpg"),
        attribution: "china.jpg by danielbuechele, CC BY 2.0",
    },
    SamplePhoto {
        name: "flower.jpg",
        file: include_bytes!("../photos/flower.jpg"),
        attribution: "flower.jpg by vultilion, CC BY 2.0",
    },
];

/// Puts the photos into the store and makes `count` distinct jobs of them, at most
/// [`SAMPLE_JOBS_MAX`]; the same ones every time.
pub fn sample_jobs(store: &Store, count: usize) -> Result<Vec<Job>, StoreError> {
    let mut hashes = Vec::with_capacity(PHOTOS.len());
    for photo in &PHOTOS {
        hashes.push(store.put(photo.file)?);
    }
    let job = |i: usize| {
        let which = i % PHOTOS.len();
        Job {
            photo: hashes[which],
            input: PHOTOS[which].name.into(),
            ops: sample_ops(i / PHOTOS.len()),
            format: OutputFormat::default(),
            quality: Quality::default(),
        }
    };
    Ok((0..count.min(SAMPLE_JOBS_MAX)).map(job).collect())
}

/// The combination of this number. Crop and edge change fastest, so that neighbours on the contact sheet
/// look different; the order of the steps changes with them.
fn sample_ops(number: usize) -> Ops {
    let i = number;
    let crop = CROPS[i % CROPS.len()];
    let i = i / CROPS.len();
    let sharpen = SHARPENS[i % SHARPENS.len()];
    let i = i / SHARPENS.len();
    let blur = BLURS[i % BLURS.len()];
    // The crop's index is added, so that the edge changes with every crop; no two become the same.
    let edge = EDGES[(i / BLURS.len() + number) % EDGES.len()];
    let text = match i % 3 {
        0 => format!("resize={ENLARGED_PX},crop={crop},sharpen={sharpen},blur={blur},resize={edge}"),
        1 => format!("resize={ENLARGED_PX},blur={blur},crop={crop},resize={edge},sharpen={sharpen}"),
        _ => format!("crop={crop},resize={ENLARGED_PX},blur={blur},sharpen={sharpen},resize={edge}"),
    };
    text.parse().expect("the combinations are within bounds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn jobs_are_distinct_and_always_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let jobs = sample_jobs(&store, usize::MAX).unwrap();
        assert_eq!(jobs.len(), SAMPLE_JOBS_MAX);
        let names: BTreeSet<_> = jobs.iter().map(Job::output_name).collect();
        assert_eq!(names.len(), SAMPLE_JOBS_MAX);
        let fewer = sample_jobs(&store, SAMPLE_JOBS_DEFAULT).unwrap();
        assert_eq!(fewer, jobs[..SAMPLE_JOBS_DEFAULT]);
    }

    #[test]
    fn attribution_file_names_every_photo() {
        let text = include_str!("../photos/ATTRIBUTION.md");
        for photo in PHOTOS {
            assert!(text.contains(photo.name), "{}", photo.name);
        }
    }
}
