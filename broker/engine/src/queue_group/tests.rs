//! Stories of the lease table.

mod ack_up_to;
mod expiry;
mod key_order;
mod reasons;

use dure_proto::journal::{QueueEvent, QueueSnapshot, queue_event::Event};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, TopicId, TopicPartition};

use super::*;
use crate::{Now, SettleAction};

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
const WALL: u64 = 1_700_000_000_000;

/// A table on a simulated clock, with the journal it wrote.
struct Story {
    table: LeaseTable,
    tokens: TokenSource,
    now: Now,
    journal: Vec<QueueEvent>,
}

impl Story {
    fn with(messages: u64) -> Story {
        Story::with_settings(messages, LeaseSettings::default())
    }

    fn with_settings(messages: u64, settings: LeaseSettings) -> Story {
        let mut table = LeaseTable::new(settings, Offset(0));
        table.handle_high_watermark(Offset(messages));
        let now = Now { mono_ms: 1_000, wall_ms: WALL };
        Story { table, tokens: TokenSource::new(Epoch(1)), now, journal: Vec::new() }
    }

    fn grant(&mut self, count: u32, started: bool) -> Vec<Grant> {
        let terms = LeaseTerms { lease_ms: 30_000, started };
        let grants = self.table.grant(self.now, count, terms, &mut self.tokens, &mut self.journal);
        self.table.check();
        grants
    }

    /// Granted to a receive.
    fn receive(&mut self) -> Grant {
        self.grant(1, true)[0]
    }

    fn settle(&mut self, grant: Grant, action: SettleAction) -> Result<Settlement, SettleError> {
        let (offset, token) = (grant.offset, grant.token);
        let result = self.table.settle(offset, token, &action, Jitter(7), self.now, &mut self.journal);
        self.table.check();
        result
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.table.handle_timeout(self.now, &mut self.journal);
        self.table.check();
    }

    fn bury_all(&mut self, first_letter: u64) -> Vec<Dying> {
        let dying = self.table.take_dying(usize::MAX);
        for (nth, dying) in (0..).zip(&dying) {
            let event = self.table.bury(dying.offset, Offset(first_letter + nth), self.now);
            self.journal.push(event.expect("it dies"));
        }
        self.table.check();
        dying
    }

    /// The broker was killed and is up again after `down_ms`, from the journal alone.
    fn crash(&mut self, down_ms: u64) {
        self.now = Now { mono_ms: 50, wall_ms: self.now.wall_ms + down_ms };
        let mut table = LeaseTable::new(self.table.settings().clone(), Offset(0));
        for event in &self.journal {
            table.apply(event, self.now).expect("a whole journal fits");
        }
        table.handle_high_watermark(self.table.high_watermark());
        table.recovered(self.now);
        table.check();
        self.table = table;
        self.tokens = TokenSource::new(Epoch(self.tokens.take().epoch.0 + 1));
    }

    fn counts(&self) -> (u64, u64, u64, u64) {
        let Counts { ready, leased, delayed, dead } = self.table.counts();
        (ready, leased, delayed, dead)
    }
}

fn reject(reason: &str) -> SettleAction {
    SettleAction::Reject { reason: reason.to_owned() }
}

const RELEASE_NOW: SettleAction = SettleAction::Release { delay_ms: Some(0), reason: String::new() };
const BACK_OFF: SettleAction = SettleAction::Release { delay_ms: None, reason: String::new() };

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
fn a_lease_goes_on_for_a_full_term_after_a_restart_and_its_token_works() {
    let mut story = Story::with(3);
    let (first, second, third) = (story.receive(), story.receive(), story.receive());
    assert_eq!(story.settle(third, SettleAction::Ack), Ok(Settlement::Done));
    story.pass(29_000);
    story.crash(100_000);
    story.pass(30_000);
    assert_eq!(story.counts(), (0, 2, 0, 0));
    assert_eq!(story.settle(first, SettleAction::Ack), Ok(Settlement::Done));
    story.pass(1);
    story.pass(1_250);
    let again = story.receive();
    assert_eq!((again.offset, again.attempt), (second.offset, 2));
    assert!(again.token > third.token, "the epoch is a new one");
    assert_eq!(story.settle(second, SettleAction::Ack), Err(SettleError::StaleLease));
}

#[test]
fn a_wait_goes_on_after_a_restart_and_no_clock_makes_it_longer_than_a_week() {
    let mut story = Story::with(1);
    let job = story.receive();
    let minute = SettleAction::Release { delay_ms: Some(60_000), reason: String::new() };
    assert_eq!(story.settle(job, minute), Ok(Settlement::Done));
    story.crash(20_000);
    story.pass(39_999);
    assert_eq!(story.counts(), (0, 0, 1, 0));
    story.now.wall_ms = 0; // The machine came up in 1970.
    story.crash(0);
    let due = story.table.poll_timeout().expect("it waits");
    assert_eq!(due, story.now.mono_ms + RELEASE_DELAY_MS_MAX);
    story.now.wall_ms = WALL + 60_000;
    story.crash(0);
    assert_eq!(story.counts(), (1, 0, 0, 0));
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

impl Story {
    fn grant_quietly(&mut self, count: u32) -> Vec<Grant> {
        let terms = LeaseTerms { lease_ms: 86_400_000, started: false };
        self.table.grant(self.now, count, terms, &mut self.tokens, &mut self.journal)
    }

    fn settle_quietly(&mut self, grant: Grant) -> Result<Settlement, SettleError> {
        let (offset, token) = (grant.offset, grant.token);
        self.table.settle(offset, token, &SettleAction::Ack, Jitter(0), self.now, &mut self.journal)
    }
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

#[test]
fn retention_takes_messages_out_of_every_count_but_not_the_dead_ones() {
    let mut story = Story::with(10);
    let (dead, leased, waiting) = (story.receive(), story.receive(), story.receive());
    assert_eq!(story.settle(dead, reject("")), Ok(Settlement::Dying));
    story.bury_all(0);
    assert_eq!(story.settle(waiting, BACK_OFF), Ok(Settlement::Done));
    assert_eq!(story.counts(), (7, 1, 1, 1));
    story.table.handle_log_start(Offset(5));
    story.table.check();
    assert_eq!((story.counts(), story.table.floor()), ((5, 0, 0, 1), Offset(5)));
    assert_eq!(story.settle(leased, SettleAction::Ack), Ok(Settlement::AlreadySettled));
    assert_eq!(story.table.poll_timeout(), None);
    assert_eq!(story.receive().offset, Offset(5));
    story.table.handle_log_start(Offset(12));
    assert_eq!(story.counts(), (0, 0, 0, 1));
    assert_eq!(
        story.table.seek(Offset(0), story.now, &mut story.journal),
        Offset(12),
        "what is gone stays gone"
    );
}

#[test]
fn seek_back_delivers_again_and_revokes_leases_but_leaves_the_dead_alone() {
    let mut story = Story::with(6);
    let grants = story.grant(5, true);
    assert_eq!(story.settle(grants[3], reject("")), Ok(Settlement::Dying));
    story.bury_all(0);
    for grant in [grants[0], grants[2]] {
        assert_eq!(story.settle(grant, SettleAction::Ack), Ok(Settlement::Done));
    }
    assert_eq!(story.table.seek(Offset(1), story.now, &mut story.journal), Offset(1));
    story.table.check();
    assert_eq!((story.counts(), story.table.floor()), ((4, 0, 0, 1), Offset(1)));
    assert_eq!(story.settle(grants[4], SettleAction::Ack), Err(SettleError::UnknownReceipt));
    story.crash(0);
    let again: Vec<u64> = story.grant(9, true).iter().map(|grant| grant.offset.0).collect();
    assert_eq!(again, [1, 2, 4, 5]);
    assert_eq!(story.settle(grants[4], SettleAction::Ack), Err(SettleError::StaleLease));
    assert_eq!(story.table.seek(Offset::MAX, story.now, &mut story.journal), Offset(6));
    assert_eq!(story.counts(), (0, 0, 0, 1));
}

#[test]
fn offsets_that_no_record_has_are_settled_and_what_cannot_be_decoded_dies() {
    let mut story = Story::with(8);
    let held = story.grant(2, false);
    story.table.handle_lost(Offset(1), Offset(4), story.now, &mut story.journal);
    assert_eq!(story.counts(), (4, 1, 0, 0));
    assert_eq!(story.settle(held[1], SettleAction::Ack), Ok(Settlement::AlreadySettled));
    for offset in 4..6 {
        story.table.handle_undeliverable(Offset(offset), &"é".repeat(600));
    }
    assert_eq!(story.counts(), (2, 3, 0, 0));
    let dying = story.bury_all(0);
    assert_eq!((dying.len(), dying[0].reason.len()), (2, REASON_BYTES_MAX));
    assert_eq!(story.grant(9, false)[0].offset, Offset(6));
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
fn a_snapshot_and_the_events_after_it_make_the_same_table() {
    let mut story = Story::with(9);
    let grants = story.grant(7, true);
    assert_eq!(story.settle(grants[1], SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.settle(grants[2], BACK_OFF), Ok(Settlement::Done));
    assert_eq!(story.settle(grants[3], reject("bad")), Ok(Settlement::Dying));
    assert_eq!(story.settle(grants[4], reject("worse")), Ok(Settlement::Dying));
    story.bury_all(3);
    assert_eq!(story.table.redrive(1, Offset::MAX, story.now, &mut story.journal), 1);
    let snapshot = story.table.snapshot(OF);
    let mut restored =
        LeaseTable::restore(&snapshot, story.table.settings().clone(), story.now).expect("ours");
    restored.handle_high_watermark(Offset(9));
    story.journal.clear();
    story.grant(9, false);
    for event in &story.journal {
        restored.apply(event, story.now).expect("it fits");
    }
    restored.check();
    assert_eq!(restored.snapshot(OF), story.table.snapshot(OF));
    assert_eq!(restored.counts(), story.table.counts());
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut story = Story::with(9);
    let grants = story.grant(4, true);
    assert_eq!(story.settle(grants[1], SettleAction::Ack), Ok(Settlement::Done));
    let good = story.table.snapshot(OF);
    let restore = |change: &dyn Fn(&mut QueueSnapshot)| {
        let mut bad = good.clone();
        change(&mut bad);
        LeaseTable::restore(&bad, LeaseSettings::default(), story.now).map(|_| ())
    };
    assert_eq!(restore(&|_| {}), Ok(()));
    assert!(matches!(restore(&|bad| bad.settled.truncate(5)), Err(RestoreError::Settled(_))));
    assert_eq!(restore(&|bad| bad.floor = 1), Err(RestoreError::Floor(Offset(1))));
    for change in [
        &(|bad: &mut QueueSnapshot| bad.messages[0].offset = u64::MAX) as &dyn Fn(&mut QueueSnapshot),
        &|bad| bad.messages[0].offset = 2,
        &|bad| bad.messages[0].offset = 1,
        &|bad| bad.messages[0].letter = Some(9),
    ] {
        assert!(matches!(restore(change), Err(RestoreError::Message { .. })));
    }
}

#[test]
fn events_whose_past_is_lost_are_named_and_change_nothing() {
    let mut story = Story::with(4);
    story.receive();
    let before = story.table.snapshot(OF);
    use dure_proto::journal::{DeadPurged, Extended, Leased, Redriven, Returned, Started};
    let leased = Leased { offset: u64::MAX, count: 9, epoch: 1, counter: 9, ..Leased::default() };
    for event in [
        Some(Event::Started(Started { offset: 2 })),
        Some(Event::Returned(Returned { offset: 2, ..Returned::default() })),
        Some(Event::Extended(Extended { offset: 9, lease_ms: 1 })),
        Some(Event::Redriven(Redriven { offset: 0 })),
        Some(Event::DeadPurged(DeadPurged { offset: 0 })),
        Some(Event::Leased(leased)),
        None,
    ] {
        let error = story.table.apply(&QueueEvent { event }, story.now).expect_err("it cannot be");
        assert!(error.to_string().contains("was skipped"), "{error}");
    }
    story.table.check();
    assert_eq!(story.table.snapshot(OF), before);
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
