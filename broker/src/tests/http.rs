use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Client;
use super::{start, stop};

async fn get(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_told_under_our_own_name_only() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("pho_tos", 1).await;
    client.produce(id, &["a", "b"]).await;
    let host = running.http().to_string();
    assert_eq!(get(running.http(), "/livez", &host).await.0, 200);
    let (code, body) = get(running.http(), "/readyz", "localhost").await;
    assert_eq!(code, 200, "{body}");
    let (code, text) = get(running.http(), "/metrics", &host).await;
    assert_eq!(code, 200);
    for line in [
        "dure_messages_in_total 2",
        "dure_connections 1",
        "dure_requests_total{request=\"produce\"} 1",
        "dure_high_watermark{topic=\"pho_tos\",partition=\"0\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("dure_sync_seconds_bucket") && text.contains("dure_journal_bytes "), "{text}");
    assert_eq!(get(running.http(), "/readyz", "evil.example").await.0, 403);
    stop(running).await;
}
