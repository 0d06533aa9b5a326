//! The bytes of every on-disk format, kept for ever: a format may grow, but what was once written must read back, and
//! what is written today must not drift unnoticed. The fixture is written by hand into `tests/fixtures` when a format
//! gets a new version; the old one stays.

use dure_proto::journal::{Checkpoint, Event, TopicDeleted, event};
use dure_proto::{CommitSeq, Epoch, Offset, PartitionId, ShardId, TopicId, TopicPartition};

use crate::disk::{Disk, RealDisk};
use crate::journal::{CommitBuilder, CommitHeader, CommitStamp};
use crate::log::{IndexWriter, SegmentIndex, segment_header};

fn check(name: &str, bytes: &[u8], kept: &str) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let kept: String = kept.split_whitespace().collect();
    assert_eq!(hex, kept, "the format of a {name} has drifted");
}

#[test]
fn a_commit_is_as_it_was() {
    let mut builder = CommitBuilder::reuse(Vec::new());
    builder.push_event(&Event { event: Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })) });
    let (bytes, _) = builder.finish(&CommitStamp {
        salt: 7,
        shard: ShardId(0),
        epoch: Epoch(2),
        seq: CommitSeq(41),
        durable_upto: CommitSeq(39),
        piece: 5,
        prev_checksum: 0xabcd,
        opens_epoch: false,
    });
    assert!(CommitHeader::parse(&bytes, 7).is_some());
    check("commit", &bytes[..80], include_str!("../tests/fixtures/commit-v1.hex"));
}

#[test]
fn a_segment_header_is_as_it_was() {
    let partition = TopicPartition { topic: TopicId(3), partition: PartitionId(1) };
    let bytes = segment_header(partition, Offset(1_000));
    check("segment header", &bytes, include_str!("../tests/fixtures/segment-header-v1.hex"));
}

#[test]
fn an_index_is_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(dir.path()).expect("a disk");
    let mut index = IndexWriter::open(&disk, "i", Offset(1_000), 0).expect("an index");
    index.note(64, Offset(1_000), 1_700_000_000_000).expect("written");
    index.note(9_000, Offset(1_044), 1_700_000_000_500).expect("written");
    assert_eq!(SegmentIndex::read(&disk, "i", Offset(1_000)).before_offset(Offset(1_050)), 9_000);
    let bytes = disk.read_past_cache("i").expect("read");
    check("index", &bytes, include_str!("../tests/fixtures/index-v1.hex"));
}

#[test]
fn a_checkpoint_is_as_it_was() {
    let checkpoint =
        Checkpoint { seq: 5, epoch: 2, checksum: 9, piece: 1, topic_next: 3, ..Checkpoint::default() };
    let bytes = crate::checkpoint::encode(&checkpoint);
    assert_eq!(crate::checkpoint::decode(&bytes), Ok(checkpoint));
    check("checkpoint", &bytes, include_str!("../tests/fixtures/checkpoint-v1.hex"));
}
