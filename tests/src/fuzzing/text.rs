//! What people type: receipts, sizes, durations, names of codecs.

use dure_broker::units::{parse_duration, parse_size, show_duration, show_size};
use dure_proto::{Compression, Receipt};

pub(super) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(receipt) = text.parse::<Receipt>() {
        assert_eq!(receipt.to_string().parse(), Ok(receipt));
    }
    if let Ok(bytes) = parse_size(text) {
        assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    if let Ok(compression) = text.parse::<Compression>() {
        assert_eq!(compression.to_string(), text);
    }
}
