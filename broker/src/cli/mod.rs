//! The command line, one family of verbs per file.
//!
//! A verb is a struct of clap arguments and an async function that runs to a [`failure::Outcome`]. Data goes to stdout
//! through [`out::Out`], everything else to stderr. A verb's own future may block on stdout: whatever must go on
//! meanwhile (heartbeats, lease renewal, sending) runs in tasks of its own.

mod args;
mod autoscale;
mod backup;
mod bench;
mod completions;
mod config;
mod confirm;
mod consume;
mod dlq;
mod failure;
mod group;
mod log;
mod out;
mod produce;
mod receive;
mod restore;
mod serve;
mod signals;
mod table;
mod topic;
mod topic_config;
mod units;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use failure::{Failure, Outcome};

/// What is still running when a verb is done gets this long.
const LEAVING_MAX: Duration = Duration::from_millis(200);

/// DureMQ: a durable message queue broker. What it acknowledged is on disk.
#[derive(Debug, Parser)]
#[command(
    name = "dure",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Example: a broker, a topic, a message, and the message read back\n  \
        dure serve --data ./dure-data &\n  \
        dure topic create greetings\n  \
        echo hello | dure produce greetings\n  \
        dure consume greetings"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::ServeArgs),
    #[command(subcommand)]
    Config(config::ConfigVerb),
    #[command(subcommand)]
    Topic(topic::TopicVerb),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Receive(receive::ReceiveArgs),
    Ack(receive::AckArgs),
    Release(receive::ReleaseArgs),
    Reject(receive::RejectArgs),
    Extend(receive::ExtendArgs),
    Work(work::WorkArgs),
    Autoscale(autoscale::AutoscaleArgs),
    #[command(subcommand)]
    Group(group::GroupVerb),
    #[command(subcommand)]
    Dlq(dlq::DlqVerb),
    #[command(subcommand)]
    Log(log::LogVerb),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    #[command(subcommand)]
    Bench(bench::BenchVerb),
    Completions(completions::CompletionsArgs),
}

impl Verb {
    async fn run(self) -> Outcome {
        match self {
            Verb::Serve(args) => serve::run(args).await,
            Verb::Config(verb) => config::run(verb),
            Verb::Topic(verb) => signals::interruptible(topic::run(verb)).await,
            Verb::Produce(args) => signals::interruptible(produce::run(args)).await,
            Verb::Consume(args) => consume::run(args).await,
            Verb::Receive(args) => signals::interruptible(receive::run(args)).await,
            Verb::Ack(args) => signals::interruptible(receive::ack(args)).await,
            Verb::Release(args) => signals::interruptible(receive::release(args)).await,
            Verb::Reject(args) => signals::interruptible(receive::reject(args)).await,
            Verb::Extend(args) => signals::interruptible(receive::extend(args)).await,
            Verb::Work(args) => work::run(args).await,
            Verb::Autoscale(args) => autoscale::run(args).await,
            Verb::Group(verb) => signals::interruptible(group::run(verb)).await,
            Verb::Dlq(verb) => signals::interruptible(dlq::run(verb)).await,
            Verb::Log(verb) => log::run(verb),
            Verb::Backup(args) => signals::interruptible(backup::run(args)).await,
            Verb::Restore(args) => restore::run(&args),
            Verb::Bench(verb) => signals::interruptible(bench::run(verb)).await,
            Verb::Completions(args) => completions::run(&args),
        }
    }
}

/// Parses the command line and runs it.
pub(crate) fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    if !matches!(verb, Verb::Serve(_)) {
        serve::log_for_tools();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::failed(format!("cannot start threads: {error}")).report();
        }
    };
    let outcome = runtime.block_on(verb.run());
    runtime.shutdown_timeout(LEAVING_MAX);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn check(command: &clap::Command) {
            let verbs: Vec<_> = command.get_subcommands().collect();
            if verbs.is_empty() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "`{}` shows no example", command.get_name());
            }
            verbs.into_iter().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn what_follows_two_dashes_belongs_to_the_command() {
        let line = ["dure", "work", "t", "--group", "g", "--", "convert", "-o", "x"];
        let Verb::Work(args) = Cli::parse_from(line).verb else { panic!("not `work`") };
        assert_eq!(args.command, ["convert", "-o", "x"]);
    }
}
