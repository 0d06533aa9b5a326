//! Walking the entries of one segment file, of which a few megabytes are in memory at a time.

use std::ops::Range;

use bytes::Bytes;
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, verify_entry};

use crate::disk::{Disk, DiskResult, OpenMode};
use crate::log::SEGMENT_HEADER_BYTES;

/// Read at once; a larger entry takes as much as it has.
const WINDOW_BYTES: u64 = 4 << 20;

/// What stands at a place of a segment.
pub(super) enum Found {
    /// A valid entry.
    Entry { position: u64, header: EntryHeader, batch: Bytes },
    /// Bytes that are no valid entry, up to the next valid one or the end.
    Damage { bytes: Range<u64>, what: String },
}

/// A segment file as it is gone through from its start.
pub(super) struct Walk<'a> {
    disk: &'a dyn Disk,
    path: &'a str,
    /// Where the next entry should begin.
    at: u64,
    /// Nothing behind it counts.
    end: u64,
    window: Bytes,
    window_at: u64,
}

impl<'a> Walk<'a> {
    /// Through the first `bytes_max` of the file at most.
    pub(super) fn begin(disk: &'a dyn Disk, path: &'a str, bytes_max: u64) -> DiskResult<Walk<'a>> {
        let end = disk.open(path, OpenMode::Read)?.len()?.min(bytes_max);
        let (at, window) = (SEGMENT_HEADER_BYTES as u64, Bytes::new());
        Ok(Walk { disk, path, at, end, window, window_at: 0 })
    }

    /// How much of the file there is.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// What stands where the file's own header should.
    pub(super) fn file_header(&mut self) -> DiskResult<Bytes> {
        let header = self.load(0, SEGMENT_HEADER_BYTES)?;
        Ok(header.slice(..header.len().min(SEGMENT_HEADER_BYTES)))
    }

    /// What comes next; behind damage it goes on where readers do.
    pub(super) fn next(&mut self) -> DiskResult<Option<Found>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let position = self.at;
        let found = match self.entry_at(position)? {
            Ok((header, batch)) => {
                self.at += header.entry_bytes() as u64;
                Found::Entry { position, header, batch }
            }
            Err(what) => {
                self.at = self.behind_damage(position)?;
                Found::Damage { bytes: position..self.at, what }
            }
        };
        Ok(Some(found))
    }

    /// Where to go on: behind the damaged entry if its header is whole, since a message may hold what looks like an
    /// entry; else at the next valid one that is followed by another or by the end, which an image inside a message is
    /// not.
    fn behind_damage(&mut self, at: u64) -> DiskResult<u64> {
        if let Ok(header) = EntryHeader::parse(&self.load(at, ENTRY_HEADER_BYTES)?) {
            return Ok(self.end.min(at + header.entry_bytes() as u64));
        }
        for next in at + 1..self.end {
            if self.is_followed(next)? {
                return Ok(next);
            }
        }
        Ok(self.end)
    }

    fn is_followed(&mut self, at: u64) -> DiskResult<bool> {
        let Ok((header, _)) = self.entry_at(at)? else { return Ok(false) };
        let next = at + header.entry_bytes() as u64;
        Ok(next == self.end || EntryHeader::parse(&self.load(next, ENTRY_HEADER_BYTES)?).is_ok())
    }

    fn entry_at(&mut self, at: u64) -> DiskResult<Result<(EntryHeader, Bytes), String>> {
        let header = match EntryHeader::parse(&self.load(at, ENTRY_HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let entry = self.load(at, header.entry_bytes())?;
        if entry.len() < header.entry_bytes() {
            return Ok(Err(format!("the entry at {at} is cut off")));
        }
        let batch = entry.slice(ENTRY_HEADER_BYTES..header.entry_bytes());
        Ok(verify_entry(&header, &batch).map(|_| (header, batch)).map_err(|error| error.to_string()))
    }

    /// What is there from a position on: at least so many bytes, unless the end comes first.
    fn load(&mut self, position: u64, bytes: usize) -> DiskResult<Bytes> {
        let end = self.end.min(position + bytes as u64);
        let loaded = self.window_at..self.window_at + self.window.len() as u64;
        if position < loaded.start || end > loaded.end {
            let length = WINDOW_BYTES.max(bytes as u64).min(self.end.saturating_sub(position));
            let mut window = vec![0; length as usize];
            let read = self.disk.read_past_cache_at(self.path, position, &mut window)?;
            window.truncate(read);
            (self.window, self.window_at) = (window.into(), position);
        }
        let from = (position - self.window_at) as usize;
        Ok(self.window.slice(from.min(self.window.len())..))
    }
}
