//! The official libSQL client, unmodified, against the real `anabranch serve`.
//!
//! Each test is a scenario with a server, a store and replicas of its own, and ends with the same
//! judgement (`Yard::settle`): a fresh clone by the official client, a fresh clone by ours and all
//! replicas still alive hold the same pages, stock SQLite finds them in order, and the rows are those
//! that the test itself expects.
//!
//! Where the official client has a known fault the test says so, and shows what the server makes of it.
//!
//! ```sh
//! cargo test                                        # the short setting
//! CONFORMANCE_ROUNDS=2000 cargo test soak           # random syncs, kills and losses, for long
//! CONFORMANCE_SEED=7 cargo test soak                # the same again
//! CONFORMANCE_KILLS=200 cargo test killed_          # servers that die, at any moment and at named points, for long
//! CONFORMANCE_SERVER=mock cargo test                # what a naive server makes of the scenarios
//! ```

#![allow(clippy::unwrap_used)]

mod bridge;
mod client_facts;
mod conflict;
mod failures;
mod guard;
mod heal;
mod heal_points;
mod large;
mod ledger;
mod push_pull;
mod refuse;
mod replica;
mod rollover;
mod soak;
mod sql;
mod support;
mod two_servers;
