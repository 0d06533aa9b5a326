//! Bytes that do not compress, the same ones in every run.

use dure_proto::{BatchBuilder, Compression};

/// So many bytes.
pub(super) fn bytes(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| random.u8(..)).take(count).collect()
}

/// A builder with so many records of that payload, without keys and headers.
pub(super) fn records(count: usize, payload: &[u8]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::None);
    (0..count).for_each(|_| builder.push(None, Some(payload), &[], 1).expect("it fits"));
    builder
}
