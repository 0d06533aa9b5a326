//! The journal: the one place where everything durable is written and synced. `commit` is its format, `pieces` its
//! files, `walk` what one of them holds, `scan` what of all that is alive after a stop.

mod commit;
mod pieces;
mod scan;
mod walk;

pub(crate) use commit::*;
pub(crate) use pieces::*;
pub(crate) use scan::*;
pub(crate) use walk::{Journal, LiveCommit};
