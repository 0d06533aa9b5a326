//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use dure_broker::units::parse_duration;
use photo_pipeline::Ops;
use photo_pipeline::sample::SAMPLE_JOBS_MAX;

use super::failure::Failure;

/// The operations unless others are named.
pub(crate) const OPS_DEFAULT: &str = "crop=0.8,blur=2,sharpen=1,resize=1200";
/// Workers that the demo may use at most unless told otherwise lie within this.
const DEMO_WORKERS_MAX: (u32, u32) = (4, 16);

/// Photos through a durable queue (DureMQ) to a pool of worker processes that grows with the backlog.
#[derive(Debug, Parser)]
#[command(
    name = "photo-pipeline",
    version,
    after_help = "Examples:\n  \
        photo-pipeline demo\n  \
        photo-pipeline demo --photos ~/Pictures --ops 'crop=0.8,blur=2'\n\n  \
        dure serve &\n  \
        photo-pipeline submit ~/Pictures --ops 'resize=1600,sharpen=1'\n  \
        photo-pipeline pool --min 0 --max 8"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Starts a broker of its own, sends photos through it and shows how the pool follows the backlog
    #[command(after_help = "Examples:\n  \
        photo-pipeline demo\n  \
        photo-pipeline demo --photos ~/Pictures --out ./photo-out --max 8\n  \
        photo-pipeline demo --ops 'crop=1200x800+100+50,blur=1.5,resize=640' --jobs 100\n\n\
        The out directory gets the pictures, results.json (one JSON line per photo), contact-sheet.png \
        and autoscale.png. Exit code 0: every photo is done, or lies in the dead letters with its reason.")]
    Demo(DemoArgs),
    /// Puts the photos of a folder into the store and a job for each into the queue
    #[command(after_help = "Examples:\n  \
        photo-pipeline submit ~/Pictures\n  \
        photo-pipeline submit ~/Pictures --server 10.0.0.5:7650 --store /mnt/photos --ops 'blur=3' -o json")]
    Submit(SubmitArgs),
    /// Works through the queue until SIGTERM; then takes no more, finishes what runs and ends
    #[command(after_help = "Examples:\n  \
        photo-pipeline worker\n  \
        photo-pipeline worker --server 10.0.0.5:7650 --store /mnt/photos --out /mnt/results")]
    Worker(WorkerArgs),
    /// Keeps as many worker processes running as the backlog needs, until SIGTERM
    #[command(after_help = "Examples:\n  \
        photo-pipeline pool --min 0 --max 8\n  \
        photo-pipeline pool --min 1 --max 32 --target 1m --server 10.0.0.5:7650 --store /mnt/photos\n\n\
        Workers are never killed: those that are too many finish what they hold and end.")]
    Pool(PoolArgs),
    /// The demo's broker
    #[command(hide = true)]
    Broker(BrokerArgs),
}

#[derive(Debug, Group)]
pub(crate) struct DemoArgs {
    /// Folder with JPEG and PNG files; without it, a few hundred jobs are made of two photos that ship with this
    #[arg(long, value_name = "DIR")]
    pub(crate) photos: Option<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "./photo-out")]
    pub(crate) out: PathBuf,
    /// What is done, in this order: crop=F (centred fraction) or crop=WxH+X+Y, blur=SIGMA, sharpen=AMOUNT,
    /// resize=LONGEST_EDGE [default: crop=0.8,blur=2,sharpen=1,resize=1200; without --photos, many combinations]
    #[arg(long)]
    pub(crate) ops: Option<Ops>,
    /// Never fewer workers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min: u32,
    /// Never more workers [default: one per core, at least 4]
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u32>,
    /// How many jobs are made of the photos that ship with this [default: 600]
    #[arg(long, value_name = "N", conflicts_with = "photos",
        value_parser = clap::value_parser!(u64).range(1..=SAMPLE_JOBS_MAX as u64))]
    pub(crate) jobs: Option<u64>,
    /// The backlog should be worked off within this time; short, so that there is something to see
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    pub(crate) target: Duration,
}

#[derive(Debug, Group)]
pub(crate) struct SubmitArgs {
    /// Folder with JPEG and PNG files
    #[arg(value_name = "DIR")]
    pub(crate) photos: PathBuf,
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// What is done, in this order: crop=F (centred fraction) or crop=WxH+X+Y, blur=SIGMA, sharpen=AMOUNT,
    /// resize=LONGEST_EDGE
    #[arg(long, default_value = OPS_DEFAULT)]
    pub(crate) ops: Ops,
    /// For people, or one JSON line per photo once the broker has its job
    #[arg(short, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Debug, Group)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Photos that are worked on at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) concurrency: u32,
    /// Ends when standard input does, as if by SIGTERM
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Group)]
pub(crate) struct PoolArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Never fewer workers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min: u32,
    /// Never more workers
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) max: u32,
    /// The backlog should be worked off within this time
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) target: Duration,
    /// Workers are taken away only once fewer were enough for this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) cooldown: Duration,
    /// Writes what is seen and done to this file, one JSON line each
    #[arg(long, value_name = "FILE")]
    pub(crate) scale_log: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct BrokerArgs {
    #[arg(long)]
    pub(crate) data: PathBuf,
    #[arg(long)]
    pub(crate) listen: SocketAddr,
}

/// Where the jobs are.
#[derive(Debug, Clone, Group)]
pub(crate) struct QueueArgs {
    /// The broker
    #[arg(long, value_name = "HOST:PORT[,…]", env = "DURE_SERVER", default_value = "127.0.0.1:7650")]
    pub(crate) server: String,
    /// The topic that the jobs are in; it is created if it is missing
    #[arg(long, default_value = "photos")]
    pub(crate) topic: String,
    /// The queue group that works on them; it is created if it is missing
    #[arg(long, default_value = "photo-workers")]
    pub(crate) group: String,
}

/// Where photos and results are.
#[derive(Debug, Clone, Group)]
pub(crate) struct PlaceArgs {
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "./photo-out")]
    pub(crate) out: PathBuf,
    /// Where the photos lie, by content; the same for those who submit and those who work [default: OUT/.store]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl PlaceArgs {
    pub(crate) fn of(out: PathBuf) -> Self {
        Self { out, store: None }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.out.join(".store"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

impl DemoArgs {
    /// The bounds of the pool.
    pub(crate) fn workers(&self) -> Result<(u32, u32), Failure> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let (least, most) = DEMO_WORKERS_MAX;
        let max = self.max.unwrap_or(cores.clamp(least, most).max(self.min));
        bounds(self.min, max)
    }
}

/// Bounds of a pool that can work.
pub(crate) fn bounds(min: u32, max: u32) -> Result<(u32, u32), Failure> {
    match () {
        () if max == 0 => Err(Failure::Usage("--max 0: with no worker nothing is ever done".into())),
        () if min > max => {
            Err(Failure::Usage(format!("--min {min} is more than --max {max}: raise --max or lower --min")))
        }
        () => Ok((min, max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent_and_the_default_operations_are_some() {
        Args::command().debug_assert();
        assert!(OPS_DEFAULT.parse::<Ops>().is_ok());
    }
}
