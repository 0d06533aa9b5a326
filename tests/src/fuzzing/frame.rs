//! The frame decoder, fed as a network would.

use bytes::BytesMut;
use dure_proto::{FRAME_BYTES_MAX, FrameDecoder, HELLO_BYTES_MAX, encode_frame_with};

use super::input::Input;

/// Room that the decoder may make beside twice what has arrived.
const ROOM_BYTES_MAX: usize = 2 << 20;

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let control = input.byte();
    let step = 1 + usize::from(control >> 1) * usize::from(control >> 1);
    let mut decoder = FrameDecoder::new(if control & 1 == 0 { HELLO_BYTES_MAX } else { FRAME_BYTES_MAX });
    let mut buffer = BytesMut::new();
    let mut arrived = 0;
    while !input.is_empty() {
        let chunk = input.bytes(step);
        arrived += chunk.len();
        buffer.extend_from_slice(chunk);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(frame)) => {
                    assert!(buffer.len() < before, "a frame takes bytes");
                    read_back(&frame);
                }
            }
        }
        assert!(
            buffer.capacity() <= 2 * arrived + ROOM_BYTES_MAX,
            "{} bytes of room for {arrived} that arrived",
            buffer.capacity()
        );
    }
}

/// What was decoded can be sent, and is the same then.
fn read_back(frame: &dure_proto::Frame) {
    let mut again = BytesMut::new();
    encode_frame_with(&mut again, &frame.envelope, &frame.attachment).expect("it was within the limits");
    let decoded = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut again).expect("valid").expect("whole");
    // By their text: a float that is no number is not equal to itself.
    assert_eq!(format!("{decoded:?}"), format!("{frame:?}"));
    assert!(again.is_empty());
}
