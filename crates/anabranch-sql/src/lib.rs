//! One SQLite connection made safe for SQL from strangers.
//!
//! A [`Session`] takes over a connection and runs statements as they come over the wire: it compiles
//! one (kept for the next time), binds, steps, and hands rows on as they come. There is no server here,
//! no network and no log; who runs a session decides when, with which [`Rights`], and what to do with
//! the answer.
//!
//! | module | what it has |
//! |---|---|
//! | [`Session`], [`Rows`], [`Done`] | statements, one at a time |
//! | [`Limits`] | what one connection may use, and how each limit is kept |
//! | `guard` | what SQL may ask for |
//! | [`text`] | a look at texts without a connection |
//! | `linear` | SQLite's text functions that would take too long |
//! | [`vector`] | libSQL's vector functions |
//! | [`code`], [`from_sqlite`] | errors as clients know them |
//!
//! Memory: compiled statements, the page cache, and one row; what `Rows` keeps is bounded by
//! [`Limits::result_bytes`]. A statement whose answer grows beyond is undone and reset, so that no read
//! transaction stays open on its account.

mod bind;
mod clock;
mod error;
mod guard;
mod limits;
mod linear;
mod rows;
mod session;
mod setup;
pub mod text;
pub mod vector;

pub use error::{code, from_sqlite};
pub use limits::{Limits, cap_process_memory};
pub use rows::{Collected, Rows};
pub use session::{Done, Need, Rights, Session};
