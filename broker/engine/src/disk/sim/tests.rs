//! The simulated disk forgets what it should and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::super::tests::{content, pattern, write_new, write_synced};
use super::super::*;
use super::*;

#[test]
fn everything_synced_survives_every_crash() {
    for seed in 0..500 {
        let disk = SimDisk::new(seed);
        disk.create_dir_all("d/e").unwrap();
        disk.sync_dir("").unwrap();
        disk.sync_dir("d").unwrap();
        let bytes = pattern(3000);
        let file = write_synced(&disk, "d/e/a", &bytes);
        write_new(&disk, "d/e/b", b"not synced");
        file.write_all_at(5000, b"not synced").unwrap();
        disk.crash(&mut Rng::with_seed(seed));
        assert_eq!(content(&disk, "d/e/a").unwrap()[..3000], bytes, "seed {seed}");
        assert_eq!(disk.read_past_cache("d/e/a").unwrap(), content(&disk, "d/e/a").unwrap());
    }
}

#[test]
fn unsynced_writes_tear_reorder_and_vanish_by_sector() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let file = write_synced(&disk, "a", &[b'o'; 4 * SECTOR_BYTES]);
        file.write_all_at(0, &[b'n'; 4 * SECTOR_BYTES]).unwrap();
        disk.crash(&mut Rng::with_seed(seed));
        let after = content(&disk, "a").unwrap();
        assert_eq!(after.len(), 4 * SECTOR_BYTES);
        let sectors = after.chunks(SECTOR_BYTES);
        assert!(sectors.clone().all(|s| s.iter().all(|b| *b == s[0])), "torn inside a sector");
        seen.insert(sectors.map(|s| s[0]).collect::<Vec<u8>>());
    }
    assert_eq!(seen.len(), 16, "every subset of the sectors should have been met");
}

#[test]
fn unsynced_lengths_end_anywhere_with_zeroes_in_the_holes() {
    let mut lengths = BTreeSet::new();
    let mut holes = 0;
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let file = write_synced(&disk, "a", &[b'o'; 100]);
        file.write_all_at(100, &[b'n'; 2000]).unwrap();
        disk.crash(&mut Rng::with_seed(seed));
        let after = content(&disk, "a").unwrap();
        assert!((100..=2100).contains(&after.len()));
        assert_eq!(after[..100], [b'o'; 100]);
        assert!(after[100..].iter().all(|b| [b'n', 0].contains(b)));
        holes += u32::from(after[100..].contains(&0));
        lengths.insert(after.len());
    }
    assert!(lengths.contains(&100) && lengths.contains(&2100));
    assert!(lengths.len() > 10 && holes > 10, "{} lengths, {holes} holes", lengths.len());
}

#[test]
fn an_unsynced_cut_is_done_or_not() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        write_synced(&disk, "a", &[b'o'; 3000]).set_len(700).unwrap();
        disk.crash(&mut Rng::with_seed(seed));
        let after = content(&disk, "a").unwrap();
        assert!(after.iter().all(|b| *b == b'o'));
        lengths.insert(after.len());
    }
    assert_eq!(lengths, BTreeSet::from([700, 3000]));
}

#[test]
fn a_new_file_may_lose_its_name_though_its_content_is_synced() {
    let mut survived = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        write_new(&disk, "a", b"synced").sync().unwrap();
        disk.crash(&mut Rng::with_seed(seed));
        survived.insert(content(&disk, "a"));
    }
    assert_eq!(survived, BTreeSet::from([None, Some(b"synced".to_vec())]));
}

#[test]
fn a_new_directory_takes_its_synced_files_with_it() {
    let disk = SimDisk::new(1);
    disk.create_dir_all("d").unwrap();
    write_synced(&disk, "d/a", b"x");
    let report = disk.crash_with(|_| Survival::Lost);
    assert_eq!(report, CrashReport { kept: 0, lost: 1 });
    assert!(disk.list("").unwrap().is_empty());
    assert!(disk.list("d").unwrap_err().is_not_found());
}

/// Every subset of what is unsynced at a rename: the target is the whole old or the whole new file, never missing.
#[test]
fn a_rename_is_old_or_new_in_every_crash() {
    let disk = SimDisk::new(1);
    write_synced(&disk, "a", b"old");
    write_new(&disk, "a.tmp", b"new").sync().unwrap();
    disk.rename("a.tmp", "a").unwrap();
    let questions = disk.unsynced().len();
    assert_eq!(questions, 2, "the new name and the rename");
    let mut seen = BTreeSet::new();
    for subset in 0..1 << questions {
        let fork = disk.fork();
        let mut n = 0;
        fork.crash_with(|_| {
            n += 1;
            if subset >> (n - 1) & 1 == 1 { Survival::Kept } else { Survival::Lost }
        });
        assert_eq!(n, questions);
        seen.insert((content(&fork, "a").unwrap(), content(&fork, "a.tmp").is_some()));
    }
    let old = b"old".to_vec();
    assert_eq!(seen, BTreeSet::from([(old.clone(), false), (old, true), (b"new".to_vec(), false)]));
    disk.sync_dir("").unwrap();
    assert!(disk.unsynced().is_empty());
    disk.crash_with(|_| Survival::Lost);
    assert_eq!(content(&disk, "a").unwrap(), b"new");
}

#[test]
fn a_rename_to_another_directory_never_doubles_or_loses_the_file() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.create_dir_all("d").unwrap();
        disk.sync_dir("").unwrap();
        write_new(&disk, "a", b"x").sync().unwrap();
        if seed % 2 == 0 {
            disk.sync_dir("").unwrap();
        }
        disk.rename("a", "d/a").unwrap();
        if seed % 3 == 0 {
            disk.sync_dir("d").unwrap();
        }
        disk.crash(&mut Rng::with_seed(seed));
        let places = disk.snapshot_paths();
        assert!(places.len() <= 1, "seed {seed}: {places:?}");
        assert!(seed % 2 == 1 || places.len() == 1, "seed {seed}: lost");
        assert!(seed % 3 != 0 || places == ["d/a"], "seed {seed}: {places:?}");
    }
}

#[test]
fn a_removed_file_may_come_back_until_the_directory_is_synced() {
    let disk = SimDisk::new(1);
    write_synced(&disk, "a", b"x");
    disk.remove("a").unwrap();
    let fork = disk.fork();
    fork.crash_with(|_| Survival::Lost);
    assert_eq!(content(&fork, "a").unwrap(), b"x");
    disk.sync_dir("").unwrap();
    disk.crash_with(|_| Survival::Lost);
    assert!(content(&disk, "a").is_none());
}

#[test]
fn a_failed_sync_loses_the_data_though_the_next_one_succeeds() {
    let disk = SimDisk::new(1);
    let file = write_synced(&disk, "a", b"old data");
    let other = disk.open("a", OpenMode::Read).unwrap();
    disk.set_faults(SimFaults { fail_sync: FaultRule::Nth(1), ..SimFaults::default() });
    file.write_all_at(0, b"new data, longer").unwrap();
    assert_eq!(file.sync().unwrap_err().source.raw_os_error(), Some(5));
    file.sync().unwrap();
    assert!(other.sync().is_err(), "each open file reports it once");
    other.sync().unwrap();
    disk.open("a", OpenMode::Read).unwrap().sync().unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"new data, longer");
    assert_eq!(disk.read_past_cache("a").unwrap(), b"old data");
    assert!(disk.unsynced().is_empty());

    disk.crash_process();
    assert_eq!(content(&disk, "a").unwrap(), b"new data, longer", "poisoned pages outlive the process");
    disk.set_faults(SimFaults { past_cache: PastCache::AfterWriteBack, ..SimFaults::default() });
    assert_eq!(disk.read_past_cache("a").unwrap(), b"old data\0\0\0\0\0\0\0\0");
    let dropped = disk.fork();
    dropped.drop_caches();
    assert_eq!(content(&dropped, "a").unwrap(), b"old data\0\0\0\0\0\0\0\0");
    for crashed in [disk, dropped] {
        crashed.crash_with(|_| Survival::Kept);
        assert_eq!(content(&crashed, "a").unwrap(), b"old data");
        assert_eq!(crashed.injected().sync_errors, 1);
    }
}

#[test]
fn a_failed_directory_sync_loses_the_name_though_the_next_one_succeeds() {
    let disk = SimDisk::new(1);
    write_new(&disk, "a", b"x").sync().unwrap();
    disk.set_faults(SimFaults { fail_sync_dir: FaultRule::Nth(1), ..SimFaults::default() });
    assert!(disk.sync_dir("").is_err());
    disk.sync_dir("").unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"x");
    disk.crash_with(|_| Survival::Kept);
    assert!(content(&disk, "a").is_none());
}

#[test]
fn reading_past_the_cache_shows_unsynced_writes_only_if_asked_to() {
    let disk = SimDisk::new(1);
    let file = write_synced(&disk, "a", b"old");
    file.write_all_at(0, b"newer").unwrap();
    assert_eq!(disk.read_past_cache("a").unwrap(), b"old");
    disk.set_faults(SimFaults { past_cache: PastCache::AfterWriteBack, ..SimFaults::default() });
    assert_eq!(disk.read_past_cache("a").unwrap(), b"newer");
    disk.crash_with(|_| Survival::Lost);
    assert_eq!(content(&disk, "a").unwrap(), b"old");
}

#[test]
fn a_killed_process_loses_its_handles_and_nothing_else() {
    let disk = SimDisk::new(1);
    let file = write_new(&disk, "a", b"written");
    disk.crash_process();
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(file.write_all_at(0, b"x").is_err());
    assert!(file.sync().is_err());
    assert!(file.len().is_err());
    drop(file);
    assert_eq!(content(&disk, "a").unwrap(), b"written");
    assert!(!disk.unsynced().is_empty(), "and it is still not durable");
    disk.crash_with(|_| Survival::Lost);
    assert!(content(&disk, "a").is_none());
}

#[test]
fn faults_hit_the_calls_they_name() {
    let disk = SimDisk::new(3);
    let file = write_synced(&disk, "a", &pattern(2000));
    let mut buf = [0; 1000];
    disk.set_faults(SimFaults { fail_read: FaultRule::Nth(2), ..SimFaults::default() });
    assert!(file.read_at(0, &mut buf).is_ok());
    assert!(file.read_at(0, &mut buf).is_err());
    assert!(file.read_at(0, &mut buf).is_ok());

    disk.set_faults(SimFaults { short_read: FaultRule::From(1), ..SimFaults::default() });
    assert!(file.read_at(0, &mut buf).unwrap() < 1000);
    file.read_exact_at(0, &mut buf).unwrap();
    assert_eq!(buf[..], pattern(1000));

    disk.set_faults(SimFaults { cold_read: FaultRule::Nth(1), ..SimFaults::default() });
    assert_eq!(file.read_cached_at(0, &mut buf).unwrap(), None);
    assert_eq!(file.read_cached_at(1500, &mut buf).unwrap(), Some(500));

    disk.set_faults(SimFaults { fail_write: FaultRule::Nth(1), ..SimFaults::default() });
    assert_eq!(file.write_all_at(2000, &[9; 1000]).unwrap_err().kind(), DiskErrorKind::Other);
    assert!(file.len().unwrap() <= 3000);
    file.write_all_at(2000, &[9; 1000]).unwrap();

    let only_under = "other/".to_owned();
    disk.set_faults(SimFaults { only_under, fail_write: FaultRule::From(1), ..SimFaults::default() });
    file.write_all_at(0, &[1]).unwrap();

    disk.set_faults(SimFaults { fail_entry: FaultRule::Nth(1), ..SimFaults::default() });
    assert!(disk.rename("a", "b").is_err());
    disk.rename("a", "b").unwrap();

    disk.set_faults(SimFaults { misdirect_write: FaultRule::Nth(1), ..SimFaults::default() });
    file.write_all_at(10, &[0xEE; 100]).unwrap();
    file.read_exact_at(10, &mut buf[..100]).unwrap();
    assert_ne!(buf[..100], [0xEE; 100]);

    disk.flip_bit("b", 2, 7).unwrap();
    file.read_exact_at(2, &mut buf[..1]).unwrap();
    assert_eq!(disk.read_past_cache("b").unwrap()[2], 2 ^ 0x80);
    assert!(disk.flip_bit("b", 1 << 30, 0).is_err());

    let injected = disk.injected();
    let expected = InjectedCounts {
        read_errors: 1,
        short_reads: injected.short_reads,
        cold_reads: 1,
        write_errors: 1,
        entry_errors: 1,
        misdirected_writes: 1,
        short_writes: injected.short_writes,
        flipped_bits: 1,
        ..InjectedCounts::default()
    };
    assert_eq!(injected, expected);
}

#[test]
fn calls_take_the_time_of_their_kind() {
    let disk = SimDisk::new(1);
    let file = write_synced(&disk, "a", b"x");
    assert_eq!(disk.spent_ms(), 0);
    disk.set_latency(Latency { sync_ms_max: 50, ..Latency::default() });
    file.write_all_at(0, b"y").unwrap();
    assert_eq!(disk.spent_ms(), 0);
    (0..20).for_each(|_| file.sync().unwrap());
    assert!((100..=1_000).contains(&disk.spent_ms()), "{} ms", disk.spent_ms());
    let before_ms = disk.spent_ms();
    disk.set_latency(Latency { hang_per_million: 1_000_000, hang_ms_max: 90_000, ..Latency::default() });
    (0..20).for_each(|_| file.write_all_at(0, b"y").unwrap());
    assert!(disk.spent_ms() > before_ms + 100_000);
    assert_eq!(disk.injected().hung_calls, 20);
}

#[test]
fn sectors_that_hold_already_what_is_written_to_them_are_idle() {
    let disk = SimDisk::new(1);
    let file = write_synced(&disk, "a", &[1; 3 * SECTOR_BYTES]);
    let idle = |disk: &SimDisk| disk.unsynced().iter().map(|unsynced| unsynced.is_idle).collect::<Vec<_>>();
    file.write_all_at(0, &[1; 2 * SECTOR_BYTES]).unwrap();
    assert_eq!(idle(&disk), [true, true]);
    file.write_all_at(0, &[2; SECTOR_BYTES]).unwrap();
    // What was there before counts again, now that it may have been something else between.
    file.write_all_at(0, &[1; SECTOR_BYTES]).unwrap();
    assert_eq!(idle(&disk), [true, true, false, false]);
}

#[test]
fn a_full_disk_refuses_growth_and_recovers_by_removal() {
    let disk = SimDisk::new(1);
    disk.set_faults(SimFaults { capacity_bytes: Some(1000), ..SimFaults::default() });
    let a = write_new(&disk, "a", &[1; 600]);
    assert_eq!(disk.available_bytes().unwrap(), 400);
    let b = disk.open("b", OpenMode::Create).unwrap();
    assert!(b.write_all_at(0, &[2; 500]).unwrap_err().is_no_space());
    assert_eq!(b.len().unwrap(), 400);
    assert!(b.allocate(401).unwrap_err().is_no_space());
    b.write_all_at(0, &[3; 400]).unwrap();
    disk.remove("a").unwrap();
    assert_eq!(disk.available_bytes().unwrap(), 0, "an open file keeps its space");
    drop(a);
    b.write_all_at(400, &[2; 500]).unwrap();
    disk.set_faults(SimFaults { fail_space: FaultRule::Nth(1), ..SimFaults::default() });
    assert!(b.write_all_at(0, &[2; 500]).unwrap_err().is_no_space());
    assert_eq!(disk.injected().space_errors, 3);
}

#[test]
fn the_power_goes_at_every_boundary() {
    let scenario = |disk: &SimDisk| -> DiskResult<()> {
        let file = disk.open("a.tmp", OpenMode::CreateNew)?;
        file.write_all_at(0, b"whole")?;
        file.sync()?;
        disk.rename("a.tmp", "a")?;
        disk.sync_dir("")
    };
    let whole_run = SimDisk::new(0);
    scenario(&whole_run).unwrap();
    let boundaries = whole_run.io_counts().changes();
    assert_eq!(boundaries, 5);
    for at in 0..=boundaries {
        for seed in 0..20 {
            let disk = SimDisk::new(0);
            disk.power_off_after(at);
            let done = scenario(&disk).is_ok();
            assert_eq!((done, disk.is_off()), (at == boundaries, at < boundaries));
            assert_eq!(disk.list("").is_err(), disk.is_off());
            disk.crash(&mut Rng::with_seed(seed));
            let after = content(&disk, "a");
            assert!(after.is_none() || after.as_deref() == Some(b"whole"), "boundary {at} seed {seed}");
            assert!(!done || after.is_some(), "boundary {at} seed {seed}");
        }
    }
}

/// A life of random calls, faults and crashes, and everything that could be observed of it.
fn random_life(seed: u64) -> (Vec<String>, BTreeMap<String, Vec<u8>>, InjectedCounts) {
    let disk = SimDisk::new(seed);
    let mut rng = Rng::with_seed(seed);
    let rate = FaultRule::PerMillion(50_000);
    disk.set_faults(SimFaults {
        fail_write: rate,
        fail_sync: rate,
        fail_sync_dir: rate,
        fail_entry: rate,
        misdirect_write: rate,
        failed_sync: FailedSync::LosesSome,
        ..SimFaults::default()
    });
    let mut trace = Vec::new();
    let names = ["a", "b", "c"];
    for _ in 0..300 {
        let (name, other) = (names[rng.usize(0..3)], names[rng.usize(0..3)]);
        let outcome = match rng.u8(0..8) {
            0..4 => disk
                .open(name, OpenMode::Create)
                .and_then(|f| f.write_all_at(rng.u64(0..4000), &pattern(rng.usize(0..2000)))),
            4 => disk.open(name, OpenMode::Create).and_then(|f| f.sync()),
            5 => disk.rename(name, other),
            6 => disk.sync_dir(""),
            _ => disk.open(name, OpenMode::ReadWrite).and_then(|f| f.set_len(rng.u64(0..4000))),
        };
        trace.push(format!("{outcome:?}"));
        if rng.u8(0..20) == 0 {
            trace.push(format!("{:?}", disk.crash(&mut rng)));
            let files = disk.snapshot();
            assert!(files.iter().all(|(path, bytes)| disk.read_past_cache(path).unwrap() == *bytes));
        }
    }
    (trace, disk.snapshot(), disk.injected())
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let lives: Vec<_> = (0..30).map(random_life).collect();
    for (seed, life) in lives.iter().enumerate() {
        assert_eq!(*life, random_life(seed as u64), "seed {seed}");
    }
    assert_ne!(lives[0], lives[1]);
    let total = |pick: fn(&InjectedCounts) -> u64| lives.iter().map(|life| pick(&life.2)).sum::<u64>();
    assert!(total(|c| c.lost_sectors) > 0 && total(|c| c.lost_entries) > 0 && total(|c| c.lost_lengths) > 0);
    assert!(total(|c| c.sync_errors) > 0 && total(|c| c.sync_dir_errors) > 0);
}

#[test]
fn inodes_that_nobody_can_reach_are_dropped() {
    let disk = SimDisk::new(1);
    for n in 0..100 {
        disk.create_dir_all("d").unwrap();
        write_new(&disk, "d/a", &[1; 100]);
        write_synced(&disk, &format!("p{n}"), &[1; 100]);
        disk.rename(&format!("p{n}"), "p").unwrap();
        disk.remove_dir_all("d").unwrap();
        disk.sync_dir("").unwrap();
    }
    assert_eq!(disk.inode_count(), 2, "the root and p");
}

#[test]
fn bytes_that_were_cut_never_come_back_once_the_cut_is_durable() {
    for sync in [true, false] {
        let disk = SimDisk::new(1);
        let file = write_synced(&disk, "a", &[b'o'; 3000]);
        file.set_len(700).unwrap();
        file.set_len(3000).unwrap();
        if sync {
            file.sync().unwrap();
        }
        disk.crash_with(|_| Survival::Kept);
        let after = content(&disk, "a").unwrap();
        assert_eq!((after.len(), &after[..700]), (3000, &[b'o'; 700][..]));
        assert!(after[700..].iter().all(|b| *b == 0));
    }
}

#[test]
fn a_sector_shared_by_two_writes_survives_as_one_of_its_three_states() {
    let disk = SimDisk::new(1);
    let file = write_synced(&disk, "a", &[b'o'; 2 * SECTOR_BYTES]);
    file.write_all_at(600, &[b'1'; 10]).unwrap();
    file.write_all_at(700, &[b'2'; 10]).unwrap();
    let positions: Vec<_> = disk.unsynced().into_iter().map(|unsynced| unsynced.part).collect();
    assert_eq!(positions, [UnsyncedPart::Sector { position: 512 }; 2]);
    for (kept, expected) in [(0, [b'o', b'o']), (1, [b'1', b'o']), (2, [b'1', b'2']), (3, [b'1', b'2'])] {
        let fork = disk.fork();
        let mut asked = 0;
        fork.crash_with(|_| {
            asked += 1;
            if kept & asked == 0 { Survival::Lost } else { Survival::Kept }
        });
        let after = content(&fork, "a").unwrap();
        assert_eq!([after[600], after[700]], expected, "subset {kept}");
        assert!(after.iter().filter(|b| **b == b'o').count() >= 2 * SECTOR_BYTES - 20);
    }
}
