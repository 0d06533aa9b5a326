//! The invariants, as one function that tests call after every step.

use super::message::Place;
use super::table::LeaseTable;

impl LeaseTable {
    /// Panics if an invariant that is written on the fields does not hold. Walks everything that is known
    /// singly: for tests.
    pub fn check(&self) {
        self.settled.check();
        assert!(self.log_start <= self.floor(), "the log is gone above the floor");
        assert!(self.floor() <= self.high_watermark, "settled beyond the high watermark");
        let settled_end = self.settled.above().max().map_or(0, |max| max + 1);
        assert!(settled_end <= self.high_watermark.0, "settled beyond the high watermark");
        assert!(self.fresh <= self.high_watermark && self.fresh >= self.floor().min(self.fresh));

        let (mut ready, mut waiting, mut leased, mut dying, mut dying_new, mut redriven) = (0, 0, 0, 0, 0, 0);
        let (mut held, mut numbered) = (0, 0);
        for (offset, message) in &self.messages {
            numbered += usize::from(message.held > 0);
            assert!(*offset < self.high_watermark, "{offset} is beyond the high watermark");
            assert_eq!(
                self.settled.contains(*offset),
                message.letter.is_some(),
                "{offset} is settled and not"
            );
            assert!(!self.dead.contains_key(offset), "{offset} is dead and alive");
            match message.place() {
                Place::Ready => {
                    ready += 1;
                    assert!(self.ready_again.contains(offset));
                    assert!(message.attempts < self.settings.attempts_max, "{offset} has no attempts left");
                }
                Place::Held => held += 1,
                Place::Waiting { due_mono_ms } => {
                    waiting += 1;
                    assert!(self.waits.contains(&(due_mono_ms, *offset)));
                    assert!(message.attempts < self.settings.attempts_max, "{offset} has no attempts left");
                }
                Place::Leased { deadline_mono_ms } => {
                    leased += 1;
                    assert!(self.deadlines.contains(&(deadline_mono_ms, *offset)));
                    assert!(message.token.is_some(), "{offset} is leased without a token");
                    assert!(message.attempts <= self.settings.attempts_max, "{offset} has too many attempts");
                }
                Place::Dying { taken } => {
                    dying += 1;
                    dying_new += usize::from(!taken);
                    assert_eq!(self.dying_new.contains(offset), !taken);
                }
            }
            if let Some(letter) = message.letter {
                redriven += 1;
                assert_eq!(self.letters.get(&letter), Some(offset), "the letter of {offset} may be trimmed");
            }
        }
        assert_eq!(
            (ready, waiting, leased),
            (self.ready_again.len(), self.waits.len(), self.deadlines.len()),
            "an index holds what is not there"
        );
        assert_eq!(
            (dying, dying_new, redriven, held, numbered),
            (
                self.dying_count,
                self.dying_new.len(),
                self.redriven_count,
                self.held.ready_count,
                self.held.messages.len()
            )
        );

        for (offset, letter) in &self.dead {
            assert!(self.settled.contains(*offset), "{offset} is dead and not settled");
            assert_eq!(
                self.letters.get(&letter.letter),
                Some(offset),
                "the letter of {offset} may be trimmed"
            );
        }
        assert_eq!(self.letters.len() as u64, self.dead.len() as u64 + self.redriven_count);

        self.check_window();

        let unsettled_below_fresh = self.fresh.since(self.floor())
            - self.settled.above().range_cardinality(self.floor().0..self.fresh.0.max(self.floor().0));
        let known_below_fresh =
            self.messages.range(..self.fresh).filter(|(_, message)| message.letter.is_none()).count();
        assert_eq!(unsettled_below_fresh, known_below_fresh as u64, "a message is skipped for ever");
        let _ = self.counts();
    }

    fn check_window(&self) {
        let Some(window) = &self.window else { return };
        let scanned = window.scanned();
        assert!(self.floor() <= scanned && scanned <= self.high_watermark, "looked at what is not there");
        let known =
            self.messages.iter().map(|(offset, message)| (*offset, (message.key, message.standing())));
        let untouched = |offset| !self.settled.contains(offset) && !self.messages.contains_key(&offset);
        let settled = self.settled.above().range_cardinality(self.floor().0..scanned.0);
        let known_unsettled = self.messages.range(..scanned).filter(|(_, message)| message.letter.is_none());
        let untouched_count = scanned.since(self.floor()) - settled - known_unsettled.count() as u64;
        window.check(&known.collect(), untouched, untouched_count);
        self.expiries.check(|offset| {
            assert!(
                !self.settled.contains(offset) && offset < scanned,
                "{offset} expires, and was not looked at"
            );
            self.messages.get(&offset).is_some_and(|message| message.standing().is_out())
        });
    }
}
