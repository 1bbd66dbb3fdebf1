//! Against a server that speaks only the offline sync protocol of the libSQL clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "the modules are this test's own")]

mod adopt;
mod faults;
mod hostile;
mod random;
mod server;
mod together;
mod yard;
