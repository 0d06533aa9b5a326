//! What a member wants to read: topics by number, and patterns of names, which mean other topics as those come and go.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{ENVELOPE_BYTES_MAX, TopicId};

use super::error::JoinError;
use super::group::StreamGroup;
use crate::catalogue::NAME_BYTES_MAX;
use crate::topic_pattern::TopicPattern;

/// Bound of a subscription, topics and patterns together.
pub const TOPICS_PER_MEMBER_MAX: usize = 256;
/// Different patterns within a group: each of them is compared with the name of each new topic.
pub const PATTERNS_MAX: usize = 64;
/// What the topics of patterns may bring an assignment to, of a member that has them all: some 16,000 partitions with
/// names of 20 characters. Of topics beyond that the older ones are read.
pub const ASSIGNMENT_BYTES_MAX: usize = 768 << 10;
/// What a partition takes in an assignment beside its topic's name, at most.
const ASSIGNED_BYTES: usize = 32;

const _: () = assert!(ASSIGNMENT_BYTES_MAX + 4 * NAME_BYTES_MAX < ENVELOPE_BYTES_MAX, "it fits into a frame");

/// A topic as a group has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTopic {
    /// Its name.
    pub name: String,
    /// How many partitions of it can be read.
    pub partitions: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// By name, and thus once there was one.
    named: BTreeSet<TopicId>,
    patterns: BTreeSet<TopicPattern>,
}

impl Subscription {
    pub(crate) fn new(topics: &[TopicId], patterns: &[TopicPattern]) -> Result<Subscription, JoinError> {
        let subscription = Subscription {
            named: topics.iter().copied().collect(),
            patterns: patterns.iter().cloned().collect(),
        };
        match subscription.named.len() + subscription.patterns.len() {
            0 => Err(JoinError::NoTopics),
            1..=TOPICS_PER_MEMBER_MAX => Ok(subscription),
            topics => Err(JoinError::TooManyTopics { topics }),
        }
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = TopicId> {
        self.named.iter().copied()
    }

    pub(crate) fn means(&self, topic: TopicId, name: &str) -> bool {
        self.named.contains(&topic) || self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

impl KnownTopic {
    fn assignment_bytes(&self) -> usize {
        self.partitions as usize * (self.name.len() + ASSIGNED_BYTES)
    }
}

impl StreamGroup {
    /// Whether a topic of this name is to be told of, since a member's pattern means it.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.patterns().iter().any(|pattern| pattern.matches(name))
    }

    /// Whether any member subscribes by a pattern.
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        self.members.values().any(|member| !member.subscription.patterns.is_empty())
    }

    pub(crate) fn check_patterns(&self, joining: &Subscription) -> Result<(), JoinError> {
        let mut patterns = self.patterns();
        patterns.extend(&joining.patterns);
        match patterns.len() {
            ..=PATTERNS_MAX => Ok(()),
            patterns => Err(JoinError::TooManyPatterns { patterns }),
        }
    }

    /// What everybody's subscription means now. To be called when a subscription or the topics changed, before targets
    /// are computed anew.
    pub(crate) fn resolve(&mut self) {
        let mut meant: BTreeMap<TopicPattern, BTreeSet<TopicId>> =
            self.patterns().into_iter().map(|pattern| (pattern.clone(), BTreeSet::new())).collect();
        let named: BTreeSet<TopicId> =
            self.members.values().flat_map(|member| member.subscription.named.iter().copied()).collect();
        let bytes_of = |topic: &TopicId| self.topics.get(topic).map_or(0, KnownTopic::assignment_bytes);
        let mut bytes: usize = if meant.is_empty() { 0 } else { named.iter().map(bytes_of).sum() };
        self.left_out.clear();
        for (topic, known) in &self.topics {
            let mut by = meant.iter_mut().filter(|(pattern, _)| pattern.matches(&known.name)).peekable();
            if by.peek().is_none() {
                continue;
            }
            if !named.contains(topic) {
                if bytes + known.assignment_bytes() > ASSIGNMENT_BYTES_MAX {
                    self.left_out.insert(*topic);
                    continue;
                }
                bytes += known.assignment_bytes();
            }
            by.for_each(|(_, topics)| _ = topics.insert(*topic));
        }
        for member in self.members.values_mut() {
            let Subscription { named, patterns } = &member.subscription;
            member.topics.clone_from(named);
            member.topics.extend(patterns.iter().flat_map(|pattern| &meant[pattern]));
        }
    }

    /// The different ones of all members.
    fn patterns(&self) -> BTreeSet<&TopicPattern> {
        self.members.values().flat_map(|member| &member.subscription.patterns).collect()
    }
}
