//! DureMQ: the binary `dure` beside this program, driven by its own `dure bench`, which uses the client library.

use std::time::Duration;

use dure_benches::broker::binary;
use dure_benches::server::Server;
use serde_json::Value;

use super::wire::Res;

pub(crate) const NAME: &str = "DureMQ";
pub(crate) const ACKED: &str = "synced";

async fn bench(server: &Server, line: &str) -> Res<Value> {
    let mut command = tokio::process::Command::new(binary()?);
    command.arg("bench").args(line.split_whitespace()).args(["-o", "json", "--server", &server.address]);
    let output = command.output().await?;
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout)?),
        false => Err(format!("bench {line}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn number(report: &Value, at: &str) -> Res<f64> {
    report.pointer(at).and_then(Value::as_f64).ok_or_else(|| format!("no {at} in {report}").into())
}

pub(crate) async fn produce(server: &Server, messages: u64, size: usize) -> Res<f64> {
    number(&bench(server, &format!("produce --messages {messages} --size {size}")).await?, "/seconds")
}

/// One message at a time on each connection: no more than one fits into what may be under way.
pub(crate) async fn produce_singly(
    server: &Server,
    connections: usize,
    messages: u64,
    size: usize,
) -> Res<f64> {
    let line = format!("produce --messages {messages} --size {size} --producers {connections} --inflight 1");
    number(&bench(server, &line).await?, "/seconds")
}

/// Every message that [`produce`] left leased and acknowledged by itself.
pub(crate) async fn queue(server: &Server, workers: usize) -> Res<f64> {
    number(&bench(server, &format!("queue --topic bench --workers {workers}")).await?, "/seconds")
}

pub(crate) async fn latency(server: &Server, rate: f64, time: Duration, size: usize) -> Res<(f64, f64)> {
    let line = format!("latency --rate {rate}/s --seconds {} --size {size}", time.as_secs());
    let report = bench(server, &line).await?;
    Ok((number(&report, "/p50_ms")?, number(&report, "/p99_ms")?))
}
