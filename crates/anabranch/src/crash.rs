//! Named points at which tests kill the process.

/// Kills the process as `kill -9` does: no destructor runs, nothing is flushed.
#[cfg(feature = "failpoints")]
pub(crate) fn die(point: &str) -> ! {
    tracing::warn!(point, "killed at a crash point");
    std::process::abort()
}

/// Dies here if the environment's `FAILPOINTS` says `NAME=return`. Nothing at all without the
/// feature `failpoints`.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| $crate::crash::die($name));
    };
}

pub(crate) use crash_point;
