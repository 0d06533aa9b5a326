//! One member of a stream group.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dure_proto::{Generation, TopicId, TopicPartition};

use super::subscription::Subscription;
use crate::request::ConnectionId;

/// Names a member within its group; chosen by the client or generated at its first join.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Arc<str>);

impl MemberId {
    pub(crate) fn new(id: &str) -> Self {
        MemberId(id.into())
    }

    /// The name as it goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for MemberId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which process has a name: of two that come under the same one the higher claim stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim(pub u64);

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Over which connection.
    pub connection: ConnectionId,
    /// In whose name.
    pub member: &'a str,
    /// What its join was answered with.
    pub claim: Option<Claim>,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// The client's name, for descriptions.
    pub(crate) client: String,
    /// Of the process that speaks for it. `Some` exactly if its name outlives processes; it never falls.
    pub(crate) claim: Option<Claim>,
    /// `None` while the member is unreachable; its session runs on. Whoever else speaks in its name is fenced.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) subscription: Subscription,
    /// What that means at present.
    pub(crate) topics: BTreeSet<TopicId>,
    pub(crate) session_ms: u64,
    /// Never earlier than any entitlement that was ever answered, and never moved back.
    pub(crate) session_deadline_ms: u64,
    /// Of its last assignment.
    pub(crate) generation: Generation,
    /// Of the last assignment that went out; at most `generation`.
    pub(crate) pushed: Generation,
    /// The newest assignment that its present connection has confirmed; at most `pushed`.
    pub(crate) confirmed: Generation,
    /// When a member that does not confirm its assignment is fenced. `Some` exactly while
    /// `confirmed < generation`, unless it is fenced.
    pub(crate) behind_deadline_ms: Option<u64>,
    /// It did not do as told in time. It gets nothing, may do nothing, and goes when its session ends, unless
    /// it joins again.
    pub(crate) fenced: bool,
    /// What it may be reading: every partition here has this member as its holder.
    pub(crate) holdings: BTreeMap<TopicPartition, Holding>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    /// Since when, without a break; commits of an older generation are a zombie's.
    pub(crate) granted_at: Generation,
    /// It is to be given up. `Some` exactly while the partition's target is not its holder.
    pub(crate) revoking: Option<Revoking>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Revoking {
    /// The first assignment without the partition. A heartbeat of an older one says nothing about it: it may
    /// have been sent before the grant arrived.
    pub(crate) since: Generation,
    /// When it is taken by force.
    pub(crate) deadline_ms: u64,
}

impl Member {
    /// One of whom nothing was heard yet.
    pub(crate) fn absent(session_ms: u64) -> Member {
        Member {
            client: String::new(),
            claim: None,
            connection: None,
            subscription: Subscription::default(),
            topics: BTreeSet::new(),
            session_ms,
            session_deadline_ms: 0,
            generation: Generation(0),
            pushed: Generation(0),
            confirmed: Generation(0),
            behind_deadline_ms: None,
            fenced: false,
            holdings: BTreeMap::new(),
        }
    }

    /// What it should own.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = TopicPartition> {
        self.holdings
            .iter()
            .filter(|(_, holding)| holding.revoking.is_none())
            .map(|(partition, _)| *partition)
    }

    pub(crate) fn next_deadline_ms(&self) -> u64 {
        let revoking = self.holdings.values().filter_map(|holding| holding.revoking).map(|r| r.deadline_ms);
        revoking.chain(self.behind_deadline_ms).fold(self.session_deadline_ms, u64::min)
    }

    /// Asks for a confirmation of the present assignment, starting the time for it if none runs.
    pub(crate) fn expect_confirmation(&mut self, now_ms: u64) {
        if !self.fenced {
            self.behind_deadline_ms.get_or_insert(now_ms.saturating_add(self.session_ms));
        }
    }
}
