//! One file: what readers see, what is durable, and the changes between the two in the order they were made.
//!
//! ```text
//! cached   = what read_at returns
//! durable  = what a power cut cannot take
//! log      = writes (as whole-sector images), cuts and extensions since the last sync
//! poisoned = a failed sync has emptied the log without applying it: cached and durable differ for good
//! ```
//!
//! Bytes are shared between the forks of a disk until one of them changes them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::{SECTOR_BYTES, Survival, Unsynced, UnsyncedPart};

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    cached: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    log: Vec<Change>,
    poisoned: bool,
}

#[derive(Clone, Debug)]
enum Change {
    /// `image` starts on a sector boundary; its n-th sector has the sequence number `seq + n`.
    Write {
        seq: u64,
        position: usize,
        image: Arc<[u8]>,
        end: usize,
    },
    Cut {
        seq: u64,
        bytes: usize,
    },
    Extend {
        seq: u64,
        bytes: usize,
    },
}

impl Content {
    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// The sequence number of the oldest unsynced change.
    pub(super) fn unsynced_start(&self) -> Option<u64> {
        self.log.first().map(|change| match change {
            Change::Write { seq, .. } | Change::Cut { seq, .. } | Change::Extend { seq, .. } => *seq,
        })
    }

    pub(super) fn write(&mut self, next_seq: &mut u64, position: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = position + bytes.len();
        let cached = Arc::make_mut(&mut self.cached);
        put(cached, position, bytes);
        let from = position / SECTOR_BYTES * SECTOR_BYTES;
        let to = end.next_multiple_of(SECTOR_BYTES).min(cached.len());
        let image: Arc<[u8]> = cached[from..to].into();
        let seq = *next_seq;
        *next_seq += image.len().div_ceil(SECTOR_BYTES) as u64;
        self.log.push(Change::Write { seq, position: from, image, end });
    }

    pub(super) fn set_len(&mut self, next_seq: &mut u64, bytes: usize) {
        let seq = *next_seq;
        match bytes.cmp(&self.cached.len()) {
            std::cmp::Ordering::Less => self.log.push(Change::Cut { seq, bytes }),
            std::cmp::Ordering::Greater => self.log.push(Change::Extend { seq, bytes }),
            std::cmp::Ordering::Equal => return,
        }
        *next_seq += 1;
        Arc::make_mut(&mut self.cached).resize(bytes, 0);
    }

    /// Makes all of the log durable.
    pub(super) fn sync(&mut self) {
        let log = std::mem::take(&mut self.log);
        if !log.is_empty() {
            apply_all(Arc::make_mut(&mut self.durable), &log);
        }
    }

    /// The sync failed: the pages count as clean now, and only what `decide` keeps has reached the device.
    pub(super) fn fail_sync(&mut self, path: &Arc<str>, decide: &mut dyn FnMut(&Unsynced) -> Survival) {
        self.poisoned |= !self.log.is_empty();
        self.settle(path, decide);
    }

    /// The power was cut.
    pub(super) fn crash(&mut self, path: &Arc<str>, decide: &mut dyn FnMut(&Unsynced) -> Survival) {
        if self.settle(path, decide) || self.poisoned {
            self.cached.clone_from(&self.durable);
            self.poisoned = false;
        }
    }

    /// What the device holds once the dirty pages are written back, which is not yet durable.
    pub(super) fn written_back(&self) -> Vec<u8> {
        let mut image = self.durable.to_vec();
        apply_all(&mut image, &self.log);
        image.resize(self.cached.len(), 0);
        image
    }

    /// Forgets the clean pages; the kernel keeps the length.
    pub(super) fn drop_cache(&mut self) {
        if self.poisoned {
            self.cached = Arc::new(self.written_back());
        }
    }

    /// Flips a bit on the device and in the cache, but not in what is still to be written over it.
    pub(super) fn flip_bit(&mut self, position: usize, bit: u32) -> bool {
        if position < self.durable.len() {
            Arc::make_mut(&mut self.durable)[position] ^= 1 << bit;
        }
        let found = position < self.cached.len();
        if found {
            Arc::make_mut(&mut self.cached)[position] ^= 1 << bit;
        }
        found
    }

    /// Applies to `durable` what survives of the log and empties it. False if there was nothing to decide.
    ///
    /// Every question is asked whatever the answers to the others are, so that subsets can be enumerated.
    fn settle(&mut self, path: &Arc<str>, decide: &mut dyn FnMut(&Unsynced) -> Survival) -> bool {
        let log = std::mem::take(&mut self.log);
        if log.is_empty() {
            return false;
        }
        let mut keeps = |seq: u64, part: UnsyncedPart, is_idle: bool| {
            decide(&Unsynced { seq, path: path.clone(), part, is_idle })
        };
        let asked_length = length_question(self.durable.len(), &log);
        let mut idle = Idle::default();
        let durable = Arc::make_mut(&mut self.durable);
        // The file ends somewhere in [low, high]; kept sectors may lie beyond the end, and are then gone.
        let mut low = durable.len();
        let mut high = low;
        for change in &log {
            match change {
                Change::Write { seq, position, image, end } => {
                    for (n, sector) in image.chunks(SECTOR_BYTES).enumerate() {
                        let at = position + n * SECTOR_BYTES;
                        let part = UnsyncedPart::Sector { position: at as u64 };
                        if keeps(seq + n as u64, part, idle.is_idle(durable, at, sector)) != Survival::Lost {
                            put(durable, at, sector);
                        }
                    }
                    high = high.max(*end);
                }
                Change::Cut { seq, bytes } => {
                    idle.was_cut = true;
                    if keeps(*seq, UnsyncedPart::Cut { bytes: *bytes as u64 }, false) != Survival::Lost {
                        durable.truncate(*bytes);
                        low = low.min(*bytes);
                        high = *bytes;
                    }
                }
                Change::Extend { bytes, .. } => high = high.max(*bytes),
            }
        }
        let mut len = low;
        if let Some((seq, range)) = asked_length {
            let part = UnsyncedPart::Length { from: range.start as u64, to: range.end as u64 };
            match keeps(seq, part, false) {
                Survival::Lost => {}
                Survival::Kept => len = high,
                Survival::Partly(bytes) => len = (bytes as usize).clamp(low, high.max(low)),
            }
        }
        durable.resize(len, 0);
        true
    }
}

/// Tells which sectors change nothing, wherever the decisions about those before them went.
#[derive(Default)]
struct Idle {
    /// Sectors for which there was a decision that mattered.
    changed: BTreeSet<usize>,
    was_cut: bool,
}

impl Idle {
    fn is_idle(&mut self, durable: &[u8], at: usize, sector: &[u8]) -> bool {
        let there = durable.get(at..).unwrap_or_default();
        let there = &there[..there.len().min(sector.len())];
        let same = *there == sector[..there.len()] && sector[there.len()..].iter().all(|byte| *byte == 0);
        let is_idle = same && !self.was_cut && !self.changed.contains(&at);
        if !is_idle {
            self.changed.insert(at);
        }
        is_idle
    }
}

/// Whether the length is in question: if so, the sequence number of the last growth and the lengths between.
fn length_question(durable_len: usize, log: &[Change]) -> Option<(u64, Range<usize>)> {
    let mut low = durable_len;
    let mut high = durable_len;
    let mut last_growth = None;
    for change in log {
        let (seq, end) = match change {
            Change::Cut { bytes, .. } => {
                low = low.min(*bytes);
                continue;
            }
            Change::Extend { seq, bytes } => (*seq, *bytes),
            Change::Write { seq, image, end, .. } => {
                (seq + image.len().div_ceil(SECTOR_BYTES) as u64 - 1, *end)
            }
        };
        if end > low {
            last_growth = Some(seq);
            high = high.max(end);
        }
    }
    last_growth.map(|seq| (seq, low..high))
}

fn apply_all(durable: &mut Vec<u8>, log: &[Change]) {
    for change in log {
        match change {
            Change::Write { position, image, .. } => put(durable, *position, image),
            Change::Cut { bytes, .. } => durable.truncate(*bytes),
            Change::Extend { bytes, .. } => durable.resize((*bytes).max(durable.len()), 0),
        }
    }
}

fn put(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[position..end].copy_from_slice(bytes);
}
