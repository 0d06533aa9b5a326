//! Dead letters of a group that names a topic for them are copied there, one after the other.
//!
//! The append of a copy and the event that says so are entries of one commit, so that each letter is copied once,
//! whenever the process dies. It stays in the dead-letter log, which `dlq` works on. Where the topic does not take a
//! copy, that one and those behind it wait, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use dure_proto::{
    BatchHeader, BatchLimits, GroupId, Offset, PartitionId, Records, TopicPartition, partition_for_key,
    split_entries,
};

use super::Shard;
use super::state::GroupKind;
use crate::effect::{CopiesWait, Effect};
use crate::job::{DiskJob, Job};
use crate::letter::{Death, copy_batch};
use crate::log::{Cursor, LogView, ReadOutcome, Wait};
use crate::mutant::{self, Mutant};
use crate::request::{Produce, RequestError};
use crate::time::Now;

/// Read of a dead-letter log at a time, but for one letter more.
const READ_BYTES: usize = 256 << 10;
/// What was refused is tried again after this long.
const RETRY_MS: u64 = 1_000;
/// Letters that are copied stay in a partition's dead letters until there are more of them.
const COPIED_KEPT_MAX: usize = 65_536;

/// A partition of a group's topic.
type Source = (GroupId, TopicPartition);

/// Where the shard is with copying: of this run of the broker only.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Partitions with letters that may not be copied yet.
    touched: BTreeSet<Source>,
    /// Of which a job reads letters.
    reading: BTreeSet<Source>,
    /// Those that have to wait, until when, and why.
    waits: BTreeMap<Source, (u64, String)>,
    /// Who was told of the waits does not know the latest.
    changed: bool,
}

impl Copies {
    pub(super) fn poll_timeout(&self, crowded: bool) -> Option<u64> {
        let waits = self.waits.values().map(|(at_ms, _)| *at_ms).min();
        // What has to wait for a commit is woken by its end.
        if self.touched.is_empty() || crowded { waits } else { Some(0) }
    }

    /// Why letters of a partition wait, if they do.
    pub(super) fn why(&self, group: GroupId, source: TopicPartition) -> Option<&str> {
        self.waits.get(&(group, source)).map(|(_, why)| &**why)
    }
}

/// Reads letters that are to be copied.
pub(crate) struct LetterRead {
    source: Source,
    view: LogView,
    from: Offset,
    /// Each with its batch, or with why there is none.
    found: Vec<(Offset, Result<Bytes, String>)>,
    failed: bool,
}

impl LetterRead {
    pub(crate) fn run(mut self) -> LetterRead {
        match self.view.read(&mut Cursor::at(self.from), READ_BYTES, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => {
                let letters = split_entries(entries).map_while(Result::ok);
                self.found = letters.map(|(header, batch)| (header.base_offset, Ok(batch))).collect();
            }
            Ok(ReadOutcome::Lost(lost)) => {
                let lost = (lost.start.0..lost.end.0).map(Offset);
                self.found = lost.map(|letter| (letter, Err("its dead letter is damaged".into()))).collect();
            }
            Ok(ReadOutcome::AtEnd | ReadOutcome::WouldWait) | Err(_) => self.failed = true,
        }
        self
    }
}

impl fmt::Debug for LetterRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.view.partition, self.from)
    }
}

impl Shard {
    /// A commit made something of a dead-letter log durable, or a partition came back.
    pub(super) fn touch_copies_of(&mut self, log: TopicPartition) {
        let info = self.state.catalogue.table().by_id(log.topic);
        if let Some((group, topic)) = info.and_then(|info| info.dead_letters_of)
            && self.dead_letter_topic(group).is_some()
        {
            self.copies.touched.insert((group, TopicPartition { topic, ..log }));
        }
    }

    /// After a start: what is not copied yet is.
    pub(super) fn begin_copies(&mut self) {
        let logs: Vec<TopicPartition> = self.writers.keys().copied().collect();
        logs.into_iter().for_each(|log| self.touch_copies_of(log));
    }

    /// The name of the topic that a group's dead letters are copied to.
    fn dead_letter_topic(&self, group: GroupId) -> Option<&str> {
        match &self.state.groups.get(&group)?.kind {
            GroupKind::Queue(queue) => {
                Some(&*queue.settings.dead_letter_topic).filter(|name| !name.is_empty())
            }
            GroupKind::Stream(_) => None,
        }
    }

    /// Sends for letters that are to be copied.
    pub(super) fn serve_copies(&mut self, now: Now) {
        if self.shutting_down || self.stopped.is_some() {
            return;
        }
        for (source, (at_ms, _)) in &mut self.copies.waits {
            if *at_ms <= now.mono_ms {
                *at_ms = now.mono_ms.saturating_add(RETRY_MS);
                self.copies.touched.insert(*source);
            }
        }
        while !self.commit_path.is_crowded()
            && let Some(source) = self.copies.touched.pop_first()
        {
            self.read_letters(now, source);
        }
        if std::mem::take(&mut self.copies.changed) {
            self.tell_waits();
        }
    }

    fn read_letters(&mut self, now: Now, source: Source) {
        let (group, partition) = source;
        let log = self.state.catalogue.dead_letter_log(group, partition.topic).map(|info| info.id);
        let view = log
            .and_then(|topic| self.writers.get(&TopicPartition { topic, ..partition }))
            .map(crate::log::LogWriter::view);
        let next = self.state.table(group, partition).and_then(|table| table.next_to_copy());
        let (Some(view), Some(from)) = (view, next) else { return self.end_wait(source) };
        if from >= view.high_watermark || self.copies.reading.contains(&source) {
            return;
        }
        // Before anything is read for nothing.
        let name = self.dead_letter_topic(group).unwrap_or_default().to_owned();
        if self.state.catalogue.table().by_name(&name).is_none() {
            return self.put_copies_off(now, source, &RequestError::UnknownTopic(name));
        }
        self.copies.reading.insert(source);
        let read = LetterRead { source, view, from, found: Vec::new(), failed: false };
        self.effects.push(Effect::Job(DiskJob(Job::ReadLetters(read))));
    }

    /// Letters were read, and go to the group's topic as far as it takes them.
    pub(super) fn copy_letters(&mut self, now: Now, read: LetterRead) {
        let source = read.source;
        self.copies.reading.remove(&source);
        if self.shutting_down {
            return;
        }
        if read.failed {
            let what = "the disk refuses to read the dead-letter log".to_owned();
            return self.put_copies_off(now, source, &RequestError::Busy(what));
        }
        for (letter, batch) in read.found {
            if let Err(error) = self.copy_letter(now, source, letter, batch.as_ref()) {
                return self.put_copies_off(now, source, &error);
            }
        }
        self.end_wait(source);
        self.copies.touched.insert(source);
    }

    fn copy_letter(
        &mut self,
        now: Now,
        (group, source): Source,
        letter: Offset,
        batch: Result<&Bytes, &String>,
    ) -> Result<(), RequestError> {
        let Some(to) = self.dead_letter_topic(group).map(str::to_owned) else { return Ok(()) };
        // Purged or redriven meanwhile, or copied before.
        let Some(table) = self.state.table(group, source) else { return Ok(()) };
        let dead = table.letter_to_copy(letter).map(|(offset, dead)| (offset, dead.clone()));
        let Some((offset, dead)) = dead else { return Ok(()) };
        let table = self.state.catalogue.table().clone();
        let target = table.by_name(&to).ok_or_else(|| RequestError::UnknownTopic(to.clone()))?;
        let death = Death {
            group: &self.state.groups[&group].name,
            topic: table.by_id(source.topic).map_or("", |topic| &topic.name),
            partition: source.partition,
            offset,
            attempts: dead.attempts,
            reason: &dead.reason,
            wall_ms: dead.dead_wall_ms,
        };
        let records = batch.map_err(Clone::clone).and_then(|batch| {
            Records::decode(batch, &BatchLimits::stored()).map_err(|error| error.to_string())
        });
        let record = records.and_then(|records| records.get(0).ok_or_else(|| "it is empty".to_owned()));
        let copy = copy_batch(record.as_ref().map_err(String::as_str), &death);
        let copy = copy.map_err(|error| RequestError::Invalid(error.to_string()))?;
        // Letters of one key stay together, and others of one partition.
        let partition = match record.as_ref().ok().and_then(|record| record.key.as_deref()) {
            Some(key) => partition_for_key(key, target.partitions),
            None => PartitionId(source.partition.0 % target.partitions.max(1)),
        };
        let partition = TopicPartition { topic: target.id, partition };
        let produce = Produce {
            partition,
            keyed: copy.keyed(),
            all_keyed: copy.keyed(),
            record_bytes_max: copy.record_bytes_max(),
            batch: copy.build(None),
            expiring: false,
            ids: Vec::new(),
        };
        self.check_produce(&produce)?;
        self.check_room(produce.batch.len())?;
        self.check_writable(partition)?;
        self.commit_path.make_room();
        self.note_content(now, &produce);
        let header = BatchHeader::parse(&produce.batch).expect("it was just built");
        self.append(now, partition, &header, &produce.batch);
        if mutant::is(Mutant::CopiedInTwoCommits) {
            self.commit_path.make_room();
        }
        let mut events = Vec::new();
        if let Some(table) = self.state.table(group, source) {
            table.note_copied(letter, COPIED_KEPT_MAX, now, &mut events);
        }
        self.commit_queue_events(group, source, events);
        Ok(())
    }

    /// They are tried again after a while, and whoever looks sees why.
    fn put_copies_off(&mut self, now: Now, source: Source, error: &RequestError) {
        let wait = (now.mono_ms.saturating_add(RETRY_MS), error.to_string());
        let before = self.copies.waits.insert(source, wait);
        self.copies.changed |= before.is_none();
    }

    fn end_wait(&mut self, source: Source) {
        self.copies.changed |= self.copies.waits.remove(&source).is_some();
    }

    fn tell_waits(&mut self) {
        let waits = self.copies.waits.iter().filter_map(|((group, source), (_, why))| {
            Some(CopiesWait {
                group: self.state.groups.get(group)?.name.clone(),
                topic: self.state.catalogue.table().by_id(source.topic)?.name.clone(),
                partition: source.partition,
                to: self.dead_letter_topic(*group)?.to_owned(),
                why: why.clone(),
            })
        });
        let waits = waits.collect();
        self.effects.push(Effect::CopiesWait(waits));
    }
}
