use std::io;
use std::sync::Arc;

use dure_engine::{
    BackupPlan, ConnectionId, Effect, FaultRule, Input, Now, Produce, ReplyTo, Request, RequestError,
    Response, Shard, ShardConfig, SimDisk, SimFaults,
};
use dure_proto::{BatchBuilder, Compression, PartitionId, ShardId, TopicId, TopicPartition, wire};

use super::archive::{ArchiveError, ArchiveWriter, IDENTITY, Identity, Sink, VERSION, check, read};
use super::write::{BackupError, write};
use crate::data_dir::Format;

fn identity(version: u32) -> Vec<u8> {
    let data = Format { format: 1, cluster: "c".repeat(32), salt: "0".repeat(16), shards: 1 };
    let identity =
        Identity { backup: version, data, broker: "0".to_owned(), created_ms: 1, shards: Vec::new() };
    serde_json::to_vec(&identity).unwrap()
}

fn archive(version: u32, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ArchiveWriter::new(&mut out);
    writer.whole_file(IDENTITY, &identity(version)).unwrap();
    files.iter().for_each(|(name, content)| writer.whole_file(name, content).unwrap());
    writer.finish().unwrap();
    out
}

const FILES: [(&str, &[u8]); 4] = [
    ("shard-0000/checkpoint", b"state"),
    ("shard-0000/log/1/0/00000000000000000000.log", &[7; 700]),
    ("shard-0000/log/1/0/00000000000000000009.log", b""),
    ("shard-0000/log/2/0/00000000000000000000-000000000000002a.log", b"compacted"),
];

#[derive(Default)]
struct Kept(Vec<(String, Vec<u8>)>);

impl Sink for Kept {
    fn begin(&mut self, name: &str, _: u64) -> io::Result<()> {
        self.0.push((name.to_owned(), Vec::new()));
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_was_written_is_read() {
    let mut kept = Kept::default();
    let found = read(&archive(VERSION, &FILES)[..], &mut kept).unwrap();
    assert_eq!(serde_json::to_vec(&found).unwrap(), identity(VERSION));
    assert_eq!(kept.0, FILES.map(|(name, content)| (name.to_owned(), content.to_vec())));
}

#[test]
fn no_flipped_bit_no_cut_and_nothing_more_is_believed() {
    let bytes = archive(VERSION, &FILES);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(check(&flipped[..]).is_err(), "byte {at}");
        let cut = check(&bytes[..at]);
        assert!(
            matches!(cut, Err(ArchiveError::CutOff { .. } | ArchiveError::Foreign)),
            "cut at {at}: {cut:?}"
        );
    }
    assert!(check(&[&bytes[..], b"x"].concat()[..]).is_err());
}

#[test]
fn a_damaged_file_is_named() {
    let mut bytes = archive(VERSION, &FILES);
    let at = bytes.windows(700).position(|window| window == [7; 700]).unwrap();
    bytes[at + 300] ^= 1;
    let error = check(&bytes[..]).unwrap_err().to_string();
    assert!(error.contains("`shard-0000/log/1/0/00000000000000000000.log`"), "{error}");
}

#[test]
fn other_files_and_newer_backups_are_told_apart() {
    assert!(matches!(check(&b"hello"[..]), Err(ArchiveError::Foreign)));
    assert!(matches!(check(&[0; 4096][..]), Err(ArchiveError::Foreign)));
    let newer = check(&archive(VERSION + 1, &FILES)[..]);
    assert!(matches!(newer, Err(ArchiveError::Newer { found: 2 })), "{newer:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../etc/passwd",
        "/etc/passwd",
        "shard-0000/../x",
        "shard-0000/log/1/0/x.log",
        "shard-0/checkpoint",
        "FORMAT",
    ] {
        let refused = check(&archive(VERSION, &[(name, b"x")])[..]);
        assert!(matches!(refused, Err(ArchiveError::Damaged { .. })), "{name}: {refused:?}");
    }
}

/// A shard with some messages, and what it names for a backup.
fn plan(disk: &SimDisk) -> BackupPlan {
    let now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
    let config = ShardConfig { reserve_bytes: 0, ..ShardConfig::default() };
    let (mut shard, _) = Shard::open(Arc::new(disk.clone()), ShardId(0), config, now).unwrap();
    let mut ask = |request: Request| {
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation: 1 };
        shard.handle(now, Input::Request { reply_to, request });
        let mut answer: Option<Result<Response, RequestError>> = None;
        loop {
            shard.turn(now);
            let effects = shard.take_effects();
            if effects.is_empty() {
                return answer.expect("answered").unwrap();
            }
            for effect in effects {
                match effect {
                    Effect::Job(job) => shard.handle(now, Input::JobDone(job.run(disk))),
                    Effect::Reply { result, .. } => answer = Some(result),
                    _ => {}
                }
            }
        }
    };
    ask(Request::CreateTopic(wire::CreateTopic { name: "t".into(), partitions: 3, config: None }));
    for partition in (0..3).map(PartitionId) {
        let mut batch = BatchBuilder::new(Compression::None);
        batch.push(None, Some(&[partition.0 as u8; 3_000]), &[], 0).unwrap();
        let (batch, partition) = (batch.build(None), TopicPartition { topic: TopicId(1), partition });
        let produce = Produce {
            partition,
            batch,
            keyed: false,
            all_keyed: false,
            expiring: false,
            ids: Vec::new(),
            record_bytes_max: 3_000,
        };
        ask(Request::Produce(produce));
    }
    match ask(Request::BeginBackup) {
        Response::Backup(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn format() -> Format {
    Format { format: 1, cluster: "c".repeat(32), salt: "0".repeat(16), shards: 1 }
}

#[test]
fn a_read_that_fails_in_the_middle_ends_a_backup_with_the_name_of_the_file() {
    let disk = SimDisk::new(0);
    let plan = plan(&disk);
    for nth in 1.. {
        disk.set_faults(SimFaults { fail_read: FaultRule::Nth(nth), ..SimFaults::default() });
        let mut out = Vec::new();
        match write(&disk, &format(), 1, std::slice::from_ref(&plan), &mut out) {
            Err(BackupError::Disk(error)) => {
                assert!(plan.segments.iter().any(|segment| *segment.path == *error.path), "{error}");
                assert!(check(&out[..]).is_err(), "what was written up to then is no archive");
            }
            Err(other) => panic!("{other}"),
            Ok(written) => {
                assert_eq!((check(&out[..]).is_ok(), written.short), (true, Vec::new()));
                assert!(nth > 3, "every segment is read");
                break;
            }
        }
    }
}

#[test]
fn an_archive_for_which_there_is_no_room_ends_in_an_error_and_is_none() {
    struct Small(Vec<u8>, usize);
    impl io::Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.1 - self.0.len());
            self.0.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let disk = SimDisk::new(0);
    let plan = plan(&disk);
    let mut whole = Vec::new();
    write(&disk, &format(), 1, std::slice::from_ref(&plan), &mut whole).unwrap();
    for room in (0..whole.len()).step_by(511) {
        let mut out = Small(Vec::new(), room);
        let failed = write(&disk, &format(), 1, std::slice::from_ref(&plan), &mut out);
        let Err(BackupError::Io(error)) = failed else { panic!("{failed:?} with {room} bytes") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(check(&out.0[..]).is_err());
    }
}
