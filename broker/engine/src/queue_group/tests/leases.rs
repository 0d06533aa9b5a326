//! Stories of leases: granted, extended, given back, run out, acknowledged.

use super::*;

#[test]
fn a_million_messages_granted_and_acked_in_order_leave_nothing_behind() {
    let mut story = Story::with(1_000_000);
    for _ in 0..1_000_000 / 1_000 {
        let terms = LeaseTerms { lease_ms: 30_000, started: false };
        let grants = story.table.grant(story.now, 1_000, terms, &mut story.tokens, &mut story.journal);
        for grant in grants {
            let (offset, token) = (grant.offset, grant.token);
            let ack = SettleAction::Ack;
            let settled = story.table.settle(offset, token, &ack, Jitter(0), story.now, &mut story.journal);
            assert_eq!(settled, Ok(Settlement::Done));
        }
        assert_eq!(story.journal.len(), 2, "one event for the grants and one for the acks");
        story.journal.clear();
        assert!(story.table.messages.is_empty() && story.table.settled.above().is_empty());
    }
    story.table.check();
    assert_eq!((story.counts(), story.table.floor()), ((0, 0, 0, 0), Offset(1_000_000)));
    assert_eq!((story.table.arrived(), story.table.serviced()), (1_000_000, 1_000_000));
}

#[test]
fn worker_that_crashes_with_sixteen_prefetched_burns_one_attempt() {
    let mut story = Story::with(16);
    let prefetched = story.grant(16, false);
    assert_eq!(story.settle(prefetched[0], SettleAction::Start), Ok(Settlement::Done));
    let journaled = story.journal.len();
    assert_eq!(story.settle(prefetched[0], SettleAction::Start), Ok(Settlement::Done));
    assert_eq!(story.journal.len(), journaled, "saying so twice changes nothing");
    // The worker dies, and its connection with it.
    let held: Vec<_> = prefetched.iter().map(|grant| (grant.offset, grant.token)).collect();
    story.table.release_unstarted(held, story.now, &mut story.journal);
    assert_eq!(story.counts(), (15, 1, 0, 0));
    assert!(story.grant(20, false).iter().all(|grant| grant.attempt == 1));
    story.pass(30_000);
    assert_eq!(story.counts(), (0, 16, 0, 0));
    story.pass(1);
    assert_eq!(story.counts(), (16, 0, 0, 0), "all are back at once: their worker is gone");
    let again = story.grant(16, false);
    assert_eq!((again[0].offset, again[0].attempt), (Offset(0), 2));
    assert!(again[1..].iter().all(|grant| grant.attempt == 1));
}

#[test]
fn lease_that_ran_out_can_still_be_acked_until_it_is_granted_again() {
    let mut story = Story::with(2);
    let (slow, slower) = (story.receive(), story.receive());
    story.pass(30_001);
    assert_eq!(story.counts(), (2, 0, 0, 0));
    assert_eq!(story.settle(slow, SettleAction::Ack), Ok(Settlement::Done));
    let anew = story.receive();
    assert_eq!((anew.offset, anew.attempt), (slower.offset, 2));
    for action in [SettleAction::Ack, SettleAction::Start, BACK_OFF, reject("")] {
        assert_eq!(story.settle(slower, action), Err(SettleError::StaleLease));
    }
    assert_eq!(story.settle(anew, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.settle(slower, SettleAction::Ack), Ok(Settlement::AlreadySettled));
    assert_eq!(
        story.settle(slower, SettleAction::Extend { lease_ms: None }),
        Err(SettleError::AlreadySettled)
    );
    assert_eq!(story.counts(), (0, 0, 0, 0));
}

#[test]
fn receipts_that_were_never_given_out_have_no_effect() {
    let mut story = Story::with(2);
    let grant = story.receive();
    let ahead = LeaseToken { epoch: Epoch(1), counter: 99 };
    for offset in [Offset(0), Offset(1), Offset(2), Offset(u64::MAX)] {
        let forged = Grant { offset, token: ahead, ..grant };
        assert_eq!(story.settle(forged, SettleAction::Ack), Err(SettleError::UnknownReceipt));
    }
    let earlier_epoch = LeaseToken { epoch: Epoch(0), counter: 1 };
    let forged = Grant { token: earlier_epoch, ..grant };
    assert_eq!(story.settle(forged, SettleAction::Ack), Err(SettleError::StaleLease));
    assert_eq!(story.counts(), (1, 1, 0, 0));
}

#[test]
fn extend_keeps_a_slow_job_and_revives_a_lease_that_ran_out() {
    let mut story = Story::with(1);
    let job = story.receive();
    for _ in 0..10 {
        story.pass(20_000);
        assert_eq!(story.settle(job, SettleAction::Extend { lease_ms: None }), Ok(Settlement::Done));
    }
    assert_eq!(story.counts(), (0, 1, 0, 0));
    story.pass(30_001);
    assert_eq!(story.counts(), (1, 0, 0, 0));
    let hour = SettleAction::Extend { lease_ms: Some(3_600_000) };
    assert_eq!(story.settle(job, hour), Ok(Settlement::Done));
    story.pass(3_599_999);
    assert_eq!(story.counts(), (0, 1, 0, 0));
    for ms in [0, LEASE_MS_MAX + 1] {
        let refused = story.settle(job, SettleAction::Extend { lease_ms: Some(ms) });
        assert_eq!(refused, Err(SettleError::OutOfBounds { what: "a lease", ms, ms_max: LEASE_MS_MAX }));
    }
}

#[test]
fn a_release_waits_as_it_was_asked_to_or_backs_off_longer_each_time() {
    let mut story = Story::with(1);
    let job = story.receive();
    assert_eq!(
        story.settle(job, SettleAction::Release { delay_ms: Some(5_000), reason: String::new() }),
        Ok(Settlement::Done)
    );
    story.pass(4_999);
    assert_eq!(story.counts(), (0, 0, 1, 0));
    story.pass(1);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let job = story.receive();
        assert_eq!(story.settle(job, BACK_OFF), Ok(Settlement::Done));
        let due = story.table.poll_timeout().expect("it waits");
        waits.push(due - story.now.mono_ms);
        story.pass(due - story.now.mono_ms);
    }
    for (wait, from) in waits.into_iter().zip([2_000, 4_000, 8_000]) {
        assert!((from..=from + from / 4).contains(&wait), "{wait}");
    }
    let job = story.receive();
    let week = SettleAction::Release { delay_ms: Some(RELEASE_DELAY_MS_MAX + 1), reason: String::new() };
    assert!(matches!(story.settle(job, week), Err(SettleError::OutOfBounds { what: "a delay", .. })));
    assert_eq!(story.counts(), (0, 1, 0, 0));
}

#[test]
fn a_stuck_message_blocks_no_other_and_costs_nothing_of_their_number() {
    let mut story = Story::with(200_000);
    let stuck = story.receive();
    for _ in 0..199_999 / 3 {
        let grants = story.grant_quietly(3);
        for grant in grants {
            assert_eq!(story.settle_quietly(grant), Ok(Settlement::Done));
        }
    }
    assert_eq!((story.table.floor(), story.table.messages.len()), (Offset(0), 1));
    assert_eq!(story.settle(stuck, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.table.settled.above_count(), 0);
}

#[test]
fn full_table_grants_no_fresh_message_and_says_so_but_grants_returned_ones() {
    let settings = LeaseSettings { messages_max: 4, ..LeaseSettings::default() };
    let mut story = Story::with_settings(10, settings);
    assert_eq!(story.table.grantable(), 4);
    let grants = story.grant(10, false);
    assert_eq!((grants.len(), story.table.is_full(), story.table.grantable()), (4, true, 0));
    assert_eq!(story.settle(grants[2], RELEASE_NOW), Ok(Settlement::Done));
    assert_eq!(story.table.grantable(), 1);
    let again = story.grant(10, false);
    assert_eq!((again.len(), again[0].offset), (1, Offset(2)));
    assert_eq!(story.settle(again[0], SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.grant(10, false)[0].offset, Offset(4));
}

#[test]
fn one_event_tells_only_of_leases_that_are_alike() {
    let mut story = Story::with(9);
    story.grant(2, true);
    story.grant(2, true);
    assert_eq!(story.journal.len(), 1);
    story.tokens.take(); // Another table of the shard granted.
    story.grant(1, true);
    story.grant(1, false);
    let runs: Vec<_> = story
        .journal
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Leased(leased)) => {
                Some((leased.offset, leased.count, leased.counter, leased.started))
            }
            _ => None,
        })
        .collect();
    assert_eq!(runs, [(0, 4, 1, true), (4, 1, 6, true), (5, 1, 7, false)]);
}

#[test]
fn a_lease_ends_no_part_of_a_millisecond_early() {
    let mut story = Story::with(1);
    // The clock may have been a part of a millisecond behind when it was granted, and be right now.
    story.receive();
    story.pass(30_000);
    assert_eq!(story.table.state(Offset(0)), MessageState::Leased);
    assert_eq!(story.table.poll_timeout(), Some(story.now.mono_ms + 1));
    story.pass(1);
    assert_eq!(story.table.state(Offset(0)), MessageState::Ready);
}

#[test]
fn what_came_back_is_not_granted_before_that_is_durable() {
    let mut story = Story::with(3);
    let first = story.receive();
    let second = story.receive();
    story.journal.clear();
    story
        .settle(first, SettleAction::Release { delay_ms: Some(0), reason: String::new() })
        .expect("released");
    let held = story.table.hold_back(&story.journal).expect("it came back");
    assert_eq!((story.table.state(Offset(0)), story.table.grantable()), (MessageState::Delayed, 1));
    assert_eq!(story.receive().offset, Offset(2), "a first delivery waits for nothing");
    // Its holder goes on after all, and gives it back once more: what counts is the last time.
    story.settle(first, SettleAction::Extend { lease_ms: None }).expect("extended");
    story.journal.clear();
    story
        .settle(first, SettleAction::Release { delay_ms: Some(0), reason: String::new() })
        .expect("released");
    let held_again = story.table.hold_back(&story.journal).expect("it came back");
    story.table.release_held(held);
    assert_eq!(story.table.grantable(), 0);
    story.table.release_held(held_again);
    story.table.check();
    assert_eq!(story.receive().offset, Offset(0));
    // A seek holds everything.
    story.journal.clear();
    story.table.seek(Offset(0), story.now, &mut story.journal);
    let sought = story.table.hold_back(&story.journal).expect("everything came back");
    assert_eq!(story.table.grantable(), 0);
    story.table.release_held(sought);
    assert_eq!(story.table.grantable(), 3);
    assert_eq!(story.settle(second, SettleAction::Ack), Err(SettleError::UnknownReceipt));
}

#[test]
fn dead_letters_stop_no_fresh_message_and_at_their_own_bound_what_dies_waits() {
    let settings = LeaseSettings { messages_max: 4, dead_max: 6, ..LeaseSettings::default() };
    let mut story = Story::with_settings(20, settings);
    for _ in 0..6 {
        let grant = story.receive();
        assert_eq!(story.settle(grant, reject("")), Ok(Settlement::Dying));
        story.bury_all(grant.offset.0);
    }
    assert_eq!((story.table.is_full(), story.table.grantable(), story.table.dead_room()), (false, 4, 0));
    let grant = story.receive();
    assert_eq!(story.settle(grant, reject("")), Ok(Settlement::Dying));
    assert!(!story.table.has_dying() && story.table.take_dying(9).is_empty(), "there is no room for it");
    // A redrive gives back no more than may be known singly.
    assert_eq!(story.table.redrive(9, Offset::MAX, story.now, &mut story.journal), 3);
    story.table.check();
    assert!(story.table.has_dying() && story.table.is_full());
    assert_eq!(story.table.purge_dead(9, story.now, &mut story.journal), 3);
    assert_eq!(story.counts().3, 0);
}
