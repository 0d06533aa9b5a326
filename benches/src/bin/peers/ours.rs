//! DureMQ: the binary `dure` beside this program, driven by its own `dure bench`, which uses the client library.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use super::server::Server;
use super::wire::Res;

pub(crate) const NAME: &str = "DureMQ";
pub(crate) const ACKED: &str = "synced";

fn binary() -> Res<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("dure");
    match path.exists() {
        true => Ok(path),
        false => {
            Err("there is no `dure` beside this program: cargo build --release -p dure-broker --bins".into())
        }
    }
}

pub(crate) async fn start() -> Res<Server> {
    let binary = binary()?;
    let mut server = Server::start(|port, dir| {
        let mut command = Command::new(binary);
        command.args(["serve", "--http", "127.0.0.1:0", "--listen", &format!("127.0.0.1:{port}"), "--data"]);
        command.arg(dir.join("data"));
        Ok(command)
    })?;
    server.wait(|address| async move { Ok(TcpStream::connect(address).await?) }).await?;
    Ok(server)
}

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
