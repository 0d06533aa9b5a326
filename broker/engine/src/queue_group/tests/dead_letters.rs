//! Stories of messages that die, and of those that somebody fetches back.

use super::*;

#[test]
fn poison_message_dies_after_exactly_five_attempts() {
    let mut story = Story::with(1);
    for attempt in 1..=5 {
        let job = story.receive();
        assert_eq!(job.attempt, attempt);
        assert!(story.table.take_dying(9).is_empty(), "dead before the limit");
        story.pass(30_000);
        story.pass(300_000);
    }
    assert_eq!((story.grant(1, true).len(), story.counts()), (0, (0, 1, 0, 0)));
    let dying = story.bury_all(40);
    assert_eq!((dying[0].attempts, dying[0].reason.as_str()), (5, "lease expired in attempt 5 of 5"));
    assert_eq!((story.counts(), story.table.floor()), ((0, 0, 0, 1), Offset(1)));
    let (offset, dead) = story.table.dead_letters(None).next().expect("it is dead");
    assert_eq!((offset, dead.letter, dead.attempts), (Offset(0), Offset(40), 5));
    assert_eq!(dead.dead_wall_ms, story.now.wall_ms);
}

#[test]
fn last_attempt_that_is_released_dies_even_if_the_broker_crashes_first() {
    let settings = LeaseSettings { attempts_max: 1, ..LeaseSettings::default() };
    let mut story = Story::with_settings(1, settings);
    let job = story.receive();
    assert_eq!(story.settle(job, RELEASE_NOW), Ok(Settlement::Done));
    assert_eq!(story.table.dying(Offset(0)), Some(("released in attempt 1 of 1", 1)));
    story.crash(0);
    assert_eq!((story.grant(1, true).len(), story.counts()), (0, (0, 1, 0, 0)));
    assert_eq!(story.bury_all(0)[0].reason, "released in attempt 1 of 1");
    assert_eq!(story.settle(job, SettleAction::Ack), Ok(Settlement::AlreadySettled));
}

#[test]
fn worker_that_outlives_its_last_lease_can_still_win() {
    let settings = LeaseSettings { attempts_max: 1, ..LeaseSettings::default() };
    let mut story = Story::with_settings(2, settings);
    let (extends, acks) = (story.receive(), story.receive());
    story.pass(30_001);
    assert_eq!(story.table.take_dying(9).len(), 2, "their bytes are being fetched");
    assert_eq!(story.settle(acks, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.settle(extends, SettleAction::Extend { lease_ms: None }), Ok(Settlement::Done));
    for job in [extends, acks] {
        assert!(!story.table.is_dying(job.offset));
        assert_eq!(story.table.bury(job.offset, Offset(0), story.now), None);
    }
    assert_eq!(story.counts(), (0, 1, 0, 0));
    story.pass(30_001);
    assert_eq!(story.bury_all(0).len(), 1, "it dies when that lease is over too");
}

#[test]
fn a_rejected_message_is_settled_by_the_commit_that_keeps_its_letter() {
    let mut story = Story::with(3);
    let (bad, good) = (story.receive(), story.receive());
    let journaled = story.journal.len();
    assert_eq!(story.settle(bad, reject("not a photo")), Ok(Settlement::Dying));
    assert_eq!(story.settle(bad, reject("not a photo")), Ok(Settlement::Dying));
    assert_eq!(story.journal.len(), journaled, "nothing is durable before its letter is");
    assert_eq!(story.settle(bad, BACK_OFF), Err(SettleError::AlreadySettled));
    assert_eq!(story.settle(good, reject("neither")), Ok(Settlement::Dying));
    assert_eq!(story.table.take_dying(1).len(), 1);
    story.table.handle_letter_failed(bad.offset);
    assert_eq!(story.settle(good, SettleAction::Ack), Ok(Settlement::Done), "an ack calls it back");
    story.pass(60_000);
    assert_eq!(story.counts(), (1, 1, 0, 0), "its lease does not run out meanwhile");
    assert_eq!(story.bury_all(7)[0].reason, "not a photo");
    assert_eq!((story.counts(), story.table.floor()), ((1, 0, 0, 1), Offset(2)));
    assert_eq!(story.settle(bad, SettleAction::Ack), Ok(Settlement::AlreadySettled));
    assert_eq!(story.settle(bad, reject("")), Err(SettleError::AlreadySettled));
}

#[test]
fn a_reject_that_a_crash_forgot_can_be_repeated() {
    let mut story = Story::with(1);
    let bad = story.receive();
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    story.crash(0);
    assert_eq!(story.counts(), (0, 1, 0, 0));
    assert!(story.table.take_dying(9).is_empty());
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    assert_eq!(story.bury_all(0).len(), 1);
}

#[test]
fn a_redriven_letter_is_delivered_again_from_attempt_one_and_the_floor_stays() {
    let mut story = Story::with(3);
    for nth in 0..3 {
        let job = story.receive();
        assert_eq!(story.settle(job, reject("bug")), Ok(Settlement::Dying));
        story.bury_all(10 + nth);
    }
    assert_eq!((story.counts(), story.table.first_letter()), ((0, 0, 0, 3), Some(Offset(10))));
    assert_eq!(story.table.redrive(2, Offset::MAX, story.now, &mut story.journal), 2);
    assert_eq!((story.counts(), story.table.floor()), ((2, 0, 0, 1), Offset(3)));
    assert_eq!(story.table.oldest_unsettled(), Some(Offset(0)));
    let (mended, still_bad) = (story.receive(), story.receive());
    assert_eq!((mended.offset, mended.attempt, mended.letter), (Offset(0), 1, Some(Offset(10))));
    story.crash(0);
    assert_eq!(story.settle(mended, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.table.first_letter(), Some(Offset(11)));
    assert_eq!(story.settle(still_bad, reject("bug")), Ok(Settlement::Dying));
    assert_eq!(story.bury_all(13)[0].letter, Some(Offset(11)), "its bytes are in the dead-letter log");
    assert_eq!(story.table.first_letter(), Some(Offset(12)));
    assert_eq!(story.table.purge_dead(u64::MAX, story.now, &mut story.journal), 2);
    assert_eq!((story.counts(), story.table.first_letter()), ((0, 0, 0, 0), None));
}

#[test]
fn what_is_lost_from_the_source_leaves_a_redriven_message_alone() {
    let mut story = Story::with(5);
    let jobs = story.grant(3, true);
    assert_eq!(story.settle(jobs[2], reject("")), Ok(Settlement::Dying));
    story.bury_all(0);
    assert_eq!(story.table.redrive(1, Offset::MAX, story.now, &mut story.journal), 1);
    story.table.handle_lost(Offset(0), Offset(4), story.now, &mut story.journal);
    story.table.check();
    assert_eq!((story.counts(), story.table.floor()), ((2, 0, 0, 0), Offset(4)));
    let grant = story.receive();
    assert_eq!((grant.offset, grant.letter), (Offset(2), Some(Offset(0))));
}
