//! Subscriptions by patterns of topics' names.

use super::*;
use crate::topic_pattern::TopicPattern;

fn topics(names: &[(&str, u32)]) -> Vec<(TopicId, KnownTopic)> {
    let numbered = (1..).map(TopicId).zip(names);
    numbered.map(|(id, (name, n))| (id, KnownTopic { name: (*name).to_owned(), partitions: *n })).collect()
}

fn join(story: &mut Story, member: &str, connection: u64, named: &[TopicId], patterns: &[&str]) {
    let patterns: Vec<TopicPattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
    let now = story.now();
    let join = Join { patterns: &patterns, ..as_member(member, connection, named, SESSION_MS) };
    story.group.handle_join(now, &join).unwrap();
    story.connection_of.insert(member.to_owned(), ConnectionId(connection));
    story.settle();
}

/// What a member reads, as `topic/partition`.
fn reads(story: &Story, member: &str) -> Vec<String> {
    story.owned[member].1.iter().map(ToString::to_string).collect()
}

#[test]
fn topics_that_appear_and_vanish_join_and_leave_what_a_pattern_reads() {
    let mut story = Story::new(0);
    let now = story.now();
    story.group.handle_topics(now, topics(&[("photos.raw", 1), ("logs", 2)]));
    join(&mut story, "ann", 1, &[], &["photos.*"]);
    assert_eq!(reads(&story, "ann"), ["1/0"]);
    assert!(story.group.wants("photos.small") && !story.group.wants("photos.small.old"));
    story.group.handle_topics(now, topics(&[("photos.raw", 1), ("logs", 2), ("photos.small", 2)]));
    story.settle();
    assert_eq!(reads(&story, "ann"), ["1/0", "3/0", "3/1"]);
    // Another member shares them, and one that names a topic of them shares that.
    join(&mut story, "bob", 2, &[], &["photos.*"]);
    assert_eq!((reads(&story, "ann").len(), reads(&story, "bob").len()), (2, 1));
    story.group.handle_topics(now, topics(&[("photos.raw", 1)]));
    story.settle();
    assert_eq!([reads(&story, "ann"), reads(&story, "bob")].concat(), ["1/0"]);
}

#[test]
fn a_pattern_that_means_nothing_yet_waits() {
    let mut story = Story::new(0);
    let now = story.now();
    join(&mut story, "ann", 1, &[], &["jobs.>"]);
    assert_eq!(reads(&story, "ann"), [] as [String; 0]);
    assert_eq!(story.group.state(), StreamGroupState::Stable);
    story.group.handle_topics(now, topics(&[("jobs.eu.high", 1)]));
    story.settle();
    assert_eq!(reads(&story, "ann"), ["1/0"]);
}

#[test]
fn one_that_joins_again_by_another_pattern_reads_what_that_means() {
    let mut story = Story::new(0);
    let now = story.now();
    story.group.handle_topics(now, topics(&[("a.x", 1), ("b.x", 1)]));
    join(&mut story, "ann", 1, &[], &["a.*"]);
    assert_eq!(reads(&story, "ann"), ["1/0"]);
    join(&mut story, "ann", 2, &[TopicId(1)], &["b.*"]);
    assert_eq!(reads(&story, "ann"), ["1/0", "2/0"]);
    join(&mut story, "ann", 3, &[], &["*.y"]);
    assert_eq!(reads(&story, "ann"), [] as [String; 0]);
}

#[test]
fn what_would_be_too_much_for_one_assignment_is_left_out_newest_first_and_counted() {
    let mut story = Story::new(0);
    let now = story.now();
    let each = ASSIGNMENT_BYTES_MAX / (32 + 4) / 2;
    let half = u32::try_from(each).unwrap();
    let mut all = topics(&[("t.01", half), ("t.02", half), ("t.03", half)]);
    story.group.handle_topics(now, all.clone());
    join(&mut story, "ann", 1, &[], &["t.*"]);
    assert_eq!((reads(&story, "ann").len(), story.group.left_out()), (2 * each, 1));
    all.remove(0);
    story.group.handle_topics(now, all);
    story.settle();
    assert_eq!((reads(&story, "ann").len(), story.group.left_out()), (2 * each, 0));
}

#[test]
fn patterns_are_bounded_within_a_group() {
    let mut story = Story::new(1);
    let now = story.now();
    let patterns: Vec<TopicPattern> = (0..PATTERNS_MAX).map(|n| format!("p{n}.*").parse().unwrap()).collect();
    let join = |patterns, name| Join { patterns, ..as_member(name, 1, &[], 0) };
    story.group.handle_join(now, &join(&patterns, "ann")).unwrap();
    story.group.handle_join(now, &join(&patterns[..1], "bob")).unwrap();
    let error = story.group.handle_join(now, &join(&["x.*".parse().unwrap()], "cem")).unwrap_err();
    assert_eq!(error, JoinError::TooManyPatterns { patterns: PATTERNS_MAX + 1 });
}
