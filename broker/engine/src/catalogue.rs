//! The catalogue: which topics there are. Decides on their creation, change and end; `apply_*` makes it true.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dure_proto::journal::{DeadLetterLog, DelayLog, TopicAltered, TopicCreated, TopicSnapshot};
use dure_proto::wire::{self, TopicConfig};
use dure_proto::{BATCH_BYTES_MAX, GroupId, PartitionId, TopicId, TopicPartition};

use crate::delay::Horizon;
use crate::mutant::{self, Mutant};
use crate::request::RequestError;
use crate::time::Now;

/// Longest topic or group name in bytes.
pub const NAME_BYTES_MAX: usize = 249;
/// Partitions of one topic.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Partitions of all topics of a shard.
const PARTITIONS_TOTAL_MAX: u64 = 100_000;
/// Bounds of a segment's size; positions in it are 32-bit numbers in its index.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 2 << 30;
const _: () = assert!(SEGMENT_BYTES_MAX + (dure_proto::ENTRY_BYTES_MAX as u64) < u32::MAX as u64);
/// Segments are not sealed more often than this for compaction.
const COMPACT_AFTER_MS_MIN: u64 = 100;
/// What one record may have at most: a batch of it alone has to fit into the largest batch.
pub const MESSAGE_BYTES_MAX: u32 = (BATCH_BYTES_MAX - (64 << 10)) as u32;

/// How long a message id is remembered where nothing else is said,
const DEDUP_WINDOW_MS: u64 = 2 * 60_000;
/// and what can be said.
const DEDUP_WINDOW_MS_MIN: u64 = 1_000;
const DEDUP_WINDOW_MS_MAX: u64 = 24 * 3_600_000;

/// How long a topic remembers the ids of its messages; 0: it does not. Topics that were made before there were ids have
/// the default.
pub(crate) fn dedup_window_ms(config: &TopicConfig) -> u64 {
    config.dedup_window_ms.unwrap_or(DEDUP_WINDOW_MS)
}

/// The settings of a topic for which nobody says otherwise.
#[must_use]
pub fn default_topic_config() -> TopicConfig {
    TopicConfig {
        retention_ms: Some(7 * 24 * 3_600_000),
        retention_bytes: None,
        segment_bytes: 64 << 20,
        durability: wire::Durability::Sync as i32,
        interval_ms: 0,
        cleanup: wire::Cleanup::Delete as i32,
        message_bytes_max: 1 << 20,
        tombstone_retention_ms: 24 * 3_600_000,
        compact_after_ms: 10 * 60_000,
        dedup_window_ms: Some(DEDUP_WINDOW_MS),
    }
}

/// A topic as everybody may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicInfo {
    /// Its number.
    pub id: TopicId,
    /// Its name. That of a dead-letter log or a delay log begins with `__`.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its settings.
    pub config: TopicConfig,
    /// Set for a dead-letter log: whose.
    pub dead_letters_of: Option<(GroupId, TopicId)>,
    /// Set for a delay log: whose, and how long a message waits in it at most, in milliseconds.
    pub delayed_of: Option<(TopicId, u64)>,
    /// It holds keyed messages.
    pub keyed: bool,
    /// It may hold messages that expire.
    pub expiring: bool,
}

/// All topics at one time.
#[derive(Clone, Debug, Default)]
pub struct TopicTable {
    by_id: BTreeMap<TopicId, Arc<TopicInfo>>,
    by_name: HashMap<String, TopicId>,
}

impl TopicTable {
    /// The topic of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.by_id(*self.by_name.get(name)?)
    }

    /// The topic of that number.
    #[must_use]
    pub fn by_id(&self, id: TopicId) -> Option<&Arc<TopicInfo>> {
        self.by_id.get(&id)
    }

    /// All of them by number, hidden ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.by_id.values()
    }
}

/// The topics of a data directory.
#[derive(Debug)]
pub(crate) struct Catalogue {
    table: Arc<TopicTable>,
    /// Above every number ever given out.
    next: u32,
    delay_logs: BTreeMap<(TopicId, Horizon), TopicId>,
}

impl Catalogue {
    pub(crate) fn new() -> Catalogue {
        Catalogue { table: Arc::default(), next: 1, delay_logs: BTreeMap::new() }
    }

    /// The catalogue of a snapshot; the error says what in it cannot be.
    pub(crate) fn restore(topics: &[TopicSnapshot], next: u32) -> Result<Catalogue, String> {
        let mut catalogue = Catalogue { next: next.max(1), ..Catalogue::new() };
        for topic in topics {
            if let Some(created) = &topic.topic {
                check_created(created)?;
                catalogue.apply_created(created);
                if topic.keyed {
                    catalogue.apply_keyed(TopicId(created.topic));
                }
                if topic.expiring {
                    catalogue.apply_expiring(TopicId(created.topic));
                }
            }
        }
        Ok(catalogue)
    }

    /// No topic has had this number or a larger one.
    pub(crate) fn topic_next(&self) -> u32 {
        self.next
    }

    pub(crate) fn snapshot(&self) -> (Vec<TopicSnapshot>, u32) {
        let topic = |info: &Arc<TopicInfo>| TopicSnapshot {
            topic: Some(TopicCreated {
                topic: info.id.0,
                name: info.name.clone(),
                partitions: info.partitions,
                config: Some(info.config),
                wall_ms: 0,
                dead_letters_of: info.dead_letters_of.map(|(g, t)| DeadLetterLog { group: g.0, topic: t.0 }),
                delayed_of: info.delayed_of.map(|(t, horizon_ms)| DelayLog { topic: t.0, horizon_ms }),
            }),
            keyed: info.keyed,
            expiring: info.expiring,
        };
        let next = if mutant::is(Mutant::TopicIdsReused) { 0 } else { self.next };
        (self.table.iter().map(topic).collect(), next)
    }

    pub(crate) fn table(&self) -> &Arc<TopicTable> {
        &self.table
    }

    /// A topic that clients may name.
    pub(crate) fn find(&self, name: &str) -> Result<&Arc<TopicInfo>, RequestError> {
        self.table
            .by_name(name)
            .filter(|topic| !topic.is_hidden())
            .ok_or_else(|| RequestError::UnknownTopic(name.to_owned()))
    }

    pub(crate) fn dead_letter_log(&self, group: GroupId, topic: TopicId) -> Option<&Arc<TopicInfo>> {
        self.table.iter().find(|info| info.dead_letters_of == Some((group, topic)))
    }

    /// Where messages of a topic wait for so long at most.
    pub(crate) fn delay_log(&self, topic: TopicId, horizon: Horizon) -> Option<TopicId> {
        self.delay_logs.get(&(topic, horizon)).copied()
    }

    /// All logs in which messages of a topic wait.
    pub(crate) fn delay_logs(&self, topic: TopicId) -> impl Iterator<Item = TopicId> {
        Horizon::all().filter_map(move |horizon| self.delay_log(topic, horizon))
    }

    /// The topic that a delay log is of.
    pub(crate) fn delayed_of(&self, log: TopicId) -> Option<(TopicId, Horizon)> {
        let (topic, horizon_ms) = self.table.by_id(log)?.delayed_of?;
        Some((topic, Horizon::from_ms(horizon_ms)?))
    }

    pub(crate) fn decide_create(
        &self,
        now: Now,
        create: &wire::CreateTopic,
    ) -> Result<TopicCreated, RequestError> {
        check_name("topic", &create.name)?;
        if self.table.by_name(&create.name).is_some() {
            return Err(RequestError::TopicExists(create.name.clone()));
        }
        let partitions = create.partitions.max(1);
        self.check_partitions(0, partitions)?;
        Ok(TopicCreated {
            topic: self.next,
            name: create.name.clone(),
            partitions,
            config: Some(complete(create.config.as_ref())?),
            wall_ms: now.wall_ms,
            dead_letters_of: None,
            delayed_of: None,
        })
    }

    /// The log in which a group keeps what died of a topic: as many partitions, kept until purged or redriven.
    pub(crate) fn decide_dead_letter_log(&self, now: Now, group: GroupId, topic: &TopicInfo) -> TopicCreated {
        let name = format!("__dead-letters.{group}.{}", topic.id);
        let dead_letters_of = Some(DeadLetterLog { group: group.0, topic: topic.id.0 });
        TopicCreated { dead_letters_of, ..self.hidden(now, name, topic) }
    }

    /// The log in which messages of a topic wait for so long at most.
    pub(crate) fn decide_delay_log(
        &self,
        now: Now,
        topic: &TopicInfo,
        horizon: Horizon,
    ) -> Result<TopicCreated, RequestError> {
        self.check_partitions(0, topic.partitions)?;
        let name = format!("__delayed.{}.{}", topic.id, horizon.ms());
        let delayed_of = Some(DelayLog { topic: topic.id.0, horizon_ms: horizon.ms() });
        Ok(TopicCreated { delayed_of, ..self.hidden(now, name, topic) })
    }

    /// A topic of the broker's own, which keeps what belongs to another one until that is done with it.
    fn hidden(&self, now: Now, name: String, source: &TopicInfo) -> TopicCreated {
        TopicCreated {
            topic: self.next,
            name,
            partitions: source.partitions,
            config: Some(TopicConfig {
                retention_ms: None,
                message_bytes_max: MESSAGE_BYTES_MAX,
                ..default_topic_config()
            }),
            wall_ms: now.wall_ms,
            ..TopicCreated::default()
        }
    }

    /// Says also what becomes of the hidden logs of the topic, which have as many partitions.
    pub(crate) fn decide_alter(&self, alter: &wire::AlterTopic) -> Result<Vec<TopicAltered>, RequestError> {
        let topic = self.find(&alter.name)?;
        let partitions = alter.partitions.unwrap_or(topic.partitions);
        if partitions < topic.partitions {
            return Err(RequestError::Invalid(format!(
                "topic `{}` has {} partitions, which cannot become fewer ({partitions}): make a new topic instead",
                topic.name, topic.partitions
            )));
        }
        if partitions > topic.partitions {
            self.check_partitions(topic.partitions, partitions)?;
            if topic.keyed && !alter.force {
                return Err(RequestError::KeyedMessages { topic: topic.name.clone() });
            }
        }
        let config = match &alter.config {
            Some(config) => complete(Some(config))?,
            None => topic.config,
        };
        if (config.cleanup() == wire::Cleanup::Compact) != (topic.config.cleanup() == wire::Cleanup::Compact)
        {
            return Err(RequestError::Invalid(format!(
                "topic `{}`: cleanup cannot become `compact`, nor anything else if it is: whether a message needs a key \
                 and whether every offset has a message is settled when a topic is created; make a new one instead",
                topic.name
            )));
        }
        let of_topic = TopicAltered { topic: topic.id.0, partitions, config: Some(config) };
        let hidden = self
            .table
            .iter()
            .filter(|info| info.source() == Some(topic.id))
            .map(|info| TopicAltered { topic: info.id.0, partitions, config: Some(info.config) });
        Ok(std::iter::once(of_topic).chain(hidden).collect())
    }

    pub(crate) fn apply_created(&mut self, created: &TopicCreated) {
        let info = TopicInfo {
            id: TopicId(created.topic),
            name: created.name.clone(),
            partitions: created.partitions,
            config: created.config.unwrap_or_else(default_topic_config),
            dead_letters_of: created.dead_letters_of.map(|of| (GroupId(of.group), TopicId(of.topic))),
            delayed_of: created.delayed_of.map(|of| (TopicId(of.topic), of.horizon_ms)),
            keyed: false,
            expiring: false,
        };
        if let Some((topic, horizon_ms)) = info.delayed_of
            && let Some(horizon) = Horizon::from_ms(horizon_ms)
        {
            self.delay_logs.insert((topic, horizon), info.id);
        }
        self.next = self.next.max(created.topic + 1);
        let table = Arc::make_mut(&mut self.table);
        table.by_name.insert(info.name.clone(), info.id);
        table.by_id.insert(info.id, Arc::new(info));
    }

    pub(crate) fn apply_altered(&mut self, altered: &TopicAltered) {
        self.update(TopicId(altered.topic), |info| {
            info.partitions = info.partitions.max(altered.partitions);
            info.config = altered.config.unwrap_or(info.config);
        });
    }

    pub(crate) fn apply_keyed(&mut self, topic: TopicId) {
        self.update(topic, |info| info.keyed = true);
    }

    pub(crate) fn apply_expiring(&mut self, topic: TopicId) {
        self.update(topic, |info| info.expiring = true);
    }

    /// Returns what it was.
    pub(crate) fn apply_deleted(&mut self, topic: TopicId) -> Option<Arc<TopicInfo>> {
        let table = Arc::make_mut(&mut self.table);
        let info = table.by_id.remove(&topic)?;
        table.by_name.remove(&info.name);
        self.delay_logs.retain(|_, log| *log != topic);
        Some(info)
    }

    fn update(&mut self, topic: TopicId, change: impl FnOnce(&mut TopicInfo)) {
        if let Some(info) = Arc::make_mut(&mut self.table).by_id.get_mut(&topic) {
            change(Arc::make_mut(info));
        }
    }

    fn check_partitions(&self, present: u32, wanted: u32) -> Result<(), RequestError> {
        let total: u64 = self.table.iter().map(|info| u64::from(info.partitions)).sum();
        if wanted > PARTITIONS_MAX || total + u64::from(wanted - present) > PARTITIONS_TOTAL_MAX {
            return Err(RequestError::Invalid(format!(
                "{wanted} partitions are too many: a topic has at most {PARTITIONS_MAX}, and all topics together at \
                 most {PARTITIONS_TOTAL_MAX}, of which {total} are taken"
            )));
        }
        Ok(())
    }
}

impl TopicInfo {
    /// The broker's own: clients neither see nor name it.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.source().is_some()
    }

    /// The topic that a hidden one belongs to.
    #[must_use]
    pub fn source(&self) -> Option<TopicId> {
        let letters_of = self.dead_letters_of.map(|(_, topic)| topic);
        letters_of.or(self.delayed_of.map(|(topic, _)| topic))
    }

    /// One of its partitions, if it has it.
    pub fn partition(&self, partition: PartitionId) -> Result<TopicPartition, RequestError> {
        if partition.0 < self.partitions {
            return Ok(TopicPartition { topic: self.id, partition });
        }
        Err(RequestError::UnknownPartition {
            topic: self.name.clone(),
            partition,
            partitions: self.partitions,
        })
    }

    /// All of its partitions.
    pub fn all_partitions(&self) -> impl Iterator<Item = TopicPartition> + use<> {
        let topic = self.id;
        (0..self.partitions).map(move |partition| TopicPartition { topic, partition: PartitionId(partition) })
    }
}

/// What no event about a topic says, however it came into the journal: numbers that run over, more logs than fit into
/// memory.
pub(crate) fn check_event(topic: u32, partitions: u32) -> Result<(), String> {
    if topic == u32::MAX || partitions > PARTITIONS_MAX {
        return Err(format!("there is no topic {topic} with {partitions} partitions"));
    }
    Ok(())
}

/// The same, and a delay log of a horizon that this version knows.
pub(crate) fn check_created(created: &TopicCreated) -> Result<(), String> {
    check_event(created.topic, created.partitions)?;
    match created.delayed_of {
        Some(DelayLog { horizon_ms, .. }) if Horizon::from_ms(horizon_ms).is_none() => {
            Err(format!("topic {} is a delay log for {horizon_ms} ms, which nobody makes", created.topic))
        }
        _ => Ok(()),
    }
}

/// Names never touch a path, but people type them: a small alphabet, nothing hidden, nothing of the broker's own.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<(), RequestError> {
    let shown: String = name.chars().take(60).collect();
    let fail = |why: &str| Err(RequestError::Invalid(format!("{kind} name `{shown}` {why}")));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return fail("must have 1 to 249 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return fail("may hold only letters, digits, `.`, `_` and `-`");
    }
    if name == "." || name == ".." {
        return fail("is not allowed: choose one that is not `.` or `..`");
    }
    if name.starts_with("__") {
        return fail("is not allowed: names that begin with `__` are the broker's own");
    }
    Ok(())
}

/// The whole settings: what was left out (0) is filled in, what is out of bounds refused.
fn complete(config: Option<&TopicConfig>) -> Result<TopicConfig, RequestError> {
    let default = default_topic_config();
    let Some(config) = config else { return Ok(default) };
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let complete = TopicConfig {
        segment_bytes: or(config.segment_bytes, default.segment_bytes),
        message_bytes_max: or(config.message_bytes_max.into(), default.message_bytes_max.into()) as u32,
        tombstone_retention_ms: or(config.tombstone_retention_ms, default.tombstone_retention_ms),
        compact_after_ms: or(config.compact_after_ms, default.compact_after_ms),
        dedup_window_ms: config.dedup_window_ms.or(default.dedup_window_ms),
        ..*config
    };
    let fail = |what: String| Err(RequestError::Invalid(what));
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&complete.segment_bytes) {
        return fail(format!(
            "segment-size {} is out of bounds: {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes",
            complete.segment_bytes
        ));
    }
    if complete.message_bytes_max > MESSAGE_BYTES_MAX {
        return fail(format!(
            "max-message {} is out of bounds: at most {MESSAGE_BYTES_MAX} bytes; store larger things elsewhere and \
             send a reference",
            complete.message_bytes_max
        ));
    }
    if complete.retention_ms == Some(0) || complete.retention_bytes == Some(0) {
        return fail("a retention of 0 would keep nothing: leave it out to keep for ever".into());
    }
    if wire::Durability::try_from(complete.durability).is_err() {
        return fail(format!("unknown durability {}", complete.durability));
    }
    if complete.compact_after_ms < COMPACT_AFTER_MS_MIN {
        return fail(format!(
            "compact-after {} ms is out of bounds: at least {COMPACT_AFTER_MS_MIN} ms",
            complete.compact_after_ms
        ));
    }
    let window_ms = dedup_window_ms(&complete);
    if window_ms != 0 && !(DEDUP_WINDOW_MS_MIN..=DEDUP_WINDOW_MS_MAX).contains(&window_ms) {
        return fail(format!(
            "dedup-window {window_ms} ms is out of bounds: 0 to remember no ids, or {DEDUP_WINDOW_MS_MIN} to \
             {DEDUP_WINDOW_MS_MAX} ms"
        ));
    }
    if wire::Cleanup::try_from(complete.cleanup).is_err() {
        return fail(format!("unknown cleanup {}", complete.cleanup));
    }
    Ok(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { mono_ms: 0, wall_ms: 0 };

    fn create(name: &str) -> wire::CreateTopic {
        wire::CreateTopic { name: name.into(), partitions: 2, config: None }
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        let catalogue = Catalogue::new();
        for name in ["", ".", "..", "../../etc", "a/b", "__mine", "a b", "ä", &"x".repeat(250)] {
            assert!(catalogue.decide_create(NOW, &create(name)).is_err(), "{name}");
        }
        for name in ["a", "...", "_a", "photos.raw-1", &"x".repeat(249)] {
            assert!(catalogue.decide_create(NOW, &create(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_number_is_never_used_again() {
        let mut catalogue = Catalogue::new();
        let first = catalogue.decide_create(NOW, &create("a")).expect("created");
        catalogue.apply_created(&first);
        assert!(matches!(catalogue.decide_create(NOW, &create("a")), Err(RequestError::TopicExists(_))));
        catalogue.apply_deleted(TopicId(first.topic));
        let second = catalogue.decide_create(NOW, &create("a")).expect("created");
        assert!(second.topic > first.topic);
        let (topics, next) = catalogue.snapshot();
        assert_eq!(Catalogue::restore(&topics, next).expect("restored").next, catalogue.next);
    }

    #[test]
    fn partitions_grow_but_not_under_keyed_messages() {
        let mut catalogue = Catalogue::new();
        let created = catalogue.decide_create(NOW, &create("a")).expect("created");
        catalogue.apply_created(&created);
        let alter = |partitions, force| wire::AlterTopic {
            name: "a".into(),
            partitions: Some(partitions),
            config: None,
            force,
        };
        assert!(catalogue.decide_alter(&alter(1, false)).is_err());
        assert!(catalogue.decide_alter(&alter(3, false)).is_ok());
        assert!(catalogue.decide_alter(&alter(PARTITIONS_MAX, false)).is_ok());
        assert!(catalogue.decide_alter(&alter(PARTITIONS_MAX + 1, false)).is_err());
        catalogue.apply_keyed(TopicId(created.topic));
        assert!(matches!(catalogue.decide_alter(&alter(3, false)), Err(RequestError::KeyedMessages { .. })));
        assert!(catalogue.decide_alter(&alter(3, true)).is_ok());
    }
}
