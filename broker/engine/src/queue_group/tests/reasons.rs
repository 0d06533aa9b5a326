//! Stories of why a message is in the dead letters.

use super::*;

fn because(reason: &str) -> SettleAction {
    SettleAction::Release { delay_ms: Some(0), reason: reason.into() }
}

#[test]
fn the_last_release_says_why_the_message_is_dead_also_over_a_crash() {
    let settings = LeaseSettings { attempts_max: 2, ..LeaseSettings::default() };
    let mut story = Story::with_settings(1, settings);
    let first = story.receive();
    assert_eq!(story.settle(first, because("out of paper")), Ok(Settlement::Done));
    let last = story.receive();
    assert_eq!(story.settle(last, because("out of ink")), Ok(Settlement::Done));
    let expected = "released in attempt 2 of 2: out of ink";
    assert_eq!(story.table.dying(Offset(0)), Some((expected, 2)));
    story.crash(0);
    assert_eq!(story.table.dying(Offset(0)), Some((expected, 2)));
    let settings = story.table.settings().clone();
    let restored = LeaseTable::restore(&story.table.snapshot(OF), settings, story.now).expect("it is ours");
    assert_eq!(restored.dying(Offset(0)), Some((expected, 2)));
    let mut rejected = restored;
    let reject = SettleAction::Reject { reason: "bad".into() };
    let settled = rejected.settle(Offset(0), last.token, &reject, Jitter(0), story.now, &mut Vec::new());
    assert_eq!((settled, rejected.dying(Offset(0))), (Ok(Settlement::Dying), Some(("bad", 2))));
    assert_eq!(rejected.snapshot(OF), story.table.snapshot(OF), "a reject is not kept before it is buried");
    assert_eq!(story.bury_all(0)[0].reason, expected);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let settings = LeaseSettings { attempts_max: 1, ..LeaseSettings::default() };
    let mut story = Story::with_settings(1, settings);
    let job = story.receive();
    assert_eq!(story.settle(job, because(&"\u{e9}".repeat(2_000))), Ok(Settlement::Done));
    let (reason, _) = story.table.dying(Offset(0)).expect("it dies");
    assert!(reason.len() <= REASON_BYTES_MAX && reason.ends_with('\u{e9}'), "{} bytes", reason.len());
}
