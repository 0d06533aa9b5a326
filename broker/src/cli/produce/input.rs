//! stdin in blocks of whole lines, read by a thread of its own.

use std::io::{ErrorKind, Read, stdin};

use bytes::{Bytes, BytesMut};
use dure_proto::BATCH_BYTES_MAX;
use memchr::{memchr, memrchr};
use tokio::sync::mpsc;

use super::super::failure::Failure;

const READ_BYTES: usize = 256 << 10;
/// Blocks that are read ahead.
const BLOCKS_MAX: usize = 16;
/// No message can be longer, whatever the topic allows.
const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// What came of reading on.
pub(super) type Block = Result<Bytes, Failure>;

/// Whole lines as they come, each block ending with a line's end, but for the last.
pub(super) fn read_stdin() -> mpsc::Receiver<Block> {
    let (sink, blocks) = mpsc::channel(BLOCKS_MAX);
    std::thread::spawn(move || {
        let failure = match read_blocks(&mut stdin().lock(), |block| sink.blocking_send(Ok(block)).is_ok()) {
            Ok(()) => return,
            Err(failure) => failure,
        };
        // If nobody waits for it, the verb has failed before.
        let _ = sink.blocking_send(Err(failure));
    });
    blocks
}

/// Hands on every whole line that a read completes, so that a lone line is not held back. Ends when `take` says so.
fn read_blocks(from: &mut impl Read, mut take: impl FnMut(Bytes) -> bool) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    let mut lines = 0_u64;
    loop {
        let filled = buffer.len();
        buffer.resize(filled + READ_BYTES, 0);
        let read = loop {
            match from.read(&mut buffer[filled..]) {
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::failed(format!("cannot read stdin: {error}"))),
            }
        };
        buffer.truncate(filled + read);
        if read == 0 {
            if !buffer.is_empty() {
                take(buffer.freeze());
            }
            return Ok(());
        }
        // What was there before holds no line's end.
        match memrchr(b'\n', &buffer[filled..]) {
            Some(end) => {
                let block = buffer.split_to(filled + end + 1).freeze();
                lines += memchr::memchr_iter(b'\n', &block).count() as u64;
                if !take(block) {
                    return Ok(());
                }
            }
            None if buffer.len() > LINE_BYTES_MAX => {
                let number = lines + 1;
                return Err(Failure::failed(format!(
                    "line {number} of stdin is longer than {LINE_BYTES_MAX} bytes: no message can be"
                )));
            }
            None => {}
        }
    }
}

/// The lines of a block without their ends, `\n` or `\r\n`.
pub(super) fn lines(block: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = block.get(at..).filter(|rest| !rest.is_empty())?;
        let (line, next) = match memchr(b'\n', rest) {
            Some(end) => (rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), at + end + 1),
            None => (rest, block.len()),
        };
        let line = block.slice(at..at + line.len());
        at = next;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(input: &[&[u8]]) -> Vec<Bytes> {
        struct Pieces<'a>(std::slice::Iter<'a, &'a [u8]>);
        impl Read for Pieces<'_> {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let piece = self.0.next().copied().unwrap_or_default();
                into[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            }
        }
        let mut blocks = Vec::new();
        read_blocks(&mut Pieces(input.iter()), |block| {
            blocks.push(block);
            true
        })
        .unwrap();
        blocks
    }

    fn all_lines(text: &'static [u8]) -> Vec<Bytes> {
        lines(&Bytes::from_static(text)).collect()
    }

    #[test]
    fn whole_lines_are_handed_on_at_once_and_the_rest_waits() {
        assert_eq!(blocks(&[b"a\nb", b"c", b"d\n", b"e"]), ["a\n", "bcd\n", "e"]);
        assert_eq!(blocks(&[]), Vec::<Bytes>::new());
        assert_eq!(blocks(&[b"\n"]), ["\n"]);
    }

    #[test]
    fn an_empty_line_is_an_empty_message_and_the_end_is_none() {
        assert_eq!(all_lines(b"a\n\nb\n"), ["a", "", "b"]);
        assert_eq!(all_lines(b"a\nb"), ["a", "b"]);
        assert_eq!(all_lines(b""), Vec::<Bytes>::new());
    }

    #[test]
    fn one_carriage_return_belongs_to_the_lines_end_only_before_a_newline() {
        assert_eq!(all_lines(b"a\r\n\r\nb\r\r\nc\rd\ne\r"), ["a", "", "b\r", "c\rd", "e\r"]);
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_untouched() {
        assert_eq!(all_lines(b"\xff\x00\xfe\n"), [&b"\xff\x00\xfe"[..]]);
    }

    #[test]
    fn a_line_that_no_message_can_hold_is_refused_before_memory_is_gone() {
        let mut endless = std::io::repeat(b'x');
        let failure = read_blocks(&mut endless, |_| true).unwrap_err();
        assert!(matches!(&failure, Failure::Failed(text) if text.starts_with("line 1 ")), "{failure:?}");
    }
}
