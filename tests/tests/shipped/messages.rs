//! `dure produce` and `dure consume` without a group.

use std::time::Duration;

use dure_tests::harness::{Broker, Exit};
use serde_json::{Value, json};

fn values(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["value"].as_str().expect("a text")).collect()
}

#[test]
fn lines_come_back_as_they_went() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    // An empty line is an empty message, `\r\n` ends a line too, a `\r` within does not, the last line needs no end.
    let acks = broker.dure("produce t").stdin("one\n\ntwo\r\nth\rree\nlast").json_lines();
    let expected: Vec<_> = (0..5).map(|n| json!({"topic": "t", "partition": 0, "offset": n})).collect();
    assert_eq!(acks, expected);
    let messages = broker.json_lines("consume t");
    assert_eq!(values(&messages), ["one", "", "two", "th\rree", "last"]);
    let first = &messages[0];
    assert_eq!(
        (&first["topic"], &first["partition"], &first["offset"], &first["key"], &first["headers"]),
        (&json!("t"), &json!(0), &json!(0), &Value::Null, &json!([]))
    );
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let age_ms = now_ms.saturating_sub(first["timestamp"].as_u64().expect("milliseconds"));
    assert!(age_ms < 60_000, "{first}");
    // Not a terminal: raw is the default.
    assert_eq!(broker.dure("consume t").ok().text(), "one\n\ntwo\nth\rree\nlast\n");
    assert!(broker.dure("produce t").stdin("").ok().stdout.is_empty());
}

#[test]
fn bytes_that_are_no_text_come_as_base64_and_raw_as_they_are() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t --key").arg("k").stdin(b"\xff\x00\xfe\n").ok();
    let message = broker.json("consume t");
    assert_eq!((&message["key"], &message["value_base64"]), (&json!("k"), &json!("/wD+")));
    assert!(message.get("value").is_none(), "{message}");
    assert_eq!(broker.dure("consume t -o raw").ok().stdout, b"\xff\x00\xfe\n");
}

#[test]
fn keys_are_cut_off_by_their_separator_and_a_line_without_it_is_named() {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 4").ok();
    broker.dure("produce t --key-separator :").stdin("a:1\nb:2\na:3:4\n:5\na:\n").ok();
    let messages = broker.json_lines("consume t");
    assert_eq!(messages.len(), 5);
    let of_a: Vec<_> = messages.iter().filter(|message| message["key"] == "a").collect();
    assert_eq!(of_a.iter().map(|m| m["value"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "3:4", ""]);
    assert!(
        of_a.iter().all(|message| message["partition"] == of_a[0]["partition"]),
        "one key, one partition"
    );
    assert!(messages.iter().any(|message| message["key"] == "" && message["value"] == "5"));

    broker
        .dure("produce t --key-separator :")
        .stdin("c:1\nno separator here\nc:2\n")
        .exits(1)
        .says(&["line 2"]);
    let messages = broker.json_lines("consume t");
    assert!(!messages.iter().any(|message| message["key"] == "c" && message["value"] == "2"));
}

#[test]
fn headers_keep_their_order_and_may_repeat() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t --header a=1 --header b=x=y --header a=2 --header empty=").stdin("v\n").ok();
    let message = broker.json("consume t");
    assert_eq!(message["headers"], json!([["a", "1"], ["b", "x=y"], ["a", "2"], ["empty", ""]]));
}

#[test]
fn compressed_messages_come_back_the_same_and_take_less_room() {
    let broker = Broker::start();
    let line = format!("{}\n", "the same words again and again ".repeat(20));
    let mut sizes = Vec::new();
    for compression in ["none", "lz4", "zstd"] {
        broker.dure("topic create").arg(compression).ok();
        let produce = broker.dure("produce").arg(compression).args(["--compression", compression]);
        produce.stdin(line.repeat(300)).ok();
        assert_eq!(broker.dure("consume -o raw").arg(compression).ok().text(), line.repeat(300));
        sizes.push(broker.dure("topic describe").arg(compression).json()["bytes"].as_u64().unwrap());
    }
    assert!(sizes[1] < sizes[0] / 2 && sizes[2] < sizes[0] / 2, "{sizes:?}");
}

#[test]
fn a_file_is_one_message() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let contents = [&b"two\nlines\n"[..], b"", b"\xff\xd8binary\0\n"];
    let mut produce = broker.dure("produce t --header kind=file");
    for (number, content) in contents.iter().enumerate() {
        let path = broker.home().join(format!("file-{number}"));
        std::fs::write(&path, content).unwrap();
        produce = produce.arg("--file").arg(path.to_str().unwrap());
    }
    assert_eq!(produce.json_lines().len(), 3);
    let messages = broker.json_lines("consume t");
    assert_eq!(messages[0]["value"], "two\nlines\n");
    assert_eq!(messages[1]["value"], "");
    assert_eq!(messages[2]["value_base64"], "/9hiaW5hcnkACg==");
    broker.dure("produce t --file /no/such/file").exits(1).says(&["/no/such/file"]);
    assert_eq!(broker.json("topic describe t")["messages"], 3);
}

#[test]
fn reading_starts_and_ends_where_it_is_told_to() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("0\n1\n2\n3\n4\n").ok();
    std::thread::sleep(Duration::from_millis(30));
    let between = broker.json_lines("consume t")[4]["timestamp"].as_u64().unwrap() + 10;
    broker.dure("produce t").stdin("5\n6\n").ok();
    let read = |flags: &str| broker.dure(&format!("consume t -o raw {flags}")).ok().text().replace('\n', " ");
    assert_eq!(read(""), "0 1 2 3 4 5 6 ");
    assert_eq!(read("--from earliest --count 2"), "0 1 ");
    assert_eq!(read("--from offset:4"), "4 5 6 ");
    assert_eq!(read("--from offset:7"), "");
    assert_eq!(read("--from latest"), "");
    assert_eq!(read("--from ago:1h"), "0 1 2 3 4 5 6 ");
    assert_eq!(read(&format!("--from time:{}", rfc3339(between))), "5 6 ");
    assert_eq!(read("--from time:2001-01-01T00:00:00Z --count 1"), "0 ");
    broker.dure("consume t --from offset:99").exits(1).says(&["99"]);
}

#[test]
fn partitions_keep_their_order_and_can_be_read_alone() {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 3").ok();
    let lines: String = (0..300).map(|n| format!("key-{}:{n}\n", n % 7)).collect();
    broker.dure("produce t --key-separator :").stdin(lines).ok();
    let messages = broker.json_lines("consume t");
    assert_eq!(messages.len(), 300);
    for partition in 0..3 {
        let of_partition: Vec<_> = messages.iter().filter(|m| m["partition"] == partition).collect();
        let number = |message: &Value| message["value"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(of_partition.windows(2).all(|pair| number(pair[0]) < number(pair[1])));
        for (offset, message) in of_partition.iter().enumerate() {
            assert_eq!(message["offset"], offset);
        }
        let alone = broker.json_lines(&format!("consume t --partition {partition}"));
        assert_eq!(alone.iter().collect::<Vec<_>>(), of_partition);
    }
    broker.dure("consume t --partition 3").exits(1).says(&["partition"]);
    broker.dure("produce t --partition 3").stdin("x\n").exits(1).says(&["partition"]);
}

#[test]
fn followers_see_what_comes_and_stop_at_an_interrupt() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("before\n").ok();
    let mut follower = broker.dure("consume t --follow -o json").spawn();
    let mut latest = broker.dure("consume t --follow --from latest --count 1 -o raw").spawn();
    assert_eq!(follower.json().unwrap()["value"], "before");
    // There is no telling from outside when the second one has found the end.
    std::thread::sleep(Duration::from_millis(500));
    broker.dure("produce t").stdin("after\n").ok();
    assert_eq!(follower.json().unwrap()["value"], "after");
    assert_eq!(latest.line().as_deref(), Some("after"));
    assert_eq!(latest.wait(Duration::from_secs(5)), Exit::Code(0));
    follower.interrupt();
    assert_eq!(follower.wait(Duration::from_secs(5)), Exit::Code(130));
}

#[test]
fn acknowledgements_are_printed_while_stdin_is_open() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let mut produce = broker.dure("produce t -o json").spawn();
    for n in 0..5 {
        // A lone line is not held back.
        assert!(produce.write(format!("line {n}\n").as_bytes()));
        assert_eq!(produce.json(), Some(json!({"topic": "t", "partition": 0, "offset": n})));
        let read = broker.json(&format!("consume t --from offset:{n}"));
        assert_eq!(read["value"], format!("line {n}"), "acknowledged, so it is there");
    }
    produce.close_stdin();
    assert_eq!(produce.wait(Duration::from_secs(5)), Exit::Code(0));
    assert_eq!(produce.line(), None);
}

#[test]
fn a_message_beyond_the_topics_limit_fails_and_nothing_later_is_printed() {
    let broker = Broker::start();
    broker.dure("topic create t --max-message 1KiB").ok();
    let lines = format!("good\n{}\nlater\n", "x".repeat(1025));
    let output = broker.dure("produce t -o json").stdin(lines).exits(1);
    assert!(output.json_lines().len() <= 1, "{output}");
    output.says(&["1025", "1024"]);
    let exact = "y".repeat(1024);
    let ack = broker.dure("produce t").stdin(format!("{exact}\n")).json();
    let read = broker.json(&format!("consume t --count 1 --from offset:{}", ack["offset"]));
    assert_eq!(read["value"], exact);
}

#[test]
fn a_message_of_a_megabyte_goes_through() {
    let broker = Broker::start();
    broker.dure("topic create t --max-message 4MiB").ok();
    let large = "z".repeat(3 << 20);
    broker.dure("produce t").stdin(format!("small\n{large}\nsmall\n")).ok();
    let messages = broker.json_lines("consume t");
    assert_eq!(values(&messages), ["small", large.as_str(), "small"]);
}

/// The time of so many milliseconds since the epoch as RFC 3339, in UTC. (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`.)
fn rfc3339(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}
