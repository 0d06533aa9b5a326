//! The HTTP side.

use dure_tests::harness::{Broker, http_get, http_get_as};

#[test]
fn health_and_metrics_are_served() {
    let mut broker = Broker::start();
    broker.dure("topic create photos --partitions 2").ok();
    broker.dure("produce photos").stdin("a\nb\nc\n").ok();
    assert_eq!(broker.json_lines("receive photos --group g --count 1 --wait 5s").len(), 1);
    assert_eq!(http_get(broker.http(), "/livez").0, 200);
    assert_eq!(http_get(broker.http(), "/readyz").0, 200);
    let (code, text) = http_get(broker.http(), "/metrics");
    assert_eq!(code, 200);
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("dure_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(text.contains("dure_messages_in_total 3"), "{text}");
    assert!(text.contains("topic=\"photos\"") && text.contains("group=\"g\""), "{text}");
    assert_eq!(http_get(broker.http(), "/nothing/here").0, 404);
    broker.crash();
    assert_eq!(http_get(broker.http(), "/readyz").0, 200);
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let broker = Broker::builder().flags("--http-hosts queue.example").start();
    let get = |host: &str, headers: &str| http_get_as(broker.http(), "/readyz", host, headers).0;
    let port = broker.http().port();
    for host in ["localhost", &format!("127.0.0.1:{port}"), &format!("localhost:{port}"), "queue.example"] {
        assert_eq!(get(host, ""), 200, "{host}");
    }
    for host in ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", ""] {
        assert_ne!(get(host, ""), 200, "{host}");
    }
    assert_eq!(get("localhost", "Origin: http://localhost:7651\r\n"), 200);
    assert_eq!(get("localhost", "Origin: https://evil.example\r\n"), 403);
    assert_eq!(get("localhost", "Origin: null\r\n"), 403);
}
