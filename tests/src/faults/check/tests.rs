//! Histories made by hand, each with one thing wrong: the checker must see it. And good ones: it must not.

use super::*;
use crate::faults::history::{At, Found, Outcome, Settle, Token};

const RULES: Rules = Rules { jobs: "jobs", attempts_max: 3 };

/// A history in the making: every step takes from `now` to `now + 5`, and the next one begins at `now + 10`.
#[derive(Default)]
struct Story {
    now: u64,
    events: Vec<Event>,
}

fn id(sequence: u64) -> Id {
    Id { producer: 1, sequence }
}

fn place(topic: &'static str, offset: u64) -> Place {
    Place { topic, partition: 0, offset }
}

impl Story {
    fn then(mut self, what: What) -> Story {
        self.events.push(Event { begun: At(self.now), ended: At(self.now + 5), what });
        self.now += 10;
        self
    }

    fn later(mut self, ms: u64) -> Story {
        self.now += ms * 1000;
        self
    }

    fn sent(self, topic: &'static str, sequence: u64, answer: Result<u64, Outcome>) -> Story {
        let place = answer.ok().map(|offset| place(topic, offset));
        let outcome = answer.err().unwrap_or(Outcome::Ok);
        self.then(What::Produce { id: id(sequence), topic, place, outcome })
    }

    fn log(self, topic: &'static str, records: &[(u64, u64)]) -> Story {
        let end = records.last().map_or(0, |(offset, _)| offset + 1);
        self.log_until(topic, records, end)
    }

    fn log_until(self, topic: &'static str, records: &[(u64, u64)], end: u64) -> Story {
        let records =
            records.iter().map(|(offset, sequence)| (*offset, Found::Intact(id(*sequence)))).collect();
        self.then(What::Log { topic, partition: 0, start: 0, end, records })
    }

    fn read(self, reader: u32, in_group: bool, offset: u64) -> Story {
        let found = Found::Intact(id(offset));
        self.then(What::Read { reader, in_group, place: place("events", offset), found })
    }

    fn commit(self, offset: u64, outcome: Outcome) -> Story {
        self.then(What::Commit { reader: 1, place: place("events", offset), outcome })
    }

    fn committed(self, offset: u64) -> Story {
        self.then(What::Committed { place: place("events", offset) })
    }

    fn given(self, token: u64, attempt: u32) -> Story {
        self.given_at(0, token, attempt, None)
    }

    fn given_at(self, offset: u64, token: u64, attempt: u32, leased_for_us: Option<u64>) -> Story {
        let (found, token) = (Found::Intact(id(offset)), Token(1, token));
        let worker = token.1 as u32;
        self.then(What::Deliver {
            worker,
            place: place("jobs", offset),
            token,
            attempt,
            found,
            leased_for_us,
        })
    }

    fn settled(self, token: u64, settle: Settle, outcome: Outcome) -> Story {
        let (place, token) = (place("jobs", 0), Token(1, token));
        self.then(What::Settled { worker: 1, place, token, settle, outcome, already: false })
    }

    fn letter(self, attempts: u32, rejected: bool) -> Story {
        self.then(What::Letter { place: place("jobs", 0), found: Found::Intact(id(0)), attempts, rejected })
    }

    fn drained(self, lag: u64, dead: u64) -> Story {
        self.then(What::Drained { lag, dead })
    }

    fn fault(self) -> Story {
        self.then(What::Fault { what: "kill -9".to_owned() })
    }

    #[track_caller]
    fn is_good(&self) {
        assert_eq!(check(&self.events, &RULES), Vec::new());
    }

    #[track_caller]
    fn breaks(&self, kind: Kind) {
        let found = check(&self.events, &RULES);
        assert!(found.iter().any(|violation| violation.kind == kind), "not {kind:?} among {found:?}");
        for violation in &found {
            assert!(!around(&self.events, violation).is_empty() || violation.place.is_none());
        }
    }
}

fn story() -> Story {
    Story::default()
}

/// Three messages to be read, all acknowledged.
fn three() -> Story {
    story().sent("events", 0, Ok(0)).sent("events", 1, Ok(1)).sent("events", 2, Ok(2))
}

/// One message to be worked on.
fn job() -> Story {
    story().sent("jobs", 0, Ok(0)).log("jobs", &[(0, 0)])
}

#[test]
fn a_good_stream_passes() {
    let story =
        three().sent("events", 3, Err(Outcome::Unknown)).sent("events", 4, Err(Outcome::Fail)).fault();
    let story =
        story.read(1, false, 0).read(1, false, 1).read(2, true, 0).commit(1, Outcome::Ok).committed(1);
    story.log("events", &[(0, 0), (1, 1), (2, 2), (3, 3)]).is_good();
}

#[test]
fn an_acknowledged_message_that_is_not_there_is_lost() {
    three().log("events", &[(0, 0), (1, 1)]).breaks(Kind::Lost);
}

#[test]
fn a_message_that_was_shown_and_is_not_there_is_lost() {
    let story = story().sent("events", 0, Err(Outcome::Unknown)).read(1, false, 0);
    story.log("events", &[]).breaks(Kind::Lost);
}

#[test]
fn what_nobody_sent_and_what_was_refused_are_phantoms() {
    three().log("events", &[(0, 0), (1, 1), (2, 2), (3, 9)]).breaks(Kind::Phantom);
    story().sent("events", 0, Err(Outcome::Fail)).log("events", &[(0, 0)]).breaks(Kind::Phantom);
    story().sent("jobs", 0, Ok(0)).log("events", &[(0, 0)]).breaks(Kind::Phantom);
    let foreign = What::Read { reader: 1, in_group: false, place: place("events", 0), found: Found::Foreign };
    story().then(foreign).breaks(Kind::Phantom);
}

#[test]
fn other_bytes_are_altered() {
    let found = Found::Altered(id(0));
    let read = What::Read { reader: 1, in_group: false, place: place("events", 0), found };
    three().then(read).breaks(Kind::Altered);
}

#[test]
fn a_message_at_two_places_is_duplicated() {
    three().log("events", &[(0, 0), (1, 1), (2, 2), (3, 1)]).breaks(Kind::Duplicated);
}

#[test]
fn two_messages_at_one_offset_are_two_values() {
    let story = three().read(1, false, 0).log("events", &[(0, 1), (1, 0), (2, 2)]);
    story.breaks(Kind::TwoValues);
    // An offset that was shown before a crash is used again after it.
    let story = story.sent("events", 3, Err(Outcome::Unknown)).sent("events", 4, Err(Outcome::Unknown));
    story
        .log("events", &[(0, 0), (1, 1), (2, 2), (3, 3)])
        .log("events", &[(0, 0), (1, 1), (2, 2), (3, 4)])
        .breaks(Kind::TwoValues);
}

#[test]
fn missing_offsets_are_a_gap() {
    let story = story().sent("events", 0, Ok(0)).sent("events", 1, Ok(2));
    story.log("events", &[(0, 0), (2, 1)]).breaks(Kind::Gap);
    three().log_until("events", &[(0, 0), (1, 1), (2, 2)], 4).breaks(Kind::Gap);
}

#[test]
fn a_later_message_before_an_earlier_one_breaks_the_order() {
    let story = story().sent("events", 0, Ok(1)).sent("events", 1, Ok(0));
    story.log("events", &[(0, 1), (1, 0)]).breaks(Kind::Order);
}

#[test]
fn damage_is_told() {
    let damaged = What::Damaged { topic: "events".to_owned(), partition: 0, from: 0, to: 1 };
    story().then(damaged).breaks(Kind::Damaged);
}

#[test]
fn a_committed_offset_does_not_move_back() {
    let story = three().read(1, true, 0).read(1, true, 1);
    let story = story.commit(2, Outcome::Ok);
    story.committed(1).breaks(Kind::CommitWentBack);
    let unknown = three().read(1, true, 0).read(1, true, 1).commit(2, Outcome::Unknown);
    unknown.committed(2).committed(1).breaks(Kind::CommitWentBack);
    let again = three().read(1, true, 0).read(1, true, 1).commit(2, Outcome::Ok);
    let again = again.then(What::Subscribe { reader: 2, in_group: true });
    again.read(2, true, 0).breaks(Kind::CommitWentBack);
}

#[test]
fn nobody_is_ahead_of_what_was_committed() {
    three().read(1, true, 0).commit(1, Outcome::Ok).committed(2).breaks(Kind::CommitAhead);
    three().read(1, true, 0).commit(1, Outcome::Fail).committed(1).breaks(Kind::CommitAhead);
}

#[test]
fn no_message_is_passed_over() {
    three().read(1, true, 0).read(1, true, 2).commit(3, Outcome::Ok).breaks(Kind::Skipped);
    three().read(1, false, 0).read(1, false, 2).breaks(Kind::Skipped);
}

#[test]
fn a_good_queue_passes() {
    let acked = job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).given(2, 2);
    acked.settled(2, Settle::Ack, Outcome::Ok).drained(0, 0).is_good();
    let dead = job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).given(2, 2);
    let dead = dead.settled(2, Settle::Release, Outcome::Ok).later(2_000).given(3, 3);
    dead.letter(3, false).drained(0, 1).is_good();
    let rejected = job().given(1, 1).settled(1, Settle::Reject, Outcome::Ok).letter(1, true);
    rejected.drained(0, 1).letter(1, true).drained(0, 1).is_good();
    let crashed = job().given(1, 1).fault().given(2, 1).settled(2, Settle::Ack, Outcome::Unknown);
    crashed.given(3, 2).settled(3, Settle::Ack, Outcome::Ok).drained(0, 0).is_good();
    // A crash forgets grants that nobody was answered about, however many there were.
    let forgotten =
        job().given(1, 1).settled(1, Settle::Release, Outcome::Unknown).given(2, 2).fault().given(3, 1);
    forgotten.settled(3, Settle::Ack, Outcome::Ok).drained(0, 0).is_good();
    let unseen = job().then(What::ReceiveLost { worker: 9, count_max: 1 }).given(2, 2);
    unseen.settled(2, Settle::Ack, Outcome::Ok).drained(0, 0).is_good();
}

#[test]
fn a_message_that_ends_nowhere_is_lost() {
    job().drained(0, 0).breaks(Kind::JobLost);
    job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).drained(0, 0).breaks(Kind::JobLost);
    job().given(1, 1).settled(1, Settle::Ack, Outcome::Fail).drained(0, 0).breaks(Kind::JobLost);
}

#[test]
fn what_is_acknowledged_does_not_come_back() {
    job().given(1, 1).settled(1, Settle::Ack, Outcome::Ok).given(2, 2).breaks(Kind::CameBack);
    job().given(1, 1).settled(1, Settle::Ack, Outcome::Ok).fault().given(2, 1).breaks(Kind::CameBack);
    job().given(1, 1).settled(1, Settle::Reject, Outcome::Ok).given(2, 2).breaks(Kind::CameBack);
}

#[test]
fn two_live_leases_are_seen() {
    let both = job().given(1, 1).given(2, 2);
    both.settled(1, Settle::Ack, Outcome::Ok).settled(2, Settle::Ack, Outcome::Ok).breaks(Kind::TwoLeases);
    // By time alone: the lease of a receive has not run out.
    job().given_at(0, 1, 1, Some(1_000_000)).later(10).given(2, 2).breaks(Kind::TwoLeases);
    let over = job().given_at(0, 1, 1, Some(1_000_000)).later(1_100).given(2, 2);
    over.settled(2, Settle::Ack, Outcome::Ok).drained(0, 0).is_good();
}

#[test]
fn a_token_is_given_out_once() {
    job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).given(1, 2).breaks(Kind::TokenTwice);
    let story = story().sent("jobs", 0, Ok(0)).sent("jobs", 1, Ok(1));
    story.given_at(0, 1, 1, None).given_at(1, 1, 1, None).breaks(Kind::TokenTwice);
}

#[test]
fn attempts_rise_by_one() {
    job().given(1, 2).breaks(Kind::Attempts);
    job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).given(2, 1).breaks(Kind::Attempts);
    job().given(1, 1).settled(1, Settle::Release, Outcome::Ok).given(2, 3).breaks(Kind::Attempts);
    let answered = || job().given(1, 1).settled(1, Settle::Release, Outcome::Ok);
    answered().fault().given(2, 1).breaks(Kind::Attempts);
    answered()
        .given(2, 2)
        .settled(2, Settle::Release, Outcome::Unknown)
        .fault()
        .given(3, 1)
        .breaks(Kind::Attempts);
}

#[test]
fn dead_letters_are_dead_at_the_limit_and_for_a_reason() {
    let once = || job().given(1, 1).settled(1, Settle::Release, Outcome::Ok);
    once().letter(1, false).drained(0, 1).breaks(Kind::DeadLetter);
    once().letter(3, false).drained(0, 1).breaks(Kind::DeadLetter);
    once().letter(1, true).drained(0, 1).breaks(Kind::DeadLetter);
    job()
        .given(1, 1)
        .settled(1, Settle::Ack, Outcome::Ok)
        .letter(3, false)
        .drained(0, 1)
        .breaks(Kind::DeadLetter);
    job().given(1, 1).settled(1, Settle::Reject, Outcome::Ok).drained(0, 0).breaks(Kind::DeadLetter);
    once().letter(3, false).letter(3, false).drained(0, 2).breaks(Kind::DeadLetter);
    let beyond = once().given(2, 2).settled(2, Settle::Release, Outcome::Ok).given(3, 3);
    beyond.settled(3, Settle::Release, Outcome::Ok).given(4, 4).breaks(Kind::DeadLetter);
}

#[test]
fn figures_add_up() {
    job().given(1, 1).settled(1, Settle::Ack, Outcome::Ok).drained(1, 0).breaks(Kind::Accounting);
    job().given(1, 1).settled(1, Settle::Ack, Outcome::Ok).drained(0, 1).breaks(Kind::Accounting);
}
