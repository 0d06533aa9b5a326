//! Who should own what: sticky, balanced, deterministic.
//!
//! Starts from the targets as they are, gives what has no owner to the least loaded member that subscribes to
//! it, and then, as long as that brings two members closer, moves one partition from the most loaded to the
//! least loaded that may have it. Each move lowers the sum of the squares of the loads by at least 2, so it
//! ends; at the end two members of the same subscription differ by at most one, since otherwise a move between
//! them would be left. With one subscription throughout, only the most loaded give and only the least loaded
//! take, so nothing moves that need not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{PartitionId, TopicId, TopicPartition};

/// Position of a member in the list given to [`assign`].
pub(crate) type Seat = usize;

/// What is known of a partition.
pub(crate) struct Known {
    /// Who should own it so far.
    pub(crate) target: Option<Seat>,
    /// Who may be reading it.
    pub(crate) holder: Option<Seat>,
}

/// The new target of every partition that anybody subscribes to.
pub(crate) fn assign(
    subscriptions: &[&BTreeSet<TopicId>],
    partitions: impl Iterator<Item = (TopicPartition, Known)>,
) -> Vec<(TopicPartition, Seat)> {
    let mut table = Table::new(subscriptions);
    let mut unowned = Vec::new();
    for (partition, known) in partitions {
        match known.target.filter(|seat| subscriptions[*seat].contains(&partition.topic)) {
            Some(seat) => table.leave(seat, partition, known.holder == Some(seat)),
            None => unowned.push((partition, known.holder)),
        }
    }
    table.rank();
    for (partition, holder) in unowned {
        let Some((load, first)) = table.least_loaded(partition.topic) else { continue };
        let stays = holder
            .filter(|seat| table.load[*seat] == load && subscriptions[*seat].contains(&partition.topic));
        let seat = stays.unwrap_or(first);
        table.give(seat, partition, holder == Some(seat));
    }
    while let Some(step) = table.next_move() {
        let held = table.take(&step);
        debug_assert!(held == step.held);
        let partition = TopicPartition { topic: step.topic, partition: step.partition };
        table.give(step.to, partition, false);
    }
    table.into_targets()
}

/// The partitions of one topic with one member, in the order in which they are given away: first those that
/// it does not hold yet, since they move for free, then from the highest number down.
type Owned = BTreeSet<(bool, Reverse<PartitionId>)>;

struct Table {
    load: Vec<usize>,
    owned: Vec<BTreeMap<TopicId, Owned>>,
    class_of: Vec<usize>,
    /// All members by load.
    order: BTreeSet<(usize, Seat)>,
    /// The members of one subscription by load.
    classes: Vec<BTreeSet<(usize, Seat)>>,
    classes_of: BTreeMap<TopicId, Vec<usize>>,
}

struct Move {
    from: Seat,
    to: Seat,
    topic: TopicId,
    held: bool,
    partition: PartitionId,
}

impl Table {
    fn new(subscriptions: &[&BTreeSet<TopicId>]) -> Self {
        let mut numbers: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let mut classes: Vec<BTreeSet<(usize, Seat)>> = Vec::new();
        let mut classes_of: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        let mut class_of = Vec::with_capacity(subscriptions.len());
        for topics in subscriptions {
            let class = *numbers.entry(topics).or_insert_with(|| {
                for topic in topics.iter() {
                    classes_of.entry(*topic).or_default().push(classes.len());
                }
                classes.push(BTreeSet::new());
                classes.len() - 1
            });
            class_of.push(class);
        }
        Table {
            load: vec![0; subscriptions.len()],
            owned: vec![BTreeMap::new(); subscriptions.len()],
            order: BTreeSet::new(),
            class_of,
            classes,
            classes_of,
        }
    }

    /// Leaves a partition with whom it is with, before anybody is ranked.
    fn leave(&mut self, seat: Seat, partition: TopicPartition, held: bool) {
        self.owned[seat].entry(partition.topic).or_default().insert((held, Reverse(partition.partition)));
        self.load[seat] += 1;
    }

    /// Orders the members by load, once and not with each partition that stays.
    fn rank(&mut self) {
        for (seat, load) in self.load.iter().enumerate() {
            self.order.insert((*load, seat));
            self.classes[self.class_of[seat]].insert((*load, seat));
        }
    }

    fn set_load(&mut self, seat: Seat, load: usize) {
        let class = &mut self.classes[self.class_of[seat]];
        for order in [&mut self.order, class] {
            order.remove(&(self.load[seat], seat));
            order.insert((load, seat));
        }
        self.load[seat] = load;
    }

    fn give(&mut self, seat: Seat, partition: TopicPartition, held: bool) {
        self.owned[seat].entry(partition.topic).or_default().insert((held, Reverse(partition.partition)));
        self.set_load(seat, self.load[seat] + 1);
    }

    fn take(&mut self, step: &Move) -> bool {
        let owned = self.owned[step.from].get_mut(&step.topic).expect("it was found there");
        let (held, _) = owned.pop_first().expect("it was found there");
        if owned.is_empty() {
            self.owned[step.from].remove(&step.topic);
        }
        self.set_load(step.from, self.load[step.from] - 1);
        held
    }

    fn least_loaded(&self, topic: TopicId) -> Option<(usize, Seat)> {
        let classes = self.classes_of.get(&topic)?;
        classes.iter().filter_map(|class| self.classes[*class].first().copied()).min()
    }

    /// From the most loaded member that has something to give, to the least loaded that may take it.
    fn next_move(&self) -> Option<Move> {
        let (least, _) = *self.order.first()?;
        for (load, from) in self.order.iter().rev() {
            if *load < least + 2 {
                return None;
            }
            let offers = self.owned[*from].iter().filter_map(|(topic, owned)| {
                let (held, Reverse(partition)) = *owned.first()?;
                let (to_load, to) = self.least_loaded(*topic)?;
                (to_load + 2 <= *load).then_some((to_load, held, to, *topic, partition))
            });
            if let Some((_, held, to, topic, partition)) = offers.min() {
                return Some(Move { from: *from, to, topic, held, partition });
            }
        }
        None
    }

    fn into_targets(self) -> Vec<(TopicPartition, Seat)> {
        let mut targets = Vec::new();
        for (seat, topics) in self.owned.into_iter().enumerate() {
            for (topic, owned) in topics {
                targets.extend(
                    owned
                        .into_iter()
                        .map(|(_, Reverse(partition))| (TopicPartition { topic, partition }, seat)),
                );
            }
        }
        targets
    }
}
