//! A session as its users see it: over real connections, in memory and on files.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod guard;
mod hostile;
mod reuse;
mod statements;
mod support;
mod vectors;
