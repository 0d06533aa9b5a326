//! The frame codec: whole, in pieces, hostile.

use bytes::{Bytes, BytesMut};
use dure_proto::wire::{Envelope, Ping, Produce, envelope::Body};
use dure_proto::{
    ENVELOPE_BYTES_MAX, FRAME_BYTES_MAX, Frame, FrameDecoder, FrameError, HELLO_BYTES_MAX, encode_frame,
    encode_frame_with,
};
use proptest::prelude::*;

fn envelope(correlation: u64) -> Envelope {
    let produce = Produce {
        topic_id: 7,
        partition: 3,
        keyed: true,
        record_bytes_max: 500,
        all_keyed: false,
        expiring: false,
        identified: false,
        due: None,
    };
    Envelope { correlation, body: Some(Body::Produce(produce)) }
}

fn decoder() -> FrameDecoder {
    FrameDecoder::new(FRAME_BYTES_MAX)
}

fn lengths(frame: u32, envelope: u32) -> BytesMut {
    BytesMut::from(&[frame.to_le_bytes(), envelope.to_le_bytes()].concat()[..])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut(
        attachments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        piece in 1..200usize,
    ) {
        let mut stream = BytesMut::new();
        for (index, attachment) in attachments.iter().enumerate() {
            encode_frame_with(&mut stream, &envelope(index as u64), attachment).unwrap();
        }
        let mut decoder = decoder();
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for piece in stream.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                frames.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        let expected = attachments.into_iter().enumerate().map(|(index, attachment)| Frame {
            envelope: envelope(index as u64), attachment: attachment.into(),
        });
        prop_assert_eq!(frames, expected.collect::<Vec<_>>());
    }

    #[test]
    fn garbage_neither_panics_nor_takes_memory(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut decoder = decoder();
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        prop_assert!(buffer.capacity() <= 2 << 20);
    }
}

#[test]
fn the_format_stays() {
    let mut out = BytesMut::new();
    encode_frame_with(&mut out, &Envelope { correlation: 5, body: Some(Body::Ping(Ping {})) }, b"xyz")
        .expect("fits");
    assert_eq!(out[..], [11, 0, 0, 0, 4, 0, 0, 0, 0x08, 5, 0x2a, 0, b'x', b'y', b'z']);
    let mut head = BytesMut::new();
    encode_frame(&mut head, &Envelope { correlation: 5, body: Some(Body::Ping(Ping {})) }, 3).expect("fits");
    assert_eq!(head, out[..12]);
}

#[test]
fn a_frame_cut_off_anywhere_waits_for_the_rest() {
    let mut whole = BytesMut::new();
    encode_frame_with(&mut whole, &envelope(1), b"attachment").expect("fits");
    for length in 0..whole.len() {
        let mut buffer = BytesMut::from(&whole[..length]);
        assert_eq!(decoder().decode(&mut buffer), Ok(None), "{length}");
        assert_eq!(buffer, whole[..length], "nothing is taken");
    }
}

#[test]
fn an_attachment_is_a_slice_of_the_buffer() {
    let mut buffer = BytesMut::new();
    encode_frame_with(&mut buffer, &envelope(1), b"attachment").expect("fits");
    let memory = buffer.as_ptr_range();
    let frame = decoder().decode(&mut buffer).expect("valid").expect("whole");
    assert!(memory.contains(&frame.attachment.as_ptr()));
}

#[test]
fn a_length_is_refused_before_anything_is_reserved() {
    let max = HELLO_BYTES_MAX;
    for length in [max as u32 + 1, FRAME_BYTES_MAX as u32, u32::MAX] {
        let mut buffer = BytesMut::from(&length.to_le_bytes()[..]);
        let capacity = buffer.capacity();
        let error = FrameDecoder::new(max).decode(&mut buffer).expect_err("too large");
        assert_eq!(error, FrameError::TooLarge { length: length as usize, max });
        assert_eq!(buffer.capacity(), capacity);
    }
}

#[test]
fn the_limit_itself_passes_and_can_be_raised() {
    let mut bytes = BytesMut::new();
    let envelope_bytes = {
        encode_frame(&mut bytes, &envelope(1), 0).expect("fits");
        bytes.len() - 8
    };
    bytes.clear();
    encode_frame_with(&mut bytes, &envelope(1), &vec![1; HELLO_BYTES_MAX - 4 - envelope_bytes])
        .expect("fits");
    let mut decoder = FrameDecoder::new(HELLO_BYTES_MAX);
    assert!(decoder.decode(&mut bytes.clone()).expect("at the limit").is_some());
    let mut decoder_below = FrameDecoder::new(HELLO_BYTES_MAX - 1);
    assert!(decoder_below.decode(&mut bytes).is_err());
    decoder_below.set_max(HELLO_BYTES_MAX);
    assert!(decoder_below.decode(&mut bytes).expect("raised").is_some());
    decoder.set_max(FRAME_BYTES_MAX);
}

#[test]
fn a_partial_frame_holds_little_more_than_has_arrived() {
    let mut buffer = lengths(FRAME_BYTES_MAX as u32, 0);
    let mut decoder = decoder();
    let piece = vec![0; 64 * 1024];
    while buffer.len() + piece.len() < FRAME_BYTES_MAX {
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert!(
            buffer.capacity() <= (2 << 20) + 2 * buffer.len(),
            "{} for {}",
            buffer.capacity(),
            buffer.len()
        );
        buffer.extend_from_slice(&piece);
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    for length in 0..4 {
        let error = decoder().decode(&mut lengths(length, 0)).expect_err("too short");
        assert_eq!(error, FrameError::TooShort { length: length as usize });
    }
    let error = decoder().decode(&mut lengths(4, 1)).expect_err("beyond");
    assert_eq!(error, FrameError::EnvelopeBeyondFrame { envelope: 1, frame: 4 });
    let error = decoder().decode(&mut lengths(100, u32::MAX)).expect_err("beyond");
    assert_eq!(error, FrameError::EnvelopeBeyondFrame { envelope: u32::MAX as usize, frame: 100 });
    let length = ENVELOPE_BYTES_MAX + 1;
    let error = decoder().decode(&mut lengths(FRAME_BYTES_MAX as u32, length as u32)).expect_err("too large");
    assert_eq!(error, FrameError::EnvelopeTooLarge { length, max: ENVELOPE_BYTES_MAX });
}

#[test]
fn zeros_never_decode() {
    for length in 4..100 {
        let error = decoder().decode(&mut BytesMut::zeroed(length)).expect_err("zeros");
        assert_eq!(error, FrameError::TooShort { length: 0 });
    }
}

#[test]
fn an_undecodable_envelope_is_refused() {
    let mut buffer = lengths(7, 3);
    buffer.extend_from_slice(&[0xff, 0xff, 0xff]);
    assert!(matches!(decoder().decode(&mut buffer), Err(FrameError::Envelope(_))));
}

#[test]
fn unknown_fields_pass() {
    let mut buffer = lengths(9, 5);
    buffer.extend_from_slice(&[0x08, 5, 0xf8, 0x3f, 1]); // correlation 5, field 1023 varint 1
    let frame = decoder().decode(&mut buffer).expect("valid").expect("whole");
    assert_eq!(frame, Frame { envelope: Envelope { correlation: 5, body: None }, attachment: Bytes::new() });
}

#[test]
fn what_no_decoder_would_take_is_not_encoded() {
    let mut out = BytesMut::new();
    assert!(matches!(
        encode_frame(&mut out, &envelope(1), FRAME_BYTES_MAX),
        Err(FrameError::TooLarge { .. })
    ));
    assert!(matches!(encode_frame(&mut out, &envelope(1), usize::MAX), Err(FrameError::TooLarge { .. })));
    let message = "x".repeat(ENVELOPE_BYTES_MAX);
    let error = dure_proto::wire::Error { message, ..Default::default() };
    let large = Envelope { correlation: 1, body: Some(Body::Error(error)) };
    assert!(matches!(encode_frame(&mut out, &large, 0), Err(FrameError::EnvelopeTooLarge { .. })));
    assert!(out.is_empty());
}
