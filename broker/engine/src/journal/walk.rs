//! What one piece holds: the commits of its present use, and no more of its bytes than it takes to know that.
//!
//! A valid commit leads to the next one; where there is none the walk goes on block by block, so that what lies behind
//! damage is found. A piece is written from its start on without a gap, and what was written over cannot look as it did
//! before. So the walk ends early where two things come together: for longer than the longest commit nothing is alive,
//! so that no damaged commit can stand there alone; and in that stretch something stands that this use never wrote over,
//! a whole commit of an earlier use, or, in a piece where nothing at all is alive, nothing but zeroes.

use std::ops::Range;

use bytes::Bytes;
use dure_proto::ShardId;

use super::commit::{COMMIT_ALIGN, COMMIT_HEADER_BYTES, CommitHeader};
use crate::disk::{Disk, DiskResult};
use crate::mutant::{self, Mutant, read_cached_at};

/// Read at once.
const STEP_BYTES: usize = 4 << 20;

/// Whose commits are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journal<'a> {
    pub(crate) dir: &'a str,
    pub(crate) shard: ShardId,
    pub(crate) salt: u64,
    /// No commit is longer.
    pub(crate) commit_bytes_max: usize,
}

/// A commit that is alive.
#[derive(Clone, Debug)]
pub(crate) struct LiveCommit {
    pub(crate) header: CommitHeader,
    pub(crate) checksum: u32,
    pub(crate) body: Bytes,
}

/// Collects the valid commits of one piece from a position on, which lies at a commit's start.
pub(super) fn walk(
    disk: &dyn Disk,
    path: &str,
    journal: &Journal<'_>,
    piece: u64,
    position: u64,
    found: &mut Vec<LiveCommit>,
) -> DiskResult<()> {
    let mut content = Content { disk, path, position, bytes: Vec::new(), is_whole: false };
    let mut alive: Vec<(CommitHeader, u32, Range<usize>)> = Vec::new();
    // What stands before the position is alive as well.
    let mut stretch = Stretch::new(position > 0);
    let mut at = 0;
    while content.reach(at + COMMIT_ALIGN)? {
        let header = CommitHeader::parse(&content.bytes[at..], journal.salt);
        let header = header.filter(|(header, _)| header.shard == journal.shard && header.piece <= piece);
        let whole = match header {
            Some((header, checksum)) => {
                content.reach(at + header.padded_bytes())?;
                header.body(&content.bytes[at..]).map(|_| (header, checksum))
            }
            None => None,
        };
        match whole {
            Some((header, checksum)) if header.piece == piece => {
                let body = at + COMMIT_HEADER_BYTES;
                alive.push((header, checksum, body..body + header.body_bytes as usize));
                at += header.padded_bytes();
                stretch = Stretch::new(true);
            }
            Some((header, _)) => {
                stretch.pass_older(header.padded_bytes());
                at += header.padded_bytes();
            }
            None => {
                stretch.pass(&content.bytes[at..at + COMMIT_ALIGN]);
                at += COMMIT_ALIGN;
            }
        }
        if stretch.ends_piece(journal.commit_bytes_max) {
            break;
        }
    }
    let end = alive.last().map_or(0, |(.., body)| body.end);
    content.bytes.truncate(end);
    content.bytes.shrink_to_fit();
    let bytes = Bytes::from(content.bytes);
    found.extend(alive.into_iter().map(|(header, checksum, body)| LiveCommit {
        header,
        checksum,
        body: bytes.slice(body),
    }));
    Ok(())
}

/// What was passed since the last commit that is alive.
struct Stretch {
    /// Something in the piece is alive.
    used: bool,
    bytes: usize,
    /// A whole commit of an earlier use of the file.
    has_older: bool,
    is_zero: bool,
}

impl Stretch {
    fn new(used: bool) -> Stretch {
        Stretch { used, bytes: 0, has_older: false, is_zero: true }
    }

    fn pass(&mut self, block: &[u8]) {
        self.bytes += block.len();
        self.is_zero = self.is_zero && block.iter().all(|byte| *byte == 0);
    }

    fn pass_older(&mut self, bytes: usize) {
        self.bytes += bytes;
        (self.has_older, self.is_zero) = (true, false);
    }

    fn ends_piece(&self, commit_bytes_max: usize) -> bool {
        let untouched = self.has_older || (self.is_zero && !self.used);
        self.bytes > commit_bytes_max && untouched
            || self.bytes > 0 && self.used && mutant::is(Mutant::PieceEndsAtFirstGap)
    }
}

/// The content of a piece behind a position, as far as it was needed.
struct Content<'a> {
    disk: &'a dyn Disk,
    path: &'a str,
    position: u64,
    bytes: Vec<u8>,
    /// The file ends with them.
    is_whole: bool,
}

impl Content<'_> {
    /// Reads on up to so many bytes. Returns whether there are as many.
    fn reach(&mut self, bytes: usize) -> DiskResult<bool> {
        while self.bytes.len() < bytes && !self.is_whole {
            let read =
                if mutant::is(Mutant::PageCacheBelieved) { read_cached_at } else { Disk::read_past_cache_at };
            let start = self.bytes.len();
            self.bytes.resize(start + STEP_BYTES, 0);
            let done = read(self.disk, self.path, self.position + start as u64, &mut self.bytes[start..])?;
            self.bytes.truncate(start + done);
            self.is_whole = done < STEP_BYTES;
        }
        Ok(self.bytes.len() >= bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dure_proto::{CommitSeq, Epoch};

    use super::*;
    use crate::disk::AlignedBytes;
    use crate::disk::{DiskRef, OpenMode, SimDisk};
    use crate::journal::{CommitBuilder, CommitStamp};

    const JOURNAL: Journal<'_> =
        Journal { dir: "", shard: ShardId(0), salt: 7, commit_bytes_max: 8 * COMMIT_ALIGN };
    const PIECE_BLOCKS: usize = 4096;

    fn commit(piece: u64, seq: u64) -> Vec<u8> {
        let stamp = CommitStamp {
            salt: JOURNAL.salt,
            shard: JOURNAL.shard,
            epoch: Epoch(1),
            seq: CommitSeq(seq),
            durable_upto: CommitSeq(0),
            piece,
            prev_checksum: 0,
            opens_epoch: false,
        };
        CommitBuilder::reuse(AlignedBytes::default()).finish(&stamp).0.to_vec()
    }

    /// A piece of zeroes with these commits in these blocks, and whether it is zero elsewhere or holds older ones.
    fn piece(recycled: bool, commits: &[(usize, Vec<u8>)]) -> (SimDisk, DiskRef) {
        let sim = SimDisk::new(0);
        let file = crate::disk::Disk::open(&sim, "piece", OpenMode::Create).expect("a file");
        let mut content = vec![0; PIECE_BLOCKS * COMMIT_ALIGN];
        let older =
            (0..PIECE_BLOCKS).filter(|_| recycled).map(|block| (block, commit(3, 100 + block as u64)));
        for (block, bytes) in older.chain(commits.iter().cloned()) {
            content[block * COMMIT_ALIGN..][..bytes.len()].copy_from_slice(&bytes);
        }
        file.write_all_at(0, &content).expect("written");
        file.sync().expect("synced");
        (sim.clone(), Arc::new(sim))
    }

    /// The commits found from a block on, and how many blocks were read.
    fn walked(recycled: bool, commits: &[(usize, Vec<u8>)], from_block: usize) -> (Vec<u64>, usize) {
        let (sim, disk) = piece(recycled, commits);
        let mut found = Vec::new();
        let position = (from_block * COMMIT_ALIGN) as u64;
        walk(&*disk, "piece", &JOURNAL, 5, position, &mut found).expect("read");
        let blocks = sim.io_counts().read_bytes as usize / COMMIT_ALIGN;
        (found.iter().map(|commit| commit.header.seq.0).collect(), blocks)
    }

    const STEP_BLOCKS: usize = STEP_BYTES / COMMIT_ALIGN;

    #[test]
    fn what_an_earlier_use_left_ends_the_piece() {
        let commits = [(0, commit(5, 1)), (1, commit(5, 2))];
        assert_eq!(walked(true, &commits, 0), (vec![1, 2], STEP_BLOCKS));
        assert_eq!(walked(true, &commits, 1), (vec![2], STEP_BLOCKS));
        assert_eq!(walked(true, &commits, 2), (vec![], STEP_BLOCKS));
    }

    #[test]
    fn a_piece_of_zeroes_is_not_read_to_its_end_but_zeroes_behind_commits_are() {
        assert_eq!(walked(false, &[], 0), (vec![], STEP_BLOCKS));
        assert_eq!(walked(false, &[(0, commit(5, 1))], 0), (vec![1], PIECE_BLOCKS));
        let behind_much_damage = [(0, commit(5, 1)), (PIECE_BLOCKS - 1, commit(5, 9))];
        assert_eq!(walked(false, &behind_much_damage, 0), (vec![1, 9], PIECE_BLOCKS));
    }

    #[test]
    fn what_is_behind_damage_is_found_however_long_that_is() {
        let mut damaged = [(0, commit(5, 1)), (PIECE_BLOCKS - 1, commit(5, 9))].to_vec();
        damaged.extend((1..PIECE_BLOCKS - 1).map(|block| (block, vec![0xa5; COMMIT_ALIGN])));
        assert_eq!(walked(true, &damaged, 0), (vec![1, 9], PIECE_BLOCKS));
        // The first commit went to another place: an older one stands where it should.
        for next in 1..=8 {
            assert_eq!(walked(true, &[(next, commit(5, 2))], 0).0, [2], "block {next}");
        }
    }
}
