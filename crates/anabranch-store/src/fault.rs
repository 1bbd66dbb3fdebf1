//! Named places where a test may kill the process.

/// With the feature `failpoints` and the action `return`, dies here as by SIGKILL: no destructors.
/// For the crates that build on this one, too.
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::fail::fail_point!($name, |_| std::process::abort())
    };
}

pub(crate) use crash_point;
