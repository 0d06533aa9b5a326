//! Members whose names outlive their processes.

use super::*;

const NAME: &str = "audit-1";

/// A process under a name, as the group answered it.
#[derive(Clone, Copy)]
struct Process {
    connection: u64,
    claim: Option<Claim>,
}

impl Process {
    fn caller(&self) -> Caller<'static> {
        Caller { connection: ConnectionId(self.connection), member: NAME, claim: self.claim }
    }
}

fn join_as(
    group: &mut StreamGroup,
    now_ms: u64,
    connection: u64,
    claim: Option<Claim>,
) -> Result<Process, JoinError> {
    let identity = Identity::Named { name: NAME, claim };
    let connection_id = ConnectionId(connection);
    let join = Join {
        identity,
        connection: connection_id,
        client: "story",
        topics: &[PHOTOS],
        patterns: &[],
        session_ms: 0,
    };
    let joined = group.handle_join(Now { mono_ms: now_ms, wall_ms: 0 }, &join)?;
    group.check();
    assert_eq!(joined.member.as_str(), NAME);
    Ok(Process { connection, claim: joined.claim })
}

fn beat(group: &mut StreamGroup, now_ms: u64, process: Process, told: &MemberAssignment) {
    let now = Now { mono_ms: now_ms, wall_ms: 0 };
    group.handle_heartbeat(now, &process.caller(), told.generation, &told.partitions).unwrap();
    group.check();
}

fn group() -> StreamGroup {
    let mut group = StreamGroup::new(GroupId(3));
    group.open(Epoch(5));
    group.handle_topics(Now { mono_ms: 0, wall_ms: 0 }, known(&[(PHOTOS, 4)]));
    group
}

#[test]
fn who_joins_under_the_name_has_the_place_at_once_and_who_was_there_is_told_to_end() {
    let mut group = group();
    let before = join_as(&mut group, 0, 1, None).unwrap();
    let told = group.take_assignments().remove(0);
    beat(&mut group, 0, before, &told);
    let after = join_as(&mut group, 100, 2, None).unwrap();
    assert!(after.claim > before.claim);
    let taken_over = group.take_assignments().remove(0);
    assert_eq!(taken_over.connection, ConnectionId(2));
    assert_eq!((taken_over.generation, &taken_over.partitions), (told.generation, &told.partitions));
    let now = Now { mono_ms: 200, wall_ms: 0 };
    let replaced = MemberError::Replaced { member: MemberId::new(NAME) };
    let beaten = group.handle_heartbeat(now, &before.caller(), told.generation, &told.partitions);
    assert_eq!(beaten, Err(replaced.clone()));
    let commit = [(photos(0), Offset(7))];
    let refused = group.handle_commit(&before.caller(), told.generation, &commit).unwrap_err();
    assert!(matches!(refused.to_request_error("g"), RequestError::MemberReplaced { .. }));
    assert_eq!(group.handle_leave(now, &before.caller()), Err(replaced));
    assert!(join_as(&mut group, 300, 3, before.claim).is_err(), "it cannot come back either");
    assert_eq!(group.handle_commit(&after.caller(), told.generation, &commit).unwrap().len(), 1);
}

#[test]
fn over_one_connection_two_processes_of_a_name_are_told_apart_too() {
    let mut group = group();
    let before = join_as(&mut group, 0, 1, None).unwrap();
    let after = join_as(&mut group, 0, 1, None).unwrap();
    let told = group.take_assignments().remove(0);
    beat(&mut group, 0, after, &told);
    assert!(group.handle_commit(&before.caller(), told.generation, &[(photos(0), Offset(7))]).is_err());
}

#[test]
fn a_named_member_that_is_silent_keeps_its_place_for_its_session_and_no_longer() {
    let mut group = group();
    let process = join_as(&mut group, 0, 1, None).unwrap();
    let told = group.take_assignments().remove(0);
    beat(&mut group, 0, process, &told);
    group.handle_connection_closed(ConnectionId(1));
    let generation = group.generation;
    group.handle_timeout(Now { mono_ms: SESSION_MS - 1, wall_ms: 0 });
    let again = join_as(&mut group, SESSION_MS - 1, 2, None).unwrap();
    assert_eq!(group.generation, generation, "nothing moved");
    let told = group.take_assignments().remove(0);
    beat(&mut group, SESSION_MS - 1, again, &told);
    group.handle_timeout(Now { mono_ms: 3 * SESSION_MS, wall_ms: 0 });
    assert_eq!(group.state(), StreamGroupState::Empty);
}

#[test]
fn a_process_that_lost_its_connection_comes_back_with_its_claim_and_fences_nobody() {
    let mut group = group();
    let process = join_as(&mut group, 0, 1, None).unwrap();
    group.handle_connection_closed(ConnectionId(1));
    let back = join_as(&mut group, 100, 2, process.claim).unwrap();
    assert_eq!(back.claim, process.claim);
    let told = group.take_assignments().remove(0);
    beat(&mut group, 100, back, &told);
    // What it sent over the connection before is late, but no other process's.
    let late = group.handle_commit(&process.caller(), told.generation, &[(photos(0), Offset(7))]);
    assert!(matches!(late, Err(CommitError::Member(MemberError::FencedGeneration { .. }))));
}

#[test]
fn after_a_restart_of_the_broker_the_later_of_two_processes_still_wins() {
    let mut group = group();
    let before = join_as(&mut group, 0, 1, None).unwrap();
    let after = join_as(&mut group, 0, 2, None).unwrap();
    for first in [before, after] {
        let mut group = StreamGroup::restore(GroupId(3), &group.snapshot()).unwrap();
        group.open(Epoch(6));
        group.handle_topics(Now { mono_ms: 0, wall_ms: 0 }, known(&[(PHOTOS, 4)]));
        join_as(&mut group, 0, 11, first.claim).unwrap();
        let later = join_as(&mut group, 0, 12, after.claim).unwrap();
        assert!(join_as(&mut group, 0, 13, before.claim).is_err());
        assert!(join_as(&mut group, 0, 14, None).unwrap().claim > later.claim);
    }
}

#[test]
fn a_name_is_of_one_kind_and_a_claim_was_given_out() {
    let mut group = group();
    let now = Now { mono_ms: 0, wall_ms: 0 };
    join_as(&mut group, 0, 1, None).unwrap();
    let error = group.handle_join(now, &as_member(NAME, 2, &[PHOTOS], 0)).unwrap_err();
    assert_eq!(error, JoinError::NameTaken { name: NAME.to_owned() });
    group.handle_join(now, &as_member("ann", 2, &[PHOTOS], 0)).unwrap();
    let identity = Identity::Named { name: "ann", claim: None };
    let join = Join { identity, ..as_member("", 3, &[PHOTOS], 0) };
    assert!(matches!(group.handle_join(now, &join), Err(JoinError::NameTaken { .. })));
    let claim = Claim(u64::MAX);
    assert!(matches!(join_as(&mut group, 0, 1, Some(claim)), Err(JoinError::UnknownClaim { .. })));
    let without = Caller { connection: ConnectionId(1), member: NAME, claim: None };
    assert!(group.handle_leave(now, &without).is_err(), "nobody speaks for it without its claim");
}
