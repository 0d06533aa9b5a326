use std::io;

use super::archive::{ArchiveError, ArchiveWriter, IDENTITY, Identity, Sink, VERSION, check, read};
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
