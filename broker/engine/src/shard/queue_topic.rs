//! A queue group's side of one topic: a lease table for each partition, who takes messages, and which of the partitions
//! a turn has to look at, so that a turn costs what has changed and not what there is.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::PartitionId;

use crate::queue_group::{Dispatcher, LeaseTable, ReadyMessages};
use crate::time::Now;

pub(crate) struct QueueTopic {
    /// By partition. Whoever may change one goes by [`QueueTopic::table_mut`], which notes it.
    tables: Vec<LeaseTable>,
    /// Who wants messages; of this run of the broker only.
    pub(crate) dispatcher: Dispatcher,
    /// Those whose tables may be otherwise than when they were looked at.
    changed: BTreeSet<PartitionId>,
    /// What was found in all others.
    seen: Seen,
}

/// What a turn wants to know of the partitions, without looking at each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    ready: ReadyMessages,
    /// When each has something to do, on the monotonic clock.
    timers: BTreeSet<(u64, PartitionId)>,
    timer_of: BTreeMap<PartitionId, u64>,
    /// Messages die in these, and nobody fetches their bytes yet.
    dying: BTreeSet<PartitionId>,
    /// These would look further into their messages, if somebody wants some.
    wanting: BTreeSet<PartitionId>,
    /// These asked for records that are not here yet.
    looking: BTreeSet<PartitionId>,
}

impl Seen {
    fn note(&mut self, partition: PartitionId, table: &LeaseTable) {
        self.ready.set(partition, table.grantable());
        let timer = table.poll_timeout();
        let before = match timer {
            Some(at) => self.timer_of.insert(partition, at),
            None => self.timer_of.remove(&partition),
        };
        if before != timer {
            if let Some(at) = before {
                self.timers.remove(&(at, partition));
            }
            self.timers.extend(timer.map(|at| (at, partition)));
        }
        put(&mut self.dying, partition, table.has_dying());
        put(&mut self.wanting, partition, table.wants_records());
        put(&mut self.looking, partition, table.is_looking());
    }
}

fn put(set: &mut BTreeSet<PartitionId>, partition: PartitionId, is_in: bool) {
    if is_in {
        set.insert(partition)
    } else {
        set.remove(&partition)
    };
}

impl QueueTopic {
    pub(crate) fn new(tables: Vec<LeaseTable>) -> QueueTopic {
        let mut topic = QueueTopic {
            tables: Vec::new(),
            dispatcher: Dispatcher::new(),
            changed: BTreeSet::new(),
            seen: Seen::default(),
        };
        tables.into_iter().for_each(|table| topic.push(table));
        topic
    }

    /// The table of the next partition.
    pub(crate) fn push(&mut self, table: LeaseTable) {
        self.changed.insert(PartitionId(self.tables.len() as u32));
        self.tables.push(table);
    }

    /// By partition.
    pub(crate) fn tables(&self) -> &[LeaseTable] {
        &self.tables
    }

    pub(crate) fn table(&self, partition: PartitionId) -> Option<&LeaseTable> {
        self.tables.get(partition.0 as usize)
    }

    pub(crate) fn table_mut(&mut self, partition: PartitionId) -> Option<&mut LeaseTable> {
        let table = self.tables.get_mut(partition.0 as usize)?;
        self.changed.insert(partition);
        Some(table)
    }

    /// All of them, each of which may be changed.
    pub(crate) fn tables_mut(&mut self) -> impl Iterator<Item = (PartitionId, &mut LeaseTable)> {
        self.changed.extend((0..self.tables.len() as u32).map(PartitionId));
        (0..).map(PartitionId).zip(&mut self.tables)
    }

    /// Those that may have changed since [`QueueTopic::look`].
    pub(crate) fn changed(&self) -> Vec<PartitionId> {
        self.changed.iter().copied().collect()
    }

    /// Looks at what has changed. Until something does, everything that is asked below is true.
    pub(crate) fn look(&mut self, now: Now) {
        for partition in std::mem::take(&mut self.changed) {
            let table = &mut self.tables[partition.0 as usize];
            table.observe_rates(now);
            self.seen.note(partition, table);
        }
    }

    /// The dispatcher, with what there is to be shared out.
    pub(crate) fn dispatcher_and_ready(&mut self) -> (&mut Dispatcher, &mut ReadyMessages) {
        (&mut self.dispatcher, &mut self.seen.ready)
    }

    /// When a partition has something to do, on the monotonic clock.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.seen.timers.first().map(|(at, _)| *at)
    }

    /// Partitions that have something to do by now.
    pub(crate) fn due(&self, now: Now) -> Vec<PartitionId> {
        let due = self.seen.timers.iter().take_while(|(at, _)| *at <= now.mono_ms);
        due.map(|(_, partition)| *partition).collect()
    }

    /// Partitions with messages that die.
    pub(crate) fn dying(&self) -> Vec<PartitionId> {
        self.seen.dying.iter().copied().collect()
    }

    /// Partitions that would look further into their messages.
    pub(crate) fn wanting(&self) -> Vec<PartitionId> {
        self.seen.wanting.iter().copied().collect()
    }

    /// Records were asked for and are not here yet.
    pub(crate) fn is_looking(&self) -> bool {
        !self.seen.looking.is_empty()
    }

    /// Panics if what was found in a table is not what is in it, though it has not changed: for tests.
    pub(crate) fn check(&self) {
        self.seen.ready.check();
        for (partition, table) in (0..).map(PartitionId).zip(&self.tables) {
            if self.changed.contains(&partition) {
                continue;
            }
            let seen = &self.seen;
            assert_eq!(
                seen.ready.of(partition),
                table.grantable(),
                "partition {partition} is served wrongly"
            );
            assert_eq!(
                seen.timer_of.get(&partition).copied(),
                table.poll_timeout(),
                "of partition {partition}"
            );
            assert_eq!(seen.dying.contains(&partition), table.has_dying(), "of partition {partition}");
            assert_eq!(seen.looking.contains(&partition), table.is_looking(), "of partition {partition}");
            assert_eq!(seen.wanting.contains(&partition), table.wants_records(), "of partition {partition}");
        }
    }
}
