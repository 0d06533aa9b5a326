//! The flags that set a topic's configuration.

use std::time::Duration;

use clap::Args;
use dure_broker::nearest;
use dure_broker::units::{show_duration, show_size};
use dure_client::{Cleanup, Durability, TopicConfig};

use super::args;
use super::failure::{Failure, Outcome};

/// The names of `--config NAME=VALUE`, which are those of the flags.
const NAMES: [&str; 9] = [
    "retention-time",
    "retention-size",
    "segment-size",
    "durability",
    "cleanup",
    "max-message",
    "tombstone-retention",
    "compact-after",
    "dedup-window",
];
/// Written where a limit is not wanted.
const NO_LIMIT: &str = "none";

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit<T>(Option<T>);

#[derive(Debug, Default, Args)]
pub(super) struct TopicConfigArgs {
    /// How long messages are kept, or `none` for ever [default: 7d].
    #[arg(long, value_name = "DURATION", value_parser = retention_time)]
    retention_time: Option<Limit<Duration>>,
    /// How much each partition keeps, or `none` [default: none].
    #[arg(long, value_name = "SIZE", value_parser = retention_size)]
    retention_size: Option<Limit<u64>>,
    /// The size at which a segment is full [default: 64MiB].
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    segment_size: Option<u64>,
    /// When a message is acknowledged: once synced (`sync`), or once written and synced every so often
    /// (`interval:100ms`) or by the system (`os`) [default: sync].
    #[arg(long, value_name = "sync|interval:100ms|os", value_parser = args::durability)]
    durability: Option<Durability>,
    /// What becomes of old messages: they go by age and size, also once every queue group has settled them, or once
    /// there is a newer one with the same key (chosen when the topic is created) [default: delete].
    #[arg(long, value_name = "delete|delete-when-settled|compact", value_parser = cleanup)]
    cleanup: Option<Cleanup>,
    /// The largest message: key, value and headers [default: 1MiB].
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    max_message: Option<u64>,
    /// Compacted topics: how long a null value is kept once it is all that is left of its key [default: 24h].
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    tombstone_retention: Option<Duration>,
    /// Compacted topics: how long a message waits at most, about, until compaction looks at it [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    compact_after: Option<Duration>,
    /// How long the ids of messages are remembered, of which a second one is not appended: 1s to 24h, or 0s not to
    /// [default: 2m].
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    dedup_window: Option<Duration>,
    /// The same by name, as in `--config retention-time=7d`.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = args::pair)]
    pairs: Vec<(String, String)>,
}

fn retention_time(text: &str) -> Result<Limit<Duration>, String> {
    if text == NO_LIMIT { Ok(Limit(None)) } else { args::duration(text).map(|time| Limit(Some(time))) }
}

fn retention_size(text: &str) -> Result<Limit<u64>, String> {
    if text == NO_LIMIT { Ok(Limit(None)) } else { args::size(text).map(|size| Limit(Some(size))) }
}

fn cleanup(text: &str) -> Result<Cleanup, String> {
    text.parse().map_err(|error: dure_client::UnknownName| error.to_string())
}

impl TopicConfigArgs {
    /// Whether nothing is to be changed.
    pub(super) fn is_empty(&self) -> bool {
        let TopicConfigArgs {
            retention_time,
            retention_size,
            segment_size,
            durability,
            cleanup,
            max_message,
            tombstone_retention,
            compact_after,
            dedup_window,
            pairs,
        } = self;
        retention_time.is_none()
            && retention_size.is_none()
            && segment_size.is_none()
            && durability.is_none()
            && cleanup.is_none()
            && max_message.is_none()
            && tombstone_retention.is_none()
            && compact_after.is_none()
            && dedup_window.is_none()
            && pairs.is_empty()
    }

    /// Changes what was given; a flag goes before the same in `--config`.
    pub(super) fn apply(&self, config: &mut TopicConfig) -> Outcome {
        let mut given = TopicConfigArgs::default();
        for (name, value) in &self.pairs {
            given.set(name, value).map_err(Failure::Usage)?;
        }
        if let Some(limit) = self.retention_time.or(given.retention_time) {
            config.retention = limit.0;
        }
        if let Some(limit) = self.retention_size.or(given.retention_size) {
            config.retention_bytes = limit.0;
        }
        if let Some(bytes) = self.segment_size.or(given.segment_size) {
            config.segment_bytes = bytes;
        }
        if let Some(durability) = self.durability.or(given.durability) {
            config.durability = durability;
        }
        if let Some(cleanup) = self.cleanup.or(given.cleanup) {
            config.cleanup = cleanup;
        }
        if let Some(bytes) = self.max_message.or(given.max_message) {
            let too_large = |_| Failure::Usage(format!("`max-message` cannot be {}", show_size(bytes)));
            config.message_bytes_max = u32::try_from(bytes).map_err(too_large)?;
        }
        if let Some(time) = self.tombstone_retention.or(given.tombstone_retention) {
            config.tombstone_retention = time;
        }
        if let Some(time) = self.compact_after.or(given.compact_after) {
            config.compact_after = time;
        }
        if let Some(time) = self.dedup_window.or(given.dedup_window) {
            config.dedup_window = time;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let in_pair = |why| format!("--config {name}: {why}");
        match name {
            "retention-time" => self.retention_time = Some(retention_time(value).map_err(in_pair)?),
            "retention-size" => self.retention_size = Some(retention_size(value).map_err(in_pair)?),
            "segment-size" => self.segment_size = Some(args::size(value).map_err(in_pair)?),
            "durability" => self.durability = Some(args::durability(value).map_err(in_pair)?),
            "cleanup" => self.cleanup = Some(cleanup(value).map_err(in_pair)?),
            "max-message" => self.max_message = Some(args::size(value).map_err(in_pair)?),
            "tombstone-retention" => self.tombstone_retention = Some(args::duration(value).map_err(in_pair)?),
            "compact-after" => self.compact_after = Some(args::duration(value).map_err(in_pair)?),
            "dedup-window" => self.dedup_window = Some(args::duration(value).map_err(in_pair)?),
            other => {
                let near = nearest(other, NAMES.into_iter()).unwrap_or_default();
                return Err(format!("--config: unknown setting `{other}`: did you mean `{near}`?"));
            }
        }
        Ok(())
    }
}

/// The configuration as it would be typed.
pub(super) fn shown(config: &TopicConfig) -> [(&'static str, String); 9] {
    let values = [
        config.retention.map_or(NO_LIMIT.to_owned(), show_duration),
        config.retention_bytes.map_or(NO_LIMIT.to_owned(), show_size),
        show_size(config.segment_bytes),
        config.durability.to_string(),
        config.cleanup.to_string(),
        show_size(config.message_bytes_max.into()),
        show_duration(config.tombstone_retention),
        show_duration(config.compact_after),
        show_duration(config.dedup_window),
    ];
    let mut names = NAMES.into_iter();
    values.map(|value| (names.next().expect("as many names as values"), value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        config: TopicConfigArgs,
    }

    fn applied(line: &[&str]) -> Outcome<TopicConfig> {
        let line = Line::try_parse_from(std::iter::once("dure").chain(line.iter().copied()));
        let mut config = TopicConfig::default();
        line.map_err(|error| Failure::Usage(error.to_string()))?.config.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn what_is_not_given_stays() {
        assert_eq!(applied(&[]), Ok(TopicConfig::default()));
        let config = applied(&["--retention-time", "none", "--max-message", "2MiB"]).unwrap();
        let expected = TopicConfig { retention: None, message_bytes_max: 2 << 20, ..TopicConfig::default() };
        assert_eq!(config, expected);
    }

    #[test]
    fn names_are_those_of_the_flags() {
        let typed = shown(&TopicConfig {
            retention_bytes: Some(10 << 30),
            durability: Durability::Interval(Duration::from_millis(100)),
            ..TopicConfig::default()
        });
        let pairs: Vec<String> =
            typed.iter().flat_map(|(n, v)| ["--config".into(), format!("{n}={v}")]).collect();
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        assert_eq!(shown(&applied(&pairs).unwrap()), typed);
        let flags: Vec<String> = typed.iter().flat_map(|(n, v)| [format!("--{n}"), v.clone()]).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(shown(&applied(&flags).unwrap()), typed);
    }

    #[test]
    fn an_unknown_name_names_the_nearest() {
        let Err(Failure::Usage(text)) = applied(&["--config", "max-mesage=1"]) else { panic!("taken") };
        assert!(text.contains("`max-message`"), "{text}");
        assert!(applied(&["--cleanup", "never"]).is_err());
        assert!(applied(&["--max-message", "5GiB"]).is_err());
    }
}
