//! Whether the broker is ready, and if not, why.

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
}

/// Shared health; every clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: watch::Sender<HealthState>,
}

impl Health {
    pub(crate) fn starting() -> Health {
        Health { state: watch::Sender::new(HealthState { phase: Phase::Starting, stopped: Vec::new() }) }
    }

    /// Moves on to `phase`, never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = state.phase.max(phase));
    }

    pub(crate) fn shard_stopped(&self, shard: u16, why: String) {
        tracing::error!(shard, why, "shard stopped; everything it is asked is refused from now on");
        self.state.send_modify(|state| state.stopped.push((shard, why)));
    }

    pub(crate) fn now(&self) -> HealthState {
        self.state.borrow().clone()
    }
}

impl HealthState {
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
