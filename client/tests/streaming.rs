//! Streams and stream groups against a scripted broker.

mod peer;

use std::time::Duration;

use dure_client::{Error, ErrorCode, MessageStream, Retry, Start};
use dure_proto::wire::{self, envelope::Body};
use peer::{Conn, Peer, entry, text};

fn records(subscription: u64, lost: Option<(u64, u64)>) -> Body {
    let lost = lost.map(|(from, to)| wire::OffsetRange { from, to });
    Body::Records(wire::Records { subscription, high_watermark: 0, lost })
}

async fn next(stream: &mut MessageStream) -> (u64, String) {
    let message = tokio::time::timeout(peer::SOON, stream.next()).await.expect("in time");
    let message = message.expect("not the end").expect("a message");
    (message.offset, text(&message.value))
}

#[tokio::test]
async fn reads_to_the_high_watermark_found_at_the_start_and_ends() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing =
        tokio::spawn(client.stream("photos").from(Start::Offset(1)).until_high_watermark().subscribe());
    conn.tell_topic(1).await;
    conn.tell_offset(0, 3).await;
    let mut stream = subscribing.await.expect("no panic").expect("subscribed");
    assert_eq!(stream.high_watermarks()[0].offset, 3);
    let (request, read) = conn.expect_body(body!(Read)).await;
    assert_eq!((read.topic_id, read.partition, read.offset), (7, 0, 1));
    conn.done(&request).await;
    let entries = [entry(0, &["a", "b"]), entry(2, &["c", "d"])].concat();
    conn.push(records(read.subscription, None), &entries).await;
    assert_eq!(next(&mut stream).await, (1, "b".to_owned()));
    assert_eq!(next(&mut stream).await, (2, "c".to_owned()));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn after_a_lost_connection_it_goes_on_behind_what_it_has() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").subscribe());
    conn.tell_topic(1).await;
    conn.tell_offset(0, 0).await;
    let mut stream = subscribing.await.expect("no panic").expect("subscribed");
    let (request, read) = conn.expect_body(body!(Read)).await;
    conn.done(&request).await;
    conn.push(records(read.subscription, None), &entry(0, &["a", "b"])).await;
    assert_eq!(next(&mut stream).await.0, 0);
    drop(conn);
    let mut conn = peer.accept().await;
    let (request, read) = conn.expect_body(body!(Read)).await;
    assert_eq!(read.offset, 2);
    conn.done(&request).await;
    conn.push(records(read.subscription, None), &entry(2, &["c"])).await;
    assert_eq!(next(&mut stream).await, (1, "b".to_owned()));
    assert_eq!(next(&mut stream).await, (2, "c".to_owned()));
}

#[tokio::test]
async fn credit_comes_back_as_messages_are_consumed_and_never_earlier() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").subscribe());
    conn.tell_topic(1).await;
    conn.tell_offset(0, 0).await;
    let mut stream = subscribing.await.expect("no panic").expect("subscribed");
    let (request, read) = conn.expect_body(body!(Read)).await;
    assert_eq!(read.credit_bytes, 8 << 20);
    conn.done(&request).await;
    let bytes = entry(0, &["a"]);
    conn.push(records(read.subscription, None), &bytes).await;
    conn.expect_silence(Duration::from_millis(50)).await;
    assert_eq!(next(&mut stream).await.0, 0);
    let (_, credit) = tokio::select! {
        credit = conn.expect_body(body!(Credit)) => credit,
        _ = stream.next() => panic!("nothing to yield"),
    };
    assert_eq!((credit.subscription, credit.bytes), (read.subscription, bytes.len() as u64));
    drop(stream);
    let (_, unsubscribe) = conn.expect_body(body!(Unsubscribe)).await;
    assert_eq!(unsubscribe.subscription, read.subscription);
}

#[tokio::test]
async fn a_lost_range_and_a_damaged_batch_are_reported_once_and_reading_goes_on() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").subscribe());
    conn.tell_topic(1).await;
    conn.tell_offset(0, 0).await;
    let mut stream = subscribing.await.expect("no panic").expect("subscribed");
    let (request, read) = conn.expect_body(body!(Read)).await;
    conn.done(&request).await;
    conn.push(records(read.subscription, Some((0, 4))), &[]).await;
    let mut damaged = entry(4, &["x", "y"]).to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    damaged.extend_from_slice(&entry(6, &["z"]));
    conn.push(records(read.subscription, None), &damaged).await;
    for (expected_from, expected_to) in [(0, 4), (4, 6)] {
        let error = stream.next().await.expect("not the end").expect_err("lost");
        let expected =
            Error::Corrupt { topic: "photos".into(), partition: 0, from: expected_from, to: expected_to };
        assert_eq!(error, expected);
    }
    assert_eq!(next(&mut stream).await, (6, "z".to_owned()));
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_refused() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").from(Start::Offset(9)).subscribe());
    conn.tell_topic(1).await;
    conn.tell_offset(0, 3).await;
    let error = subscribing.await.expect("no panic").expect_err("beyond the end");
    assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
}

fn assignment(generation: u64, partitions: &[(u32, Option<u64>)]) -> Body {
    let partitions = partitions.iter().map(|(partition, committed)| wire::AssignedPartition {
        topic: "photos".to_owned(),
        topic_id: 7,
        partition: *partition,
        committed: *committed,
    });
    Body::Assignment(wire::Assignment {
        group: "audit".to_owned(),
        member: "m-1".to_owned(),
        generation,
        partitions: partitions.collect(),
    })
}

async fn tell_joined(conn: &mut Conn, expected_member: &str) {
    let (request, join) = conn.expect_body(body!(JoinGroup)).await;
    assert_eq!((join.group.as_str(), join.member.as_str()), ("audit", expected_member));
    let reply = wire::JoinGroupReply { member: "m-1".to_owned(), heartbeat_ms: 60_000, claim: 0 };
    conn.reply(&request, Body::JoinGroupReply(reply)).await;
}

/// Takes the heartbeat and the Reads that follow an assignment, in whichever order they come.
async fn follow(conn: &mut Conn, owned: usize, reads: usize) -> Vec<wire::Read> {
    let mut seen = Vec::new();
    let mut beaten = false;
    while seen.len() < reads || !beaten {
        let frame = conn.expect().await;
        conn.done(&frame).await;
        match frame.envelope.body {
            Some(Body::Heartbeat(heartbeat)) => beaten = heartbeat.owned.len() == owned,
            Some(Body::Read(read)) => seen.push(read),
            other => panic!("unexpected: {other:?}"),
        }
    }
    seen.sort_by_key(|read| read.partition);
    seen
}

#[tokio::test]
async fn a_member_reads_what_it_is_assigned_commits_and_leaves() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").group("audit").subscribe());
    conn.tell_topic(2).await;
    tell_joined(&mut conn, "").await;
    let mut stream = subscribing.await.expect("no panic").expect("joined");
    conn.push(assignment(1, &[(0, Some(5)), (1, Some(0))]), &[]).await;
    let reads = follow(&mut conn, 2, 2).await;
    assert_eq!((reads[0].offset, reads[1].offset), (5, 0));
    conn.push(records(reads[0].subscription, None), &entry(5, &["a", "b"])).await;
    let message = stream.next().await.expect("not the end").expect("a message");
    assert_eq!(message.offset, 5);

    let commit = async { stream.commit(&message).await };
    let answer = async {
        let (request, commit) = conn.expect_body(body!(CommitOffsets)).await;
        assert_eq!((commit.member.as_str(), commit.generation), ("m-1", 1));
        assert_eq!((commit.offsets[0].partition, commit.offsets[0].offset), (0, 6));
        conn.done(&request).await;
    };
    tokio::join!(commit, answer).0.expect("committed");

    let closing = tokio::spawn(stream.close());
    loop {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::Unsubscribe(_) | Body::Credit(_)) => {}
            Some(Body::LeaveGroup(leave)) => {
                assert_eq!(leave.member, "m-1");
                break conn.done(&frame).await;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    closing.await.expect("no panic").expect("left");
}

/// Two partitions; 0 and 1 of partition 0 are yielded, and 1 is still in the consumer's hands. Then partition 0 is
/// taken away.
async fn revoked(peer: &Peer, session: Duration) -> (MessageStream, Conn, Vec<wire::Read>) {
    let (client, mut conn) = peer.client().await;
    let builder =
        client.stream("photos").group("audit").auto_commit(Duration::from_secs(60)).session(session);
    let subscribing = tokio::spawn(builder.subscribe());
    conn.tell_topic(2).await;
    tell_joined(&mut conn, "").await;
    let mut stream = subscribing.await.expect("no panic").expect("joined");
    conn.push(assignment(1, &[(0, Some(0)), (1, Some(0))]), &[]).await;
    let reads = follow(&mut conn, 2, 2).await;
    conn.push(records(reads[0].subscription, None), &entry(0, &["a", "b", "c"])).await;
    assert_eq!(next(&mut stream).await.0, 0);
    assert_eq!(next(&mut stream).await.0, 1);
    conn.push(assignment(2, &[(1, Some(0))]), &[]).await;
    (stream, conn, reads)
}

/// The commit of partition 0 at this offset, then the heartbeat without it; before that, heartbeats that list it.
async fn given_up(conn: &mut Conn, reads: &[wire::Read], offset: u64) {
    let mut committed = false;
    loop {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::Unsubscribe(gone)) => assert_eq!(gone.subscription, reads[0].subscription),
            // What was fetched and is not yielded any more gives its credit back.
            Some(Body::Credit(_)) => {}
            Some(Body::Heartbeat(heartbeat)) => {
                assert_eq!(heartbeat.generation, 2);
                conn.done(&frame).await;
                if heartbeat.owned.len() == 1 {
                    assert_eq!(heartbeat.owned[0].partition, 1);
                    assert!(committed, "committed before it was given up");
                    return;
                }
            }
            Some(Body::CommitOffsets(commit)) => {
                assert_eq!((commit.generation, commit.offsets[0].partition), (2, 0));
                assert_eq!(commit.offsets[0].offset, offset);
                committed = true;
                conn.done(&frame).await;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_revoked_partition_is_given_up_when_what_was_yielded_is_handled() {
    let peer = Peer::bind().await;
    let (mut stream, mut conn, reads) = revoked(&peer, Duration::from_secs(60)).await;
    let (beat, heartbeat) = conn.expect_body(body!(Heartbeat)).await;
    assert_eq!((heartbeat.generation, heartbeat.owned.len()), (2, 2), "still in use");
    conn.done(&beat).await;
    conn.push(records(reads[1].subscription, None), &entry(0, &["z"])).await;
    let asking = tokio::spawn(async move { (next(&mut stream).await, stream) });
    given_up(&mut conn, &reads, 2).await;
    let (message, _stream) = asking.await.expect("no panic");
    assert_eq!(message, (0, "z".to_owned()), "nothing more of the other one");
}

#[tokio::test]
async fn a_consumer_that_takes_too_long_does_not_hold_up_the_group() {
    let peer = Peer::bind().await;
    let (_stream, mut conn, reads) = revoked(&peer, Duration::from_secs(1)).await;
    given_up(&mut conn, &reads, 1).await;
}

#[tokio::test]
async fn a_partition_that_comes_back_before_it_was_given_up_goes_on_where_it_was() {
    let peer = Peer::bind().await;
    let (mut stream, mut conn, _) = revoked(&peer, Duration::from_secs(60)).await;
    let (beat, _) = conn.expect_body(body!(Heartbeat)).await;
    conn.done(&beat).await;
    conn.push(assignment(3, &[(0, Some(0)), (1, Some(0))]), &[]).await;
    let read = loop {
        let frame = conn.expect().await;
        match frame.envelope.body {
            Some(Body::Read(read)) => break read,
            Some(Body::Heartbeat(_)) => conn.done(&frame).await,
            Some(Body::Unsubscribe(_) | Body::Credit(_)) => {}
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!((read.partition, read.offset), (0, 2));
    conn.push(records(read.subscription, None), &entry(0, &["a", "b", "c"])).await;
    assert_eq!(next(&mut stream).await, (2, "c".to_owned()));
}

#[tokio::test]
async fn a_fenced_member_joins_again_and_starts_at_what_is_committed() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.stream("photos").group("audit").subscribe());
    conn.tell_topic(1).await;
    tell_joined(&mut conn, "").await;
    let mut stream = subscribing.await.expect("no panic").expect("joined");
    conn.push(assignment(1, &[(0, None)]), &[]).await;
    let mut fenced = false;
    while !fenced {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::Heartbeat(_)) => {
                conn.fail(&frame, ErrorCode::UnknownMember, Retry::Never).await;
                fenced = true;
            }
            Some(Body::LocateOffset(_)) => {
                let reply = wire::LocateOffsetReply { offset: 0, high_watermark: 0 };
                conn.reply(&frame, Body::LocateOffsetReply(reply)).await;
            }
            Some(Body::Read(_)) => conn.done(&frame).await,
            other => panic!("unexpected: {other:?}"),
        }
    }
    loop {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::JoinGroup(join)) => {
                assert_eq!(join.member, "");
                let reply = wire::JoinGroupReply { member: "m-1".to_owned(), heartbeat_ms: 60_000, claim: 0 };
                break conn.reply(&frame, Body::JoinGroupReply(reply)).await;
            }
            Some(Body::LocateOffset(_)) => {
                let reply = wire::LocateOffsetReply { offset: 0, high_watermark: 0 };
                conn.reply(&frame, Body::LocateOffsetReply(reply)).await;
            }
            _ => {}
        }
    }
    conn.push(assignment(3, &[(0, Some(8))]), &[]).await;
    let reads = follow(&mut conn, 1, 1).await;
    assert_eq!(reads[0].offset, 8);
    conn.push(records(reads[0].subscription, None), &entry(8, &["i"])).await;
    assert_eq!(next(&mut stream).await, (8, "i".to_owned()));
}
