//! The offline sync protocol of the official libSQL clients, spoken as a client.
//!
//! Any server that speaks no more than that can be a remote: Turso Cloud is one. Such a server counts
//! frames in generations, and knows neither checksums nor names of pushes. What the sync engine needs
//! is made of what there is:
//!
//! | the engine's | is here |
//! |---|---|
//! | position | [`Spot`]: generation in the upper, frame in the lower 32 bits |
//! | head | found by pulling: there is no request for it. What came on the way is kept for `fetch` |
//! | checksum of a change | added up by the reader from its own base; see [`Fetched::unstated`] |
//! | push id | a hash of the frames ([`TransactionHash`]): who stands at a place is told by content |
//! | anchor | the position, and the push id of the transaction that ends there: its second half is a hash of the last frame, by which one request tells whether the server still has our past |
//! | database id | a hash of the URL, behind [`DATABASE_PREFIX`] |
//! | history, compaction | nothing of the kind: a typed error |
//!
//! Data flow of a pull: `walk` asks for frames, 128 at a time, through all generations to the end;
//! `inbox` takes them apart, keeps the newest image of each page of whole transactions in an anonymous
//! file, and forgets the rest; `pages` hands them out in page order. Of a push: `outbox` turns the
//! delta into frames; `push` decides what to send and what an answer means; `remote` sends it.
//!
//! Limits of the dialect that nothing here can lift:
//! - a transaction of somebody else that is equal to ours byte for byte, at the same place, counts as
//!   ours;
//! - a server that lost its newest frames and got others since is noticed by the last frame this
//!   replica knows, not by all before it: `verify` compares everything;
//! - finding out how far the server is ahead means downloading it.
//!
//! Memory: one answer (128 frames), 8 MiB before a temporary file is used, and 12 bytes for each page
//! that changed.

mod error;
mod http;
mod inbox;
mod outbox;
mod pages;
mod place;
mod push;
mod remote;
mod scratch;
mod send;
mod spot;
mod walk;
mod wire;

use anabranch_format::{FRAME_HEADER_BYTES, PageSize};

pub use error::{FrameFault, LibsqlError};
pub(crate) use place::LibsqlPlace;
pub use spot::Spot;

#[cfg(doc)]
use crate::transaction_hash::TransactionHash;
#[cfg(doc)]
use anabranch_store::Fetched;

/// The only page size of the dialect.
pub(crate) const PAGE_SIZE: PageSize = PageSize::DEFAULT;
const PAGE_BYTES: usize = PAGE_SIZE.bytes();
/// Bytes of a frame on the wire.
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;
/// Frames in one request, as the official clients have it: servers are known to take that many.
const BATCH_FRAMES: u32 = 128;

/// Beginning of the ids of databases that only a libSQL server knows: their positions mean something
/// else than those of a log.
pub(crate) const DATABASE_PREFIX: &str = "libsql-";
