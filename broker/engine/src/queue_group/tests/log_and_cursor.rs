//! Stories of what happens to the log and to the cursor below the messages.

use super::*;

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
