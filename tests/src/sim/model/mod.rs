//! What the clients were told, and what follows from it: nothing here looks into the engine.

mod log;
mod queue;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use dure_engine::{ConnectionId, Due, Now, SubscriptionId};
use dure_proto::wire::{self, QueueSettings, TopicConfig};
use dure_proto::{
    BatchBuilder, Compression, LeaseToken, MESSAGE_ID_HEADER, Offset, PRIORITY_HEADER, ProducerId,
    ProducerStamp, TTL_HEADER, TopicId, TopicPartition,
};

pub(crate) use log::{LogModel, read_as_a_broker, read_batch, read_log, read_value};
pub(crate) use queue::{Account, Dead, PartModel, SettledItem};
pub(crate) use stream::{Committed, Member};

use crate::sim::copied::{CopyPlace, DeathKey};
use crate::sim::{Checked, ensure};

/// Different keys.
const KEYS: u8 = 5;
/// What expires does so within a few steps, within leases and waits, or hardly within the story.
const TTLS_MS_MAX: [u64; 3] = [60, 1_000, 20_000];

/// A subscription, named by whose it is.
pub(crate) type SubscriptionKey = (ConnectionId, SubscriptionId);

/// Something that requests make, change and remove. At most one of them is under way.
#[derive(Clone, Debug)]
pub(crate) struct Known<T> {
    pub(crate) now: Option<T>,
    /// What it becomes if the request under way is done.
    pub(crate) pending: Option<Option<T>>,
}

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known { now: None, pending: None }
    }
}

impl<T: Clone + PartialEq> Known<T> {
    /// The request under way was answered.
    pub(crate) fn resolve(&mut self, done: bool) {
        if let Some(after) = self.pending.take()
            && done
        {
            self.now = after;
        }
    }

    /// After a restart: whether this is what it may be. It is certain from now on.
    pub(crate) fn observe(&mut self, found: Option<&T>) -> bool {
        let fits = self.now.as_ref() == found || self.pending.as_ref().is_some_and(|p| p.as_ref() == found);
        self.now = found.cloned();
        self.pending = None;
        fits
    }
}

/// A topic as its clients know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicShape {
    pub(crate) partitions: u32,
    pub(crate) config: TopicConfig,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TopicModel {
    pub(crate) shape: Known<TopicShape>,
    /// The number that it has had since it was created.
    pub(crate) id: Option<TopicId>,
    /// Every setting that it ever had or may have had.
    pub(crate) configs: Vec<TopicConfig>,
    pub(crate) purging: bool,
}

/// A group as its clients know it; a queue group has settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupShape {
    pub(crate) queue: Option<QueueSettings>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct GroupModel {
    pub(crate) shape: Known<GroupShape>,
    /// A seek, redrive or purge of dead letters is under way.
    pub(crate) moving: bool,
    /// Rises when it is deleted: what was asked of the one before says nothing of the one after.
    pub(crate) instance: u32,
    pub(crate) parts: BTreeMap<TopicPartition, PartModel>,
    pub(crate) committed: BTreeMap<TopicPartition, Committed>,
}

/// A record's key, and whether the record deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) key: u8,
    pub(crate) deletes: bool,
}

/// How the records of a batch are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordShape {
    pub(crate) value_bytes_max: usize,
    /// All have keys, as compaction wants it.
    pub(crate) keyed: bool,
    /// Of 100 records: those that are good for a while only.
    pub(crate) ttl_percent: u32,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Under way, or its answer was lost.
    Unknown,
    Acked(Offset),
    /// It is durable, and waits until it is due, or has waited.
    Scheduled,
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) partition: TopicPartition,
    pub(crate) bytes: Bytes,
    /// Of what was sent.
    pub(crate) sent: Vec<Bytes>,
    pub(crate) ids: Vec<Option<u8>>,
    /// Which of the records were appended, once that is known; the others were duplicates.
    pub(crate) kept: Option<Vec<usize>>,
    /// What was said of those.
    pub(crate) duplicates: Option<Vec<wire::Duplicates>>,
    /// When it was sent first, in time that anything ran.
    pub(crate) asked_ms: Option<u64>,
    /// Of what was appended, or may be.
    pub(crate) values: Vec<Bytes>,
    /// The key of each record, if it has one; all have one in compacted topics.
    pub(crate) keys: Vec<Option<Key>>,
    /// How long each record is good for, if not for ever.
    pub(crate) ttls_ms: Vec<Option<u64>>,
    pub(crate) record_bytes_max: u32,
    pub(crate) stamped: bool,
    /// Known once it was sent.
    pub(crate) place: Option<Place>,
    pub(crate) fate: Fate,
    /// Once it is acknowledged: the last commit that was durable then.
    pub(crate) acked_with: Option<u64>,
    pub(crate) delay: Option<Delay>,
}

/// A batch that is to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    pub(crate) due: Due,
    /// It is due then, or later if it was sent more than once.
    pub(crate) due_ms: u64,
    /// Where its log ended when it was sent.
    pub(crate) log_end: Offset,
    /// A purge may have taken it.
    pub(crate) purged: bool,
}

/// Who sends a batch: a session, or a connection without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sender {
    Session(ProducerId),
    Connection(ConnectionId),
}

/// The place of a batch among those of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sender: Sender,
    pub(crate) nth: u64,
}

/// One producer session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) producer: Option<ProducerId>,
    pub(crate) streams: BTreeMap<TopicPartition, Stream>,
}

/// What a session sends to one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) next_sequence: u32,
    /// Not acknowledged yet, in order.
    pub(crate) unacked: VecDeque<u64>,
    /// How many of them were sent in this life of the broker, from the front.
    pub(crate) sent: usize,
    /// Acknowledged, the last ones.
    pub(crate) acked: VecDeque<u64>,
    /// A batch was refused in this life of the broker: those sent behind it do not follow on what is there.
    pub(crate) was_refused: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) topics: BTreeMap<String, TopicModel>,
    pub(crate) groups: BTreeMap<String, GroupModel>,
    pub(crate) batches: BTreeMap<u64, Batch>,
    /// Dead-letter logs too.
    pub(crate) logs: BTreeMap<TopicPartition, LogModel>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) members: Vec<Member>,
    pub(crate) tokens: BTreeSet<LeaseToken>,
    pub(crate) producers: BTreeSet<ProducerId>,
    /// Copies of dead letters, by what died, and by where they are: the batch that each counts as.
    pub(crate) copies: BTreeMap<DeathKey, CopyPlace>,
    pub(crate) copied_at: BTreeMap<CopyPlace, u64>,
    /// Messages that were accepted, by topic and id.
    pub(crate) accepted: BTreeMap<(TopicId, u8), Vec<Accepted>>,
}

/// A message with an id that is in its log: sent first and seen first then, in time that anything ran.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) batch: u64,
    pub(crate) index: usize,
    pub(crate) asked_ms: u64,
    pub(crate) seen_ms: u64,
}

impl Model {
    /// Makes a batch with a number of its own, which stands in the timestamp of its records.
    pub(crate) fn new_batch(
        &mut self,
        rng: &mut fastrand::Rng,
        partition: TopicPartition,
        shape: RecordShape,
        producer: Option<ProducerStamp>,
        ids: &[Option<u8>],
    ) -> u64 {
        let RecordShape { value_bytes_max, keyed, ttl_percent } = shape;
        let records = ids.len() as u32;
        let number = self.batches.len() as u64 + 1;
        let compression = if rng.u8(0..4) == 0 { Compression::Lz4 } else { Compression::None };
        let mut builder = BatchBuilder::new(compression);
        let values: Vec<Bytes> = (0..records).map(|i| value(rng, number, i, value_bytes_max)).collect();
        let keys: Vec<Option<Key>> = (0..records)
            .map(|_| {
                let has_key = keyed || rng.u8(0..3) > 0;
                has_key.then(|| Key { key: rng.u8(0..KEYS), deletes: keyed && rng.u8(0..4) == 0 })
            })
            .collect();
        let ttls_ms: Vec<Option<u64>> = (0..records)
            .map(|_| {
                let ttl_ms_max = TTLS_MS_MAX[rng.usize(0..TTLS_MS_MAX.len())];
                (rng.u32(0..100) < ttl_percent).then(|| rng.u64(0..ttl_ms_max))
            })
            .collect();
        for (((key, value), ttl_ms), id) in keys.iter().zip(&values).zip(&ttls_ms).zip(ids) {
            let value = key.is_none_or(|key| !key.deletes).then_some(&value[..]);
            let key = key.map(|key| [key.key]);
            let ttl = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
            let ttl = ttl.as_ref().map(|ttl| (TTL_HEADER.as_bytes(), Some(ttl.as_bytes())));
            let level = [b'0' + rng.u8(0..10)];
            let priority = (rng.u8(0..4) == 0).then_some((PRIORITY_HEADER.as_bytes(), Some(&level[..])));
            let id = id.map(|id| [id]);
            let id = id.as_ref().map(|id| (MESSAGE_ID_HEADER.as_bytes(), Some(&id[..])));
            let headers: Vec<_> = ttl.into_iter().chain(priority).chain(id).collect();
            let key = key.as_ref().map(|key| &key[..]);
            builder.push(key, value, &headers, number as i64).expect("it is small");
        }
        let record_bytes_max = builder.record_bytes_max();
        let bytes = builder.build(producer);
        let stamped = producer.is_some();
        let place = producer.map(|stamp| {
            let nth = u64::from(stamp.sequence.0);
            Place { sender: Sender::Session(stamp.producer), nth }
        });
        let fate = Fate::Unknown;
        let batch = Batch {
            partition,
            bytes,
            sent: values.clone(),
            ids: ids.to_vec(),
            kept: None,
            duplicates: None,
            asked_ms: None,
            values,
            keys,
            ttls_ms,
            record_bytes_max,
            stamped,
            place,
            fate,
            acked_with: None,
            delay: None,
        };
        self.batches.insert(number, batch);
        number
    }

    /// Batches of one partition that are to wait, are not known to be in their log, and may be.
    pub(crate) fn waiting(&self, partition: TopicPartition) -> impl Iterator<Item = (&Batch, Delay)> {
        let log = self.logs.get(&partition);
        let of_it = self.batches.iter().filter(move |(_, batch)| batch.partition == partition);
        of_it.filter_map(move |(id, batch)| {
            let delay = batch.delay.filter(|_| matches!(batch.fate, Fate::Scheduled | Fate::Unknown))?;
            (!log.is_some_and(|log| log.holds(*id))).then_some((batch, delay))
        })
    }

    /// A purge takes what waits for these partitions, or may.
    pub(crate) fn purge(&mut self, topic: TopicId) {
        let of_it = self.batches.values_mut().filter(|batch| batch.partition.topic == topic);
        of_it.filter_map(|batch| batch.delay.as_mut()).for_each(|delay| delay.purged = true);
    }

    /// Whether a record at this place may have this value. One that waited may be there without anybody having read it yet.
    pub(crate) fn fits(&self, partition: TopicPartition, offset: Offset, found: Option<&Bytes>) -> bool {
        match self.logs.get(&partition).and_then(|log| log.batch_at(offset)) {
            Some((base, batch)) => {
                let batch = self.batches.get(&batch);
                found == batch.and_then(|batch| batch.values.get(offset.since(base) as usize))
            }
            None => found
                .is_some_and(|found| self.waiting(partition).any(|(batch, _)| batch.values.contains(found))),
        }
    }

    /// The key of a record that is known to be at this place, if it has one.
    pub(crate) fn key_at(&self, partition: TopicPartition, offset: Offset) -> Option<u8> {
        let (base, batch) = self.logs.get(&partition)?.batch_at(offset)?;
        (*self.batches.get(&batch)?.keys.get(offset.since(base) as usize)?).map(|key| key.key)
    }

    /// A message was leased in a group that keeps the order of keys: nobody has another one of its key, and all before
    /// it are done with or may be. What was removed before the group held the log, it never had.
    pub(crate) fn check_key_order(
        &self,
        group: &str,
        partition: TopicPartition,
        offset: Offset,
        now: Now,
    ) -> Checked {
        let Some(key) = self.key_at(partition, offset) else { return Ok(()) };
        let (Some(part), Some(log)) = (self.groups[group].parts.get(&partition), self.logs.get(&partition))
        else {
            return Ok(());
        };
        let of_key = |other: &Offset| *other != offset && self.key_at(partition, *other) == Some(key);
        // What was purged is out with nobody, whoever had it.
        let start = log.start.max(log.purge_bound).0;
        for (other, message) in part.messages.range(start..) {
            let until = message.grant.as_ref().and_then(|grant| grant.exclusive_until).unwrap_or(0);
            ensure!(
                until <= now.mono_ms || !of_key(&Offset(*other)),
                "{partition}: messages {other} and {offset} of key {key} are both leased in `{group}`"
            );
        }
        for before in (start..offset.0).map(Offset).filter(of_key) {
            let settled = part.messages.get(&before.0).is_some_and(|message| message.maybe_settled);
            let expired = self.expires_ms(partition, before).is_some_and(|at| at <= now.wall_ms);
            ensure!(
                settled || expired || before < part.loose_below || !part.holds,
                "{partition}: message {offset} of key {key} overtook message {before} in `{group}`"
            );
        }
        Ok(())
    }

    /// A topic is gone, and all that was known of it.
    pub(crate) fn forget_topic(&mut self, topic: TopicId) {
        self.logs.retain(|partition, _| partition.topic != topic);
        for session in &mut self.sessions {
            session.streams.retain(|partition, _| partition.topic != topic);
        }
        for group in self.groups.values_mut() {
            group.parts.retain(|partition, _| partition.topic != topic);
            group.committed.retain(|partition, _| partition.topic != topic);
        }
    }

    pub(crate) fn forget_group(&mut self, name: &str) {
        if let Some(group) = self.groups.get_mut(name) {
            group.parts.clear();
            group.committed.clear();
            group.instance += 1;
        }
        self.members.retain(|member| member.group != name);
    }

    /// The process is gone. What was granted by commits up to `kept` goes on, the rest never was. `before_ms` is the
    /// monotonic time at which it went, `mono_ms` the one at which another began.
    pub(crate) fn restart(&mut self, kept: u64, before_ms: u64, mono_ms: u64) {
        for session in &mut self.sessions {
            session.streams.values_mut().for_each(|stream| (stream.sent, stream.was_refused) = (0, false));
        }
        self.members.clear();
        for group in self.groups.values_mut() {
            for part in group.parts.values_mut() {
                part.restart(kept, before_ms, mono_ms);
            }
            for committed in group.committed.values_mut() {
                committed.restart();
            }
        }
    }
}

/// Which record of which batch a value says that it is.
pub(crate) fn named_in(value: &[u8]) -> Option<(u64, usize)> {
    let text = String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
    let mut numbers = text.split('-');
    let batch = numbers.next()?.strip_prefix('b')?.parse().ok()?;
    Some((batch, numbers.next()?.strip_prefix('r')?.parse().ok()?))
}

/// Says which record of which batch it is, and goes on with noise.
fn value(rng: &mut fastrand::Rng, batch: u64, record: u32, bytes_max: usize) -> Bytes {
    let mut value = format!("b{batch}-r{record}-").into_bytes();
    let bytes = rng.usize(0..bytes_max);
    let seed = rng.u8(..);
    value.extend((0..bytes).map(|i| (i as u8).wrapping_mul(31) ^ seed));
    Bytes::from(value)
}
