//! The queue consumer against a scripted broker.

mod peer;

use std::time::Duration;

use dure_client::{Action, Error, ErrorCode, Job, JobStream, Receipt};
use dure_proto::wire::{self, SettleAction, envelope::Body};
use peer::{Conn, Peer, SOON};
use tokio::time::timeout;

fn job(offset: u64, lease_ms: u64, value: &str) -> wire::Job {
    wire::Job {
        partition: 0,
        offset,
        epoch: 1,
        counter: offset + 100,
        attempt: 1,
        lease_ms,
        append_time_ms: 42,
        key_bytes: None,
        value_bytes: Some(value.len() as u32),
        headers: Vec::new(),
        lease_deadline_ms: 0,
    }
}

async fn push(conn: &mut Conn, subscription: u64, lease_ms: u64, offsets: std::ops::Range<u64>) {
    let jobs = offsets.clone().map(|offset| job(offset, lease_ms, "body")).collect();
    let bytes = "body".repeat((offsets.end - offsets.start) as usize);
    conn.push(Body::Jobs(wire::Jobs { subscription, jobs }), bytes.as_bytes()).await;
}

async fn subscribe(peer: &Peer, prefetch: u32) -> (dure_client::Client, JobStream, Conn, u64) {
    let (client, mut conn) = peer.client().await;
    let builder = client.queue("photos", "resize").prefetch(prefetch);
    let subscribing = tokio::spawn(builder.subscribe());
    conn.tell_topic(1).await;
    let (request, _) = conn.expect_body(body!(DescribeGroup)).await;
    conn.fail(&request, ErrorCode::UnknownGroup, dure_client::Retry::Never).await;
    let mut conn = peer.accept().await;
    let subscription = tell_subscribed(&mut conn, prefetch).await;
    (client, subscribing.await.expect("no panic").expect("subscribed"), conn, subscription)
}

async fn tell_subscribed(conn: &mut Conn, credit: u32) -> u64 {
    let (_, work) = conn.expect_body(body!(WorkQueue)).await;
    assert_eq!((work.topic.as_str(), work.group.as_str()), ("photos", "resize"));
    assert_eq!(work.credit_messages, credit);
    work.subscription
}

async fn next(jobs: &mut JobStream) -> Job {
    timeout(SOON, jobs.next()).await.expect("in time").expect("not the end").expect("a job")
}

fn actions(settle: &wire::Settle) -> Vec<(SettleAction, u64)> {
    settle.items.iter().map(|item| (item.action(), item.offset)).collect()
}

async fn settled(conn: &mut Conn, request: &dure_proto::Frame, items: usize) {
    let results = vec![wire::SettleResult::default(); items];
    conn.reply(request, Body::SettleReply(wire::SettleReply { results })).await;
}

/// The next Settle that is a request, and the one-way ones before it.
async fn settle_request(conn: &mut Conn) -> (dure_proto::Frame, wire::Settle, Vec<(SettleAction, u64)>) {
    let mut said = Vec::new();
    loop {
        let (frame, settle) = conn.expect_body(body!(Settle)).await;
        if frame.envelope.correlation != 0 {
            return (frame, settle, said);
        }
        said.extend(actions(&settle));
    }
}

#[tokio::test]
async fn a_job_is_started_when_handed_out_and_its_credit_comes_back_once_it_is_acked() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 1).await;
    push(&mut conn, subscription, 30_000, 0..1).await;
    conn.expect_silence(Duration::from_millis(50)).await;
    let job = next(&mut jobs).await;
    assert_eq!((job.value(), job.offset(), job.attempt(), job.key()), (&b"body"[..], 0, 1, None));
    let (frame, start) = conn.expect_body(body!(Settle)).await;
    assert_eq!(frame.envelope.correlation, 0);
    assert_eq!(actions(&start), [(SettleAction::SettleStart, 0)]);
    let acking = tokio::spawn(job.ack());
    let (request, ack) = conn.expect_body(body!(Settle)).await;
    assert_eq!(actions(&ack), [(SettleAction::SettleAck, 0)]);
    conn.expect_silence(Duration::from_millis(50)).await;
    settled(&mut conn, &request, 1).await;
    acking.await.expect("no panic").expect("acked");
    let (_, credit) = conn.expect_body(body!(Credit)).await;
    assert_eq!((credit.subscription, credit.messages, credit.bytes), (subscription, 1, 4));
}

#[tokio::test]
async fn acks_that_come_together_share_a_request() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 64).await;
    push(&mut conn, subscription, 30_000, 0..64).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(next(&mut jobs).await);
    }
    let acking: Vec<_> = held.into_iter().map(|job| tokio::spawn(job.ack())).collect();
    let (mut acked, mut requests) = (0, 0);
    while acked < 64 {
        let (request, settle, _) = settle_request(&mut conn).await;
        requests += 1;
        acked += settle.items.iter().filter(|item| item.action() == SettleAction::SettleAck).count();
        settled(&mut conn, &request, settle.items.len()).await;
    }
    assert!(requests <= 8, "{requests} requests for 64 acks");
    for ack in acking {
        ack.await.expect("no panic").expect("acked");
    }
}

#[tokio::test]
async fn what_is_acked_in_the_request_that_would_say_that_it_started_is_not_said_to_be_started() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 8).await;
    push(&mut conn, subscription, 30_000, 0..8).await;
    let mut acking = Vec::new();
    let mut first = None;
    // As many requests as may be under way: what comes after them waits, and goes together.
    for _ in 0..4 {
        acking.push(tokio::spawn(next(&mut jobs).await.ack()));
        let (request, _, _) = settle_request(&mut conn).await;
        first.get_or_insert(request);
    }
    for _ in 0..3 {
        acking.push(tokio::spawn(next(&mut jobs).await.ack()));
    }
    acking.push(tokio::spawn(next(&mut jobs).await.release()));
    conn.expect_silence(Duration::from_millis(50)).await;
    settled(&mut conn, &first.expect("there were some"), 1).await;
    let (_, settle, said) = settle_request(&mut conn).await;
    let mut all = actions(&settle);
    all.sort_by_key(|(_, offset)| *offset);
    assert!(said.is_empty());
    let acks = (4..7).map(|offset| (SettleAction::SettleAck, offset));
    let released = [(SettleAction::SettleStart, 7), (SettleAction::SettleRelease, 7)];
    assert_eq!(all, acks.chain(released).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_job_is_released_at_once_and_a_released_one_with_its_delay() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 4).await;
    push(&mut conn, subscription, 30_000, 0..4).await;
    drop(next(&mut jobs).await);
    let (request, settle, _) = settle_request(&mut conn).await;
    let release = settle.items.last().expect("one");
    assert_eq!((release.action(), release.delay_ms), (SettleAction::SettleRelease, Some(0)));
    settled(&mut conn, &request, settle.items.len()).await;
    conn.expect_body(body!(Credit)).await;

    let job = next(&mut jobs).await;
    let releasing = tokio::spawn(job.release_after(Duration::from_secs(5)));
    let (request, settle, _) = settle_request(&mut conn).await;
    assert_eq!(settle.items.last().expect("one").delay_ms, Some(5000));
    settled(&mut conn, &request, settle.items.len()).await;
    releasing.await.expect("no panic").expect("released");
    conn.expect_body(body!(Credit)).await;

    let job = next(&mut jobs).await;
    let rejecting = tokio::spawn(job.reject("x".repeat(3000)));
    let (request, settle, _) = settle_request(&mut conn).await;
    assert_eq!(settle.items.last().expect("one").reason.len(), 1024);
    let results = settle.items.iter().map(|_| wire::SettleResult {
        already_settled: false,
        error: ErrorCode::StaleLease.into(),
        message: "leased anew".to_owned(),
    });
    conn.reply(&request, Body::SettleReply(wire::SettleReply { results: results.collect() })).await;
    let error = rejecting.await.expect("no panic").expect_err("stale");
    assert_eq!(error.code(), Some(ErrorCode::StaleLease));
}

#[tokio::test]
async fn leases_are_renewed_while_held_handed_out_or_not_and_a_lost_one_is_not_handed_out() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 4).await;
    push(&mut conn, subscription, 600, 0..3).await;
    let held = next(&mut jobs).await;
    let (request, settle, _) = settle_request(&mut conn).await;
    let mut renewed = actions(&settle);
    renewed.sort_by_key(|(_, offset)| *offset);
    let all: Vec<_> = (0..3).map(|offset| (SettleAction::SettleExtend, offset)).collect();
    assert_eq!(renewed, all);
    assert!(settle.items.iter().all(|item| item.lease_ms == Some(600)));
    let results = settle.items.iter().map(|item| wire::SettleResult {
        error: if item.offset == 1 { ErrorCode::StaleLease.into() } else { 0 },
        ..Default::default()
    });
    conn.reply(&request, Body::SettleReply(wire::SettleReply { results: results.collect() })).await;
    let (_, credit) = conn.expect_body(body!(Credit)).await;
    assert_eq!(credit.messages, 1);
    let second = next(&mut jobs).await;
    assert_eq!(second.offset(), 2);
    assert!(held.is_held() && second.is_held());
}

#[tokio::test]
async fn after_a_lost_connection_acks_are_repeated_jobs_in_hand_are_kept_and_others_go_back() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 4).await;
    push(&mut conn, subscription, 30_000, 0..3).await;
    let first = next(&mut jobs).await;
    let second = next(&mut jobs).await;
    let acking = tokio::spawn(first.ack());
    settle_request(&mut conn).await;
    drop(conn);

    let mut conn = peer.accept().await;
    let (mut acked, mut subscribed, mut renewed) = (false, None, false);
    let mut reclaimed = Vec::new();
    while !(acked && subscribed.is_some() && renewed) {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::WorkQueue(work)) => {
                assert!(!reclaimed.is_empty(), "said before a new subscription could be given them");
                // The ack may have been answered by then.
                assert!((2..=3).contains(&work.credit_messages), "{}", work.credit_messages);
                subscribed = Some(work.subscription);
            }
            Some(Body::Settle(settle)) if frame.envelope.correlation == 0 => {
                reclaimed.extend(actions(settle))
            }
            Some(Body::Settle(settle)) => {
                acked |= actions(settle).contains(&(SettleAction::SettleAck, 0));
                renewed |= actions(settle).contains(&(SettleAction::SettleExtend, 1));
                settled(&mut conn, &frame, settle.items.len()).await;
            }
            Some(Body::Credit(_)) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(reclaimed, [(SettleAction::SettleRelease, 2), (SettleAction::SettleStart, 1)]);
    acking.await.expect("no panic").expect("acked");
    assert!(second.is_held());
    push(&mut conn, subscribed.expect("just seen"), 30_000, 5..6).await;
    assert_eq!(next(&mut jobs).await.offset(), 5, "what went back is not handed out");
}

#[tokio::test]
async fn a_broker_that_stops_is_waited_out_in_silence() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 4).await;
    let error = wire::Error {
        code: ErrorCode::ShardStopped.into(),
        message: "scripted".to_owned(),
        retry: dure_client::Retry::Unknown.into(),
        address: String::new(),
    };
    let ended = wire::SubscriptionEnded { subscription, error: Some(error) };
    conn.push(Body::SubscriptionEnded(ended), &[]).await;
    let subscription = tell_subscribed(&mut conn, 4).await;
    push(&mut conn, subscription, 30_000, 0..1).await;
    assert_eq!(next(&mut jobs).await.offset(), 0);
}

#[tokio::test]
async fn dropping_the_stream_unsubscribes_and_jobs_in_hand_can_still_be_settled() {
    let peer = Peer::bind().await;
    let (_client, mut jobs, mut conn, subscription) = subscribe(&peer, 4).await;
    push(&mut conn, subscription, 30_000, 0..2).await;
    let job = next(&mut jobs).await;
    drop(jobs);
    let acking = tokio::spawn(job.ack());
    let (mut acked, mut unsubscribed) = (false, false);
    while !(acked && unsubscribed) {
        let frame = conn.expect().await;
        match &frame.envelope.body {
            Some(Body::Unsubscribe(gone)) => unsubscribed = gone.subscription == subscription,
            Some(Body::Settle(settle)) if frame.envelope.correlation != 0 => {
                acked = true;
                settled(&mut conn, &frame, settle.items.len()).await;
            }
            _ => {}
        }
    }
    acking.await.expect("no panic").expect("acked");
}

#[tokio::test]
async fn the_wrong_kind_of_group_is_a_typed_error() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let subscribing = tokio::spawn(client.queue("photos", "audit").subscribe());
    conn.tell_topic(1).await;
    let (request, _) = conn.expect_body(body!(DescribeGroup)).await;
    let group = wire::GroupDescription {
        name: "audit".to_owned(),
        kind: wire::GroupKind::Stream.into(),
        state: "empty".to_owned(),
        ..Default::default()
    };
    let groups = wire::GroupDescriptions { groups: vec![group] };
    conn.reply(&request, Body::GroupDescriptions(groups)).await;
    let error = subscribing.await.expect("no panic").expect_err("wrong kind");
    assert_eq!(error.code(), Some(ErrorCode::WrongGroupKind));
}

#[tokio::test]
async fn one_shot_receive_and_settle() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let asking = client.clone();
    let receiving =
        tokio::spawn(
            async move { asking.receive("photos", "resize", 2, Duration::from_secs(1), None).await },
        );
    let (request, receive) = conn.expect_body(body!(Receive)).await;
    assert_eq!((receive.count, receive.wait_ms, receive.lease_ms), (2, 1000, None));
    let answer = wire::Jobs { subscription: 0, jobs: vec![job(0, 30_000, "one"), job(1, 30_000, "two")] };
    conn.send(request.envelope.correlation, Body::Jobs(answer), b"onetwo").await;
    let received = receiving.await.expect("no panic").expect("received");
    assert_eq!(received.iter().map(|job| peer::text(&job.value)).collect::<Vec<_>>(), ["one", "two"]);
    let receipt: Receipt = received[1].receipt.to_string().parse().expect("reads back");

    let items = vec![
        (received[0].receipt, Action::Ack),
        (receipt, Action::Release { delay: None, reason: String::new() }),
    ];
    let settling = tokio::spawn(async move { client.settle("photos", "resize", items).await });
    let (request, settle) = conn.expect_body(body!(Settle)).await;
    assert_eq!(actions(&settle), [(SettleAction::SettleAck, 0), (SettleAction::SettleRelease, 1)]);
    let already = wire::SettleResult { already_settled: true, ..Default::default() };
    let stale = wire::SettleResult { error: ErrorCode::StaleLease.into(), ..Default::default() };
    conn.reply(&request, Body::SettleReply(wire::SettleReply { results: vec![already, stale] })).await;
    let outcomes = settling.await.expect("no panic").expect("settled");
    assert!(outcomes[0].as_ref().is_ok_and(|settled| settled.already_settled));
    assert!(matches!(&outcomes[1], Err(Error::Broker { code: ErrorCode::StaleLease, .. })));
}

#[test]
fn a_handler_that_blocks_the_only_thread_keeps_its_lease() {
    let broker =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let peer = broker.block_on(Peer::bind());
    let address = peer.address();
    let scripted = broker.spawn(async move {
        let mut asked = peer.accept().await;
        asked.tell_topic(1).await;
        let (request, _) = asked.expect_body(body!(DescribeGroup)).await;
        asked.fail(&request, ErrorCode::UnknownGroup, dure_client::Retry::Never).await;
        let mut conn = peer.accept().await;
        let subscription = tell_subscribed(&mut conn, 1).await;
        push(&mut conn, subscription, 300, 0..1).await;
        let (mut renewals, mut started) = (0, false);
        loop {
            let (request, settle, said) = settle_request(&mut conn).await;
            started |= said.contains(&(SettleAction::SettleStart, 0));
            settled(&mut conn, &request, settle.items.len()).await;
            for (action, _) in actions(&settle) {
                match action {
                    SettleAction::SettleExtend => renewals += 1,
                    SettleAction::SettleStart => started = true,
                    SettleAction::SettleAck => return (renewals, started),
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
    });
    let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a thread");
    worker.block_on(async {
        let client = dure_client::Client::connect(address).await.expect("connected");
        let mut jobs = client.queue("photos", "resize").prefetch(1).subscribe().await.expect("subscribed");
        let job = next(&mut jobs).await;
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(job.is_held());
        job.ack().await.expect("acked");
    });
    let (renewals, started) = broker.block_on(scripted).expect("no panic");
    assert!(
        started && renewals >= 4,
        "{renewals} renewals of 300 ms in 1.5 s, said to be started: {started}"
    );
}
