//! Stories of messages that are good for a while only.

use dure_proto::KeyHash;

use super::*;

impl Story {
    /// Messages that each expire so many milliseconds from now; 0: never.
    fn with_lives(lives_ms: &[u64], settings: LeaseSettings) -> Story {
        let mut story = Story::with_settings(lives_ms.len() as u64, settings);
        story.table.look_inside();
        story.look_at(lives_ms, story.now.wall_ms);
        story
    }

    fn look_at(&mut self, lives_ms: &[u64], from_wall_ms: u64) {
        let expires = |life_ms: &u64| (*life_ms > 0).then_some(from_wall_ms + life_ms);
        while let Some(from) = self.table.take_wanted_records(self.now) {
            let facts = lives_ms[from.0 as usize..].iter();
            let facts =
                facts.map(|life| RecordFacts { expires_wall_ms: expires(life), ..RecordFacts::default() });
            self.table.handle_records(from, &RecordTable::Records(facts.collect()), self.now);
        }
        self.table.check();
    }
}

#[test]
fn an_expired_message_is_settled_and_counted_and_nobody_gets_it() {
    let mut story = Story::with_lives(&[1_000, 0, 2_000], LeaseSettings::default());
    assert_eq!(story.table.poll_timeout(), Some(story.now.mono_ms + 1_000));
    story.pass(1_000);
    assert_eq!((story.counts(), story.table.expired(), story.table.floor()), ((2, 0, 0, 0), 1, Offset(1)));
    let grants = story.grant(9, true);
    assert_eq!(grants.iter().map(|grant| grant.offset.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(story.table.serviced(), 1, "work that nobody does is off the backlog, too");
}

#[test]
fn one_that_is_out_is_left_to_its_worker_and_expires_when_it_comes_back() {
    let mut story = Story::with_lives(&[1_000, 1_000], LeaseSettings::default());
    let (done, late) = (story.receive(), story.receive());
    story.pass(5_000);
    assert_eq!(story.settle(done, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.settle(late, RELEASE_NOW), Ok(Settlement::Done));
    assert!(story.table.has_expired(story.now));
    story.table.handle_expired(story.now, &mut story.journal);
    story.table.check();
    assert_eq!((story.counts(), story.table.expired()), ((0, 0, 0, 0), 1));
    assert_eq!(story.settle(late, SettleAction::Ack), Ok(Settlement::AlreadySettled));
}

#[test]
fn where_the_group_says_so_expired_messages_die_and_redriven_ones_do_not_expire_again() {
    let mut story =
        Story::with_lives(&[1_000], LeaseSettings { expired_die: true, ..LeaseSettings::default() });
    story.pass(1_000);
    let dying = story.bury_all(7);
    assert_eq!((dying.len(), &*dying[0].reason, story.table.expired()), (1, EXPIRED_REASON, 1));
    assert_eq!(story.table.redrive(1, Offset::MAX, story.now, &mut story.journal), 1);
    story.pass(9_000);
    assert_eq!(story.receive().offset, Offset(0), "somebody wants it");
}

#[test]
fn a_wait_for_the_next_attempt_does_not_outlive_the_message_and_a_crash_forgets_nothing() {
    let lives = [10_000];
    let mut story = Story::with_lives(&lives, LeaseSettings::default());
    let appended = story.now.wall_ms;
    let job = story.receive();
    let release = SettleAction::Release { delay_ms: Some(60_000), reason: String::new() };
    assert_eq!(story.settle(job, release), Ok(Settlement::Done));
    let snapshot = story.table.snapshot(OF);
    story.now = Now { mono_ms: 50, wall_ms: story.now.wall_ms + 4_000 };
    story.table = LeaseTable::restore(&snapshot, LeaseSettings::default(), story.now).expect("ours");
    story.table.look_inside();
    story.table.handle_high_watermark(Offset(1));
    story.table.recovered(story.now);
    assert_eq!(story.table.grantable(), 0);
    story.look_at(&lives, appended);
    story.pass(5_999);
    assert_eq!(story.counts(), (0, 0, 1, 0));
    story.pass(1);
    assert_eq!((story.counts(), story.table.expired()), ((0, 0, 0, 0), 1));
}

#[test]
fn a_group_begins_to_look_when_the_first_message_comes_that_expires() {
    let mut story = Story::with(3);
    let held = story.receive();
    let back = story.receive();
    assert_eq!(story.settle(back, RELEASE_NOW), Ok(Settlement::Done));
    story.table.look_inside();
    story.table.check();
    assert_eq!(story.table.scanned(), Some(Offset(2)));
    assert_eq!(story.receive().offset, back.offset, "what was granted before came before");
    assert_eq!(story.grant(9, true).len(), 0);
    story.look_at(&[0, 0, 500], story.now.wall_ms);
    story.pass(500);
    assert_eq!((story.counts(), story.table.expired()), ((0, 2, 0, 0), 1));
    assert_eq!(story.settle(held, SettleAction::Ack), Ok(Settlement::Done));
}

#[test]
fn one_that_expires_behind_another_of_its_key_keeps_the_key_when_it_is_redriven() {
    let settings = LeaseSettings { by_key: true, expired_die: true, ..LeaseSettings::default() };
    let mut story = Story::with_settings(2, settings);
    let expires_wall_ms = Some(story.now.wall_ms + 1_000);
    let key = KeyHash::from_stored(7);
    let facts = vec![
        RecordFacts { key, ..RecordFacts::default() },
        RecordFacts { key, expires_wall_ms, ..RecordFacts::default() },
    ];
    let from = story.table.take_wanted_records(story.now).expect("it is to be looked at");
    story.table.handle_records(from, &RecordTable::Records(facts), story.now);
    story.pass(1_000);
    assert_eq!(story.bury_all(0).len(), 1);
    let first = story.receive();
    assert_eq!(story.table.redrive(1, Offset::MAX, story.now, &mut story.journal), 1);
    assert_eq!((first.offset, story.table.grantable()), (Offset(0), 0), "another of its key is out");
    assert_eq!(story.settle(first, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.receive().offset, Offset(1));
}
