//! Latency at four fifths of the top rate, beside that of an idle broker.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::takers::Takers;
use dure_benches::payloads::Payloads;

use crate::report::{Judged, Row};

const MESSAGE_BYTES: usize = 1024;
const IDLE_RATE: f64 = 1000.0;
/// All of them are due at once.
const AT_ONCE: f64 = 1e9;
const SHARE: f64 = 0.8;
const RATIO_MAX: f64 = 2.0;

pub(crate) async fn measure(quick: bool) -> Res<Vec<Row>> {
    let time = Duration::from_secs(if quick { 3 } else { 10 });
    let messages = if quick { 500_000.0 } else { 2_000_000.0 };
    let stage = Stage::start(&[]).await?;
    stage.topic("top", 1).await?;
    let producers = stage.producers("top", 1).await?;
    let payloads = Payloads::new(MESSAGE_BYTES);
    let mut takers = Takers::new(stage.clock);
    takers.read(stage.connect().await?.stream("top").subscribe().await?);
    let (idle, idle_ages) = stage.steady(&producers, &payloads, IDLE_RATE, time, &takers).await?;
    let at_once = Duration::from_secs_f64(messages / AT_ONCE);
    let (top, _) = stage.steady(&producers, &payloads, AT_ONCE, at_once, &takers).await?;
    let top_rate = top.messages_per_s();
    let (busy, busy_ages) = stage.steady(&producers, &payloads, SHARE * top_rate, time, &takers).await?;
    let row = |what: String, messages_per_s| Row {
        what,
        messages_per_s,
        resident_mb: stage.resident_mb(),
        ..Row::default()
    };
    let p99 = |ages: &dure_benches::ages::Ages| ages.at_ms(0.99).unwrap_or(f64::NAN);
    let judged = Judged::new("p99 by the idle one", p99(&busy_ages), p99(&idle_ages), RATIO_MAX);
    Ok(vec![
        row("idle, 1 KiB from a producer to a reader".to_owned(), idle.messages_per_s())
            .with_ages(&idle_ages),
        Row {
            judged: Some(judged),
            note: format!("top rate just before: {top_rate:.0}/s, producer and reader on the same cores"),
            ..row(format!("the same at {:.0} % of the top rate", SHARE * 100.0), busy.messages_per_s())
        }
        .with_ages(&busy_ages),
    ])
}
