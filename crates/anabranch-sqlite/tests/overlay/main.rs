//! States that are no files: overlays, connections on them, pinned views.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failures;
mod pinned;
mod same_as_file;
mod shapes;
mod support;
