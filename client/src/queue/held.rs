//! The table of what this worker has leased, and the credit that comes free as it is settled.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dure_proto::{Offset, PartitionId, Receipt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::receipt_hasher::ReceiptHasher;

#[derive(Debug)]
struct Lease {
    lease: Duration,
    /// Not later than when the broker lets it run out.
    deadline: Instant,
    bytes: u64,
    /// It was handed out.
    started: bool,
    /// It is being acknowledged, released or rejected.
    settling: bool,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<Receipt, Lease, BuildHasherDefault<ReceiptHasher>>,
    bytes: u64,
    /// Freed and not yet told to the broker.
    free: Credit,
}

/// What the broker may push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    pub(super) messages: u32,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Held {
    state: Mutex<State>,
    messages_max: u32,
    bytes_max: u64,
    freed: Notify,
    added: Notify,
}

impl Held {
    pub(super) fn new(messages_max: u32, bytes_max: u64) -> Held {
        let (freed, added) = (Notify::new(), Notify::new());
        Held { state: Mutex::default(), messages_max, bytes_max, freed, added }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs that came together, each with its lease and what it takes of the credit.
    pub(super) fn insert(&self, jobs: impl IntoIterator<Item = (Receipt, Duration, u64)>, now: Instant) {
        let mut state = self.state();
        for (receipt, lease, bytes) in jobs {
            state.bytes += bytes;
            let entry = Lease { lease, deadline: now + lease, bytes, started: false, settling: false };
            if let Some(old) = state.jobs.insert(receipt, entry) {
                state.bytes -= old.bytes; // pushed twice; tokens are not, so this is one and the same
            }
        }
        drop(state);
        self.added.notify_one();
    }

    /// Marks a job as handed out, if it is still ours.
    pub(super) fn start(&self, receipt: &Receipt, now: Instant) -> bool {
        let mut state = self.state();
        match state.jobs.get_mut(receipt) {
            Some(lease) if lease.deadline > now => {
                lease.started = true;
                true
            }
            Some(_) => {
                state.free(receipt);
                drop(state);
                self.freed.notify_one();
                false
            }
            None => false,
        }
    }

    pub(super) fn contains(&self, receipt: &Receipt) -> bool {
        self.state().jobs.contains_key(receipt)
    }

    /// From here on it is not renewed.
    pub(super) fn settling(&self, receipt: &Receipt) {
        if let Some(lease) = self.state().jobs.get_mut(receipt) {
            lease.settling = true;
        }
    }

    pub(super) fn may_renew(&self, receipt: &Receipt) -> bool {
        self.state().jobs.get(receipt).is_some_and(|lease| !lease.settling)
    }

    /// These leases are over: settled, or lost. Their credit is free.
    pub(super) fn remove<'a>(&self, receipts: impl IntoIterator<Item = &'a Receipt>) {
        let mut state = self.state();
        let removed = receipts.into_iter().filter(|receipt| state.free(receipt)).count();
        drop(state);
        if removed > 0 {
            self.freed.notify_one();
        }
    }

    /// What was not handed out goes back with the subscription, and is not handed out any more.
    pub(super) fn forget_unstarted(&self) -> Vec<Receipt> {
        let mut state = self.state();
        let unstarted: Vec<_> =
            state.jobs.iter().filter(|(_, lease)| !lease.started).map(|(receipt, _)| *receipt).collect();
        for receipt in &unstarted {
            state.free(receipt);
        }
        unstarted
    }

    /// Everything up to an offset is acknowledged: what was not handed out of it is not handed out any more.
    pub(super) fn forget_up_to(&self, partition: PartitionId, offset: Offset) {
        let mut state = self.state();
        let done = state.jobs.iter().filter(|(receipt, lease)| {
            !lease.started && receipt.partition == partition && receipt.offset <= offset
        });
        let done: Vec<_> = done.map(|(receipt, _)| *receipt).collect();
        done.iter().for_each(|receipt| _ = state.free(receipt));
        drop(state);
        if !done.is_empty() {
            self.freed.notify_one();
        }
    }

    /// What is in the consumer's hands.
    pub(super) fn started(&self) -> Vec<Receipt> {
        let state = self.state();
        let started = state.jobs.iter().filter(|(_, lease)| lease.started && !lease.settling);
        started.map(|(receipt, _)| *receipt).collect()
    }

    /// The lease was made to run `lease` from `asked` on, or later.
    pub(super) fn extended(&self, receipt: &Receipt, lease: Duration, asked: Instant) {
        if let Some(entry) = self.state().jobs.get_mut(receipt) {
            entry.lease = lease;
            entry.deadline = asked + lease;
        }
    }

    /// What has no more than two thirds of its lease left, with the lease to ask for.
    pub(super) fn due_for_renewal(&self, now: Instant) -> Vec<(Receipt, Duration)> {
        let state = self.state();
        let due = |lease: &Lease| !lease.settling && lease.deadline <= now + lease.lease * 2 / 3;
        let jobs = state.jobs.iter().filter(|(_, lease)| due(lease));
        jobs.map(|(receipt, lease)| (*receipt, lease.lease)).collect()
    }

    /// Everything that is to be renewed.
    pub(super) fn all(&self) -> Vec<(Receipt, Duration)> {
        let state = self.state();
        let jobs = state.jobs.iter().filter(|(_, lease)| !lease.settling);
        jobs.map(|(receipt, lease)| (*receipt, lease.lease)).collect()
    }

    /// The shortest lease held.
    pub(super) fn shortest_lease(&self) -> Option<Duration> {
        self.state().jobs.values().map(|lease| lease.lease).min()
    }

    /// What a new subscription may push: the limits less what is held.
    pub(super) fn credit_for_a_new_subscription(&self) -> Credit {
        let mut state = self.state();
        state.free = Credit::default();
        let held = u32::try_from(state.jobs.len()).unwrap_or(u32::MAX);
        Credit {
            messages: self.messages_max.saturating_sub(held),
            bytes: self.bytes_max.saturating_sub(state.bytes),
        }
    }

    /// What has come free since the last call.
    pub(super) fn take_credit(&self) -> Credit {
        std::mem::take(&mut self.state().free)
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn messages_max(&self) -> u32 {
        self.messages_max
    }

    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    pub(super) async fn added(&self) {
        self.added.notified().await;
    }
}

impl State {
    fn free(&mut self, receipt: &Receipt) -> bool {
        let Some(lease) = self.jobs.remove(receipt) else { return false };
        self.bytes -= lease.bytes;
        self.free.messages += 1;
        self.free.bytes += lease.bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::{Epoch, LeaseToken};

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn receipt(counter: u64) -> Receipt {
        let token = LeaseToken { epoch: Epoch(1), counter };
        Receipt { partition: PartitionId(0), offset: Offset(counter), token }
    }

    #[test]
    fn credit_and_held_jobs_always_add_up_to_the_prefetch() {
        let (held, now) = (Held::new(4, 1000), Instant::now());
        assert_eq!(held.credit_for_a_new_subscription(), Credit { messages: 4, bytes: 1000 });
        for counter in 0..3 {
            held.insert([(receipt(counter), LEASE, 10)], now);
        }
        held.remove([&receipt(0)]);
        held.remove([&receipt(0)]);
        assert_eq!(held.take_credit(), Credit { messages: 1, bytes: 10 });
        assert_eq!(held.take_credit(), Credit::default());
        assert_eq!(held.credit_for_a_new_subscription(), Credit { messages: 2, bytes: 980 });
    }

    #[test]
    fn a_job_whose_lease_ran_out_before_it_was_handed_out_is_not() {
        let (held, now) = (Held::new(4, 1000), Instant::now());
        held.insert([(receipt(1), LEASE, 10)], now);
        assert!(!held.start(&receipt(1), now + LEASE));
        assert_eq!(held.take_credit().messages, 1);
        held.insert([(receipt(2), LEASE, 10)], now);
        assert!(held.start(&receipt(2), now));
        held.forget_unstarted();
        assert!(held.contains(&receipt(2)));
    }

    #[test]
    fn what_is_being_settled_is_not_renewed() {
        let (held, now) = (Held::new(4, 1000), Instant::now());
        held.insert([(receipt(1), LEASE, 10)], now);
        held.insert([(receipt(2), LEASE, 10)], now);
        assert!(held.due_for_renewal(now + LEASE / 4).is_empty());
        held.settling(&receipt(1));
        let due = held.due_for_renewal(now + LEASE / 3);
        assert_eq!(due, [(receipt(2), LEASE)]);
        held.extended(&receipt(2), LEASE, now + LEASE / 3);
        assert!(held.due_for_renewal(now + LEASE / 2).is_empty());
    }
}
