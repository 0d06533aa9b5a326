//! A checkpoint whose checksums hold, with a journal behind it.
//!
//! ```text
//! u8 control | field: the body of the checkpoint | then a journal as in `journal`
//! ```
//! Bit 0 of the control leaves the file as it is, bit 1 puts a sound older one beside it, bit 2 gives it another's name.

use dure_engine::dump;
use dure_proto::journal::Checkpoint;
use prost::Message;

use super::input::Input;
use super::journal::pieces;
use super::running::{SHARD_DIR, disk_with, live_through};
use super::seal::{SALT, checkpoint};

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let control = input.byte();
    let body = input.field();
    let seq = Checkpoint::decode(body).map_or(1, |decoded| decoded.seq);
    let bytes = if control & 1 == 0 { checkpoint(seq, body) } else { body.to_vec() };
    let named = if control & 4 == 0 { seq } else { 9 };
    let path = format!("{SHARD_DIR}/checkpoint/{named:020}.checkpoint");
    let mut files = vec![(path.clone(), bytes)];
    if control & 2 != 0 {
        let older = Checkpoint { seq: 1, epoch: 1, piece: 1, topic_next: 2, ..Checkpoint::default() };
        files.push((
            format!("{SHARD_DIR}/checkpoint/{:020}.checkpoint", 1),
            checkpoint(1, &older.encode_to_vec()),
        ));
    }
    files.extend(pieces(&mut input));
    let disk = disk_with(&files);
    let _ = dump(&disk, &path, SALT, drop);
    live_through(&disk);
}
