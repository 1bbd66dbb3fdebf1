//! The program under kills, races and live use, judged by an oracle that knows every committed row.
//!
//! The real program runs as a process of its own, and so do the applications: stock `sqlite3` and
//! Python. `oracle.rs` keeps the ledger of rows and checks the invariants of ARCHITECTURE.md:
//!
//! - `points.rs`: the program dies at each named crash point (`FAILPOINTS=NAME=return`), and the same
//!   command, run again, must recover. A crash point that exists in the sources and is not driven
//!   there fails a test.
//! - `kills.rs`: SIGKILL at random moments while an application writes.
//! - `races.rs`: many writers at one remote, several operations on one replica.
//! - `rebase.rs`: both sides write, and are merged, through kills and meanwhile.
//! - `live.rs`: applications of all kinds read and write while both replicas sync in a loop.
//!
//! By hand: `CRASH_ROUNDS=50 CRASH_SEED=7 cargo test -p anabranch-cli --test crash`. `CRASH_ROUNDS`
//! multiplies the rounds, `CRASH_SEED` chooses what is written, how, and when; a failure names both
//! the seed and the scenario. The default seed is fixed, so that a run in CI can be repeated.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "shown if the test fails: how to run it again")]

mod kills;
mod live;
mod oracle;
mod points;
mod races;
mod rebase;
mod world;
