//! Loads over any protocol: a window of messages under way on each connection, takers, a fixed rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use dure_benches::pace::Pace;
use dure_benches::payloads::Payloads;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{Confirm, Publish, Res, Take};

const READ_BYTES: usize = 256 << 10;
const WRITE_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket to a server.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Res<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream })
    }

    pub(crate) async fn write(&mut self, out: &mut BytesMut) -> Res {
        self.stream.write_all(out).await?;
        out.clear();
        Ok(())
    }
}

/// Appends what has arrived, at least a byte.
pub(crate) async fn read_more(stream: &mut (impl AsyncReadExt + Unpin), input: &mut BytesMut) -> Res {
    input.reserve(READ_BYTES);
    match timeout(PATIENCE, stream.read_buf(input)).await? {
        Ok(0) => Err("the server closed the connection".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A connection that publishes, in both its halves.
pub(crate) struct Producer {
    pub(crate) connection: Connection,
    pub(crate) publish: Box<dyn Publish>,
    pub(crate) confirm: Box<dyn Confirm>,
}

/// A connection that takes.
pub(crate) struct Consumer {
    pub(crate) connection: Connection,
    pub(crate) take: Box<dyn Take>,
}

/// Publishes `messages` over all connections, at most `window` under way on each; returns the time until the last was
/// acknowledged.
pub(crate) async fn produce(
    producers: Vec<Producer>,
    window: usize,
    messages: u64,
    payloads: &Payloads,
) -> Res<Duration> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let each = messages / producers.len() as u64;
    for Producer { connection, publish, confirm } in producers {
        let (mut reader, mut writer) = connection.stream.into_split();
        let room = Arc::new(Semaphore::new(window));
        let (payloads, freed) = (payloads.clone(), room.clone());
        let (mut publish, mut confirm) = (publish, confirm);
        tasks.spawn(async move {
            let mut out = BytesMut::with_capacity(2 * WRITE_BYTES);
            for number in 0..each {
                if room.available_permits() == 0 && !out.is_empty() {
                    writer.write_all(&out).await?;
                    out.clear();
                }
                room.acquire().await?.forget();
                publish.publish(payloads.get(number), &mut out);
                if out.len() >= WRITE_BYTES {
                    writer.write_all(&out).await?;
                    out.clear();
                }
            }
            writer.write_all(&out).await?;
            // The server is not told of an end before everything is answered.
            room.acquire_many(window as u32).await?.forget();
            Res::Ok(())
        });
        tasks.spawn(async move {
            let (mut input, mut confirmed) = (BytesMut::new(), 0);
            while confirmed < each {
                read_more(&mut reader, &mut input).await?;
                let more = confirm.confirm(&mut input)?;
                confirmed += more;
                freed.add_permits(more as usize);
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}

/// Takes `messages` over all connections; returns the time from the first request until the last was seen.
pub(crate) async fn consume(consumers: Vec<Consumer>, messages: u64) -> Res<Duration> {
    let began = Instant::now();
    let taking = Taking::start(consumers, None);
    taking.wait_for(messages).await?;
    let elapsed = began.elapsed();
    taking.stop().await?;
    Ok(elapsed)
}

/// Publishes at `rate` for `time` over all connections while the consumers take; returns microseconds from when each
/// message was to be sent until it was seen.
pub(crate) async fn latency(
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    rate: f64,
    time: Duration,
    size: usize,
) -> Res<Histogram<u64>> {
    let began = Instant::now();
    let taking = Taking::start(consumers, Some(began));
    // Until the takers' requests are there.
    sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    let count = producers.len() as u64;
    let messages = (rate * time.as_secs_f64()) as u64;
    let payloads = Payloads::new(size);
    let pace = Pace::start();
    let mut tasks = JoinSet::new();
    for (index, Producer { connection, publish, confirm }) in producers.into_iter().enumerate() {
        let (mut reader, mut writer) = connection.stream.into_split();
        let (mut publish, mut confirm, payloads) = (publish, confirm, payloads.clone());
        let pace = pace.clone();
        tasks.spawn(async move {
            let mut out = BytesMut::new();
            let mut number = index as u64;
            while number < messages {
                let intended = started + Duration::from_secs_f64(number as f64 / rate);
                if intended > Instant::now() {
                    if !out.is_empty() {
                        writer.write_all(&out).await?;
                        out.clear();
                    }
                    pace.wait_until(intended).await;
                }
                let mut payload = payloads.get(number).to_vec();
                let since = intended.duration_since(began).as_micros() as u64;
                payload[..8].copy_from_slice(&since.to_le_bytes());
                publish.publish(&payload, &mut out);
                number += count;
            }
            writer.write_all(&out).await?;
            Res::Ok(Some(writer))
        });
        tasks.spawn(async move {
            let mut input = BytesMut::new();
            let mine = (messages + count - 1 - index as u64) / count;
            let mut confirmed = 0;
            while confirmed < mine {
                read_more(&mut reader, &mut input).await?;
                confirmed += confirm.confirm(&mut input)?;
            }
            Ok(None)
        });
    }
    let mut writers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        writers.push(done??);
    }
    taking.wait_for(messages).await?;
    taking.stop().await
}

/// Consumers at work.
struct Taking {
    count: Arc<AtomicU64>,
    stop: Arc<Semaphore>,
    tasks: JoinSet<Res<Histogram<u64>>>,
}

impl Taking {
    /// With `began`, payloads start with the microseconds since then.
    fn start(consumers: Vec<Consumer>, began: Option<Instant>) -> Taking {
        let mut taking =
            Taking { count: Arc::default(), stop: Arc::new(Semaphore::new(0)), tasks: JoinSet::new() };
        for Consumer { mut connection, mut take } in consumers {
            let (count, stop) = (taking.count.clone(), taking.stop.clone());
            taking.tasks.spawn(async move {
                let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
                let mut ages = histogram();
                take.begin(&mut out);
                connection.write(&mut out).await?;
                loop {
                    input.reserve(READ_BYTES);
                    tokio::select! {
                        bytes = connection.stream.read_buf(&mut input) => {
                            if bytes? == 0 {
                                return Err("the server closed the connection".into());
                            }
                        }
                        _ = stop.acquire() => return Ok(ages),
                    }
                    let mut seen = 0;
                    take.take(&mut input, &mut out, &mut |payload| {
                        seen += 1;
                        if let (Some(began), Some(since)) = (began, payload.first_chunk::<8>()) {
                            let since = u64::from_le_bytes(*since);
                            let age = (began.elapsed().as_micros() as u64).saturating_sub(since);
                            let _ = ages.record(age);
                        }
                    })?;
                    if !out.is_empty() {
                        connection.write(&mut out).await?;
                    }
                    // A count to compare, nothing is ordered by it.
                    count.fetch_add(seen, Ordering::Relaxed);
                }
            });
        }
        taking
    }

    async fn wait_for(&self, messages: u64) -> Res {
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let count = self.count.load(Ordering::Relaxed);
            if count >= messages {
                return Ok(());
            }
            if count > before {
                (before, since) = (count, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("{count} of {messages} arrived").into());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn stop(mut self) -> Res<Histogram<u64>> {
        self.stop.close();
        let mut all = histogram();
        while let Some(done) = self.tasks.join_next().await {
            all.add(done??)?;
        }
        Ok(all)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}
