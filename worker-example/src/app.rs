//! The program around the library: what is typed, the processes, the loop that scales them.
//!
//! `demo` is read downward: [`demo`] starts a broker ([`broker`]), puts photos into the store and jobs into the
//! queue ([`folder`], [`submit`]), and steps the pool ([`pool`]: figures, decision, [`fleet`]) until all is done.
//! Broker and workers are this same program, started again; they end when their standard input does, so that
//! none outlives whoever started it.

mod args;
mod broker;
mod demo;
mod failure;
mod fleet;
mod folder;
mod outcome;
mod pool;
mod progress;
mod queue;
mod scale_log;
mod stop;
mod submit;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Verb};
use clap::Parser as _;
use failure::Failure;
use stop::Stop;

/// Threads of the blocking pool may still be at work when all that matters is done.
const RUNTIME_SHUTDOWN_TIME: Duration = Duration::from_millis(200);

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::failed(format!("cannot start threads: {error}")))),
    };
    let done = runtime.block_on(run(args.verb));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIME);
    end(done)
}

async fn run(verb: Verb) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    match verb {
        Verb::Demo(args) => demo::run(args, &stop).await,
        Verb::Submit(args) => submit::run(args, &stop).await,
        Verb::Worker(args) => worker::run(args, &stop).await,
        Verb::Pool(args) => pool::run(args, &stop).await,
        Verb::Broker(args) => broker::serve(args, &stop).await,
    }
}

fn end(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("photo-pipeline: {failure}");
            failure.exit_code()
        }
    }
}
