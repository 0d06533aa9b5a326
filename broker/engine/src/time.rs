//! Time as an argument.

/// What the outermost layer read from its clocks before it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never jumps, from an arbitrary zero. Leases and waits run on it.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch. It may jump; append times and retention run on it, clamped.
    pub wall_ms: u64,
}
