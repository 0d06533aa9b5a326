//! What becomes of requests when the connection, or the broker, fails.

mod peer;

use std::time::Duration;

use dure_client::{Action, Client, Error, ErrorCode, Receipt, Retry, TopicConfig};
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId};
use peer::Peer;

#[tokio::test]
async fn nobody_there_is_a_typed_error_at_once() {
    let address = Peer::bind().await.address();
    let error = Client::connect(&address).await.expect_err("nobody listens");
    assert!(matches!(&error, Error::Disconnected { reason } if reason.contains(&address)), "{error}");
    let error = Client::connect("nonsense").await.expect_err("no port");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_has_an_unknown_outcome_and_is_not_repeated() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let admin = client.admin();
    let creating =
        tokio::spawn(async move { admin.create_topic("photos", 1, &TopicConfig::default()).await });
    conn.expect_body(body!(CreateTopic)).await;
    drop(conn);
    let error = creating.await.expect("no panic").expect_err("the answer is lost");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_question_is_asked_again_through_a_new_connection() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let asking = tokio::spawn(async move { client.admin().describe_topics(&[]).await });
    conn.expect_body(body!(DescribeTopics)).await;
    drop(conn);
    let mut conn = peer.accept().await;
    let (request, _) = conn.expect_body(body!(DescribeTopics)).await;
    conn.reply(&request, Body::TopicDescriptions(wire::TopicDescriptions::default())).await;
    assert_eq!(asking.await.expect("no panic"), Ok(Vec::new()));
}

#[tokio::test]
async fn a_busy_broker_is_asked_again_and_other_errors_are_passed_on() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let deleting = tokio::spawn(async move { client.admin().delete_topic("photos").await });
    let (request, _) = conn.expect_body(body!(DeleteTopic)).await;
    conn.fail(&request, ErrorCode::Busy, Retry::Later).await;
    let (request, _) = conn.expect_body(body!(DeleteTopic)).await;
    conn.fail(&request, ErrorCode::UnknownTopic, Retry::Never).await;
    let error = deleting.await.expect("no panic").expect_err("unknown");
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic));
    assert!(!error.is_retriable());
}

#[tokio::test]
async fn a_silent_broker_ends_in_a_typed_error_at_the_deadline() {
    let peer = Peer::bind().await;
    let (client, _conn) = peer.client_with(Duration::from_millis(200)).await;
    let error = client.ping().await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let error = client.admin().purge_topic("photos").await.expect_err("no answer");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn without_a_broker_an_operation_waits_no_longer_than_its_deadline() {
    let peer = Peer::bind().await;
    let (client, conn) = peer.client_with(Duration::from_millis(300)).await;
    drop(conn);
    drop(peer);
    let error = client.ping().await.expect_err("nobody there");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
}

/// An ack that was carried out and whose answer was lost was said to have failed.
#[tokio::test]
async fn an_ack_that_fails_after_its_first_answer_was_lost_may_have_been_carried_out() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client_with(Duration::from_secs(2)).await;
    let token = LeaseToken { epoch: Epoch(1), counter: 1 };
    let receipt = Receipt { partition: PartitionId(0), offset: Offset(0), token };
    let acking = tokio::spawn(async move {
        let items = || vec![(receipt, Action::Ack)];
        let first = client.settle("photos", "resize", items()).await;
        (first, client.settle("photos", "resize", items()).await)
    });
    conn.expect_body(body!(Settle)).await;
    drop(conn);
    let mut conn = peer.accept().await;
    let (request, _) = conn.expect_body(body!(Settle)).await;
    conn.fail(&request, ErrorCode::UnknownGroup, Retry::Never).await;
    // The second one is never answered.
    conn.expect_body(body!(Settle)).await;
    let (first, second) = acking.await.expect("no panic");
    let first = first.expect_err("it failed in the end");
    assert!(first.is_outcome_unknown() && first.code() == Some(ErrorCode::UnknownGroup), "{first:?}");
    let second = second.expect_err("no answer");
    assert!(second.is_outcome_unknown(), "{second:?}");
}

#[tokio::test]
async fn garbage_from_the_peer_ends_the_connection_and_not_the_client() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let asking = tokio::spawn(async move { client.admin().list_groups().await });
    conn.expect_body(body!(ListGroups)).await;
    conn.garbage().await;
    let mut conn = peer.accept().await;
    let (request, _) = conn.expect_body(body!(ListGroups)).await;
    conn.reply(&request, Body::GroupDescriptions(wire::GroupDescriptions::default())).await;
    assert_eq!(asking.await.expect("no panic"), Ok(Vec::new()));
}

#[tokio::test]
async fn closing_writes_what_is_queued() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    client.close().await;
    assert!(conn.next().await.is_none(), "closed in an orderly way");
}
