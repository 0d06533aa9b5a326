//! Checks everything that a shard keeps: checkpoints, journal, segments, indexes. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dure_proto::{BatchHeader, CommitSeq, Offset, PartitionId, ShardId, TopicId, TopicPartition};

use super::entries::{Found, Walk};
use crate::checkpoint::{self, Loaded};
use crate::disk::{Disk, DiskError, DiskResult};
use crate::finding::Finding;
use crate::journal::{COMMIT_BYTES_MAX, Journal, JournalEntry, ScanFrom, decode_body, scan};
use crate::log::{
    IndexWriter, SEGMENT_HEADER_BYTES, SegmentId, SegmentIndex, SegmentMeta, index_path, is_header_of,
    log_dir, segment_of, segment_path, written,
};
use crate::shard::{State, shard_dir};
use crate::time::Now;

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Commits of the journal behind the last checkpoint.
    pub commits: u64,
    /// Topics, dead-letter logs included.
    pub topics: u64,
    /// Partitions of them.
    pub partitions: u64,
    /// Segments read.
    pub segments: u64,
    /// Entries of them.
    pub entries: u64,
    /// Records of them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Damage and notes.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Nothing that was acknowledged is damaged.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        !self.findings.iter().any(Finding::is_damage)
    }

    /// Counts what was found in another shard, too.
    pub fn add(&mut self, other: VerifyReport) {
        self.commits += other.commits;
        self.topics += other.topics;
        self.partitions += other.partitions;
        self.segments += other.segments;
        self.entries += other.entries;
        self.records += other.records;
        self.bytes += other.bytes;
        self.findings.extend(other.findings);
    }
}

/// Verifies one shard. `salt` is the data directory's.
///
/// What lies in a segment behind the last checkpoint is judged by the journal, which holds it too and from which the
/// next start writes it again.
pub fn verify(disk: &dyn Disk, shard: ShardId, salt: u64) -> DiskResult<VerifyReport> {
    let mut report = VerifyReport::default();
    let dir = shard_dir(shard);
    let now = Now { mono_ms: 0, wall_ms: 0 };
    let Loaded { newest: checkpoint, findings, .. } =
        match checkpoint::load(disk, &format!("{dir}/checkpoint")) {
            // Never started: nothing is damaged.
            Err(error) if error.is_not_found() => return Ok(report),
            other => other?,
        };
    report.findings.extend(findings);
    let from = checkpoint.as_ref().map_or_else(ScanFrom::default, ScanFrom::behind);
    let restored =
        checkpoint.as_ref().map_or_else(|| Ok(State::new()), |checkpoint| State::restore(checkpoint, now));
    let mut state = match restored {
        Ok(state) => state,
        Err(what) => {
            report.findings.push(Finding::CheckpointDamaged { path: format!("{dir}/checkpoint"), what });
            return Ok(report);
        }
    };
    // What is late is in the checkpoint itself, which was found to be whole.
    let synced: Vec<(TopicPartition, Vec<SegmentMeta>)> = checkpoint
        .iter()
        .flat_map(|checkpoint| &checkpoint.logs)
        .map(|log| {
            let of = TopicPartition { topic: TopicId(log.topic), partition: PartitionId(log.partition) };
            (of, written(log).segments.iter().map(SegmentMeta::restore).collect())
        })
        .collect();

    let journal_dir = format!("{dir}/journal");
    let journal = Journal { dir: &journal_dir, shard, salt, commit_bytes_max: COMMIT_BYTES_MAX };
    let scanned = scan(disk, &journal, from)?;
    report.findings.extend(scanned.findings);
    report.commits = scanned.commits.len() as u64;
    for commit in &scanned.commits {
        let seq = commit.header.seq;
        match decode_body(&commit.body, commit.header.entry_count) {
            Ok(entries) => {
                entries.into_iter().for_each(|entry| replay(&mut state, seq, entry, now, &mut report))
            }
            Err(error) => report.findings.push(Finding::Unapplied { seq, what: error.to_string() }),
        }
    }
    report.topics = state.catalogue.table().iter().count() as u64;
    report.partitions = state.logs.len() as u64;
    for (partition, segments) in synced {
        let Some(log) = state.logs.get(&partition) else { continue };
        let kept: BTreeSet<SegmentId> = log.layout.segments().map(SegmentMeta::id).collect();
        // What compaction wrote is synced before anything counts on it.
        let compacted = log.layout.segments().filter(|segment| segment.generation > 0).cloned();
        let mut segments = segments;
        segments.retain(|segment| kept.contains(&segment.id()) && segment.generation == 0);
        segments.extend(compacted);
        let lost: Vec<_> = log.layout.lost().to_vec();
        for offsets in lost {
            let what = "a commit of the journal is damaged".to_owned();
            report.findings.push(Finding::EntriesLost { partition, offsets, what });
        }
        for segment in &segments {
            verify_segment(disk, &log_dir(&dir, partition), partition, segment, &mut report)?;
        }
    }
    if report.is_ok() {
        foreign_files(disk, &dir, &state, &mut report.findings)?;
    }
    Ok(report)
}

/// Segments that nothing names: what a removal that was interrupted left. Of what is damaged nobody can tell.
fn foreign_files(disk: &dyn Disk, dir: &str, state: &State, findings: &mut Vec<Finding>) -> DiskResult<()> {
    let root = format!("{dir}/log");
    let directories = |path: &str| -> DiskResult<Vec<String>> {
        Ok(disk.list(path)?.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect())
    };
    for topic in directories(&root)? {
        for partition in directories(&format!("{root}/{topic}"))? {
            let log = topic.parse().ok().zip(partition.parse().ok()).and_then(|(topic, partition)| {
                state.logs.get(&TopicPartition { topic: TopicId(topic), partition: PartitionId(partition) })
            });
            for file in disk.list(&format!("{root}/{topic}/{partition}"))? {
                let named = segment_of(&file.name).is_some_and(|id| {
                    log.is_some_and(|log| log.layout.segments().any(|segment| segment.id() == id))
                });
                if !named {
                    findings
                        .push(Finding::Foreign { path: format!("{root}/{topic}/{partition}/{}", file.name) });
                }
            }
        }
    }
    Ok(())
}

fn replay(state: &mut State, seq: CommitSeq, entry: JournalEntry, now: Now, report: &mut VerifyReport) {
    match entry {
        JournalEntry::Batch { partition, header, .. } => drop(state.apply_batch(partition, &header, None)),
        JournalEntry::Event(event) => {
            if let Err(what) = state.apply(&event, now) {
                report.findings.push(Finding::Unapplied { seq, what });
            }
        }
    }
}

fn verify_segment(
    disk: &dyn Disk,
    log_dir: &str,
    partition: TopicPartition,
    segment: &SegmentMeta,
    report: &mut VerifyReport,
) -> DiskResult<()> {
    report.segments += 1;
    let path = segment_path(log_dir, segment.id());
    let mut walk = match Walk::begin(disk, &path, segment.bytes) {
        Err(error) if DiskError::is_not_found(&error) => None,
        other => Some(other?),
    };
    let bytes = walk.as_ref().map_or(0, Walk::bytes);
    if bytes < segment.bytes {
        let (base, expected) = (segment.base, segment.bytes);
        report.findings.push(Finding::SegmentShort { partition, base, bytes, expected });
    }
    report.bytes += bytes;
    let header = walk.as_mut().map_or(Ok(Bytes::new()), Walk::file_header)?;
    if header.len() >= SEGMENT_HEADER_BYTES && !is_header_of(&header, partition, segment.id()) {
        let what = "the segment's header is damaged or another's".to_owned();
        report.findings.push(Finding::EntriesLost { partition, offsets: segment.base..segment.base, what });
    }
    let mut expected = segment.base;
    let mut damage = None;
    let mut lost = |upto: Offset, expected: Offset, damage: &mut Option<String>| {
        if upto > expected {
            let what = damage.take().unwrap_or_else(|| "entries are missing".into());
            report.findings.push(Finding::EntriesLost { partition, offsets: expected..upto, what });
        }
    };
    let mut index = IndexCheck::begin(disk, log_dir, segment.id());
    while let Some(found) = walk.as_mut().map_or(Ok(None), Walk::next)? {
        match found {
            Found::Entry { position, header, batch } => {
                lost(header.base_offset, expected, &mut damage);
                expected = header.end_offset();
                index.meet(position, header.base_offset);
                report.entries += 1;
                let batch = BatchHeader::parse_stored(&batch).expect("it belongs to the entry");
                report.records += u64::from(batch.record_count);
            }
            Found::Damage { what, .. } => damage = Some(what),
        }
    }
    lost(segment.end, expected, &mut damage);
    report.findings.extend(index.finding());
    Ok(())
}

/// An index, compared with the entries of its segment as they come by.
struct IndexCheck {
    path: String,
    is_empty: bool,
    /// Of an entry of the index a checksum is wrong.
    is_damaged: bool,
    /// What it names and was not met yet, by position.
    unmet: BTreeMap<u64, Offset>,
    /// Where the last entry begins, once there was one.
    last: Option<u64>,
}

impl IndexCheck {
    fn begin(disk: &dyn Disk, log_dir: &str, id: SegmentId) -> IndexCheck {
        let path = index_path(log_dir, id);
        let index = SegmentIndex::read(disk, &path, id.base);
        IndexCheck {
            is_empty: index.entries().next().is_none(),
            is_damaged: index.entries().any(|entry| entry.is_none()),
            unmet: index.entries().flatten().map(|entry| (entry.position, entry.offset)).collect(),
            path,
            last: None,
        }
    }

    fn meet(&mut self, position: u64, offset: Offset) {
        self.last = Some(position);
        if self.unmet.get(&position) == Some(&offset) {
            self.unmet.remove(&position);
        }
    }

    /// That it names a place where no entry begins, or is not there.
    fn finding(self) -> Option<Finding> {
        let end = self.last?;
        let wrong = self.unmet.first_key_value().filter(|(position, _)| **position <= end);
        let what = match wrong {
            _ if self.is_empty => "it is missing or another's".to_owned(),
            _ if self.is_damaged => "an entry's checksum is wrong".to_owned(),
            Some((position, offset)) => format!("no entry of offset {offset} begins at {position}"),
            None => return None,
        };
        Some(Finding::IndexDamaged { path: self.path, what })
    }
}

/// Writes the index of every segment anew. Returns how many.
pub fn rebuild_indexes(disk: &dyn Disk, shard: ShardId) -> DiskResult<u64> {
    let root = format!("{}/log", shard_dir(shard));
    let mut rebuilt = 0;
    for topic in disk.list(&root)?.iter().filter(|entry| entry.is_dir) {
        for partition in disk.list(&format!("{root}/{}", topic.name))?.iter().filter(|entry| entry.is_dir) {
            let log_dir = format!("{root}/{}/{}", topic.name, partition.name);
            for file in disk.list(&log_dir)? {
                if let Some(id) = file.name.strip_suffix(".log").and_then(SegmentId::parse) {
                    rebuild_index(disk, &log_dir, id)?;
                    rebuilt += 1;
                }
            }
        }
    }
    Ok(rebuilt)
}

fn rebuild_index(disk: &dyn Disk, log_dir: &str, id: SegmentId) -> DiskResult<()> {
    let segment = segment_path(log_dir, id);
    let mut walk = Walk::begin(disk, &segment, u64::MAX)?;
    let path = index_path(log_dir, id);
    match disk.remove(&path) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let mut index = IndexWriter::open(disk, &path, id.base, 0)?;
    while let Some(found) = walk.next()? {
        if let Found::Entry { position, header, .. } = found {
            index.note([(position, header.base_offset, header.append_time_ms)])?;
        }
    }
    Ok(())
}
