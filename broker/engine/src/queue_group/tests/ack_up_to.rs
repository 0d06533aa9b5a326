//! Stories of everything up to an offset being acknowledged.

use super::*;

const ALL_BEFORE: SettleAction = SettleAction::AckUpTo;

impl Story {
    fn ack_up_to(&mut self, offset: u64) -> Result<Settlement, SettleError> {
        let (offset, token) = (Offset(offset), LeaseToken::NONE);
        let result = self.table.settle(offset, token, &ALL_BEFORE, Jitter(0), self.now, &mut self.journal);
        self.table.check();
        result
    }
}

#[test]
fn everything_up_to_an_offset_is_done_whoever_holds_it() {
    let mut story = Story::with(10);
    let held = story.grant(4, true);
    assert_eq!(story.settle(held[1], RELEASE_NOW), Ok(Settlement::Done));
    assert_eq!(story.ack_up_to(6), Ok(Settlement::Done));
    assert_eq!((story.table.floor(), story.counts()), (Offset(7), (3, 0, 0, 0)));
    assert_eq!(story.settle(held[0], SettleAction::Ack), Ok(Settlement::AlreadySettled));
    for action in [SettleAction::Start, RELEASE_NOW, SettleAction::Extend { lease_ms: None }] {
        assert_eq!(story.settle(held[2], action), Err(SettleError::AlreadySettled));
    }
    assert_eq!(story.ack_up_to(6), Ok(Settlement::AlreadySettled));
    assert_eq!(story.table.serviced(), 7);
    assert_eq!(story.receive().offset, Offset(7), "what comes behind goes on");
    story.crash(0);
    assert_eq!((story.table.floor(), story.counts()), (Offset(7), (2, 1, 0, 0)));
}

#[test]
fn a_holder_speaks_for_those_before_it_only_while_it_holds_its_own() {
    let mut story = Story::with(5);
    let slow = story.grant(3, true)[2];
    story.pass(30_001);
    let anew = story.grant(3, true)[2];
    assert_eq!(story.settle(slow, ALL_BEFORE), Err(SettleError::StaleLease));
    assert_eq!(story.counts(), (2, 3, 0, 0));
    assert_eq!(story.settle(anew, ALL_BEFORE), Ok(Settlement::Done));
    assert_eq!(story.settle(slow, ALL_BEFORE), Ok(Settlement::AlreadySettled));
    assert_eq!((story.table.floor(), story.counts()), (Offset(3), (2, 0, 0, 0)));
}

#[test]
fn what_is_not_there_yet_cannot_be_done() {
    let mut story = Story::with(3);
    assert_eq!(story.ack_up_to(3), Err(SettleError::BeyondEnd { end: Offset(3) }));
    assert_eq!(story.ack_up_to(u64::MAX), Err(SettleError::BeyondEnd { end: Offset(3) }));
    assert_eq!(story.counts(), (3, 0, 0, 0));
    assert_eq!(story.ack_up_to(2), Ok(Settlement::Done));
}

#[test]
fn dead_letters_stay_and_redriven_ones_are_done() {
    let mut story = Story::with(4);
    for letter in [70, 71] {
        let bad = story.receive();
        assert_eq!(story.settle(bad, SettleAction::Reject { reason: "bad".into() }), Ok(Settlement::Dying));
        story.bury_all(letter);
    }
    story.table.redrive(1, Offset::MAX, story.now, &mut story.journal);
    assert_eq!((story.table.floor(), story.counts()), (Offset(2), (3, 0, 0, 1)));
    let dying = story.grant(2, true)[1];
    assert_eq!(story.settle(dying, SettleAction::Reject { reason: "late".into() }), Ok(Settlement::Dying));
    assert_eq!(story.ack_up_to(2), Ok(Settlement::Done));
    assert_eq!((story.table.floor(), story.counts()), (Offset(3), (1, 0, 0, 1)));
    assert!(!story.table.has_dying(), "an ack calls it back");
}
