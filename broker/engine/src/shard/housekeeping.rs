//! What comes round by itself: expired leases and sessions, retention, free space.

use super::Shard;
use crate::catalogue::TopicInfo;
use crate::log::Held;
use crate::mutant::{self, Mutant};
use crate::time::Now;
use dure_proto::{Offset, TopicPartition, wire};

impl Shard {
    pub(super) fn handle_timeouts(&mut self, now: Now) {
        self.queue_timeouts(now);
        self.stream_timeouts(now);
        if now.mono_ms >= self.housekeeping_at_ms {
            let corrected_ms = self.retention.advance(now);
            self.state.logs.values_mut().for_each(|log| log.seen_ahead.shift(corrected_ms));
            self.housekeeping_at_ms = now.mono_ms + self.config.housekeeping_ms;
            self.look_at_space();
            self.retry_for_room();
            self.resume_letters(now);
            self.apply_retention(now);
            self.forget_ids(now);
            self.look_after_backup(now);
            self.begin_compaction(now);
        }
        self.step_compaction(now);
    }

    fn apply_retention(&mut self, now: Now) {
        let at_ms = self.retention.at(now);
        for log in self.state.logs.values_mut().filter(|log| log.layout.last_ms() > Some(at_ms)) {
            log.seen_ahead.note(log.layout.log_end(), at_ms);
        }
        let moves: Vec<(TopicPartition, Offset)> =
            self.state.logs.keys().filter_map(|p| Some((*p, self.expired_upto(now, *p)?))).collect();
        for (partition, offset) in moves {
            self.move_log_start(now, partition, offset);
        }
    }

    /// Up to where a log may go: what retention lets go and no queue group holds, or what all queue groups settled
    /// where the topic is a work queue, or the dead letters that nobody needs any more.
    fn expired_upto(&self, now: Now, partition: TopicPartition) -> Option<Offset> {
        let topic = self.state.catalogue.table().by_id(partition.topic)?;
        let log = self.state.logs.get(&partition)?;
        let layout = &log.layout;
        if let Some((group, source)) = topic.dead_letters_of {
            let first_letter = self.state.first_letter(group, TopicPartition { topic: source, ..partition });
            let needed = first_letter.filter(|_| !mutant::is(Mutant::LetterTrimmed));
            return layout.settled_upto(needed.unwrap_or(layout.log_end()));
        }
        if let Some(settled) = &log.delay_settled {
            return layout.settled_upto(settled.floor());
        }
        if topic.config.cleanup() == wire::Cleanup::Compact {
            return None;
        }
        let hold = self.state.settled_upto(partition, |group| {
            group.settings.hold && !mutant::is(Mutant::RetentionIgnoresHold)
        });
        let expired = layout.expired_upto(log.judge(self.retention.at(now), &topic.config), hold);
        let settled = match topic.config.cleanup() {
            wire::Cleanup::DeleteWhenSettled => {
                let settled = self.state.settled_upto(partition, |_| true);
                settled.and_then(|settled| layout.settled_upto(settled))
            }
            _ => None,
        };
        expired.max(settled)
    }

    /// What one queue group keeps of a log that retention would remove.
    pub(super) fn held_by(
        &self,
        now: Now,
        topic: &TopicInfo,
        partition: TopicPartition,
        floor: Offset,
    ) -> Held {
        let Some(log) = self.state.logs.get(&partition) else { return Held::default() };
        log.layout.held(log.judge(self.retention.at(now), &topic.config), floor)
    }
}
