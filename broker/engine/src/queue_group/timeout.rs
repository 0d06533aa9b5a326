//! What time alone does: leases run out, waits end; and after a restart leases run anew.

use dure_proto::Offset;
use dure_proto::journal::QueueEvent;

use super::message::Phase;
use super::rates::Rates;
use super::settings::TIMEOUTS_PER_TURN_MAX;
use super::settle::returned;
use super::table::LeaseTable;
use crate::Now;

impl LeaseTable {
    /// When [`handle_timeout`](LeaseTable::handle_timeout) has something to do, on the monotonic clock; in
    /// the past if it did not come to an end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let next = |index: &std::collections::BTreeSet<(u64, Offset)>| index.first().map(|(at, _)| *at);
        let over = next(&self.deadlines).map(|at| at + 1);
        let asks_again = self.window.as_ref().and_then(|window| window.asks_again_mono_ms);
        let expires = self.expiries.first_due().map(|(at, _)| at);
        over.into_iter().chain(next(&self.waits)).chain(asks_again).chain(expires).min()
    }

    /// Ends leases and waits that are over, at most [`TIMEOUTS_PER_TURN_MAX`] of each, and what expired. A message whose lease ran out
    /// is back at once: its worker is gone and the lease was wait enough. It dies if a started attempt was the last.
    ///
    /// The clock has whole milliseconds: one that reads the deadline may be up to one short of it, and so may have been
    /// the one by which it was set. A lease is over when it has passed, and never early.
    pub fn handle_timeout(&mut self, now: Now, events: &mut Vec<QueueEvent>) {
        if let Some(window) = &mut self.window {
            window.asks_again_mono_ms = window.asks_again_mono_ms.filter(|at| *at > now.mono_ms);
        }
        for _ in 0..TIMEOUTS_PER_TURN_MAX {
            let Some((_, offset)) = self.waits.first().copied().filter(|(due, _)| *due <= now.mono_ms) else {
                break;
            };
            self.edit(offset, |message| message.phase = Phase::Ready);
        }
        for _ in 0..TIMEOUTS_PER_TURN_MAX {
            let over = self.deadlines.first().copied().filter(|(deadline, _)| *deadline < now.mono_ms);
            let Some((_, offset)) = over else { break };
            if self.messages[&offset].started {
                self.give_back(offset, 0, "lease expired", "", now, events);
            } else {
                self.decide(returned(offset, 0), now, events);
            }
        }
        self.handle_expired(now, events);
    }

    /// After a restart, when everything is replayed: every lease goes on with its token for a full term, and
    /// the counters since the start begin at 0.
    pub fn recovered(&mut self, now: Now) {
        let leased: Vec<Offset> = self.deadlines.iter().map(|(_, offset)| *offset).collect();
        for offset in leased {
            self.edit(offset, |message| {
                if let Phase::Leased { deadline_mono_ms, lease_ms } = &mut message.phase {
                    *deadline_mono_ms = now.mono_ms.saturating_add(*lease_ms);
                }
            });
        }
        self.arrived = 0;
        self.serviced = 0;
        self.expired = 0;
        self.rates = Rates::default();
    }
}
