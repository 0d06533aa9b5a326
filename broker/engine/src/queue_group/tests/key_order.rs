//! Stories of groups that keep the order of keys.

use dure_proto::KeyHash;

use super::*;

/// `a` to `z` are keys, a dot is a message without one.
fn facts(keys: &str) -> RecordTable {
    let key = |key: u8| (key != b'.').then(|| KeyHash::from_stored(u64::from(key))).flatten();
    RecordTable::Records(
        keys.bytes().map(|byte| RecordFacts { key: key(byte), ..RecordFacts::default() }).collect(),
    )
}

fn by_key() -> LeaseSettings {
    LeaseSettings { by_key: true, ..LeaseSettings::default() }
}

impl Story {
    fn with_keys(keys: &str) -> Story {
        let mut story = Story::with_settings(keys.len() as u64, by_key());
        story.show(keys);
        story
    }

    /// Shows the records of a log with these keys, from where they are wanted.
    fn show(&mut self, keys: &str) {
        while let Some(from) = self.table.take_wanted_records(self.now) {
            self.table.handle_records(from, &facts(&keys[from.0 as usize..]), self.now);
            self.table.check();
        }
    }

    fn granted(&mut self, count: u32) -> Vec<u64> {
        self.grant(count, true).iter().map(|grant| grant.offset.0).collect()
    }
}

#[test]
fn of_each_key_one_message_is_out_and_messages_without_a_key_are_not_ordered() {
    let mut story = Story::with_keys("aab.ab.");
    assert_eq!(story.counts(), (7, 0, 0, 0), "ready includes those behind their key");
    let grants = story.grant(100, true);
    assert_eq!(grants.iter().map(|grant| grant.offset.0).collect::<Vec<_>>(), [0, 2, 3, 6]);
    assert_eq!((story.counts(), story.table.grantable()), ((3, 4, 0, 0), 0));
    assert_eq!(story.settle(grants[0], SettleAction::Ack), Ok(Settlement::Done));
    let second = story.receive();
    assert_eq!(second.offset, Offset(1));
    assert_eq!(story.settle(second, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.granted(9), [4]);
}

#[test]
fn a_message_that_waits_to_be_tried_again_holds_back_its_key_and_nothing_else() {
    let mut story = Story::with_keys("abaab");
    let first = story.receive();
    assert_eq!(story.settle(first, BACK_OFF), Ok(Settlement::Done));
    assert_eq!(story.granted(9), [1]);
    story.pass(1_250);
    assert_eq!(story.granted(9), [0], "it goes before the others of its key");
    story.pass(30_001);
    assert_eq!(story.granted(9), [1, 0], "a lease that ran out does not let its key go, either");
}

#[test]
fn a_message_that_dies_lets_its_key_go_on_once_it_is_buried() {
    let mut story = Story::with_keys("aa");
    let bad = story.receive();
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    assert_eq!(story.granted(9), [0; 0], "a crash may still bring it back");
    story.bury_all(0);
    assert_eq!(story.granted(9), [1]);
}

#[test]
fn a_redriven_message_is_next_of_its_key_and_overtakes_nobody_who_is_out() {
    let mut story = Story::with_keys("aaa");
    let bad = story.receive();
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    story.bury_all(0);
    let second = story.receive();
    assert_eq!(story.table.redrive(9, Offset::MAX, story.now, &mut story.journal), 1);
    assert_eq!(story.granted(9), [0; 0], "the second one is out");
    story.crash(0);
    story.show("aaa");
    assert_eq!(story.granted(9), [0; 0], "and is still out after a restart");
    assert_eq!(story.settle(second, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.granted(9), [0]);
}

#[test]
fn a_receipt_whose_lease_ran_out_cannot_lease_a_second_message_of_its_key() {
    let mut story = Story::with_keys("aa");
    let bad = story.receive();
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    story.bury_all(0);
    let second = story.receive();
    story.pass(30_001);
    assert_eq!(story.table.redrive(9, Offset::MAX, story.now, &mut story.journal), 1);
    assert_eq!(story.granted(9), [0]);
    let extend = SettleAction::Extend { lease_ms: None };
    assert_eq!(story.settle(second, extend), Err(SettleError::StaleLease));
    assert_eq!(story.settle(second, SettleAction::Start), Err(SettleError::StaleLease));
    assert_eq!(story.settle(second, SettleAction::Ack), Ok(Settlement::Done), "done is done");
}

#[test]
fn a_seek_begins_anew_and_grants_nothing_that_was_not_looked_at_again() {
    let keys = "abab";
    let mut story = Story::with_keys(keys);
    let grants = story.grant(9, true);
    for grant in grants {
        assert_eq!(story.settle(grant, SettleAction::Ack), Ok(Settlement::Done));
    }
    story.table.seek(Offset(1), story.now, &mut story.journal);
    story.table.check();
    assert_eq!((story.table.grantable(), story.table.scanned()), (0, Some(Offset(1))));
    story.show(keys);
    assert_eq!(story.granted(9), [1, 2]);
}

#[test]
fn retention_and_lost_ranges_open_the_line_behind_them() {
    let mut story = Story::with_keys("aaaaab");
    story.receive();
    story.table.handle_log_start(Offset(2));
    story.table.check();
    assert_eq!(story.granted(1), [5], "who waited has the first turn");
    story.table.handle_lost(Offset(2), Offset(4), story.now, &mut story.journal);
    story.table.check();
    assert_eq!(story.granted(9), [4]);
}

#[test]
fn a_hot_key_slows_itself_only_and_its_line_costs_next_to_nothing() {
    let keys: String = "h".repeat(1_000_000) + "xyz";
    let mut story = Story::with_keys(&keys);
    assert!(story.table.window.as_ref().expect("it has one").bytes() < 4_096);
    assert_eq!(story.granted(2), [0, 1_000_000], "a million of one key hide nobody");
    assert_eq!(story.table.scanned(), Some(Offset(1_000_003)));
}

#[test]
fn keys_take_turns_whatever_the_length_of_their_lines() {
    let mut story = Story::with_keys("hhhhhhhhhhabcdef");
    let mut order = Vec::new();
    for _ in 0..9 {
        let job = story.receive();
        order.push(job.offset.0);
        assert_eq!(story.settle(job, SettleAction::Ack), Ok(Settlement::Done));
    }
    assert_eq!(order, [0, 10, 11, 12, 13, 14, 15, 1, 2], "one worker, and nobody waits for the whole line");
}

#[test]
fn at_its_budget_the_window_looks_no_further_and_says_so() {
    let settings = LeaseSettings { window_bytes_max: 2_000, ..by_key() };
    let mut story = Story::with_settings(10_000, settings);
    // Nine keys at scattered offsets: none of the lines is a run.
    let keys: String =
        (0u32..10_000).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 28) as u8)).collect();
    story.show(&keys);
    assert!(story.table.is_window_full() && story.table.scanned() < Some(Offset(10_000)));
    assert_eq!(story.table.take_wanted_records(story.now), None);
    let mut done = 0;
    while done < 10_000 {
        let grants = story.grant_quietly(16);
        assert!(!grants.is_empty(), "{done} are done and nothing moves");
        for grant in grants {
            assert_eq!(story.settle_quietly(grant), Ok(Settlement::Done));
            done += 1;
        }
        story.show(&keys);
    }
}

#[test]
fn a_batch_that_cannot_be_decoded_dies_whole_and_the_rest_goes_on() {
    let mut story = Story::with_settings(6, by_key());
    let from = story.table.take_wanted_records(story.now).expect("wanted");
    let reason = "a bomb".to_owned();
    story.table.handle_records(from, &RecordTable::Undecodable { end: Offset(3), reason }, story.now);
    story.table.check();
    story.show("???abc");
    let dying = story.bury_all(0);
    assert_eq!(
        dying.iter().map(|d| (d.offset.0, &*d.reason)).collect::<Vec<_>>(),
        [(0, "a bomb"), (1, "a bomb"), (2, "a bomb")]
    );
    assert_eq!(story.granted(9), [3, 4, 5]);
}

#[test]
fn records_that_the_disk_refused_are_asked_for_again_later() {
    let mut story = Story::with_settings(1, by_key());
    let from = story.table.take_wanted_records(story.now).expect("wanted");
    assert!(story.table.is_looking());
    story.table.handle_records(from, &RecordTable::Failed, story.now);
    assert!(!story.table.is_looking() && story.table.take_wanted_records(story.now).is_none());
    assert_eq!(story.table.poll_timeout(), Some(story.now.mono_ms + 1_000));
    story.pass(1_000);
    assert_eq!(story.table.take_wanted_records(story.now), Some(from));
}

#[test]
fn leases_of_one_event_carry_the_keys_of_each() {
    let mut story = Story::with_keys("ab.");
    story.grant(9, true);
    let leased = story.journal.iter().filter_map(|event| match &event.event {
        Some(Event::Leased(leased)) => Some(leased.keys.clone()),
        _ => None,
    });
    assert_eq!(leased.collect::<Vec<_>>(), [vec![u64::from(b'a'), u64::from(b'b'), 0]]);
}

#[test]
fn the_keys_behind_which_most_messages_wait_are_named() {
    let mut story = Story::with_keys(&format!("abab{}{}c.", "a".repeat(7), "b".repeat(3)));
    let hot = |offset, waiting, out| HotKey { offset: Offset(offset), waiting, out };
    assert_eq!(story.table.hottest_keys(), [hot(0, 9, 0), hot(1, 5, 0), hot(14, 1, 0)]);
    let first = story.receive();
    assert_eq!(story.settle(first, SettleAction::Ack), Ok(Settlement::Done));
    assert_eq!(story.granted(9), [1, 14, 15, 2]);
    assert_eq!(story.table.hottest_keys(), [hot(4, 7, 1), hot(3, 4, 1)]);
    let many: String = ('a'..='z').map(|key| key.to_string().repeat(1 + key as usize % 13)).collect();
    let all = Story::with_keys(&many).table.hottest_keys();
    assert_eq!(all.iter().map(|hot| hot.waiting).collect::<Vec<_>>(), [13, 13, 12, 12, 11, 11, 10, 10, 9, 9]);
    assert!(Story::with(5).table.hottest_keys().is_empty());
}
