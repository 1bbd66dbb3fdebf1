//! States that are no files: overlays, connections on them, pinned views.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_wrap)]

mod cost;
mod failures;
mod pinned;
mod same_as_file;
mod shapes;
mod support;
