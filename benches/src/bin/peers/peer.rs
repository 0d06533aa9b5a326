//! The peers: how each is started, what its acknowledgement means, and how it is driven at its best.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::amqp::Kind;
use dure_benches::payloads::Payloads;
use dure_benches::server::{Server, free_port};

use super::drive::{Connection, Consumer, Producer};
use super::wire::Res;
use super::{amqp, drive, nats, redis};

/// Which server, with which durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `appendfsync always`.
    RedisAlways,
    /// `appendfsync everysec`.
    RedisEverySecond,
    Nats,
    Rabbit(Kind),
}

pub(crate) const PEERS: [Peer; 5] = [
    Peer::RedisAlways,
    Peer::RedisEverySecond,
    Peer::Nats,
    Peer::Rabbit(Kind::Quorum),
    Peer::Rabbit(Kind::Stream),
];

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::RedisAlways => "Redis Streams, appendfsync always",
            Peer::RedisEverySecond => "Redis Streams, appendfsync everysec",
            Peer::Nats => "NATS JetStream, default",
            Peer::Rabbit(Kind::Quorum) => "RabbitMQ quorum queue",
            Peer::Rabbit(Kind::Stream) => "RabbitMQ stream",
        }
    }

    /// Where a message is when it is acknowledged.
    pub(crate) fn acked(self) -> &'static str {
        match self {
            Peer::RedisAlways | Peer::Rabbit(Kind::Quorum) => "synced",
            Peer::RedisEverySecond => "memory",
            Peer::Nats | Peer::Rabbit(Kind::Stream) => "page cache",
        }
    }

    /// Connections, and messages under way on each, that gave the most.
    fn windows(self) -> (usize, usize) {
        match self {
            Peer::RedisAlways => (64, 200),
            Peer::RedisEverySecond => (2, 2000),
            Peer::Nats => (2, 8192),
            Peer::Rabbit(_) => (2, 4000),
        }
    }

    /// Starts it and makes the stream or queue.
    pub(crate) async fn start(self) -> Res<Server> {
        let mut server = Server::start(|port, dir| self.command(port, dir))?;
        match self {
            Peer::RedisAlways | Peer::RedisEverySecond => {
                server.wait(|address| async move { redis::answers(&address).await }).await?;
                redis::prepare(&server.address).await?;
            }
            Peer::Nats => {
                server.wait(|address| async move { nats::answers(&address).await }).await?;
                nats::prepare(&server.address).await?;
            }
            Peer::Rabbit(kind) => {
                server.wait(|address| async move { amqp::open(&address, kind).await.map(drop) }).await?;
            }
        }
        Ok(server)
    }

    fn command(self, port: u16, dir: &Path) -> Res<Command> {
        let port = port.to_string();
        let dir = dir.canonicalize()?;
        Ok(match self {
            Peer::RedisAlways | Peer::RedisEverySecond => {
                let sync = if self == Peer::RedisAlways { "always" } else { "everysec" };
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--appendonly", "yes", "--appendfsync", sync, "--save", ""]);
                command.args(["--auto-aof-rewrite-percentage", "0", "--dir"]).arg(dir);
                command
            }
            Peer::Nats => {
                let mut command = Command::new("nats-server");
                command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]).arg(dir);
                command
            }
            Peer::Rabbit(_) => {
                // Debian's wrapper changes the user; this is what it calls.
                let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
                command
                    .env("HOME", &dir)
                    .env("RABBITMQ_NODENAME", format!("bench{port}@localhost"))
                    .env("RABBITMQ_NODE_PORT", &port)
                    .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
                    .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
                    .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
                    .env("RABBITMQ_LOG_BASE", dir.join("logs"))
                    .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
                    .env("RABBITMQ_CONFIG_FILE", dir.join("none"));
                command
            }
        })
    }

    async fn producer(self, address: &str, index: usize) -> Res<Producer> {
        Ok(match self {
            Peer::RedisAlways | Peer::RedisEverySecond => Producer {
                connection: Connection::open(address).await?,
                publish: Box::new(redis::Publisher),
                confirm: Box::new(redis::Publisher),
            },
            Peer::Nats => Producer {
                connection: Connection::open(address).await?,
                publish: Box::new(nats::Publisher { inbox: format!("p{index}"), greeted: false }),
                confirm: Box::new(nats::Confirmer),
            },
            Peer::Rabbit(kind) => Producer {
                connection: amqp::publisher(address, kind).await?,
                publish: Box::new(amqp::Publisher),
                confirm: Box::new(amqp::Confirmer::default()),
            },
        })
    }

    async fn consumer(self, address: &str, index: usize) -> Res<Consumer> {
        Ok(match self {
            Peer::RedisAlways | Peer::RedisEverySecond => Consumer {
                connection: Connection::open(address).await?,
                take: Box::new(redis::Taker { name: format!("c{index}") }),
            },
            Peer::Nats => Consumer {
                connection: Connection::open(address).await?,
                take: Box::new(nats::Taker { inbox: format!("c{index}"), expected: 0 }),
            },
            Peer::Rabbit(kind) => Consumer {
                connection: amqp::open(address, kind).await?,
                take: Box::new(amqp::Taker::new(kind)),
            },
        })
    }

    async fn producers(self, address: &str, count: usize) -> Res<Vec<Producer>> {
        let mut producers = Vec::new();
        for index in 0..count {
            producers.push(self.producer(address, index).await?);
        }
        Ok(producers)
    }

    async fn consumers(self, address: &str, count: usize) -> Res<Vec<Consumer>> {
        let mut consumers = Vec::new();
        for index in 0..count {
            consumers.push(self.consumer(address, index).await?);
        }
        Ok(consumers)
    }

    /// As fast as it goes; seconds.
    pub(crate) async fn produce(self, server: &Server, messages: u64, size: usize) -> Res<f64> {
        let (connections, window) = self.windows();
        let producers = self.producers(&server.address, connections).await?;
        Ok(drive::produce(producers, window, messages, &Payloads::new(size)).await?.as_secs_f64())
    }

    /// One message at a time on each of `connections`; seconds.
    pub(crate) async fn produce_singly(
        self,
        server: &Server,
        connections: usize,
        messages: u64,
        size: usize,
    ) -> Res<f64> {
        let producers = self.producers(&server.address, connections).await?;
        Ok(drive::produce(producers, 1, messages, &Payloads::new(size)).await?.as_secs_f64())
    }

    /// What was produced before; seconds. A stream of RabbitMQ is read by each consumer as a whole: it has one.
    pub(crate) async fn consume(self, server: &Server, workers: usize, messages: u64) -> Res<f64> {
        let workers = if self == Peer::Rabbit(Kind::Stream) { 1 } else { workers };
        let consumers = self.consumers(&server.address, workers).await?;
        Ok(drive::consume(consumers, messages).await?.as_secs_f64())
    }

    /// Milliseconds from when a message was to be sent until a consumer had it: median and 99th percentile.
    pub(crate) async fn latency(
        self,
        server: &Server,
        rate: f64,
        time: Duration,
        size: usize,
    ) -> Res<(f64, f64)> {
        // One connection with a pipeline gives Redis one sync per round trip; many share it.
        let connections = if self == Peer::RedisAlways { 64 } else { 1 };
        let producers = self.producers(&server.address, connections).await?;
        let consumers = self.consumers(&server.address, 1).await?;
        let ages = drive::latency(producers, consumers, rate, time, size).await?;
        let at = |quantile| ages.value_at_quantile(quantile) as f64 / 1000.0;
        Ok((at(0.5), at(0.99)))
    }
}
