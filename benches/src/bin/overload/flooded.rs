//! Producers that take all there is: the broker holds them back, and its memory does not grow.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::payloads::Payloads;
use tokio::time::sleep;

use crate::report::{Judged, Row};

const PRODUCERS: usize = 4;
const PARTITIONS: u32 = 4;
const MESSAGE_BYTES: usize = 1024;
/// Messages in a row to one partition: a batch of them.
const RUN: u64 = 1000;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Memory of the second half by that of the first.
const GROWTH_MAX: f64 = 1.1;

pub(crate) async fn measure(quick: bool) -> Res<Row> {
    let time = Duration::from_secs(if quick { 6 } else { 20 });
    let stage = Stage::start(&[]).await?;
    stage.topic("flooded", PARTITIONS).await?;
    let producers = stage.producers("flooded", PRODUCERS).await?;
    let payloads = Payloads::new(MESSAGE_BYTES);
    let start_mb = stage.resident_mb();
    let mut samples = Vec::new();
    let load = stage.measured(flood(&producers, &payloads, RUN, Until::Time(time)));
    let sampling = async {
        loop {
            samples.push(stage.resident_mb());
            sleep(SAMPLE_EVERY).await;
        }
    };
    let done = tokio::select! {
        done = load => done?,
        () = sampling => unreachable!("it samples for ever"),
    };
    let (early_mb, late_mb) = halves(&samples);
    let peak_mb = early_mb.max(late_mb);
    Ok(Row {
        what: format!("{PRODUCERS} producers that take all there is, 1 KiB, {} s", time.as_secs()),
        messages_per_s: done.messages_per_s(),
        resident_mb: peak_mb,
        judged: Some(Judged::new(
            "highest RSS of the second half by that of the first",
            late_mb,
            early_mb,
            GROWTH_MAX,
        )),
        note: format!(
            "RSS {start_mb:.0} MB at the start, {:.0} more at its highest; {:.2} µs of the broker's processor time each",
            peak_mb - start_mb,
            done.cpu_us()
        ),
        ..Row::default()
    })
}

/// The highest of either half.
fn halves(samples: &[f64]) -> (f64, f64) {
    let (early, late) = samples.split_at(samples.len() / 2);
    let highest = |half: &[f64]| half.iter().copied().fold(0.0, f64::max);
    (highest(early), highest(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_between_the_halves() {
        assert_eq!(halves(&[1.0, 9.0, 3.0, 10.0]), (9.0, 10.0));
        assert_eq!(halves(&[]), (0.0, 0.0));
    }
}
