//! A shard on a simulated disk, opened on whatever lies there, with everything it wants carried out at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dure_engine::{
    ConnectionId, Cursor, Disk, Effect, FoundRecords, Input, Letter, LetterError, LogView, Now, OpenError,
    OpenMode, RECORD_TABLE_MAX, ReadOutcome, RecordFacts, RecordTable, RecoveryReport, ReplyTo, Request,
    Shard, ShardConfig, SimDisk, TopicTable, Wait, letter_batch, rebuild_indexes, verify,
};
use dure_proto::{
    BatchLimits, ENTRY_HEADER_BYTES, EntryHeader, GroupId, KeySeed, Offset, Record, Records, ShardId,
    TopicPartition, split_entries, verify_entry,
};

use super::seal::SALT;

/// The shard's directory.
pub(super) const SHARD_DIR: &str = "shard-0000";
/// The size of journal pieces here: as small as the largest commit allows.
const PIECE_BYTES: u64 = 64 << 10;
/// Rounds after which a shard must have nothing more to do by itself.
const ROUNDS_MAX: usize = 2_000;
/// What is asked for at once when a log is read.
const READ_BYTES: usize = 8 << 10;

/// A shard that runs.
pub(super) struct Running {
    disk: SimDisk,
    shard: Shard,
    now: Now,
    letters: Vec<(GroupId, TopicPartition, Offset, (TopicPartition, Offset))>,
    /// What readers see.
    pub(super) views: BTreeMap<TopicPartition, LogView>,
    pub(super) topics: Arc<TopicTable>,
    pub(super) report: RecoveryReport,
    pub(super) stopped: bool,
}

/// A disk with these files, synced.
pub(super) fn disk_with(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(1);
    for (path, bytes) in files {
        let (dir, _) = path.rsplit_once('/').expect("files lie in directories");
        disk.create_dir_all(dir).expect("made");
        let file = disk.open(path, OpenMode::Create).expect("created");
        file.write_all_at(0, bytes).and_then(|()| file.sync()).expect("written");
    }
    disk
}

impl Running {
    /// Opens the shard, and lets it do what it wants to do by itself.
    pub(super) fn open(disk: &SimDisk) -> Result<Running, OpenError> {
        let config = ShardConfig {
            journal_piece_bytes: PIECE_BYTES,
            checkpoint_bytes: 1 << 20,
            reserve_bytes: 0,
            salt: SALT,
            commit_bytes_soft: 8 << 10,
            commit_bytes_max: PIECE_BYTES as usize,
            ..ShardConfig::default()
        };
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_010_000 };
        let (shard, report) = Shard::open(Arc::new(disk.clone()), ShardId(0), config, now)?;
        let mut running = Running {
            disk: disk.clone(),
            shard,
            now,
            letters: Vec::new(),
            views: BTreeMap::new(),
            topics: Arc::default(),
            report,
            stopped: false,
        };
        running.settle_down();
        Ok(running)
    }

    /// One request of a client, answered and durable when this returns.
    pub(super) fn ask(&mut self, connection: u64, correlation: u64, request: Request) {
        let reply_to = ReplyTo { connection: ConnectionId(connection), correlation };
        self.tell(Input::Request { reply_to, request });
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        self.settle_down();
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        self.settle_down();
    }

    /// Carries out effects until there are no more.
    fn settle_down(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.shard.turn(self.now);
            let effects = self.shard.take_effects();
            if effects.is_empty() && self.letters.is_empty() {
                return;
            }
            for effect in effects {
                self.perform(effect);
            }
            for letter in std::mem::take(&mut self.letters) {
                self.return_letter(letter);
            }
        }
        panic!("the shard goes on for ever by itself");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Job(job) => {
                let done = job.run(&self.disk);
                self.shard.handle(self.now, Input::JobDone(done));
            }
            Effect::Publish(view) => drop(self.views.insert(view.partition, view)),
            Effect::Unpublish(partition) => drop(self.views.remove(&partition)),
            Effect::TopicsChanged(topics) => self.topics = topics,
            Effect::FetchLetter { group, source, offset, from, .. } => {
                self.letters.push((group, source, offset, from));
            }
            Effect::FetchRecords { group, partition, from, seed } => {
                let table = self.record_table(partition, from, seed);
                self.shard.handle(self.now, Input::Records(FoundRecords { group, partition, from, table }));
            }
            Effect::Stopped(why) => {
                assert!(!self.stopped, "stopped twice: {why}");
                self.stopped = true;
            }
            Effect::Reply { .. }
            | Effect::Deliver(_)
            | Effect::EndSubscription { .. }
            | Effect::Assign { .. }
            | Effect::Scrubbed(_)
            | Effect::Shortage(_)
            | Effect::Unwritable(_)
            | Effect::CopiesWait(_)
            | Effect::CompactionFailed(_) => {}
        }
    }

    fn return_letter(&mut self, letter: (GroupId, TopicPartition, Offset, (TopicPartition, Offset))) {
        let (group, source, offset, from) = letter;
        let batch = match self.record(from.0, from.1) {
            Some(record) => Ok(letter_batch(Ok(&record))),
            None => Err(LetterError::Damaged("its checksum is wrong".into())),
        };
        self.shard.handle(self.now, Input::Letter(Letter { group, source, offset, batch }));
    }

    fn record(&self, partition: TopicPartition, offset: Offset) -> Option<Record> {
        self.batch(partition, offset)?.1.at(offset)
    }

    fn record_table(&self, partition: TopicPartition, from: Offset, seed: KeySeed) -> RecordTable {
        let Some((header, records)) = self.batch(partition, from) else { return RecordTable::Failed };
        let facts = RecordFacts::of_batch(&records, from, header.append_time_ms, seed);
        RecordTable::Records(facts.take(RECORD_TABLE_MAX as usize).collect())
    }

    fn batch(&self, partition: TopicPartition, offset: Offset) -> Option<(EntryHeader, Records)> {
        let view = self.views.get(&partition)?;
        let Ok(ReadOutcome::Entries(entries)) = view.read(&mut Cursor::at(offset), READ_BYTES, Wait::MayWait)
        else {
            return None;
        };
        let (header, batch) = split_entries(entries).next()?.ok()?;
        Some((header, Records::decode(&batch, &BatchLimits::stored()).ok()?))
    }

    /// Stops the shard as `SIGTERM` does.
    pub(super) fn close(mut self) {
        self.shard.begin_shutdown(self.now);
        self.settle_down();
        assert!(self.shard.is_drained(), "it waits for something that does not come");
    }

    /// Everything that readers get, by log: base offset and bytes of each entry.
    pub(super) fn read_all(&self) -> BTreeMap<TopicPartition, Vec<(Offset, Bytes)>> {
        self.views.iter().map(|(partition, view)| (*partition, read_log(view))).collect()
    }
}

/// Reads a log from its start, checking what is served on the way.
pub(super) fn read_log(view: &LogView) -> Vec<(Offset, Bytes)> {
    let mut cursor = Cursor::at(view.log_start);
    let mut served = Vec::new();
    while cursor.offset() < view.high_watermark {
        let before = cursor.offset();
        match view.read(&mut cursor, READ_BYTES, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => {
                let mut end = None;
                for item in split_entries(entries) {
                    let (header, batch) = item.expect("whole entries are served");
                    check_entry(&header, &batch);
                    assert!(header.end_offset() > before, "an entry below what was asked for");
                    assert!(end.is_none_or(|end| end == header.base_offset), "{header:?} behind {end:?}");
                    assert!(header.end_offset() <= view.high_watermark, "beyond the high watermark");
                    end = Some(header.end_offset());
                    served.push((header.base_offset, batch));
                }
                assert_eq!(end, Some(cursor.offset()));
            }
            Ok(ReadOutcome::Lost(range)) => {
                assert_eq!((range.start, range.end), (before, cursor.offset()));
            }
            Ok(ReadOutcome::AtEnd | ReadOutcome::WouldWait) => panic!("at {before} of {view:?}"),
            // A segment whose file is gone: what the disk says is told.
            Err(_) => break,
        }
        assert!(cursor.offset() > before, "reading does not get on at {before}");
    }
    served
}

fn check_entry(header: &EntryHeader, batch: &Bytes) {
    verify_entry(header, batch).expect("nothing is served whose checksum does not hold");
    if let Ok(records) = Records::decode(batch, &BatchLimits::stored()) {
        assert_eq!(records.header().end_offset(), header.end_offset());
    }
    assert!(batch.len() + ENTRY_HEADER_BYTES == header.entry_bytes());
}

/// Everything that one can do with a data directory, whatever lies in it: verify, open, read, restart, read again.
pub(super) fn live_through(disk: &SimDisk) {
    let offline = disk.fork();
    let _ = verify(&offline, ShardId(0), SALT);
    let _ = rebuild_indexes(&offline, ShardId(0));
    let Ok(first) = Running::open(disk) else { return };
    let served = first.read_all();
    for view in first.views.values() {
        for time_ms in [0, 1_700_000_000_500, u64::MAX] {
            let Ok(offset) = view.locate_time(time_ms) else { continue };
            assert!(view.log_start <= offset && offset <= view.high_watermark, "{offset} of {view:?}");
        }
    }
    let stopped = first.stopped;
    first.close();
    if stopped {
        return;
    }
    // What was served once is served again: a recovery mends, it does not lose.
    let again = Running::open(disk).expect("it was opened before");
    assert_eq!(again.read_all(), served, "a restart changed what is served");
}
