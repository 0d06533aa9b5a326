//! What stays of segments in the kernel's page cache: the newest bytes. Whatever is older than the window and synced is
//! given up at the next checkpoint, so that new pages come from those, which are warm, and not from memory that the
//! kernel, or the machine below it, has to find first. That costs more than writing does: see ARCHITECTURE.md.

use std::collections::VecDeque;

use crate::log::WrittenPart;

/// Files between two checkpoints are few where much is written, and small where they are many.
const FILES_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct CacheWindow {
    bytes_max: u64,
    /// The sum of `parts`.
    bytes: u64,
    /// The oldest first.
    parts: VecDeque<WrittenPart>,
}

impl CacheWindow {
    pub(super) fn new(bytes_max: u64) -> CacheWindow {
        CacheWindow { bytes_max, bytes: 0, parts: VecDeque::new() }
    }

    /// A checkpoint syncs these. Returns what an earlier one synced and the window no longer reaches.
    pub(super) fn advance(&mut self, written: Vec<WrittenPart>) -> Vec<WrittenPart> {
        let synced_before = self.parts.len();
        self.bytes += written.iter().map(|part| part.bytes).sum::<u64>();
        self.parts.extend(written);
        let mut behind = Vec::new();
        while behind.len() < synced_before
            && (self.bytes > self.bytes_max || self.parts.len() > FILES_MAX)
            && let Some(part) = self.parts.pop_front()
        {
            self.bytes -= part.bytes;
            behind.push(part);
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, upto: u64, bytes: u64) -> WrittenPart {
        WrittenPart { path: name.to_owned(), upto, bytes }
    }

    #[test]
    fn the_oldest_synced_bytes_are_given_up_first() {
        let mut window = CacheWindow::new(100);
        assert_eq!(window.advance(vec![part("a", 60, 60)]), []);
        assert_eq!(window.advance(vec![part("a", 90, 30), part("b", 20, 20)]), [part("a", 60, 60)]);
        assert_eq!(window.advance(vec![]), []);
        assert_eq!(window.advance(vec![part("b", 80, 60)]), [part("a", 90, 30)]);
    }

    #[test]
    fn nothing_is_given_up_before_it_is_synced() {
        let mut window = CacheWindow::new(0);
        assert_eq!(window.advance(vec![part("a", 10, 10)]), []);
        assert_eq!(window.advance(vec![part("a", 20, 10)]), [part("a", 10, 10)]);
    }
}
