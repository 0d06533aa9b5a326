//! Which messages a topic has accepted lately, by their ids: a second one with the same id is a duplicate, whichever
//! partition it is sent to and whoever sends it, until the topic's window is over.
//!
//! An id is known from the commit in which its message is taken, and the event that says so is in the same commit. It
//! stays known whatever becomes of that message: acknowledged, purged or removed by retention.
//!
//! Of an id there are in memory its hash (16 bytes), a number in a table (32 bytes and what the table keeps free), and its
//! part of a run (32 bytes for each batch): about 90 bytes for an id sent in a batch of many, 130 for one sent alone.

use std::collections::{BTreeMap, VecDeque};

use dure_proto::journal::{MessageIds, MessageIdsExpired};
use dure_proto::{IdHash, Offset, PartitionId, TopicId};

use crate::already_hashed::HashedTable;
use crate::mutant::{self, Mutant};
use crate::time::Now;

/// Of one hash in the journal.
const HASH_BYTES: usize = 16;

/// The clock of ids. A window must not end because a wall clock jumped, so it is measured in time that the shard runs: what
/// it is at a start goes on from what is durable, and never runs faster than time does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdClock {
    ms: u64,
    mono_ms: u64,
}

impl IdClock {
    /// Goes on from where an earlier run left it.
    pub(crate) fn new(now: Now, left_ms: u64) -> IdClock {
        IdClock { ms: left_ms, mono_ms: now.mono_ms }
    }

    /// What time it is for ids, in milliseconds of running.
    pub(crate) fn at(&self, now: Now) -> u64 {
        let wrong_ms = if mutant::is(Mutant::IdsByWallClock) { now.wall_ms } else { 0 };
        self.ms.saturating_add(now.mono_ms.saturating_sub(self.mono_ms)).saturating_add(wrong_ms)
    }
}

/// Where the first message with an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    /// That it was sent to.
    pub(crate) partition: PartitionId,
    /// `None`: it waits, or has waited, until it was due.
    pub(crate) offset: Option<Offset>,
}

/// The ids that all topics remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dedup {
    topics: BTreeMap<TopicId, TopicIds>,
    /// The latest time of which anything durable tells.
    clock_ms: u64,
}

impl Dedup {
    /// What a checkpoint holds; the error says what in it cannot be.
    pub(crate) fn restore(clock_ms: u64, ids: &[MessageIds]) -> Result<Dedup, String> {
        let mut dedup = Dedup { clock_ms, ..Dedup::default() };
        ids.iter().try_for_each(|ids| dedup.apply(ids))?;
        Ok(dedup)
    }

    pub(crate) fn snapshot(&self) -> Vec<MessageIds> {
        self.topics.iter().flat_map(|(topic, ids)| ids.snapshot(*topic)).collect()
    }

    /// The latest time of which anything durable tells: where the clock goes on after a restart.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// How many ids are remembered.
    pub(crate) fn len(&self) -> usize {
        self.topics.values().map(|ids| ids.hashes.len()).sum()
    }

    /// The first message with that id, if it was accepted less than `window_ms` before.
    pub(crate) fn first(&self, topic: TopicId, id: IdHash, at_ms: u64, window_ms: u64) -> Option<First> {
        self.topics.get(&topic)?.first(id, at_ms, window_ms)
    }

    /// Messages with ids were accepted.
    pub(crate) fn apply(&mut self, accepted: &MessageIds) -> Result<(), String> {
        if accepted.ids.is_empty() || !accepted.ids.len().is_multiple_of(HASH_BYTES) {
            return Err(format!("{} bytes of message ids are no hashes of them", accepted.ids.len()));
        }
        let hashes = accepted.ids.chunks_exact(HASH_BYTES);
        let hashes = hashes.map(|hash| IdHash(u128::from_le_bytes(hash.try_into().expect("16 bytes"))));
        let partition = PartitionId(accepted.partition);
        let first = First { partition, offset: accepted.offset.map(Offset) };
        self.clock_ms = self.clock_ms.max(accepted.at_ms);
        self.topics.entry(TopicId(accepted.topic)).or_default().push(first, accepted.at_ms, hashes);
        Ok(())
    }

    /// What has to be forgotten, if it is worth an event: what is over by a sixteenth of the window.
    pub(crate) fn expired(&self, at_ms: u64, window_ms: impl Fn(TopicId) -> u64) -> Vec<MessageIdsExpired> {
        let topics = self.topics.iter().filter_map(|(topic, ids)| {
            let window_ms = window_ms(*topic);
            let before_ms = at_ms.saturating_sub(window_ms).saturating_add(1);
            let is_over = ids.oldest_ms()?.saturating_add(window_ms + window_ms / 16) <= at_ms;
            is_over.then_some(MessageIdsExpired { topic: topic.0, before_ms, at_ms })
        });
        topics.collect()
    }

    pub(crate) fn apply_expired(&mut self, expired: &MessageIdsExpired) {
        self.clock_ms = self.clock_ms.max(expired.at_ms);
        let topic = TopicId(expired.topic);
        if let Some(ids) = self.topics.get_mut(&topic) {
            ids.forget_before(expired.before_ms);
            if ids.hashes.is_empty() {
                self.topics.remove(&topic);
            }
        }
    }

    /// The topic is gone, or remembers none any more.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.topics.remove(&topic);
    }
}

/// Messages that lie one behind the other and were accepted together.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Number of the first of their ids.
    number: u64,
    at_ms: u64,
    first: First,
}

/// The ids that one topic remembers, numbered in the order in which they were accepted.
#[derive(Clone, Debug, Default)]
struct TopicIds {
    /// The last message with each id. Numbers are those of `hashes`.
    numbers: HashedTable<IdHash, u64>,
    /// By number, the first one being `number_first`. One that was accepted again after its window is in here twice.
    hashes: VecDeque<IdHash>,
    number_first: u64,
    /// Ascending by number, the first one beginning with `number_first`.
    runs: VecDeque<Run>,
}

impl TopicIds {
    fn oldest_ms(&self) -> Option<u64> {
        self.runs.front().map(|run| run.at_ms)
    }

    fn first(&self, id: IdHash, at_ms: u64, window_ms: u64) -> Option<First> {
        let number = *self.numbers.get(&id)?;
        let after = self.runs.partition_point(|run| run.number <= number);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let offset = run.first.offset.map(|offset| offset.plus(number - run.number));
        (at_ms < run.at_ms.saturating_add(window_ms)).then_some(First { offset, ..run.first })
    }

    fn push(&mut self, first: First, at_ms: u64, hashes: impl Iterator<Item = IdHash>) {
        let begin = self.number_first + self.hashes.len() as u64;
        self.runs.push_back(Run { number: begin, at_ms, first });
        for (number, hash) in (begin..).zip(hashes) {
            self.hashes.push_back(hash);
            self.numbers.insert(hash, number);
        }
    }

    /// Runs are in the order in which they were accepted, and so are their times, but for a clock that a lost commit set
    /// back; then those behind wait for those before.
    fn forget_before(&mut self, before_ms: u64) {
        while let Some(run) = self.runs.pop_front_if(|run| run.at_ms < before_ms) {
            let end =
                self.runs.front().map_or(self.number_first + self.hashes.len() as u64, |next| next.number);
            for number in run.number..end {
                let hash = self.hashes.pop_front().expect("a run's hashes are there");
                if self.numbers.get(&hash) == Some(&number) {
                    self.numbers.remove(&hash);
                }
            }
            self.number_first = end;
        }
        if self.hashes.len() < self.hashes.capacity() / 4 {
            self.hashes.shrink_to_fit();
            self.runs.shrink_to_fit();
            self.numbers.shrink_to_fit();
        }
    }

    fn snapshot(&self, topic: TopicId) -> impl Iterator<Item = MessageIds> {
        let ends = self.runs.iter().skip(1).map(|run| run.number - self.number_first);
        let ends = ends.chain([self.hashes.len() as u64]);
        self.runs.iter().zip(ends).map(move |(run, end)| {
            let from = run.number - self.number_first;
            let hashes = self.hashes.range(from as usize..end as usize);
            MessageIds {
                topic: topic.0,
                partition: run.first.partition.0,
                offset: run.first.offset.map(|offset| offset.0),
                at_ms: run.at_ms,
                ids: hashes.flat_map(|hash| hash.0.to_le_bytes()).collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: TopicId = TopicId(3);
    const WINDOW_MS: u64 = 1_000;

    fn accepted(partition: u32, offset: Option<u64>, at_ms: u64, ids: &[u8]) -> MessageIds {
        let ids = ids.iter().flat_map(|id| hash(*id).0.to_le_bytes()).collect();
        MessageIds { topic: TOPIC.0, partition, offset, at_ms, ids }
    }

    fn hash(id: u8) -> IdHash {
        IdHash(u128::from(id) << 3)
    }

    fn at(partition: u32, offset: Option<u64>) -> Option<First> {
        Some(First { partition: PartitionId(partition), offset: offset.map(Offset) })
    }

    #[test]
    fn an_id_is_known_for_its_window_and_no_longer() {
        let mut dedup = Dedup::default();
        dedup.apply(&accepted(0, Some(7), 100, &[1, 2])).expect("fits");
        assert_eq!(dedup.first(TOPIC, hash(2), 1_099, WINDOW_MS), at(0, Some(8)));
        assert_eq!(dedup.first(TOPIC, hash(2), 1_100, WINDOW_MS), None);
        assert_eq!(dedup.first(TopicId(4), hash(2), 100, WINDOW_MS), None);
        // Accepted anew before the old one was forgotten: the new one stays.
        dedup.apply(&accepted(1, None, 1_100, &[2])).expect("fits");
        let expired = dedup.expired(1_200, |_| WINDOW_MS);
        assert_eq!(expired, [MessageIdsExpired { topic: 3, before_ms: 201, at_ms: 1_200 }]);
        expired.iter().for_each(|expired| dedup.apply_expired(expired));
        assert_eq!(dedup.first(TOPIC, hash(2), 1_200, WINDOW_MS), at(1, None));
        assert_eq!((dedup.len(), dedup.clock_ms()), (1, 1_200));
    }

    #[test]
    fn a_wall_clock_that_jumps_ends_no_window() {
        let clock = IdClock::new(Now { mono_ms: 5, wall_ms: 1_000_000 }, 300);
        assert_eq!(clock.at(Now { mono_ms: 25, wall_ms: 9_000_000_000 }), 320);
        assert_eq!(clock.at(Now { mono_ms: 25, wall_ms: 0 }), 320);
    }

    #[test]
    fn hashes_that_are_none_are_refused() {
        let mut dedup = Dedup::default();
        assert!(dedup.apply(&accepted(0, None, 0, &[])).is_err());
        assert!(dedup.apply(&MessageIds { ids: vec![0; 17], ..accepted(0, None, 0, &[1]) }).is_err());
        assert!(Dedup::restore(0, &[accepted(0, None, 0, &[])]).is_err());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Send { partition: u32, ids: Vec<u8> },
        Pass(u64),
        Sweep,
        Restart,
        Forget,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let send = (0..3u32, prop::collection::vec(0..12u8, 1..5));
        let op = prop_oneof![
            8 => send.prop_map(|(partition, ids)| Op::Send { partition, ids }),
            4 => (0..WINDOW_MS / 2).prop_map(Op::Pass),
            2 => Just(Op::Sweep),
            1 => Just(Op::Restart),
            1 => Just(Op::Forget),
        ];
        prop::collection::vec(op, 1..80)
    }

    proptest! {
        /// The model is a list of everything that was ever accepted.
        #[test]
        fn it_knows_what_a_list_of_everything_knows(ops in ops()) {
            let (mut dedup, mut list) = (Dedup::default(), Vec::<(u8, u64, u32, u64)>::new());
            let (mut now_ms, mut offset) = (0, 0);
            for op in ops {
                match op {
                    Op::Send { partition, ids } => {
                        for id in ids {
                            let known = list.iter().rev().find(|(known, ..)| *known == id);
                            let known = known.filter(|(_, at_ms, ..)| now_ms < at_ms + WINDOW_MS);
                            let expected = known.and_then(|(_, _, partition, offset)| at(*partition, Some(*offset)));
                            prop_assert_eq!(dedup.first(TOPIC, hash(id), now_ms, WINDOW_MS), expected);
                            if expected.is_none() {
                                dedup.apply(&accepted(partition, Some(offset), now_ms, &[id])).expect("fits");
                                list.push((id, now_ms, partition, offset));
                                offset += 1;
                            }
                        }
                    }
                    Op::Pass(ms) => now_ms += ms,
                    Op::Sweep => {
                        let expired = dedup.expired(now_ms, |_| WINDOW_MS);
                        expired.iter().for_each(|expired| dedup.apply_expired(expired));
                        let live = list.iter().filter(|(_, at_ms, ..)| at_ms + WINDOW_MS + WINDOW_MS / 16 > now_ms);
                        prop_assert!(dedup.len() <= live.count() + 1, "{} are kept", dedup.len());
                    }
                    Op::Restart => {
                        dedup = Dedup::restore(dedup.clock_ms(), &dedup.snapshot()).expect("its own");
                        prop_assert!(dedup.clock_ms() <= now_ms);
                    }
                    Op::Forget => {
                        dedup.forget(TOPIC);
                        list.clear();
                    }
                }
            }
        }
    }
}
