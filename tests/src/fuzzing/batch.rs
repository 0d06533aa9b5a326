//! A whole record batch, with its checksum made to hold; what it unpacks to stays within the limits.

use bytes::Bytes;
use dure_proto::{BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchLimits, Compression, Records};

use super::input::Input;
use super::records::check_records;
use super::seal::seal_batch;

const LIMITS: BatchLimits = BatchLimits {
    batch_bytes_max: 1 << 20,
    decompressed_bytes_max: 256 << 10,
    records_max: 10_000,
    sparse: false,
};

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let control = input.byte();
    let mut batch = input.rest().to_vec();
    if control & 1 == 0 {
        seal_batch(&mut batch);
    }
    let batch = Bytes::from(batch);
    let header = BatchHeader::validate(&batch, &LIMITS);
    let decoded = Records::decode(&batch, &LIMITS);
    match (header, decoded) {
        (Err(header), Err(decoded)) => assert_eq!(header, decoded, "refused alike"),
        (Err(error), Ok(_)) => panic!("decoded although {error}"),
        (Ok(_), Err(error)) => assert!(error.to_string().len() < 1024, "a long story: {error}"),
        (Ok(header), Ok(records)) => {
            assert_eq!(*records.header(), header);
            assert!(
                header.record_count <= LIMITS.records_max && records.len() == header.record_count as usize
            );
            let table_bytes = 4 * records.len();
            let bytes_max = match header.compression {
                Compression::None => batch.len() - BATCH_HEADER_BYTES,
                _ => LIMITS.decompressed_bytes_max,
            };
            let bytes = records.memory_bytes();
            assert!(bytes <= size_of::<Records>() + bytes_max + table_bytes, "{bytes} bytes in memory");
            check_records(&records);
        }
    }
    half_the_limit(&batch);
}

/// Whatever unpacks, unpacks under a limit of its own size, and not under a smaller one.
fn half_the_limit(batch: &Bytes) {
    let Ok(records) = Records::decode(batch, &LIMITS) else { return };
    let body_bytes: usize = records.memory_bytes() - size_of::<Records>() - 4 * records.len();
    let under = |decompressed_bytes_max| {
        Records::decode(batch, &BatchLimits { decompressed_bytes_max, ..LIMITS }).map(|_| ())
    };
    let refused = under(body_bytes / 2);
    let expected =
        matches!(refused, Err(BatchError::DecompressedTooLarge { .. } | BatchError::Decompress { .. }));
    assert!(expected || body_bytes < 2, "{body_bytes} bytes under half of that: {refused:?}");
}
