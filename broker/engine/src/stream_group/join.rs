//! How a client becomes a member, or comes back as the one that it was.

use std::collections::BTreeSet;

use dure_proto::{Epoch, Generation, TopicId};

use super::error::JoinError;
use super::group::{HEARTBEATS_PER_SESSION, StreamGroup};
use super::member::{Claim, Member, MemberId};
use super::subscription::Subscription;
use crate::request::ConnectionId;
use crate::time::Now;
use crate::topic_pattern::TopicPattern;

/// Bound of a group.
pub const MEMBERS_MAX: usize = 1_000;
/// Bound of a member's and a client's name.
pub const MEMBER_NAME_BYTES_MAX: usize = 249;
/// The shortest session, so that heartbeats cannot be asked for too often.
pub const SESSION_MS_MIN: u64 = 100;
/// The longest session: as long can a partition wait for a crashed member.
pub const SESSION_MS_MAX: u64 = 1_800_000;
/// The session of a member that asks for none: it leaves room for settling within the promised 10 s.
pub const SESSION_MS_DEFAULT: u64 = 6_000;

const _: () = assert!(SESSION_MS_MIN <= SESSION_MS_DEFAULT && SESSION_MS_DEFAULT <= SESSION_MS_MAX);
const _: () = assert!(SESSION_MS_DEFAULT < 10_000);
const _: () = assert!(SESSION_MS_MIN >= 10 * HEARTBEATS_PER_SESSION);

/// A client's wish to take part.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// As whom.
    pub identity: Identity<'a>,
    /// Over which connection it speaks from now on.
    pub connection: ConnectionId,
    /// The client's name, for descriptions.
    pub client: &'a str,
    /// What it wants to read.
    pub topics: &'a [TopicId],
    /// What it wants to read beside them, now and later.
    pub patterns: &'a [TopicPattern],
    /// How long it may be silent; 0: [`SESSION_MS_DEFAULT`].
    pub session_ms: u64,
}

/// As whom a client joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// As a member that was not there before; the group names it.
    New,
    /// As the one that it was before, under the name that it has; a new member if that is not known (any more).
    Member(&'a str),
    /// Under a name that outlives processes. Whoever comes with the highest claim has it: without one a process is
    /// given a higher one than any before, with the one that it was given it comes back.
    Named {
        /// Chosen by who runs it.
        name: &'a str,
        /// What the join before was answered with.
        claim: Option<Claim>,
    },
}

/// Answer to a join. An assignment follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member's name, to be used from now on.
    pub member: MemberId,
    /// To be shown from now on by one that has a name of its own.
    pub claim: Option<Claim>,
    /// How often it has to send a heartbeat.
    pub heartbeat_ms: u64,
    /// Without one for this long it is out.
    pub session_ms: u64,
}

impl StreamGroup {
    /// A client joins, or comes back: then it keeps what it has, and whoever was there under its name is fenced.
    ///
    /// # Errors
    /// See [`JoinError`]. A member that could come back keeps its place whatever the error.
    pub fn handle_join(&mut self, now: Now, join: &Join<'_>) -> Result<Joined, JoinError> {
        assert!(self.epoch > Epoch(0), "the epoch is opened before members join");
        let session_ms = checked_session(join.session_ms)?;
        let subscription = Subscription::new(join.topics, join.patterns)?;
        checked_length(join.client)?;
        self.check_patterns(&subscription)?;
        let (id, claim) = self.admit(join.identity)?;
        let deadline_ms = now.mono_ms.saturating_add(session_ms);
        let member = self.members.entry(id.clone()).or_insert_with(|| Member::absent(session_ms));
        join.client.clone_into(&mut member.client);
        member.claim = claim;
        member.connection = Some(join.connection);
        member.session_ms = session_ms;
        // The connection before may have been promised more.
        member.session_deadline_ms = member.session_deadline_ms.max(deadline_ms);
        // Whoever is there now has seen nothing yet.
        member.confirmed = Generation(0);
        member.behind_deadline_ms = None;
        let moves = member.subscription != subscription || member.fenced;
        member.subscription = subscription;
        member.fenced = false;
        member.expect_confirmation(now.mono_ms);
        self.wake_ms = self.wake_ms.min(deadline_ms);
        self.outbox.insert(id.clone());
        if moves {
            self.resolve();
            self.rebalance(now, BTreeSet::from([id.clone()]));
        }
        Ok(Joined { member: id, claim, heartbeat_ms: session_ms / HEARTBEATS_PER_SESSION, session_ms })
    }

    /// Under which name the client takes part, and with which claim to it.
    fn admit(&mut self, identity: Identity<'_>) -> Result<(MemberId, Option<Claim>), JoinError> {
        let name = identity.name();
        checked_length(name)?;
        let known = self.members.get(name).map(|member| member.claim);
        if known.is_none() && self.members.len() >= MEMBERS_MAX {
            return Err(JoinError::GroupFull { members_max: MEMBERS_MAX });
        }
        if known.is_some_and(|claim| claim.is_some() != identity.is_named()) {
            return Err(JoinError::NameTaken { name: name.to_owned() });
        }
        match identity {
            Identity::Named { claim: Some(claim), .. } if claim > self.claim_last => {
                Err(JoinError::UnknownClaim { claim })
            }
            Identity::Named { claim: Some(claim), .. } if known.flatten() > Some(claim) => {
                Err(JoinError::Replaced { member: MemberId::new(name) })
            }
            Identity::Named { claim, .. } => {
                let claim = claim.unwrap_or(Claim(self.claim_last.0 + 1));
                self.claim_last = self.claim_last.max(claim);
                Ok((MemberId::new(name), Some(claim)))
            }
            Identity::Member(name) if !name.is_empty() => Ok((MemberId::new(name), None)),
            Identity::Member(_) | Identity::New => Ok((self.new_name(), None)),
        }
    }

    fn new_name(&mut self) -> MemberId {
        loop {
            self.names += 1;
            let id = MemberId::new(&format!("member-{}-{}", self.epoch, self.names));
            // A client may have chosen such a name itself.
            if !self.members.contains_key(&id) {
                return id;
            }
        }
    }
}

impl<'a> Identity<'a> {
    fn name(self) -> &'a str {
        match self {
            Identity::New => "",
            Identity::Member(name) | Identity::Named { name, .. } => name,
        }
    }

    fn is_named(self) -> bool {
        matches!(self, Identity::Named { .. })
    }
}

fn checked_session(session_ms: u64) -> Result<u64, JoinError> {
    match session_ms {
        0 => Ok(SESSION_MS_DEFAULT),
        SESSION_MS_MIN..=SESSION_MS_MAX => Ok(session_ms),
        _ => Err(JoinError::SessionOutOfRange { session_ms }),
    }
}

fn checked_length(name: &str) -> Result<(), JoinError> {
    match name.len() {
        ..=MEMBER_NAME_BYTES_MAX => Ok(()),
        bytes => Err(JoinError::NameTooLong { bytes }),
    }
}
