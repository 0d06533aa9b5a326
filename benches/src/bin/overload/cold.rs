//! Reading old messages that no memory holds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use dure_benches::Res;
use dure_client::Client;
use rustix::fs::{Advice, fadvise};
use rustix::process::setpriority_process;
use tokio_util::sync::CancellationToken;

const LOWEST_PRIORITY: i32 = 19;

/// A reader that begins again at the oldest message whenever it is through, each time with a cold disk.
///
/// It has a thread of its own, of the lowest priority: what a client does with what it reads would be done by another
/// machine, and must not be taken for what reading costs the broker.
pub(crate) struct ColdReader {
    bytes: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: JoinHandle<Res>,
}

impl ColdReader {
    pub(crate) fn start(address: String, topic: &'static str, data: PathBuf) -> ColdReader {
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (read, stopped) = (bytes.clone(), stop.clone());
        let thread = thread::spawn(move || {
            // Of this thread alone (setpriority(2), "C library/kernel differences").
            setpriority_process(None, LOWEST_PRIORITY)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    failed = read_again_and_again(&address, topic, &data, &read) => failed,
                    () = stopped.cancelled() => Ok(()),
                }
            })
        });
        ColdReader { bytes, stop, thread }
    }

    /// Bytes of messages that it has read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends it, and says so if it had failed before.
    pub(crate) fn stop(self) -> Res {
        self.stop.cancel();
        self.thread.join().map_err(|_| "the cold reader panicked")?
    }
}

async fn read_again_and_again(address: &str, topic: &str, data: &Path, bytes: &AtomicU64) -> Res {
    // Connected here, so that its socket is read on this thread, too.
    let client = Client::connect(address).await?;
    loop {
        forget(data)?;
        let mut stream = client.stream(topic).until_high_watermark().subscribe().await?;
        while let Some(message) = stream.next().await {
            let value = message?.value.map_or(0, |value| value.len() as u64);
            // A count; nothing is ordered by it.
            bytes.fetch_add(value, Ordering::Relaxed);
        }
    }
}

/// Takes the segments below `data` out of the page cache, but for the newest of each log, which is being written.
pub(crate) fn forget(data: &Path) -> Res {
    let mut segments = Vec::new();
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    segments.sort();
    segments.pop();
    for path in segments {
        match File::open(&path) {
            Ok(segment) => fadvise(&segment, 0, None, Advice::DontNeed)?,
            // It has just been removed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
