//! A fresh broker, what drives it through the client library, and what that cost it.
//!
//! [`flood`] sends as fast as it goes, [`steady`] at a fixed rate; [`takers`] read or work what comes and say how old it was.

pub mod flood;
pub mod steady;
pub mod takers;

use std::time::Duration;

use dure_client::{Client, Producer, TopicConfig};
use tokio::time::Instant;

use crate::ages::{Ages, Clock};
use crate::pace::Schedule;
use crate::payloads::Payloads;
use crate::server::Server;
use crate::{Res, broker};
use takers::Takers;

/// Sent before anything is measured, so that nothing is done for the first time.
const WARM_UP: Duration = Duration::from_millis(500);
const WARM_UP_RATE_MAX: f64 = 5000.0;

/// A broker with a client.
#[derive(Debug)]
pub struct Stage {
    /// The broker; its directory goes with it.
    pub server: Server,
    /// For whatever needs no connection of its own.
    pub client: Client,
    /// What payloads are stamped by.
    pub clock: Clock,
}

/// What was done, in which time, for how much of the broker's processor time.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Taken by the broker, or by whoever takes: the load says which.
    pub messages: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// The broker's.
    pub cpu_seconds: f64,
}

impl Done {
    /// The rate.
    #[must_use]
    pub fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// Microseconds of the broker's processor time for each message.
    #[must_use]
    pub fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.messages as f64
    }
}

impl Stage {
    /// Starts a broker with these flags beside its defaults.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(flags: &[&str]) -> Res<Stage> {
        let server = broker::start(flags).await?;
        let client = Client::connect(&server.address).await?;
        Ok(Stage { server, client, clock: Clock::start() })
    }

    /// One more connection.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn connect(&self) -> Res<Client> {
        Ok(Client::connect(&self.server.address).await?)
    }

    /// Makes a topic with default settings.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn topic(&self, name: &str, partitions: u32) -> Res {
        Ok(self.client.admin().create_topic(name, partitions, &TopicConfig::default()).await?)
    }

    /// So many producers, each with a connection of its own.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn producers(&self, topic: &str, count: usize) -> Res<Vec<Producer>> {
        let mut producers = Vec::with_capacity(count);
        for _ in 0..count {
            producers.push(self.connect().await?.producer(topic).build().await?);
        }
        Ok(producers)
    }

    /// Runs a load, which says how many messages it was.
    ///
    /// # Errors
    /// Those of the load.
    pub async fn measured(&self, load: impl Future<Output = Res<u64>>) -> Res<Done> {
        let (began, cpu) = (Instant::now(), self.server.cpu_seconds());
        let messages = load.await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Done { messages, seconds, cpu_seconds: self.server.cpu_seconds() - cpu })
    }

    /// Sends at a fixed rate until every taker's group has everything, after a warm-up. Counts what was taken; ages are
    /// from the intended send time until a taker had it.
    ///
    /// # Errors
    /// If something does not arrive.
    pub async fn steady(
        &self,
        producers: &[Producer],
        payloads: &Payloads,
        rate: f64,
        time: Duration,
        takers: &Takers,
    ) -> Res<(Done, Ages)> {
        let sent = |rate, time| async move {
            let schedule = Schedule { began: Instant::now(), rate, time };
            let before = takers.count();
            steady::send(producers, payloads, self.clock, schedule).await?;
            let expected = schedule.messages() * takers.groups();
            takers.wait_for(before + expected).await?;
            Ok(expected)
        };
        sent(rate.min(WARM_UP_RATE_MAX), WARM_UP).await?;
        takers.forget();
        let done = self.measured(sent(rate, time)).await?;
        Ok((done, takers.ages()))
    }

    /// What the broker keeps in memory.
    #[must_use]
    pub fn resident_mb(&self) -> f64 {
        self.server.resident_bytes() as f64 / 1e6
    }
}
