//! What of the journal is alive after a stop, and whether its end is torn or corrupt.
//!
//! Every piece from the checkpoint's on is read past the page cache and walked, the checkpoint's from where its last
//! commit ends. Of what is found the dead is left out (frames that an
//! older epoch wrote at or above the opening of a newer one), and the rest, in the order of sequence numbers, is
//! the journal. A gap at or below the highest surviving `durable_upto` was acknowledged and is lost: corruption,
//! reported, and the journal goes on behind it. A gap above it was never acknowledged: a torn write, the end.

use dure_proto::journal::Checkpoint;
use dure_proto::{CommitSeq, Epoch};

use super::commit::{COMMIT_ALIGN, CommitHeader};
use super::pieces::{piece_number, piece_path};
use super::walk::{Journal, LiveCommit, walk};
use crate::disk::{Disk, DiskResult, OpenMode};
use crate::finding::Finding;
use crate::mutant::{self, Mutant};

/// Where to begin: behind what a checkpoint holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScanFrom {
    /// The last commit that the checkpoint holds.
    pub(crate) seq: CommitSeq,
    /// Its checksum.
    pub(crate) checksum: u32,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// The piece that it is in; pieces before it are not read.
    pub(crate) piece: u64,
    /// Where it ends in that piece; what is before is not read.
    pub(crate) position: u64,
}

impl ScanFrom {
    /// Behind what a checkpoint holds.
    pub(crate) fn behind(checkpoint: &Checkpoint) -> ScanFrom {
        ScanFrom {
            seq: CommitSeq(checkpoint.seq),
            checksum: checkpoint.checksum,
            epoch: Epoch(checkpoint.epoch),
            piece: checkpoint.piece,
            position: checkpoint.position.filter(|at| at.is_multiple_of(COMMIT_ALIGN as u64)).unwrap_or(0),
        }
    }
}

/// The journal behind a checkpoint.
#[derive(Debug)]
pub(crate) struct Scan {
    /// By rising sequence number; gaps are in the findings.
    pub(crate) commits: Vec<LiveCommit>,
    /// Damage (corruption) and notes (a torn end).
    pub(crate) findings: Vec<Finding>,
    /// Pieces that exist, by number, with the highest sequence number alive in each, if it was read.
    pub(crate) pieces: Vec<(u64, Option<CommitSeq>)>,
}

pub(crate) fn scan(disk: &dyn Disk, journal: &Journal<'_>, from: ScanFrom) -> DiskResult<Scan> {
    let numbers = piece_numbers(disk, journal.dir)?;
    let mut found = Vec::new();
    for number in numbers.iter().copied().filter(|number| *number >= from.piece) {
        let position = if number == from.piece { from.position } else { 0 };
        walk(disk, &piece_path(journal.dir, number), journal, number, position, &mut found)?;
    }
    found.retain(|commit| commit.header.seq > from.seq);
    let (commits, findings) = judge(found, from);
    let pieces = numbers
        .into_iter()
        .map(|number| {
            let last = commits.iter().filter(|c| c.header.piece == number).map(|c| c.header.seq).max();
            (number, last)
        })
        .collect();
    Ok(Scan { commits, findings, pieces })
}

/// Makes durable what a scan will find. A killed process may have left it unsynced, and a replay removes files because
/// of it: the next power cut must not bring back a journal that never said so.
pub(crate) fn sync_pieces(disk: &dyn Disk, dir: &str, from: ScanFrom) -> DiskResult<()> {
    for number in piece_numbers(disk, dir)?.into_iter().filter(|number| *number >= from.piece) {
        disk.open(&piece_path(dir, number), OpenMode::ReadWrite)?.sync()?;
    }
    Ok(())
}

fn piece_numbers(disk: &dyn Disk, dir: &str) -> DiskResult<Vec<u64>> {
    let entries = disk.list(dir)?;
    let mut numbers: Vec<u64> = entries.iter().filter_map(|entry| piece_number(&entry.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Sorts out the dead, and tells torn from corrupt.
fn judge(mut found: Vec<LiveCommit>, from: ScanFrom) -> (Vec<LiveCommit>, Vec<Finding>) {
    let openings: Vec<(Epoch, CommitSeq)> = found
        .iter()
        .filter(|commit| commit.header.opens_epoch)
        .map(|commit| (commit.header.epoch, commit.header.seq))
        .collect();
    found.retain(|commit| {
        let CommitHeader { epoch, seq, .. } = commit.header;
        !openings.iter().any(|(newer, from_seq)| epoch < *newer && seq >= *from_seq)
    });
    found.sort_by_key(|commit| (commit.header.seq, commit.header.epoch));
    let durable_upto = found.iter().map(|commit| commit.header.durable_upto).max().unwrap_or(from.seq);
    let durable_upto = durable_upto.max(opened_upto(&openings));

    let mut findings = Vec::new();
    let mut commits: Vec<LiveCommit> = Vec::with_capacity(found.len());
    let (mut last, mut checksum, mut epoch) = (from.seq, from.checksum, from.epoch);
    for commit in found {
        let header = commit.header;
        let contiguous = header.seq.0 == last.0 + 1;
        // Across a gap the chain is broken by itself; sequence and epoch stand in for it.
        let follows = header.seq > last && header.epoch >= epoch;
        if !follows || (contiguous && header.prev_checksum != checksum) {
            continue;
        }
        if !contiguous {
            let torn = last >= durable_upto && !mutant::is(Mutant::TornTakenForCorrupt);
            if torn || mutant::is(Mutant::TruncateAtBadChecksum) {
                findings.push(Finding::JournalTorn { after: last });
                return (commits, findings);
            }
            findings.push(Finding::JournalLost {
                from: CommitSeq(last.0 + 1),
                to: header.seq,
                piece: header.piece,
            });
        }
        (last, checksum, epoch) = (header.seq, commit.checksum, header.epoch);
        commits.push(commit);
    }
    if last < durable_upto {
        let (from, to) = (CommitSeq(last.0 + 1), CommitSeq(durable_upto.0 + 1));
        findings.push(Finding::JournalLost { from, to, piece: 0 });
    }
    (commits, findings)
}

/// An epoch opens behind the last commit that its recovery kept and synced.
fn opened_upto(openings: &[(Epoch, CommitSeq)]) -> CommitSeq {
    openings.iter().map(|(_, seq)| CommitSeq(seq.0 - 1)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use dure_proto::ShardId;

    use bytes::Bytes;

    use super::*;

    fn commit(epoch: u64, seq: u64, durable_upto: u64, prev_checksum: u32, opens_epoch: bool) -> LiveCommit {
        let header = CommitHeader {
            shard: ShardId(0),
            epoch: Epoch(epoch),
            seq: CommitSeq(seq),
            durable_upto: CommitSeq(durable_upto),
            piece: 1,
            prev_checksum,
            opens_epoch,
            body_bytes: 0,
            body_checksum: 0,
            entry_count: 0,
        };
        LiveCommit { header, checksum: seq as u32, body: Bytes::new() }
    }

    fn from() -> ScanFrom {
        ScanFrom { seq: CommitSeq(4), checksum: 4, epoch: Epoch(1), piece: 1, position: 0 }
    }

    fn judged(found: Vec<LiveCommit>) -> (Vec<u64>, Vec<Finding>) {
        let (commits, findings) = judge(found, from());
        (commits.iter().map(|c| c.header.seq.0).collect(), findings)
    }

    #[test]
    fn a_hole_above_what_was_durable_is_torn() {
        let found = vec![commit(1, 5, 4, 4, false), commit(1, 7, 4, 6, false)];
        assert_eq!(judged(found), (vec![5], vec![Finding::JournalTorn { after: CommitSeq(5) }]));
    }

    #[test]
    fn a_hole_below_what_was_durable_is_corruption_and_hides_nothing_behind_it() {
        let found = vec![commit(1, 5, 4, 4, false), commit(1, 7, 6, 6, false), commit(1, 8, 6, 7, false)];
        let lost = Finding::JournalLost { from: CommitSeq(6), to: CommitSeq(7), piece: 1 };
        assert_eq!(judged(found), (vec![5, 7, 8], vec![lost]));
    }

    #[test]
    fn what_an_older_epoch_left_above_a_newer_opening_is_dead() {
        let found = vec![
            commit(1, 5, 4, 4, false),
            commit(1, 7, 5, 6, false),
            commit(2, 6, 5, 5, true),
            commit(2, 7, 6, 6, false),
        ];
        assert_eq!(judged(found), (vec![5, 6, 7], vec![]));
    }

    #[test]
    fn a_lost_end_below_what_a_survivor_names_durable_is_corruption() {
        let found = vec![commit(1, 5, 8, 4, false)];
        let lost = Finding::JournalLost { from: CommitSeq(6), to: CommitSeq(9), piece: 0 };
        assert_eq!(judged(found), (vec![5], vec![lost]));
    }
}
