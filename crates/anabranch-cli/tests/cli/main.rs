//! The program as its users meet it: the real binary, real files, a folder as the remote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod commands;
mod conflicts;
mod demo;
mod exit_codes;
mod inspect;
mod interruption;
mod paths;
mod shell;
#[cfg(unix)]
mod shell_server;
mod watch;
mod yard;
