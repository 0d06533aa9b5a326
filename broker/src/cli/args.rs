//! Arguments that many verbs share, and how values are read.

use std::time::{Duration, SystemTime};

use clap::Args;
use dure_broker::units::{parse_duration, parse_size};
use dure_client::{Client, Durability, Start};

use super::failure::{Failure, Outcome};
use super::out::Format;
use super::units::now_ms;

/// Which broker.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// The broker; several are tried in turn.
    #[arg(
        long,
        env = "DURE_SERVER",
        default_value = "127.0.0.1:7650",
        value_name = "HOST:PORT[,HOST:PORT…]",
        value_parser = servers
    )]
    server: String,
}

impl ServerArgs {
    /// As `--server` takes it.
    pub(super) fn addresses(&self) -> &str {
        &self.server
    }

    /// Connects, under the name that group descriptions show.
    pub(super) async fn connect(&self) -> Outcome<Client> {
        let connecting = Client::builder().servers(&self.server).connect();
        connecting.await.map_err(|error| Failure::cannot(format!("connect to {}", self.server), &error))
    }
}

/// How a list, a description or a result is shown.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// How it is shown.
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub(super) format: Format,
}

/// How messages are shown.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct MessageOutputArgs {
    /// How messages are shown [default: table on a terminal, raw otherwise].
    #[arg(short = 'o', long = "output", value_name = "FORMAT")]
    pub(super) format: Option<Format>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A place that stands.
    At(Start),
    /// So long before now.
    Ago(Duration),
}

impl From {
    pub(super) fn start(self) -> Start {
        match self {
            From::At(start) => start,
            From::Ago(ago) => Start::Time(now_ms().saturating_sub(whole_ms(ago))),
        }
    }
}

pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `earliest`, `latest`, `offset:N`, `time:RFC3339`, `ago:1h`.
pub(super) fn from(text: &str) -> Result<From, String> {
    if let Some(ago) = text.strip_prefix("ago:") {
        return parse_duration(ago).map(From::Ago);
    }
    start(text).map(From::At).map_err(|why| format!("{why}, or `ago:1h`"))
}

/// `earliest`, `latest`, `offset:N`, `time:RFC3339`.
pub(super) fn start(text: &str) -> Result<Start, String> {
    let expected = || {
        format!(
            "`{text}` is not a place in a log: write `earliest`, `latest`, `offset:N`, \
             `time:2026-01-31T12:00:00Z`"
        )
    };
    match text.split_once(':') {
        None if text == "earliest" => Ok(Start::Earliest),
        None if text == "latest" => Ok(Start::Latest),
        Some(("offset", offset)) => offset.parse().map(Start::Offset).map_err(|_| expected()),
        Some(("time", time)) => {
            let time: jiff::Timestamp = time.parse().map_err(|_| expected())?;
            // Before 1970 means from the beginning.
            Ok(Start::Time(u64::try_from(time.as_millisecond()).unwrap_or(0)))
        }
        _ => Err(expected()),
    }
}

/// A time such as `2026-01-31T12:00:00Z`. One before 1970 is as past as 1970.
pub(super) fn time(text: &str) -> Result<SystemTime, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        format!("`{text}` is not a time: write it as 2026-01-31T12:00:00Z or with an offset, +01:00")
    })?;
    let ms = u64::try_from(time.as_millisecond()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// A duration that is not nothing, such as a lease.
pub(super) fn some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_size(text)
}

/// `sync`, `interval:100ms`, `os`.
pub(super) fn durability(text: &str) -> Result<Durability, String> {
    match (text, text.strip_prefix("interval:")) {
        ("sync", _) => Ok(Durability::Sync),
        ("os", _) => Ok(Durability::Os),
        (_, Some(interval)) => some_duration(interval).map(Durability::Interval),
        _ => Err(format!("`{text}` is no durability: write `sync`, `interval:100ms` or `os`")),
    }
}

/// `name=value`, split at the first `=`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

/// `1s..5m`.
pub(super) fn backoff(text: &str) -> Result<(Duration, Duration), String> {
    let expected = || format!("`{text}` is no backoff: write the first and the longest delay as `1s..5m`");
    let (first, longest) = text.split_once("..").ok_or_else(expected)?;
    let (first, longest) = (parse_duration(first)?, parse_duration(longest)?);
    if first > longest { Err(expected()) } else { Ok((first, longest)) }
}

/// `100/s`, `30/m`, or a plain number per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let expected = || format!("`{text}` is no rate: write it as `100/s` or `30/m`");
    let (number, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(expected()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number / seconds),
        _ => Err(expected()),
    }
}

fn servers(text: &str) -> Result<String, String> {
    let servers: Vec<&str> = text.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
    let is_address = |server: &&str| {
        server.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match servers.iter().find(|server| !is_address(server)) {
        Some(bad) => Err(format!("`{bad}` is not an address: expected HOST:PORT")),
        None if servers.is_empty() => Err("expected HOST:PORT[,HOST:PORT…]".to_owned()),
        None => Ok(servers.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_log() {
        assert_eq!(from("earliest"), Ok(From::At(Start::Earliest)));
        assert_eq!(from("latest"), Ok(From::At(Start::Latest)));
        assert_eq!(from("offset:17"), Ok(From::At(Start::Offset(17))));
        assert_eq!(from("time:1970-01-01T00:00:01.5Z"), Ok(From::At(Start::Time(1500))));
        assert_eq!(from("time:1970-01-01T02:00:00+02:00"), Ok(From::At(Start::Time(0))));
        assert_eq!(from("ago:1h"), Ok(From::Ago(Duration::from_secs(3600))));
        for text in ["", "first", "offset:", "offset:-1", "time:yesterday", "ago:1", "17"] {
            assert!(from(text).is_err(), "{text}");
        }
        assert!(start("ago:1h").is_err());
    }

    #[test]
    fn durabilities() {
        assert_eq!(durability("sync"), Ok(Durability::Sync));
        assert_eq!(durability("os"), Ok(Durability::Os));
        assert_eq!(durability("interval:100ms"), Ok(Durability::Interval(Duration::from_millis(100))));
        for text in ["", "none", "interval", "interval:", "interval:0ms", "interval:1"] {
            assert!(durability(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn backoffs_rise() {
        assert_eq!(backoff("1s..5m"), Ok((Duration::from_secs(1), Duration::from_secs(300))));
        assert!(backoff("5m..1s").is_err() && backoff("1s").is_err() && backoff("1..2").is_err());
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate("100/s"), Ok(100.0));
        assert_eq!(rate("30/m"), Ok(0.5));
        assert_eq!(rate("7"), Ok(7.0));
        for text in ["", "0", "-1/s", "nan", "inf", "1/d"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    /// Whatever is typed, the answer is a value or an error: nothing runs over.
    #[test]
    fn no_text_makes_a_reader_of_values_panic() {
        let pieces = [
            "",
            "-",
            "+",
            ".",
            "..",
            "/",
            ":",
            "=",
            ",",
            "0",
            "1",
            "9",
            "18446744073709551615",
            "1e308",
            "-1",
            "inf",
            "nan",
            "ms",
            "s",
            "m",
            "h",
            "d",
            "KiB",
            "TiB",
            "B",
            "time:",
            "ago:",
            "offset:",
            "interval:",
            "sync",
            "latest",
            "9999-12-31T23:59:59Z",
            "-009999-01-01T00:00:00Z",
            "[::1]",
            "65536",
            "é",
            "\u{0}",
            " ",
        ];
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..50_000 {
            let text: String = (0..rng.usize(0..5)).map(|_| pieces[rng.usize(0..pieces.len())]).collect();
            if let Ok(from) = from(&text) {
                from.start();
            }
            let _ = (start(&text), some_duration(&text), size(&text), durability(&text));
            let _ = (pair(&text), backoff(&text), rate(&text), servers(&text));
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(servers("a:1, [::1]:2,"), Ok("a:1,[::1]:2".into()));
        assert!(
            servers("a").is_err()
                && servers("a:b").is_err()
                && servers(",").is_err()
                && servers(":1").is_err()
        );
    }
}
