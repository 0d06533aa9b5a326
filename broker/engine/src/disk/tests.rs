//! Both disks show the same results for the same calls.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;

use super::*;
use crate::journal::OpenPiece;

/// Runs a check on the simulated disk, on the machine's default file system and on its tmpfs (no direct I/O).
fn on_each_disk(check: impl Fn(&dyn Disk)) {
    check(&SimDisk::new(1));
    for dir in [std::env::temp_dir().as_path(), Path::new("/dev/shm")] {
        let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
        check(&RealDisk::open(dir.path()).unwrap());
    }
}

pub(super) fn kind<T>(result: DiskResult<T>) -> io::ErrorKind {
    result.err().expect("should have failed").source.kind()
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

pub(super) fn write_new(disk: &dyn Disk, path: &str, bytes: &[u8]) -> FileRef {
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    file.write_all_at(0, bytes).unwrap();
    file
}

pub(super) fn write_synced(disk: &dyn Disk, path: &str, bytes: &[u8]) -> FileRef {
    let file = write_new(disk, path, bytes);
    file.sync().unwrap();
    disk.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir)).unwrap();
    file
}

pub(super) fn content(disk: &dyn Disk, path: &str) -> Option<Vec<u8>> {
    let file = match disk.open(path, OpenMode::Read) {
        Err(e) if e.is_not_found() => return None,
        file => file.unwrap(),
    };
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(0, &mut content).unwrap();
    Some(content)
}

#[test]
fn files_read_back_what_was_written() {
    on_each_disk(|disk| {
        let bytes = pattern(10_000);
        let file = write_new(disk, "a", &bytes);
        file.write_all_at(12_000, b"end").unwrap();
        file.write_all_at(20_000, b"").unwrap();
        assert_eq!(file.len().unwrap(), 12_003);
        assert_eq!(file.path(), "a");
        let all = content(disk, "a").unwrap();
        assert_eq!(all[..10_000], bytes);
        assert!(all[10_000..12_000].iter().all(|b| *b == 0));

        let mut buf = [7; 8];
        assert_eq!(file.read_at(12_003, &mut buf).unwrap(), 0);
        assert_eq!(file.read_at(1 << 40, &mut buf).unwrap(), 0);
        let early_end = file.read_exact_at(12_000, &mut buf).unwrap_err();
        assert_eq!(early_end.kind(), DiskErrorKind::UnexpectedEnd);

        file.set_len(100).unwrap();
        file.set_len(300).unwrap();
        file.allocate(200).unwrap();
        assert_eq!(file.len().unwrap(), 300);
        file.allocate(5_000).unwrap();
        assert_eq!(file.len().unwrap(), 5_000);
        let all = content(disk, "a").unwrap();
        assert_eq!(all[..100], bytes[..100]);
        assert!(all[100..].iter().all(|b| *b == 0));

        if let Some(n) = file.read_cached_at(98, &mut buf[..4]).unwrap() {
            assert_eq!(buf[..n], all[98..98 + n]);
        }
    });
}

#[test]
fn reading_past_the_cache_finds_what_was_synced_at_any_alignment() {
    on_each_disk(|disk| {
        let bytes = pattern(3 * (1 << 20) + 777);
        write_synced(disk, "a", &bytes);
        assert_eq!(disk.read_past_cache("a").unwrap(), bytes);
        for (position, len) in [(0, 1), (0, 4096), (1, 4096), (4095, 2), (5000, 2_500_000), (3 << 20, 5000)] {
            let mut buf = vec![0; len];
            let n = disk.read_past_cache_at("a", position as u64, &mut buf).unwrap();
            assert_eq!(n, len.min(bytes.len() - position));
            assert_eq!(buf[..n], bytes[position..position + n]);
        }
        let mut buf = [0; 10];
        assert_eq!(disk.read_past_cache_at("a", bytes.len() as u64, &mut buf).unwrap(), 0);
        assert_eq!(disk.read_past_cache_at("a", 1 << 40, &mut buf).unwrap(), 0);
        assert_eq!(disk.read_past_cache_at("a", 5, &mut []).unwrap(), 0);

        write_synced(disk, "whole_blocks", &bytes[..8192]);
        write_synced(disk, "empty", &[]);
        assert_eq!(disk.read_past_cache("whole_blocks").unwrap(), bytes[..8192]);
        assert!(disk.read_past_cache("empty").unwrap().is_empty());
        assert_eq!(kind(disk.read_past_cache("missing")), io::ErrorKind::NotFound);
    });
}

#[test]
fn open_modes_create_and_refuse_alike() {
    on_each_disk(|disk| {
        assert_eq!(kind(disk.open("a", OpenMode::Read)), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.open("a", OpenMode::ReadWrite)), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.open("d/a", OpenMode::Create)), io::ErrorKind::NotFound);
        let file = disk.open("a", OpenMode::Create).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_all_at(0, b"kept").unwrap();
        assert_eq!(kind(disk.open("a", OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open("a", OpenMode::Create).unwrap().len().unwrap(), 4);
        assert_eq!(kind(disk.open("a/b", OpenMode::Create)), io::ErrorKind::NotADirectory);

        let read_only = disk.open("a", OpenMode::Read).unwrap();
        assert!(read_only.write_all_at(0, b"x").is_err());
        assert!(read_only.set_len(1).is_err());
        assert!(read_only.allocate(100).is_err());
        assert_eq!(content(disk, "a").unwrap(), b"kept");

        disk.create_dir_all("d").unwrap();
        assert_eq!(kind(disk.open("d", OpenMode::Read)), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.open("d", OpenMode::ReadWrite)), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.open("d", OpenMode::Create)), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.open("d", OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
        for bad in ["/a", "../a", "d/../a", "d//a", "d/", ".", "a\0"] {
            assert_eq!(kind(disk.open(bad, OpenMode::Create)), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(disk.available_bytes().unwrap() > 0);
    });
}

#[test]
fn directories_behave_alike() {
    on_each_disk(|disk| {
        disk.create_dir_all("x/y/z").unwrap();
        disk.create_dir_all("x/y").unwrap();
        disk.create_dir_all("").unwrap();
        for name in ["b", "c", "a"] {
            write_new(disk, &format!("x/{name}"), name.repeat(5).as_bytes());
        }
        let list = |dir: &str| -> Vec<(String, bool, u64)> {
            disk.list(dir).unwrap().into_iter().map(|e| (e.name, e.is_dir, e.bytes)).collect()
        };
        let file = |name: &str| (name.to_owned(), false, 5);
        assert_eq!(list("x"), [file("a"), file("b"), file("c"), ("y".into(), true, 0)]);
        assert_eq!(list(""), [("x".into(), true, 0)]);
        assert_eq!(kind(disk.list("none")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.list("x/a")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(disk.create_dir_all("x/a")), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create_dir_all("x/a/b")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(disk.sync_dir("none")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir("x/a")), io::ErrorKind::NotADirectory);

        disk.rename("x/a", "x/b").unwrap();
        disk.rename("x/b", "x/b").unwrap();
        assert_eq!(content(disk, "x/b").unwrap(), b"aaaaa");
        disk.rename("x/b", "x/y/b").unwrap();
        assert_eq!(kind(disk.rename("x/b", "x/c")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.rename("x/c", "none/c")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.rename("x/c", "x/y")), io::ErrorKind::IsADirectory);
        assert_eq!(kind(disk.rename("x/y", "x/c")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(disk.rename("x", "x/y/x")), io::ErrorKind::InvalidInput);
        assert_eq!(kind(disk.rename("x/y/z", "x")), io::ErrorKind::DirectoryNotEmpty);
        disk.sync_dir("x").unwrap();
        disk.sync_dir("").unwrap();

        let open = disk.open("x/c", OpenMode::ReadWrite).unwrap();
        disk.remove("x/c").unwrap();
        assert_eq!(kind(disk.remove("x/c")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.remove("x/y")), io::ErrorKind::IsADirectory);
        disk.sync_dir("x").unwrap();
        open.write_all_at(5, b"!").unwrap();
        assert_eq!(open.len().unwrap(), 6);
        open.sync().unwrap();

        disk.rename("x/y", "w").unwrap();
        assert_eq!(list("w"), [file("b"), ("z".into(), true, 0)]);
        assert_eq!(kind(disk.remove_dir_all("w/b")), io::ErrorKind::NotADirectory);
        disk.remove_dir_all("w").unwrap();
        assert_eq!(kind(disk.remove_dir_all("w")), io::ErrorKind::NotFound);
        assert_eq!(kind(disk.remove_dir_all("")), io::ErrorKind::InvalidInput);
        assert_eq!(list(""), [("x".into(), true, 0)]);
        assert_eq!(list("x"), []);
    });
}

/// Random calls on both, with every result and the whole tree compared.
#[test]
fn random_calls_have_the_same_results_on_both() {
    for seed in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let real = RealDisk::open(dir.path()).unwrap();
        let sim = SimDisk::new(seed);
        let mut rng = Rng::with_seed(seed);
        let paths = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"];
        for step in 0..150 {
            let (path, other) = (paths[rng.usize(0..7)], paths[rng.usize(0..7)]);
            let (call, position, len) = (rng.u8(0..9), rng.u64(0..3000), rng.usize(0..1500));
            let run = |disk: &dyn Disk| -> DiskResult<Vec<u8>> {
                let file = || disk.open(path, OpenMode::ReadWrite);
                match call {
                    0 => disk.create_dir_all(path)?,
                    1 => disk.open(path, OpenMode::Create)?.write_all_at(position, &pattern(len))?,
                    2 => _ = disk.open(path, OpenMode::CreateNew)?,
                    3 => disk.rename(path, other)?,
                    4 => disk.remove(path)?,
                    5 => disk.remove_dir_all(path)?,
                    6 => file()?.set_len(position)?,
                    7 => file()?.sync()?,
                    _ => {
                        let mut buf = vec![0; len];
                        let n = file()?.read_at(position, &mut buf)?;
                        return Ok(buf[..n].to_vec());
                    }
                }
                Ok(Vec::new())
            };
            let outcome = |r: DiskResult<Vec<u8>>| r.map_err(|e| (e.op, e.source.kind()));
            let (on_real, on_sim) = (outcome(run(&real)), outcome(run(&sim)));
            assert_eq!(on_real, on_sim, "seed {seed} step {step}: call {call} on {path}, {other}");
        }
        assert_eq!(tree_of(&real, ""), tree_of(&sim, ""), "seed {seed}");
    }
}

fn tree_of(disk: &dyn Disk, dir: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let mut tree = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = if dir.is_empty() { entry.name } else { format!("{dir}/{}", entry.name) };
        if entry.is_dir {
            tree.push((path.clone(), None));
            tree.extend(tree_of(disk, &path));
        } else {
            let bytes = content(disk, &path).unwrap();
            assert_eq!(bytes.len() as u64, entry.bytes);
            tree.push((path, Some(bytes)));
        }
    }
    tree
}

#[test]
fn errors_say_what_and_where_and_keep_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::create(&dir.path().join("new/data")).unwrap();
    let error = disk.open("shard-0/x", OpenMode::Read).err().unwrap();
    assert_eq!(error.to_string(), "open \"shard-0/x\": No such file or directory (os error 2)");
    assert_eq!(error.source.raw_os_error(), Some(2));
    assert!(error.is_not_found());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    assert!(RealDisk::open(&dir.path().join("none")).unwrap_err().is_not_found());
    for code in [28, 122] {
        let full = DiskError::new(DiskOp::Write, "x", io::Error::from_raw_os_error(code));
        assert!(full.is_no_space(), "code {code}");
    }
}

#[test]
fn both_can_be_shared() {
    let disks: [DiskRef; 2] =
        [Arc::new(SimDisk::new(1)), Arc::new(RealDisk::open(&std::env::temp_dir()).unwrap())];
    assert!(disks.iter().all(|disk| disk.list("").is_ok()));
}

#[test]
fn what_is_uncached_is_read_as_before_and_a_file_that_is_gone_is_as_good() {
    on_each_disk(|disk| {
        let bytes = pattern(100_000);
        write_synced(disk, "a", &bytes);
        disk.uncache("a", 65_536);
        disk.uncache("gone", 65_536);
        assert_eq!(content(disk, "a").unwrap(), bytes);
    });
}

#[test]
fn what_is_sent_out_early_reads_back_before_and_behind_its_sync() {
    on_each_disk(|disk| {
        let bytes = pattern(3 << 20);
        let file = write_new(disk, "a", &bytes);
        file.begin_write_back(0, 2 << 20);
        assert_eq!(content(disk, "a").unwrap(), bytes);
        file.sync().unwrap();
        assert_eq!(content(disk, "a").unwrap(), bytes);
    });
}

/// A directory whose file system has a page cache to tell of: on tmpfs memory is all there is.
fn cached_dir() -> Option<tempfile::TempDir> {
    const TMPFS: i64 = 0x0102_1994;
    let dir = tempfile::tempdir().unwrap();
    (rustix::fs::statfs(dir.path()).unwrap().f_type as i64 != TMPFS).then_some(dir)
}

/// A file of a mebibyte of which no memory holds anything.
fn uncached_file(disk: &RealDisk) -> FileRef {
    let file = write_synced(disk, "a", &pattern(1 << 20));
    // Pages on their way into a list of the kernel's stay until they are there.
    let left = (0..1_000).any(|_| {
        disk.uncache("a", 1 << 20);
        file.read_cached_at(0, &mut [0; 16]).unwrap().is_none()
    });
    assert!(left, "it is still in the page cache");
    file
}

#[test]
fn clean_pages_that_are_uncached_leave_the_page_cache_and_what_is_not_synced_is_kept() {
    let Some(dir) = cached_dir() else { return };
    let disk = RealDisk::open(dir.path()).unwrap();
    let file = uncached_file(&disk);
    file.write_all_at(0, b"again").unwrap();
    disk.uncache("a", 4096);
    let mut back = [0; 5];
    file.read_exact_at(0, &mut back).unwrap();
    assert_eq!(&back, b"again");
}

/// Whether in one of some tries, each in a new directory, memory did not hold what is looked at: asking makes the system
/// get it, and sometimes it is there before the answer is.
fn is_uncached_in_one_of_some(finds_nothing: impl Fn(&RealDisk) -> bool) -> bool {
    (0..50).any(|_| cached_dir().is_none_or(|dir| finds_nothing(&RealDisk::open(dir.path()).unwrap())))
}

/// A sync waited behind the several mebibytes that the system reads ahead at a time.
#[test]
fn the_disk_is_asked_for_what_a_reader_wants_and_no_more() {
    const READ: usize = 64 << 10;
    let reads_no_more = |disk: &RealDisk| {
        let file = uncached_file(disk);
        for position in [0, READ as u64] {
            file.read_exact_at(position, &mut vec![0; READ]).unwrap();
        }
        assert!(file.read_cached_at(READ as u64, &mut [0; 16]).unwrap().is_some(), "what was read is cached");
        file.read_cached_at(3 * READ as u64, &mut [0; 16]).unwrap().is_none()
    };
    assert!(is_uncached_in_one_of_some(reads_no_more), "more was read");
}

/// Its 64 MiB of zeroes were left to its sync, and those of commits waited behind that for 30 ms.
#[test]
fn a_new_journal_piece_leaves_its_sync_nothing_to_write() {
    const BYTES: u64 = 1 << 20;
    let passes_by = |disk: &RealDisk| {
        disk.create_dir_all("journal").unwrap();
        drop(OpenPiece::prepare(disk, "journal", 1, BYTES, None).unwrap());
        let path = format!("journal/{}", disk.list("journal").unwrap().pop().expect("the piece").name);
        let found =
            disk.open(&path, OpenMode::Read).unwrap().read_cached_at(BYTES / 2, &mut [0; 16]).unwrap();
        assert!(disk.read_past_cache(&path).unwrap().iter().all(|byte| *byte == 0));
        found.is_none()
    };
    assert!(
        is_uncached_in_one_of_some(passes_by) || !direct_is_possible(),
        "it was written into the page cache"
    );
}

#[test]
fn whole_blocks_pass_by_the_page_cache_and_everything_else_is_written_as_well() {
    let mut blocks = AlignedBytes::default();
    blocks.extend_from_slice(&[7; 2 * DIRECT_ALIGN]);
    let passes_by = |disk: &RealDisk| {
        let mut expected = pattern(256 << 10);
        write_synced(disk, "a", &expected);
        let file = disk.open_for_blocks("a").unwrap();
        for (position, bytes) in
            [(4096, &blocks[..]), (100, &blocks[..]), (200_000, &blocks[..3000]), (65_536, &blocks[..])]
        {
            file.write_all_at(position, bytes).unwrap();
            let position = position as usize;
            expected[position..position + bytes.len()].copy_from_slice(bytes);
        }
        let found = file.read_cached_at(65_536, &mut [0; 16]).unwrap();
        file.sync().unwrap();
        assert_eq!(content(disk, "a").unwrap(), expected);
        assert_eq!(disk.read_past_cache("a").unwrap(), expected);
        found.is_none()
    };
    assert!(is_uncached_in_one_of_some(passes_by) || !direct_is_possible(), "blocks are in the page cache");
}

/// Whether the file system of temporary files takes writes that pass by the page cache.
fn direct_is_possible() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).custom_flags(direct).open(dir.path().join("a")).is_ok()
}
