//! Whether the broker is ready, and if not, why.

use std::collections::BTreeMap;

use dure_engine::{CopiesWait, Finding, Shortage, Unwritable};
use tokio::sync::watch;

/// Where the broker is in its life. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recovering; clients are not let in.
    Starting,
    /// Serving.
    Serving,
    /// Going down; nothing new is begun.
    Stopping,
}

/// The state behind `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    /// Where the broker is in its life.
    pub phase: Phase,
    /// Shards that met an error they cannot go on from: which, and why.
    pub stopped: Vec<(u16, String)>,
    /// Shards that refuse what producers send, for lack of room on the disk. All else goes on.
    pub short: BTreeMap<u16, Shortage>,
    /// Logs of shards that the disk refuses to write, so that producing to them is refused. All else goes on.
    pub unwritable: BTreeMap<u16, Vec<Unwritable>>,
    /// Dead letters that wait to be copied, by shard.
    pub copies_waiting: BTreeMap<u16, Vec<CopiesWait>>,
    /// Shards whose data is damaged, and how: found at the start and by the scrubber. The rest is served.
    pub damaged: BTreeMap<u16, Damaged>,
}

/// What is known to be damaged in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// What recovery found.
    pub recovered: Vec<String>,
    /// What the scrubber found, as of now.
    pub scrubbed: Vec<String>,
}

/// Shared health; every clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: watch::Sender<HealthState>,
}

impl Health {
    pub(crate) fn starting() -> Health {
        let state = HealthState {
            phase: Phase::Starting,
            stopped: Vec::new(),
            short: BTreeMap::new(),
            unwritable: BTreeMap::new(),
            copies_waiting: BTreeMap::new(),
            damaged: BTreeMap::new(),
        };
        Health { state: watch::Sender::new(state) }
    }

    /// Moves on to `phase`, never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = state.phase.max(phase));
    }

    pub(crate) fn shard_stopped(&self, shard: u16, why: String) {
        tracing::error!(shard, why, "shard stopped; everything it is asked is refused from now on");
        self.state.send_modify(|state| state.stopped.push((shard, why)));
    }

    /// What a shard found when it was opened; notes are none of it.
    pub(crate) fn recovered(&self, shard: u16, findings: &[Finding]) {
        self.damaged(shard, |damaged| damaged.recovered = texts(findings));
    }

    /// What the scrubber knows to be damaged now.
    pub(crate) fn scrubbed(&self, shard: u16, findings: &[Finding]) {
        self.damaged(shard, |damaged| damaged.scrubbed = texts(findings));
    }

    fn damaged(&self, shard: u16, change: impl FnOnce(&mut Damaged)) {
        self.state.send_modify(|state| {
            let damaged = state.damaged.entry(shard).or_default();
            change(damaged);
            if *damaged == Damaged::default() {
                state.damaged.remove(&shard);
            }
        });
    }

    pub(crate) fn set_shortage(&self, shard: u16, shortage: Option<Shortage>) {
        match &shortage {
            Some(Shortage { available_bytes, reserve_bytes, waits }) => {
                tracing::warn!(
                    shard,
                    available_bytes,
                    reserve_bytes,
                    ?waits,
                    "disk full: producing is refused until there is room"
                );
            }
            None => tracing::info!(shard, "there is room on the disk again: producing resumes"),
        }
        self.state.send_modify(|state| match shortage {
            Some(shortage) => drop(state.short.insert(shard, shortage)),
            None => drop(state.short.remove(&shard)),
        });
    }

    pub(crate) fn set_unwritable(&self, shard: u16, logs: Vec<Unwritable>) {
        self.state.send_modify(|state| {
            let before = state.unwritable.insert(shard, logs).unwrap_or_default();
            let now = &state.unwritable[&shard];
            let news = now.iter().filter(|log| before.iter().all(|known| known.partition != log.partition));
            for Unwritable { partition, topic, from, what } in news {
                tracing::error!(
                    topic,
                    partition = partition.partition.0,
                    from = from.0,
                    what,
                    "the disk refuses to write a partition: what was acknowledged is kept in memory and in checkpoints, \
                     and producing to it is refused until it can be written"
                );
            }
            for log in before.iter().filter(|log| now.iter().all(|known| known.partition != log.partition)) {
                let (topic, partition) = (&log.topic, log.partition.partition.0);
                tracing::info!(topic, partition, "the partition can be written again, or is gone");
            }
            state.unwritable.retain(|_, logs| !logs.is_empty());
        });
    }

    pub(crate) fn set_copies_waiting(&self, shard: u16, waits: Vec<CopiesWait>) {
        self.state.send_modify(|state| {
            let before = state.copies_waiting.insert(shard, waits).unwrap_or_default();
            let now = &state.copies_waiting[&shard];
            let is_in = |list: &[CopiesWait], wait: &CopiesWait| {
                let of = |wait: &CopiesWait| (wait.group.clone(), wait.topic.clone(), wait.partition);
                list.iter().any(|known| of(known) == of(wait))
            };
            for wait in now.iter().filter(|wait| !is_in(&before, wait)) {
                let CopiesWait { group, topic, partition, to, why } = wait;
                let partition = partition.0;
                tracing::warn!(
                    group,
                    topic,
                    partition,
                    to,
                    why,
                    "dead letters wait to be copied to their topic"
                );
            }
            for CopiesWait { group, topic, partition, .. } in before.iter().filter(|wait| !is_in(now, wait)) {
                tracing::info!(
                    group,
                    topic,
                    partition = partition.0,
                    "dead letters are copied again, or are gone"
                );
            }
            state.copies_waiting.retain(|_, waits| !waits.is_empty());
        });
    }

    pub(crate) fn now(&self) -> HealthState {
        self.state.borrow().clone()
    }
}

/// At most so many of a kind are shown: the log has them all.
const SHOWN_MAX: usize = 100;

fn texts(findings: &[Finding]) -> Vec<String> {
    let damage = findings.iter().filter(|finding| finding.is_damage());
    damage.take(SHOWN_MAX).map(ToString::to_string).collect()
}

impl HealthState {
    /// Whether something that was acknowledged cannot be read any more. What can be is served all the same.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// What that is, one sentence each.
    #[must_use]
    pub fn damage(&self) -> Vec<&str> {
        let all = self.damaged.values().flat_map(|damaged| damaged.recovered.iter().chain(&damaged.scrubbed));
        all.map(String::as_str).collect()
    }

    /// Whether requests are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Serving && self.stopped.is_empty()
    }

    /// Why not, one sentence each; empty when ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let phase = match self.phase {
            Phase::Starting => Some("the broker is starting: it recovers its data".to_owned()),
            Phase::Serving => None,
            Phase::Stopping => Some("the broker is stopping".to_owned()),
        };
        let stopped = self.stopped.iter().map(|(shard, why)| format!("shard {shard} stopped: {why}"));
        phase.into_iter().chain(stopped).collect()
    }
}
