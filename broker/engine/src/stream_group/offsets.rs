//! How far the group has read.

use std::collections::BTreeMap;

use dure_proto::{Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition, journal};

use super::error::{CommitError, MemberError, OffsetNotApplied, SeekError};
use super::group::{COMMIT_ITEMS_MAX, StreamGroup};
use super::member::Caller;
use crate::mutant::{self, Mutant};

impl StreamGroup {
    /// A member says where it goes on reading: all of it counts or none. It must hold each partition since
    /// `generation` or before; one that it is giving up counts until it has said so. What lies below the
    /// committed offset is passed over. The events are to be applied before anything else is decided.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn handle_commit(
        &mut self,
        caller: &Caller<'_>,
        generation: Generation,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<Vec<journal::OffsetsCommitted>, CommitError> {
        let (id, member) = self.speaker(caller)?;
        if offsets.len() > COMMIT_ITEMS_MAX {
            return Err(CommitError::TooManyItems { items: offsets.len() });
        }
        if generation > member.pushed {
            return Err(MemberError::FencedGeneration { member: id }.into());
        }
        let mut furthest: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        for (partition, offset) in offsets {
            if *offset > Offset::MAX {
                return Err(CommitError::OffsetTooLarge { partition: *partition, offset: *offset });
            }
            let late = member.holdings.get(partition).is_none_or(|holding| holding.granted_at > generation);
            if late && !mutant::is(Mutant::OldGenerationCommits) {
                return Err(CommitError::FencedGeneration { member: id, partition: *partition });
            }
            let entry = furthest.entry(*partition).or_default();
            *entry = (*entry).max(*offset);
        }
        let any = mutant::is(Mutant::CommittedOffsetGoesBack);
        let advances = |(p, offset): &(TopicPartition, Offset)| {
            any || self.committed.get(p).is_none_or(|at| *at < *offset)
        };
        Ok(furthest.into_iter().filter(advances).map(|(p, offset)| self.event(p, offset)).collect())
    }

    /// Moves the group's cursor, forwards or back. The event is to be applied.
    ///
    /// # Errors
    /// See [`SeekError`]. A member that crashed counts until its session ends.
    pub fn seek(
        &self,
        partition: TopicPartition,
        to: Offset,
    ) -> Result<journal::OffsetsCommitted, SeekError> {
        if !self.members.is_empty() {
            return Err(SeekError::GroupNotEmpty { members: self.members.len() });
        }
        if to > Offset::MAX {
            return Err(SeekError::OffsetTooLarge { offset: to });
        }
        Ok(self.event(partition, to))
    }

    /// The only place where a committed offset changes, now and in replay.
    ///
    /// # Errors
    /// See [`OffsetNotApplied`]; nothing changed.
    pub fn apply(&mut self, event: &journal::OffsetsCommitted) -> Result<(), OffsetNotApplied> {
        if event.group != self.group.0 {
            return Err(OffsetNotApplied::OtherGroup { group: self.group.0, found: event.group });
        }
        let partition =
            TopicPartition { topic: TopicId(event.topic), partition: PartitionId(event.partition) };
        let offset = Offset(event.offset);
        if offset > Offset::MAX {
            return Err(OffsetNotApplied::OffsetTooLarge { partition, offset });
        }
        self.committed.insert(partition, offset);
        Ok(())
    }

    /// The topic is gone for ever, now or in replay: its committed offsets go. Its assignments go with
    /// [`StreamGroup::handle_topics`].
    pub fn apply_topic_deleted(&mut self, topic: TopicId) {
        self.committed.retain(|partition, _| partition.topic != topic);
    }

    /// Where the group goes on reading; `None` where it has never committed.
    #[must_use]
    pub fn committed(&self, partition: TopicPartition) -> Option<Offset> {
        self.committed.get(&partition).copied()
    }

    /// All that is durable, for a checkpoint.
    #[must_use]
    pub fn snapshot(&self) -> Vec<journal::OffsetsCommitted> {
        let kept = self.committed.iter().filter(|_| !mutant::is(Mutant::OffsetsNotKept));
        kept.map(|(partition, offset)| self.event(*partition, *offset)).collect()
    }

    /// The group as of a checkpoint, without members.
    ///
    /// # Errors
    /// See [`OffsetNotApplied`].
    pub fn restore(
        group: GroupId,
        snapshot: &[journal::OffsetsCommitted],
    ) -> Result<StreamGroup, OffsetNotApplied> {
        let mut restored = StreamGroup::new(group);
        for event in snapshot {
            restored.apply(event)?;
        }
        Ok(restored)
    }

    fn event(&self, partition: TopicPartition, offset: Offset) -> journal::OffsetsCommitted {
        journal::OffsetsCommitted {
            group: self.group.0,
            topic: partition.topic.0,
            partition: partition.partition.0,
            offset: offset.0,
        }
    }
}
