//! What the system's errors mean to a file.

use std::io;

use rustix::io::Errno;

/// The file system has no direct I/O, or none for this.
pub(super) fn no_direct(error: &io::Error) -> bool {
    is(error, Errno::INVAL) || is(error, Errno::OPNOTSUPP)
}

pub(super) fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code.raw_os_error())
}

/// Makes the call again while a signal comes between.
pub(super) fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
