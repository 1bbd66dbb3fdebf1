//! A live file while stock SQLite in other processes (Debian's `sqlite3`, Python's `sqlite3`) reads
//! and writes it.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod apply;
mod capture;
mod open;
mod recover;
mod support;
mod together;
mod watch;
