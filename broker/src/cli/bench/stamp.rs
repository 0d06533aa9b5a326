//! A message of a run says when it was to be sent, so that whoever gets it knows how long it took.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// The run's number and the microseconds since its beginning, both little-endian, at the start of a payload.
pub(super) const STAMP_BYTES: usize = 16;

/// One run of a bench.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    run: u64,
    began: Instant,
}

impl Stamp {
    pub(super) fn new() -> Stamp {
        Stamp { run: fastrand::u64(..), began: Instant::now() }
    }

    /// `payload` with its beginning replaced; at least [`STAMP_BYTES`] long.
    pub(super) fn put(&self, payload: &[u8], intended: Instant) -> Bytes {
        let since = intended.saturating_duration_since(self.began).as_micros() as u64;
        let mut stamped = BytesMut::with_capacity(payload.len().max(STAMP_BYTES));
        stamped.extend_from_slice(&self.run.to_le_bytes());
        stamped.extend_from_slice(&since.to_le_bytes());
        stamped.extend_from_slice(payload.get(STAMP_BYTES..).unwrap_or_default());
        stamped.freeze()
    }

    /// How long ago this was to be sent; `None` for what is not of this run.
    pub(super) fn age(&self, payload: &[u8]) -> Option<Duration> {
        let (run, rest) = payload.split_first_chunk::<8>()?;
        let since = u64::from_le_bytes(*rest.first_chunk::<8>()?);
        let ours = u64::from_le_bytes(*run) == self.run;
        ours.then(|| self.began.elapsed().saturating_sub(Duration::from_micros(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_its_length_and_tells_its_age() {
        let stamp = Stamp::new();
        let payload = stamp.put(&[7; 20], stamp.began);
        assert_eq!((payload.len(), &payload[STAMP_BYTES..]), (20, &[7; 4][..]));
        assert!(stamp.age(&payload).is_some_and(|age| age < Duration::from_secs(60)));
    }

    #[test]
    fn what_another_run_left_is_nobodys() {
        let stamp = Stamp { run: 1, ..Stamp::new() };
        assert_eq!(stamp.age(&[0; 20]), None);
        assert_eq!(stamp.age(&[1; 4]), None);
    }
}
