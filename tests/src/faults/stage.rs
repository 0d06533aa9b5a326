//! A broker with its load and their history: what a fault strikes.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::audit::audit;
use super::check::{self, Violation};
use super::history::{At, Event, History, What};
use super::load::{Load, RULES, Shape};
use crate::harness::{Broker, BrokerBuilder, Dure, Exit};

/// A broker that lives through some cycles.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The broker.
    pub(crate) broker: Broker,
    /// Draws what the cycle's seed decides.
    pub(crate) rng: Rng,
    history: History,
    load: Load,
}

impl Stage {
    /// Starts a broker on an empty directory and creates what the load needs.
    ///
    /// # Errors
    /// If the broker refuses.
    pub(crate) fn set(builder: BrokerBuilder, shape: Shape) -> Result<Stage, Violation> {
        let broker = builder.start();
        let history = History::default();
        let load = Load::new(history.clone(), shape);
        let stage = Stage { broker, rng: Rng::new(), history, load };
        let created = stage.load.set_up(&stage.servers());
        created.map_err(|error| Violation::conduct(format!("creating topics and groups: {error}")))?;
        Ok(stage)
    }

    /// Where clients connect.
    #[must_use]
    pub(crate) fn servers(&self) -> String {
        self.broker.native().to_string()
    }

    /// Lets the load begin.
    pub(crate) fn start_load(&mut self) {
        let servers = self.servers();
        self.load.start(&servers, &mut self.rng);
    }

    /// Lets the load finish what it is about.
    pub(crate) fn stop_load(&mut self) {
        self.load.stop();
    }

    /// Lets the load go on for a random time.
    pub(crate) fn run_on(&mut self, ms: Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.rng.u64(ms)));
    }

    /// Runs a future among the clients of the load.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.load.block_on(future)
    }

    /// Everything that is done within is part of the fault: until it ends, the broker owes only what faults leave.
    pub(crate) fn fault<T>(&mut self, what: &str, happen: impl FnOnce(&mut Stage) -> T) -> T {
        let open = self.history.begin(What::Fault { what: what.to_owned() });
        let done = happen(self);
        self.history.end(open, |_| ());
        done
    }

    /// The present moment of the history.
    #[must_use]
    pub(crate) fn now(&self) -> At {
        self.history.now()
    }

    /// What was done up to now.
    #[must_use]
    pub(crate) fn events(&self) -> Vec<Event> {
        self.history.events()
    }

    /// Has everything looked at and judged. The load is at rest.
    #[must_use]
    pub(crate) fn judge(&self) -> Vec<Violation> {
        if let Err(error) = self.block_on(audit(&self.history, &self.servers())) {
            return vec![Violation::conduct(format!("looking at what is there: {error}"))];
        }
        check::check(&self.history.events(), &RULES)
    }

    /// Stops the broker and has its files verified.
    ///
    /// # Errors
    /// What `log verify` finds.
    pub(crate) fn verify_files(&mut self) -> Result<(), Violation> {
        self.broker.stop();
        let data = self.broker.data();
        let verified = Dure::new("log verify --data").arg(data.to_str().expect("UTF-8")).run();
        if verified.exit == Exit::Code(0) {
            return Ok(());
        }
        Err(Violation::conduct(format!("log verify: {verified}")))
    }
}
