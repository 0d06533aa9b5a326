//! The journal: the one place where everything durable is written and synced. `commit` is its format, `pieces` its
//! files, `scan` what is alive in it after a stop.

mod commit;
mod pieces;
mod scan;

pub(crate) use commit::*;
pub(crate) use pieces::*;
pub(crate) use scan::*;
