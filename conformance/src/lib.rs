//! What the conformance tests stand on: the official client in a process of its own, the real
//! server, a proxy between the two that does harm, and a naive server in memory to compare with.
//!
//! Nothing in this library links SQLite. The official client's lies in the program `libsql-client`,
//! ours in the program `anabranch`; files are looked at with the stock `sqlite3` program. So three
//! independent builds of SQLite judge each other.
//!
//! Nothing here waits for time to pass: processes are awaited by what they say, and the proxy calls
//! back at the request where something is to happen. A limit of two minutes turns a hang into a
//! failure.

mod chance;
mod client;
mod file;
mod http;
mod mock;
mod ours;
mod position;
mod proxy;
mod runtime;
mod server;
mod sql;
mod wal;

pub use chance::Chance;
pub use client::{Client, Failure, Killer, Opening};
pub use file::{checked_image, first_difference, path_beside, rows, sqlite, stray_files};
pub use http::{Answer, ask};
pub use mock::{Mock, MockDatabase};
pub use ours::{Ended, Ours, program, program_with_crash_points};
pub use position::{Position, read_position, write_position};
pub use proxy::{Exchange, Fault, Proxy, Seen};
pub use runtime::block_on;
pub use server::{Server, ServerOptions};
pub use sql::{Sql, SqlAnswer, SqlFailure, execute};
pub use wal::Wal;

/// The page size that the dialect is bound to.
pub const PAGE_BYTES: usize = 4096;
/// A WAL frame: 24 bytes of header, and a page.
pub const FRAME_BYTES: usize = 24 + PAGE_BYTES;
/// How many frames the official client sends or asks for in one request.
pub const BATCH_FRAMES: usize = 128;
/// Longer than anything here takes: what exceeds it hangs.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
