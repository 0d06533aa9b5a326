//! Latency at the end of a log while others read it slowly, or from its beginning and a cold disk.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::ages::Ages;
use dure_benches::load::flood::{Until, flood};
use dure_benches::load::takers::Takers;
use dure_benches::load::{Done, Stage};
use dure_benches::payloads::Payloads;
use dure_client::{Client, Start};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cold::ColdReader;
use crate::report::{Judged, Row};

const TOPIC: &str = "tail";
const RATE: f64 = 5000.0;
const MESSAGE_BYTES: usize = 100;
const OLD_MESSAGE_BYTES: usize = 1024;
/// So that hardly anything of the old stays cached by itself.
const FLAGS: [&str; 2] = ["--page-cache", "64MiB"];
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Until what was written has been checkpointed and the disk is quiet.
const SETTLE: Duration = Duration::from_secs(3);
/// Until a neighbour is at work.
const BEGINS: Duration = Duration::from_millis(300);
const RATIO_MAX: f64 = 2.0;

/// Who reads beside the consumer whose latency is measured.
#[derive(Clone, Copy, Debug)]
struct Beside {
    what: &'static str,
    slow: bool,
    cold: bool,
}

const CASES: [Beside; 4] = [
    Beside { what: "alone", slow: false, cold: false },
    Beside { what: "beside a slow consumer", slow: true, cold: false },
    Beside { what: "beside a catch-up reader from the cold disk", slow: false, cold: true },
    Beside { what: "beside both", slow: true, cold: true },
];

/// What one round of one case gave.
struct Round {
    done: Done,
    ages: Ages,
    cold_mb_per_s: f64,
}

/// The end of a log under the same load all the time.
struct Tail {
    stage: Stage,
    producers: Vec<dure_client::Producer>,
    payloads: Payloads,
    takers: Takers,
    time: Duration,
}

pub(crate) async fn measure(quick: bool) -> Res<Vec<Row>> {
    let (rounds, old_messages, seconds) = if quick { (1, 1_500_000, 3) } else { (3, 4_000_000, 6) };
    let tail = Tail::start(old_messages, Duration::from_secs(seconds)).await?;
    let mut measured = CASES.map(|case| (case, Vec::new()));
    for _ in 0..rounds {
        for (case, rounds) in &mut measured {
            rounds.push(tail.round(*case).await?);
        }
    }
    let alone = median(&measured[0].1, p99);
    let rows = measured.iter().map(|(case, rounds)| tail.row(*case, rounds, alone));
    Ok(rows.collect())
}

impl Tail {
    async fn start(old_messages: u64, time: Duration) -> Res<Tail> {
        let stage = Stage::start(&FLAGS).await?;
        stage.topic(TOPIC, 1).await?;
        let producers = stage.producers(TOPIC, 1).await?;
        flood(&producers, &Payloads::new(OLD_MESSAGE_BYTES), 1, Until::Messages(old_messages)).await?;
        sleep(SETTLE).await;
        let mut takers = Takers::new(stage.clock);
        takers.read(stage.connect().await?.stream(TOPIC).from(Start::Latest).subscribe().await?);
        Ok(Tail { stage, producers, payloads: Payloads::new(MESSAGE_BYTES), takers, time })
    }

    async fn round(&self, beside: Beside) -> Res<Round> {
        let cold = match beside.cold {
            true => {
                let data = self.stage.server.dir.path().join("data");
                Some(ColdReader::start(self.stage.server.address.clone(), TOPIC, data))
            }
            false => None,
        };
        let slow = if beside.slow { Some(slow_consumer(self.stage.connect().await?)) } else { None };
        sleep(BEGINS).await;
        let (began, before) = (Instant::now(), cold.as_ref().map_or(0, ColdReader::bytes));
        let (done, ages) =
            self.stage.steady(&self.producers, &self.payloads, RATE, self.time, &self.takers).await?;
        let read = cold.as_ref().map_or(0, ColdReader::bytes) - before;
        let cold_mb_per_s = read as f64 / 1e6 / began.elapsed().as_secs_f64();
        if let Some(cold) = cold {
            cold.stop()?;
        }
        if let Some(slow) = slow {
            slow.abort();
        }
        Ok(Round { done, ages, cold_mb_per_s })
    }

    fn row(&self, case: Beside, rounds: &[Round], alone_p99_ms: f64) -> Row {
        let at = |share: f64| Some(median(rounds, |round| round.ages.at_ms(share).unwrap_or(f64::NAN)));
        let beside = case.slow || case.cold;
        let judged = Judged::new("p99 by that alone", median(rounds, p99), alone_p99_ms, RATIO_MAX);
        let cold_mb_per_s = median(rounds, |round| round.cold_mb_per_s);
        Row {
            what: format!("end of a log, 100 B at 5,000/s, {}", case.what),
            messages_per_s: median(rounds, |round| round.done.messages_per_s()),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            resident_mb: self.stage.resident_mb(),
            judged: beside.then_some(judged),
            note: if case.cold { format!("{cold_mb_per_s:.0} MB/s read") } else { String::new() },
        }
    }
}

fn p99(round: &Round) -> f64 {
    round.ages.at_ms(0.99).unwrap_or(f64::NAN)
}

fn median(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Begins at the end as well, and falls behind.
fn slow_consumer(client: Client) -> JoinHandle<Res> {
    tokio::spawn(async move {
        let mut stream = client.stream(TOPIC).from(Start::Latest).subscribe().await?;
        while let Some(message) = stream.next().await {
            message?;
            sleep(SLOW_PAUSE).await;
        }
        Ok(())
    })
}
