//! What the broker counts of itself. Handles are made once; counting is an atomic addition. There is no global recorder,
//! so several brokers in one process do not mix.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use dure_proto::wire::ErrorCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::clock::Clock;

const SYNC_SECONDS: [f64; 13] =
    [0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.5, 2.0];

pub(crate) struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    pub(crate) messages_in: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    commits: Counter,
    commit_bytes: Counter,
    sync_seconds: Histogram,
    pub(crate) compaction_failures: Counter,
    scrub_bytes: Counter,
    scrub_passes: Counter,
    scrub_pass_time: Gauge,
    /// By kind; met rarely.
    scrub_findings: Mutex<HashMap<&'static str, Counter>>,
    requests: HashMap<&'static str, Counter>,
    /// By code; a code is met for the first time rarely.
    errors: Mutex<HashMap<i32, Counter>>,
}

/// Every request that is counted by name.
pub(crate) const REQUEST_NAMES: [&str; 29] = [
    "metadata",
    "create_topic",
    "alter_topic",
    "delete_topic",
    "purge_topic",
    "describe_topics",
    "init_producer",
    "produce",
    "read",
    "credit",
    "unsubscribe",
    "locate_offset",
    "create_group",
    "list_groups",
    "describe_group",
    "seek_group",
    "delete_group",
    "work_queue",
    "receive",
    "settle",
    "list_dead_letters",
    "redrive",
    "purge_dead_letters",
    "join_group",
    "heartbeat",
    "commit_offsets",
    "leave_group",
    "backup",
    "ping",
];

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("dure_sync_seconds".to_owned()), &SYNC_SECONDS)
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        let requests = with_local_recorder(&recorder, || {
            REQUEST_NAMES
                .iter()
                .map(|name| (*name, counter!("dure_requests_total", "request" => *name)))
                .collect()
        });
        let count = |name: &'static str| with_local_recorder(&recorder, || counter!(name));
        Metrics {
            handle,
            messages_in: count("dure_messages_in_total"),
            bytes_in: count("dure_bytes_in_total"),
            messages_out: count("dure_messages_out_total"),
            bytes_out: count("dure_bytes_out_total"),
            connections: with_local_recorder(&recorder, || gauge!("dure_connections")),
            connections_accepted: count("dure_connections_accepted_total"),
            connections_refused: count("dure_connections_refused_total"),
            commits: count("dure_commits_total"),
            commit_bytes: count("dure_commit_bytes_total"),
            sync_seconds: with_local_recorder(&recorder, || histogram!("dure_sync_seconds")),
            compaction_failures: count("dure_compaction_failures_total"),
            scrub_bytes: count("dure_scrub_bytes_total"),
            scrub_passes: count("dure_scrub_passes_total"),
            scrub_pass_time: with_local_recorder(&recorder, || {
                gauge!("dure_scrub_last_pass_timestamp_seconds")
            }),
            scrub_findings: with_local_recorder(&recorder, || {
                // There from the start, so that an alert sees the first one.
                let kinds = ["entries_lost", "read_failed"];
                Mutex::new(
                    kinds.map(|kind| (kind, counter!("dure_scrub_findings_total", "kind" => kind))).into(),
                )
            }),
            requests,
            errors: Mutex::default(),
            recorder,
        }
    }

    /// One commit is durable, or failed to become so.
    pub(crate) fn commit(&self, bytes: usize, took: Duration) {
        self.commits.increment(1);
        self.commit_bytes.increment(bytes as u64);
        self.sync_seconds.record(took.as_secs_f64());
    }

    /// The scrubber read so much, and perhaps the last of it.
    pub(crate) fn scrubbed(&self, bytes: u64, pass_done: bool) {
        self.scrub_bytes.increment(bytes);
        if pass_done {
            self.scrub_passes.increment(1);
            self.scrub_pass_time.set(Clock::new().now().wall_ms as f64 / 1000.0);
        }
    }

    pub(crate) fn scrub_finding(&self, kind: &'static str) {
        let mut findings = self.scrub_findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counter = findings.entry(kind).or_insert_with(|| {
            with_local_recorder(&self.recorder, || counter!("dure_scrub_findings_total", "kind" => kind))
        });
        counter.increment(1);
    }

    pub(crate) fn request(&self, name: &str) {
        if let Some(counter) = self.requests.get(name) {
            counter.increment(1);
        }
    }

    pub(crate) fn error(&self, code: i32) {
        let mut errors = self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counter = errors.entry(code).or_insert_with(|| {
            let name = ErrorCode::try_from(code).map_or("UNKNOWN", |code| code.as_str_name());
            with_local_recorder(&self.recorder, || counter!("dure_errors_total", "code" => name))
        });
        counter.increment(1);
    }

    /// What was counted, in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("dure_messages_in_total", "Messages received from producers.");
    describe_counter!("dure_bytes_in_total", "Bytes of record batches received from producers.");
    describe_counter!("dure_messages_out_total", "Messages delivered by queue groups.");
    describe_counter!("dure_bytes_out_total", "Bytes of records and entries sent to consumers.");
    describe_gauge!("dure_connections", "Native connections that are open.");
    describe_counter!("dure_connections_accepted_total", "Native connections let in.");
    describe_counter!("dure_connections_refused_total", "Native connections turned away at the limit.");
    describe_counter!("dure_commits_total", "Commits written and synced.");
    describe_counter!("dure_commit_bytes_total", "Bytes of commits.");
    describe_histogram!("dure_sync_seconds", "Time to write and sync one commit.");
    describe_counter!("dure_compaction_failures_total", "Passes of compaction that failed.");
    describe_counter!("dure_scrub_bytes_total", "Bytes of sealed segments that the scrubber has read.");
    describe_counter!(
        "dure_scrub_passes_total",
        "How often the scrubber has read everything that is sealed."
    );
    describe_gauge!(
        "dure_scrub_last_pass_timestamp_seconds",
        "When it had last read everything; 0: not yet."
    );
    describe_counter!("dure_scrub_findings_total", "Damage that the scrubber has found, by kind.");
    describe_counter!("dure_requests_total", "Requests by kind.");
    describe_counter!("dure_errors_total", "Error answers by code.");
}
