//! What can be set: one table, from which flags, variables, file keys and `config show` follow.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dure_engine::{JOURNAL_PIECE_BYTES_MIN, PRODUCER_SESSIONS_MAX, ShardConfig};

use super::ConfigError;
use crate::units::{parse_duration, parse_size, show_duration, show_size};

/// Everything that `serve` needs to know. The default is that of `dure serve`.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// Where the native protocol listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where HTTP listens; port 0 picks a free one.
    pub http: SocketAddr,
    /// Names beside the loopback ones that HTTP answers to.
    pub http_hosts: Vec<String>,
    /// Addresses that other machines can reach are allowed without authentication.
    pub insecure: bool,
    /// How logs are written; for whoever installs the subscriber.
    pub log_format: LogFormat,
    /// Native connections at once.
    pub connections_max: u32,
    /// Bytes of all requests that the shards have not answered yet.
    pub inflight_bytes_max: u32,
    /// Bytes of requests not yet answered on one connection.
    pub connection_inflight_bytes_max: u32,
    /// Bytes of decoded batches kept for queue groups.
    pub batch_cache_bytes_max: u64,
    /// Sizes of the shards. Salt and seed are set by `serve`.
    pub shard: ShardConfig,
    /// How long a new connection has for its Hello.
    pub hello_timeout: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_timeout: Duration,
    /// How long stopping may take.
    pub shutdown_timeout: Duration,
}

/// How logs are written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// One setting.
#[derive(Debug)]
pub struct SettingSpec {
    /// Its name, as in the file and behind `--`.
    pub name: &'static str,
    /// What it does, one line.
    pub help: &'static str,
    pub(super) set: fn(&mut ServeOptions, &str) -> Result<(), String>,
    pub(super) show: fn(&ServeOptions) -> String,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            data: PathBuf::from("./dure-data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7650)),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7651)),
            http_hosts: Vec::new(),
            insecure: false,
            log_format: LogFormat::Text,
            connections_max: CONNECTIONS_MAX_DEFAULT,
            inflight_bytes_max: 64 << 20,
            connection_inflight_bytes_max: 16 << 20,
            batch_cache_bytes_max: 16 << 20,
            shard: ShardConfig { scrub_bytes_per_s: 4 << 20, ..ShardConfig::default() },
            hello_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(9),
        }
    }
}

impl ServeOptions {
    /// What no single value shows.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (name, address) in [("listen", self.listen), ("http", self.http)] {
            if !self.insecure && !address.ip().is_loopback() {
                return Err(ConfigError::NotLoopback { name, address });
            }
        }
        let ShardConfig { reserve_bytes, journal_piece_bytes: piece_bytes, .. } = self.shard;
        if reserve_bytes != 0 && reserve_bytes < 4 * piece_bytes {
            return Err(ConfigError::SmallReserve { reserve_bytes, piece_bytes });
        }
        Ok(())
    }
}

/// A producer on each of them has a session that its partition remembers.
const CONNECTIONS_MAX_DEFAULT: u32 = 10_000;
const _: () = assert!(CONNECTIONS_MAX_DEFAULT as usize <= PRODUCER_SESSIONS_MAX);

/// A request of the largest frame must fit, with what it costs beside its bytes.
const INFLIGHT_BYTES_MIN: u64 = 16 << 20;
const _: () = assert!(INFLIGHT_BYTES_MIN as usize >= dure_proto::FRAME_BYTES_MAX);
/// Semaphores count in 32 bits, with room to spare.
const INFLIGHT_BYTES_MAX: u64 = 1 << 30;

/// Every setting of `dure serve`, in the order in which they are shown.
pub const SETTINGS: &[SettingSpec] = &[
    SettingSpec {
        name: "data",
        help: "data directory; made if it is not there",
        set: |o, text| match text {
            "" => Err("it is empty: give a directory".to_owned()),
            path => {
                o.data = PathBuf::from(path);
                Ok(())
            }
        },
        show: |o| o.data.display().to_string(),
    },
    SettingSpec {
        name: "listen",
        help: "address of the native protocol; port 0 picks a free one",
        set: |o, text| address(text).map(|address| o.listen = address),
        show: |o| o.listen.to_string(),
    },
    SettingSpec {
        name: "http",
        help: "address of HTTP; port 0 picks a free one",
        set: |o, text| address(text).map(|address| o.http = address),
        show: |o| o.http.to_string(),
    },
    SettingSpec {
        name: "http-hosts",
        help: "host names, separated by commas, that HTTP answers to beside the loopback ones",
        set: |o, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            o.http_hosts = names.map(str::to_ascii_lowercase).collect();
            Ok(())
        },
        show: |o| o.http_hosts.join(","),
    },
    SettingSpec {
        name: "insecure",
        help: "allow addresses that other machines can reach although nobody has to authenticate",
        set: |o, text| switch(text).map(|on| o.insecure = on),
        show: |o| o.insecure.to_string(),
    },
    SettingSpec {
        name: "log-format",
        help: "how logs are written to stderr: text or json",
        set: |o, text| {
            o.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format!("`{text}` is neither `text` nor `json`")),
            };
            Ok(())
        },
        show: |o| match o.log_format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
    },
    SettingSpec {
        name: "connections-max",
        help: "native connections at once",
        set: |o, text| number(text, 1, 1_000_000).map(|n| o.connections_max = n),
        show: |o| o.connections_max.to_string(),
    },
    SettingSpec {
        name: "inflight-max",
        help: "bytes of all requests not yet answered",
        set: |o, text| inflight(text).map(|n| o.inflight_bytes_max = n),
        show: |o| show_size(o.inflight_bytes_max.into()),
    },
    SettingSpec {
        name: "connection-inflight-max",
        help: "bytes of requests not yet answered on one connection",
        set: |o, text| inflight(text).map(|n| o.connection_inflight_bytes_max = n),
        show: |o| show_size(o.connection_inflight_bytes_max.into()),
    },
    SettingSpec {
        name: "batch-cache-max",
        help: "bytes of decoded batches kept for queue groups",
        set: |o, text| parse_size(text).map(|n| o.batch_cache_bytes_max = n),
        show: |o| show_size(o.batch_cache_bytes_max),
    },
    SettingSpec {
        name: "journal-piece",
        help: "size of one piece of the journal",
        set: |o, text| {
            bounded_size(text, JOURNAL_PIECE_BYTES_MIN, 1 << 30).map(|n| o.shard.journal_piece_bytes = n)
        },
        show: |o| show_size(o.shard.journal_piece_bytes),
    },
    SettingSpec {
        name: "checkpoint",
        help: "a checkpoint is made when the journal has grown by this much; bounds how long recovery takes",
        set: |o, text| bounded_size(text, 1 << 20, 64 << 30).map(|n| o.shard.checkpoint_bytes = n),
        show: |o| show_size(o.shard.checkpoint_bytes),
    },
    SettingSpec {
        name: "reserve",
        help: "bytes of the disk that producing never touches, so that acking and deleting go on; four journal pieces or more",
        set: |o, text| parse_size(text).map(|n| o.shard.reserve_bytes = n),
        show: |o| show_size(o.shard.reserve_bytes),
    },
    SettingSpec {
        name: "scrub-rate",
        help: "how much of the sealed segments is read again in a second to find damage early; 0: nothing",
        set: |o, text| parse_size(text).map(|n| o.shard.scrub_bytes_per_s = n),
        show: |o| show_size(o.shard.scrub_bytes_per_s),
    },
    SettingSpec {
        name: "page-cache",
        help: "how much of what was written last stays in the page cache for readers; what is older is read from the disk",
        set: |o, text| parse_size(text).map(|n| o.shard.page_cache_bytes = n),
        show: |o| show_size(o.shard.page_cache_bytes),
    },
    SettingSpec {
        name: "hello-timeout",
        help: "how long a new connection has for its handshake",
        set: |o, text| timeout(text).map(|t| o.hello_timeout = t),
        show: |o| show_duration(o.hello_timeout),
    },
    SettingSpec {
        name: "frame-timeout",
        help: "how long a frame may take from its first byte to its last",
        set: |o, text| timeout(text).map(|t| o.frame_timeout = t),
        show: |o| show_duration(o.frame_timeout),
    },
    SettingSpec {
        name: "shutdown-timeout",
        help: "how long stopping may take before what is left is cut off",
        set: |o, text| timeout(text).map(|t| o.shutdown_timeout = t),
        show: |o| show_duration(o.shutdown_timeout),
    },
];

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is not an address: write it as `127.0.0.1:7650` or `[::1]:7650`"))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| (min..=max).contains(n));
    number.ok_or_else(|| format!("`{text}` is not a number from {min} to {max}"))
}

fn inflight(text: &str) -> Result<u32, String> {
    let bytes = bounded_size(text, INFLIGHT_BYTES_MIN, INFLIGHT_BYTES_MAX)?;
    Ok(u32::try_from(bytes).expect("bounded above"))
}

fn bounded_size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if !(min..=max).contains(&bytes) {
        return Err(format!("`{text}` is not between {} and {}", show_size(min), show_size(max)));
    }
    Ok(bytes)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout.is_zero() || timeout > Duration::from_secs(3600) {
        return Err(format!("`{text}` is not between 1ms and 1h"));
    }
    Ok(timeout)
}
