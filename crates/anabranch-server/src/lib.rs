//! The Anabranch server: SQLite databases over HTTP.
//!
//! One server holds any number of databases on one store (a folder or a bucket) and speaks two
//! dialects for each: Anabranch's own, and that of the official libSQL clients. The truth is the log
//! on the store, and the store's "create only if absent" the only arbiter: servers keep nothing that
//! they could not lose, any number of them may share a store, and a killed one has lost nothing that
//! it acknowledged.
//!
//! | module | what it is |
//! |---|---|
//! | [`Config`], [`Server`] | settings; listening, serving and stopping |
//! | `connection` | sockets: limits on headers, times and numbers |
//! | `dispatch` | from a request to a database and an endpoint; access, limits, metrics, logs |
//! | `tenancy` | which database a request is for |
//! | `databases`, `database` | opened on first use, closed when idle; the one way to append |
//! | `ours`, `libsql`, `sql` | the dialects |
//! | `page_map` | the checksums of a database's pages |
//! | `admin`, `ops` | administration; health, version and metrics |
//!
//! SQLite is used in two places: where what a libSQL client wrote past a conflict is merged, and on the
//! server's own replica of a database that clients reach by SQL.

mod admin;
mod auth;
mod config;
mod connection;
mod database;
mod databases;
mod dispatch;
mod entropy;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod housekeeping;
mod libsql;
mod limits;
mod metrics;
mod ops;
mod ours;
mod page_map;
mod params;
mod server;
mod sql;
mod tenancy;

pub use anabranch_store::{Location, LocationError};
pub use auth::{Tokens, TokensError};
pub use config::{Config, Create, Limits, SqlLimits, TenantBy};
pub use server::{ServeError, Server};
