//! Stories of groups in which urgent messages go first.

use super::*;

impl Story {
    /// Each digit is a message of that priority.
    fn with_priorities(priorities: &str) -> Story {
        let settings = LeaseSettings { by_priority: true, ..LeaseSettings::default() };
        let mut story = Story::with_settings(priorities.len() as u64, settings);
        story.show_priorities(priorities);
        story
    }

    fn show_priorities(&mut self, priorities: &str) {
        let facts = |digit: u8| RecordFacts {
            priority: Priority::of_level(digit - b'0').expect("a digit"),
            ..RecordFacts::default()
        };
        while let Some(from) = self.table.take_wanted_records(self.now) {
            let facts = priorities[from.0 as usize..].bytes().map(facts).take(RECORD_TABLE_MAX as usize);
            self.table.handle_records(from, &RecordTable::Records(facts.collect()), self.now);
            self.table.check();
        }
    }

    fn offsets(&mut self, count: u32) -> Vec<u64> {
        self.grant(count, true).iter().map(|grant| grant.offset.0).collect()
    }
}

#[test]
fn urgent_ones_go_first_and_among_equals_the_one_that_came_first() {
    let mut story = Story::with_priorities("40919");
    assert_eq!(story.offsets(9), [2, 4, 0, 3, 1]);
}

#[test]
fn of_eight_grants_one_goes_to_whoever_has_waited_longest() {
    let mut story = Story::with_priorities(&format!("0{}", "9".repeat(20)));
    assert_eq!(story.offsets(9), [1, 2, 3, 4, 5, 6, 7, 0, 8]);
    let urgent = "9".repeat(3_000);
    let mut story = Story::with_priorities(&format!("000{urgent}"));
    let granted = story.offsets(24);
    let low: Vec<usize> = (0..24).filter(|nth| granted[*nth] < 3).collect();
    assert_eq!(low, [7, 15, 23]);
}

#[test]
fn what_comes_back_stands_behind_its_equals() {
    let mut story = Story::with_priorities("559");
    let urgent = story.receive();
    assert_eq!(urgent.offset, Offset(2));
    let first = story.receive();
    assert_eq!(story.settle(first, RELEASE_NOW), Ok(Settlement::Done));
    assert_eq!(story.settle(urgent, RELEASE_NOW), Ok(Settlement::Done));
    assert_eq!(story.offsets(9), [2, 1, 0]);
}

#[test]
fn after_a_restart_the_order_is_looked_up_again() {
    let mut story = Story::with_priorities("1295");
    let urgent = story.receive();
    assert_eq!(story.settle(urgent, RELEASE_NOW), Ok(Settlement::Done));
    story.crash(1_000);
    assert_eq!(story.table.grantable(), 0, "nobody knows yet who is urgent");
    story.show_priorities("1295");
    assert_eq!(story.offsets(9), [2, 3, 1, 0]);
}

#[test]
fn a_window_looks_so_far_and_no_further() {
    let priorities = format!("{}9", "4".repeat(3 * RECORD_TABLE_MAX as usize));
    let mut story = Story::with_priorities(&priorities);
    assert_eq!(story.table.scanned(), Some(Offset(u64::from(RECORD_TABLE_MAX))));
    assert_eq!(story.receive().offset, Offset(0), "the urgent one is not seen yet");
    const { assert!(PRIORITY_LOOK_AHEAD <= RECORD_TABLE_MAX as usize) };
}

#[test]
fn a_redriven_message_has_no_priority_of_its_own() {
    let mut story = Story::with_priorities("935");
    let bad = story.receive();
    assert_eq!(story.settle(bad, reject("no")), Ok(Settlement::Dying));
    story.bury_all(0);
    assert_eq!(story.table.redrive(1, Offset::MAX, story.now, &mut story.journal), 1);
    assert_eq!(story.offsets(9), [2, 0, 1], "it counts as one of 4, as those that say nothing");
}

#[test]
fn without_the_setting_nothing_is_looked_at() {
    let story = Story::with(3);
    assert_eq!(story.table.scanned(), None);
    assert_eq!(std::mem::size_of::<super::super::message::Message>(), 112);
}
