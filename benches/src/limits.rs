//! What the machine allows, measured in the same minutes: everything else is to be read beside it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::Res;

const FILE_BYTES: usize = 64 << 20;
const TIME: Duration = Duration::from_secs(2);

/// MB/s of appends of `bytes` to a file that was written before, each synced, one after the other; and the median
/// milliseconds of one.
///
/// # Errors
/// If the disk refuses.
pub fn synced_appends(bytes: usize) -> Res<(f64, f64)> {
    let mut file = tempfile::tempfile_in(".")?;
    let data = vec![0x5a; FILE_BYTES];
    file.write_all(&data)?;
    file.sync_all()?;
    let (began, mut at, mut times) = (Instant::now(), 0, Vec::new());
    while began.elapsed() < TIME {
        let one = Instant::now();
        file.write_all_at(&data[at..at + bytes], at as u64)?;
        file.sync_data()?;
        times.push(one.elapsed().as_secs_f64());
        at = if at + 2 * bytes > FILE_BYTES { 0 } else { at + bytes };
    }
    let rate = (times.len() * bytes) as f64 / began.elapsed().as_secs_f64() / 1e6;
    times.sort_by(f64::total_cmp);
    Ok((rate, times[times.len() / 2] * 1e3))
}

/// MB/s through one loopback connection.
///
/// # Errors
/// If there is no loopback.
pub fn loopback() -> Res<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let data = vec![0x5a; 1 << 20];
        let began = Instant::now();
        while began.elapsed() < TIME {
            stream.write_all(&data)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let (mut buffer, mut bytes, began) = (vec![0; 1 << 20], 0, Instant::now());
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => bytes += count,
        }
    }
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    sender.join().map_err(|_| "the sender panicked")??;
    Ok(rate)
}

/// MB/s of copying memory that no cache holds.
#[must_use]
pub fn memory() -> f64 {
    let from = vec![0x5a_u8; FILE_BYTES];
    let mut to = vec![0; FILE_BYTES];
    let (began, mut copies) = (Instant::now(), 0);
    while began.elapsed() < TIME / 2 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        copies += 1;
    }
    (copies * FILE_BYTES) as f64 / began.elapsed().as_secs_f64() / 1e6
}

/// The processor's name, for the table.
#[must_use]
pub fn machine() -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open("/proc/cpuinfo") {
        // Without it the table says less.
        let _ = file.read_to_string(&mut text);
    }
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} x {}", name.map_or("unknown processor", |(_, name)| name))
}
