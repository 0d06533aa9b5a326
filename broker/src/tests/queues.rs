use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, SettleAction};
use dure_proto::{BatchBuilder, Compression};

use super::client::Client;
use super::{start, stop};

fn receive(count: u32, wait_ms: u64) -> Body {
    Body::Receive(wire::Receive { topic: "t".into(), group: "g".into(), count, wait_ms, lease_ms: None })
}

async fn jobs(client: &mut Client, count: u32, wait_ms: u64) -> (Vec<wire::Job>, Bytes) {
    match client.ask_with(receive(count, wait_ms), &[]).await {
        (Body::Jobs(jobs), attachment) => (jobs.jobs, attachment),
        (other, _) => panic!("{other:?}"),
    }
}

fn settle(job: &wire::Job, action: SettleAction) -> Body {
    let item = wire::SettleItem {
        action: action.into(),
        partition: job.partition,
        offset: job.offset,
        epoch: job.epoch,
        counter: job.counter,
        reason: "because".into(),
        ..wire::SettleItem::default()
    };
    Body::Settle(wire::Settle { topic: "t".into(), group: "g".into(), items: vec![item] })
}

async fn settled(client: &mut Client, job: &wire::Job, action: SettleAction) -> wire::SettleResult {
    match client.ask(settle(job, action)).await {
        Body::SettleReply(reply) => reply.results.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_received_acked_and_rejected_with_their_bytes() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 1).await;
    client.produce(id, &["one", "three"]).await;
    let (received, attachment) = jobs(&mut client, 10, 1000).await;
    assert_eq!(attachment, "koneh".to_owned() + "kthreeh");
    assert_eq!(received.iter().map(|j| (j.offset, j.attempt)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
    assert_eq!(
        (received[0].key_bytes, received[0].value_bytes, received[0].headers.len()),
        (Some(1), Some(3), 1)
    );
    assert!(received[0].append_time_ms > 0 && received[0].lease_ms > 0);

    assert!(!settled(&mut client, &received[0], SettleAction::SettleAck).await.already_settled);
    assert!(settled(&mut client, &received[0], SettleAction::SettleAck).await.already_settled);
    assert_eq!(settled(&mut client, &received[1], SettleAction::SettleReject).await.error, 0);
    assert!(jobs(&mut client, 1, 50).await.0.is_empty());

    let list =
        wire::ListDeadLetters { topic: "t".into(), group: "g".into(), ..wire::ListDeadLetters::default() };
    let (Body::DeadLetters(letters), attachment) = client.ask_with(Body::ListDeadLetters(list), &[]).await
    else {
        panic!("no dead letters")
    };
    assert_eq!((letters.letters.len(), letters.more), (1, false));
    assert_eq!((letters.letters[0].id.as_str(), letters.letters[0].reason.as_str()), ("0-1", "because"));
    assert_eq!(attachment, "kthreeh");

    let redrive = wire::Redrive { topic: "t".into(), group: "g".into(), count_max: 0 };
    let Body::Count(count) = client.ask(Body::Redrive(redrive)).await else { panic!("no count") };
    assert_eq!(count.count, 1);
    let (received, attachment) = jobs(&mut client, 10, 1000).await;
    assert_eq!((received[0].offset, received[0].attempt, attachment), (1, 1, "kthreeh".into()));
    settled(&mut client, &received[0], SettleAction::SettleAck).await;
    stop(running).await;

    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    assert!(jobs(&mut client, 10, 50).await.0.is_empty(), "settled messages never come back");
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_pushed_as_credit_allows_and_gives_back_when_it_closes() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 1).await;
    let work = wire::WorkQueue {
        subscription: 3,
        topic: "t".into(),
        group: "g".into(),
        credit_messages: 2,
        credit_bytes: 1 << 20,
        lease_ms: None,
        limit_bytes: None,
    };
    client.send(77, Body::WorkQueue(work), &[]).await;
    client.produce(id, &["a", "b", "c"]).await;
    let mut offsets = Vec::new();
    while offsets.len() < 2 {
        let (Body::Jobs(jobs), _) = client.push().await else { panic!("no jobs") };
        assert_eq!(jobs.subscription, 3);
        offsets.extend(jobs.jobs.iter().map(|job| job.offset));
    }
    client.send(0, Body::Credit(wire::Credit { subscription: 3, bytes: 1 << 20, messages: 1 }), &[]).await;
    let (Body::Jobs(jobs_pushed), _) = client.push().await else { panic!("no jobs") };
    offsets.extend(jobs_pushed.jobs.iter().map(|job| job.offset));
    assert_eq!(offsets, [0, 1, 2]);
    drop(client);

    let mut other = Client::connect(running.native()).await;
    let mut back = Vec::new();
    while back.len() < 3 {
        let (received, _) =
            tokio::time::timeout(Duration::from_secs(5), jobs(&mut other, 10, 1000)).await.unwrap();
        back.extend(received.iter().map(|job| (job.offset, job.attempt)));
    }
    assert_eq!(back, [(0, 1), (1, 1), (2, 1)], "none was started, so no attempt counts");
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_bytes_are_pushed_than_there_is_credit_for_and_a_large_message_comes_alone() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 1).await;
    let (small, large) = ("s".repeat(60), "l".repeat(500));
    client.produce(id, &[&small, &small, &large, &small]).await;
    let (topic, group) = ("t".to_owned(), "g".to_owned());
    let work = wire::WorkQueue {
        subscription: 3,
        topic,
        group,
        credit_messages: 10,
        credit_bytes: 100,
        lease_ms: None,
        limit_bytes: None,
    };
    client.send(77, Body::WorkQueue(work), &[]).await;
    let mut pushed = Vec::new();
    // Each one comes when the one before it is done with, and no sooner.
    while pushed.len() < 4 {
        let (Body::Jobs(jobs), attachment) = client.push().await else { panic!("no jobs") };
        pushed.extend(jobs.jobs.iter().map(|job| (job.offset, job.attempt)));
        let more = tokio::time::timeout(Duration::from_millis(150), client.push()).await;
        assert!(more.is_err(), "more came than there was credit for, after {pushed:?}");
        let bytes = attachment.len() as u64;
        let again = wire::Credit { subscription: 3, bytes, messages: 1 };
        client.send(0, Body::Credit(again), &[]).await;
    }
    assert_eq!(pushed, [(0, 1), (1, 1), (2, 1), (3, 1)], "what did not fit burnt no attempt");
    stop(running).await;
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_decoded_goes_to_the_dead_letters_and_the_next_is_delivered() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let topic_id = client.topic("t", 1).await;
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(b"lost"), &[], 0).unwrap();
    let mut batch = builder.build(None).to_vec();
    // The length of the first record: the checksum is right, the record is not.
    batch[61] = 0x7e;
    let checksum = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    let produce = wire::Produce {
        topic_id,
        partition: 0,
        keyed: false,
        record_bytes_max: 4,
        all_keyed: false,
        expiring: false,
        identified: false,
        due: None,
    };
    let (Body::ProduceReply(_), _) = client.ask_with(Body::Produce(produce), &batch).await else {
        panic!("refused")
    };
    client.produce(topic_id, &["good"]).await;

    let mut received = Vec::new();
    while received.is_empty() {
        received = jobs(&mut client, 10, 1000).await.0;
    }
    assert_eq!(received.iter().map(|job| job.offset).collect::<Vec<_>>(), [1]);
    settled(&mut client, &received[0], SettleAction::SettleAck).await;
    let list =
        wire::ListDeadLetters { topic: "t".into(), group: "g".into(), ..wire::ListDeadLetters::default() };
    let Body::DeadLetters(letters) = client.ask(Body::ListDeadLetters(list)).await else {
        panic!("no dead letters")
    };
    assert_eq!(letters.letters.len(), 1);
    assert!(letters.letters[0].reason.contains("cannot be decoded"), "{}", letters.letters[0].reason);
    stop(running).await;
}
