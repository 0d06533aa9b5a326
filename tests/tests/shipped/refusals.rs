//! What `dure serve` refuses to start on, without touching it.

use std::fs;
use std::time::Duration;

use dure_tests::harness::{Broker, Dure, Exit, Listing, Output, eventually, listing};

/// Runs a `dure serve` that must give up by itself.
fn refused(serve: Dure) -> Output {
    let output = serve.exits(1);
    assert!(output.stdout.is_empty(), "{output}");
    output
}

#[test]
fn a_second_broker_on_one_directory_exits_and_writes_nothing() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\n").ok();
    // What the first one still has to write by itself.
    let mut last = Listing::new();
    eventually(Duration::from_secs(20), "the first broker rests", || {
        std::thread::sleep(Duration::from_millis(700));
        let now = listing(&broker.data());
        (std::mem::replace(&mut last, now.clone()) == now).then_some(())
    });
    let data = broker.data();
    let second =
        Dure::new("serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --data").arg(data.to_str().unwrap());
    refused(second).says(&[data.to_str().unwrap()]);
    assert_eq!(listing(&data), last);
    assert!(broker.process().is_running());
    assert_eq!(broker.dure("consume t -o raw").ok().text(), "a\n");
    // Nor does a tool for stopped brokers look into it.
    Dure::new("log verify --data").arg(data.to_str().unwrap()).exits(1).says(&[data.to_str().unwrap()]);
    assert_eq!(listing(&data), last);
}

#[test]
fn a_taken_port_is_named() {
    let broker = Broker::start();
    let (native, other) = (broker.native().to_string(), broker.home().join("other"));
    let other = other.to_str().unwrap();
    let serve = Dure::new("serve --http 127.0.0.1:0").args(["--listen", &native, "--data", other]);
    refused(serve).says(&[&native]);
}

#[test]
fn data_of_a_newer_format_is_left_untouched() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.stop();
    let path = broker.data().join("FORMAT");
    let mut format: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let newer = format["format"].as_u64().expect("a version") + 1;
    format["format"] = newer.into();
    fs::write(&path, format.to_string()).unwrap();
    let before = listing(&broker.data());
    refused(broker.serve()).says(&["newer", &newer.to_string()]);
    assert_eq!(listing(&broker.data()), before);
    assert_eq!(fs::read_to_string(&path).unwrap(), format.to_string());
}

#[test]
fn a_directory_with_somebody_elses_files_is_refused() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("thesis.txt"), "years of work").unwrap();
    let serve = Dure::new("serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --data");
    refused(serve.arg(home.path().to_str().unwrap())).says(&["thesis.txt"]);
    assert_eq!(fs::read_to_string(home.path().join("thesis.txt")).unwrap(), "years of work");
}

#[test]
fn bad_settings_are_named_with_where_they_came_from() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("dure.toml");
    let serve = |text: &str| {
        fs::write(&file, text).unwrap();
        let serve =
            Dure::new("serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --config").arg(file.to_str().unwrap());
        let output = serve.arg("--data").arg(home.path().join("data").to_str().unwrap()).run();
        assert_ne!(output.exit, Exit::Code(0), "{output}");
        assert!(output.stdout.is_empty(), "{output}");
        output
    };
    serve("conections-max = 5\n").says(&["conections-max", "connections-max", "dure.toml"]);
    serve("hello-timeout = \"soon\"\n").says(&["hello-timeout", "soon", "dure.toml"]);
    serve("this is not TOML").says(&["dure.toml"]);
    let environment = Dure::new("serve --listen 127.0.0.1:0 --http 127.0.0.1:0");
    let output = environment.dir(home.path()).env("DURE_CHECKPOINT", "lots").run();
    output.says(&["DURE_CHECKPOINT", "lots"]);
    let open = Dure::new("serve --listen 0.0.0.0:0 --http 127.0.0.1:0").dir(home.path()).run();
    assert_ne!(open.exit, Exit::Code(0), "{open}");
    open.says(&["--insecure"]);
    assert!(
        !home.path().join("data").exists() && !home.path().join("dure-data").exists(),
        "nothing was made"
    );
}

#[test]
fn config_show_tells_where_each_value_came_from() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("dure.toml");
    fs::write(&file, "connections-max = 77\nhello-timeout = \"3s\"\n").unwrap();
    let shown = Dure::new("config show --config").arg(file.to_str().unwrap());
    let shown = shown.env("DURE_HELLO_TIMEOUT", "4s").json_lines();
    let text = serde_json::to_string(&shown).unwrap();
    for expected in
        ["connections-max", "77", "dure.toml", "hello-timeout", "4s", "DURE_HELLO_TIMEOUT", "default"]
    {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
}
