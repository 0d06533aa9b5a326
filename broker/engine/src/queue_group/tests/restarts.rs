//! Stories of what a restart keeps, and of what it refuses to believe.

use super::*;

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
