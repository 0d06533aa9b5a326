//! Which keys have the longest lines, for whoever wonders why a group that keeps their order does not get on.

use dure_proto::Offset;

use super::table::LeaseTable;

/// Keys that are named of each group.
pub const HOTTEST_KEYS_MAX: usize = 10;

/// A key behind which messages wait. The table knows its number only: the key itself stands in a message of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// A message of the key: the first in its line.
    pub offset: Offset,
    /// Messages that are neither out nor done, as far as the log was looked at.
    pub waiting: u64,
    /// Out with a worker, or on their way to the dead letters.
    pub out: u64,
}

/// The first few by how many wait, the longest line first.
#[derive(Debug, Default)]
pub(crate) struct Hottest(Vec<HotKey>);

impl Hottest {
    pub(crate) fn offer(&mut self, key: HotKey) {
        let is_full = self.0.len() == HOTTEST_KEYS_MAX;
        if key.waiting == 0 || is_full && self.0.last().is_some_and(|least| least.waiting >= key.waiting) {
            return;
        }
        self.0.truncate(HOTTEST_KEYS_MAX - 1);
        let at = self.0.partition_point(|other| other.waiting >= key.waiting);
        self.0.insert(at, key);
    }
}

impl LeaseTable {
    /// The keys with the longest lines, at most [`HOTTEST_KEYS_MAX`]; none if the group does not keep their order.
    #[must_use]
    pub fn hottest_keys(&self) -> Vec<HotKey> {
        let mut hottest = Hottest::default();
        if let Some(window) = self.window.as_ref().filter(|_| self.settings.by_key) {
            window.lines().for_each(|line| hottest.offer(line));
        }
        hottest.0
    }
}
