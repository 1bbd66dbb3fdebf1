//! Taking in a push: from the body of a request to a segment that may be appended.
//!
//! The metadata is read as soon as it is there, what follows it goes to a spool: up to
//! [`MEMORY_BYTES_MAX`] stay in memory, more lies in an anonymous temporary file. Then everything is
//! unpacked and checked, before anything is appended: nothing can be taken back later.

use std::io::{BufReader, Write};
use std::path::Path;

use anabranch_format::{
    DbChecksum, DeltaReader, Kind, METADATA_BYTES_MAX, Metadata, PageChecksum, PageSource,
    SKIPPABLE_HEADER_BYTES,
};
use anabranch_store::{NewSegment, Rollover, Spool, SpoolReader};
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use hyper::StatusCode;

use crate::database::Database;
use crate::error::ApiError;
use crate::page_map::Change;

/// Bytes of a push that are held in memory.
const MEMORY_BYTES_MAX: u64 = 256 * 1024;
/// What is written to a temporary file at a time.
const BLOCK_BYTES: usize = 512 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// What a push sent.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) metadata: Metadata,
    body: Spool,
}

/// Reads the body of a push, at most `limit` bytes.
pub(super) async fn receive(body: Body, limit: u64, scratch: &Path) -> Result<Received, ApiError> {
    let mut receiver = Receiver::new(scratch);
    let mut received = 0u64;
    let mut stream = body.into_data_stream();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|e| {
            tracing::debug!(error = %e, "a push was cut off");
            ApiError::new(StatusCode::BAD_REQUEST, "cut-off", "the body was cut off")
        })?;
        received += part.len() as u64;
        if received > limit {
            return Err(ApiError::too_large(limit));
        }
        receiver.take(part)?;
        if receiver.is_full() {
            receiver = flushed(receiver).await?;
        }
    }
    flushed(receiver).await?.finish()
}

async fn flushed(mut receiver: Receiver) -> Result<Receiver, ApiError> {
    let flushed = tokio::task::spawn_blocking(move || receiver.flush().map(|()| receiver));
    flushed.await.map_err(|_| ApiError::busy("the server is about to stop"))?
}

struct Receiver {
    /// The frame of the metadata, until it is complete.
    head: Vec<u8>,
    metadata: Option<Metadata>,
    /// Waits to be written.
    block: Vec<u8>,
    spool: Spool,
}

impl Receiver {
    fn new(scratch: &Path) -> Self {
        let spool = Spool::with_memory(scratch, MEMORY_BYTES_MAX);
        Receiver { head: Vec::new(), metadata: None, block: Vec::new(), spool }
    }

    fn take(&mut self, part: Bytes) -> Result<(), ApiError> {
        let rest = match self.metadata {
            Some(_) => part,
            None => self.take_head(part)?,
        };
        self.block.extend_from_slice(&rest);
        Ok(())
    }

    /// Takes what belongs to the metadata; answers the rest.
    fn take_head(&mut self, mut part: Bytes) -> Result<Bytes, ApiError> {
        let length = |head: &[u8]| match head.get(4..SKIPPABLE_HEADER_BYTES) {
            Some(&[a, b, c, d]) => {
                SKIPPABLE_HEADER_BYTES + u32::from_le_bytes([a, b, c, d]) as usize
            }
            _ => SKIPPABLE_HEADER_BYTES,
        };
        loop {
            let wanted = length(&self.head);
            if wanted > SKIPPABLE_HEADER_BYTES + METADATA_BYTES_MAX {
                return Err(invalid("its metadata is too long"));
            }
            let take = wanted.saturating_sub(self.head.len()).min(part.len());
            self.head.extend_from_slice(&part.split_to(take));
            if self.head.len() < wanted {
                return Ok(part);
            }
            if wanted > SKIPPABLE_HEADER_BYTES {
                break;
            }
            if length(&self.head) == SKIPPABLE_HEADER_BYTES {
                return Err(invalid("it has no metadata"));
            }
        }
        let metadata = Metadata::decode(&mut &self.head[..]).map_err(|e| invalid(e.to_string()))?;
        self.metadata = Some(metadata);
        Ok(part)
    }

    fn is_full(&self) -> bool {
        self.block.len() >= BLOCK_BYTES
    }

    fn flush(&mut self) -> Result<(), ApiError> {
        let written = self.spool.write_all(&self.block);
        self.block.clear();
        written.map_err(|e| scratch_failed(&e))
    }

    fn finish(self) -> Result<Received, ApiError> {
        let metadata = self.metadata.ok_or_else(|| invalid("it ends inside its metadata"))?;
        Ok(Received { metadata, body: self.spool })
    }
}

impl Received {
    /// Unpacks and checks everything. Blocking.
    pub(super) fn check(self, database: &Database) -> Result<NewSegment, ApiError> {
        let Received { metadata, body } = self;
        if metadata.kind != Kind::Segment || metadata.body.is_some() {
            return Err(invalid("it is no segment, or its bytes are elsewhere"));
        }
        if metadata.transactions.is_some() || metadata.frame_count() != metadata.lsn_count() {
            return Err(invalid("it is not one transaction with a position for each page"));
        }
        let push = metadata.push.clone().ok_or_else(|| invalid("it has no push id"))?;
        let reader = body.finish();
        // Where the pages before are known, so is the checksum after, and a wrong one cannot get into
        // the log.
        let mut change = database.engine().knows(metadata.from()).then(Change::default);
        let sum = sum_of(&reader, &metadata, change.as_mut())?;
        let known = change.and_then(|change| database.engine().sum_after(metadata.from(), &change));
        if let Some(known) = known.filter(|known| *known != metadata.sum.1) {
            return Err(invalid(format!(
                "it leads to the checksum {known}, but states {}",
                metadata.sum.1
            )));
        }
        // From nothing on, the pages are all there is.
        if metadata.pages.0 == 0 && (metadata.sum.0 != DbChecksum::EMPTY || sum != metadata.sum.1) {
            return Err(invalid(format!(
                "its pages add up to {sum}, but it states {}",
                metadata.sum.1
            )));
        }
        Ok(NewSegment {
            push,
            writer: metadata.writer,
            now: metadata.time,
            page_size: metadata.page_size,
            pages: metadata.pages,
            sum: metadata.sum,
            frames: metadata.frames.unwrap_or(metadata.lsn.1.get() - metadata.lsn.0.get() + 1),
            transactions: None,
            rollover: Rollover::WhenDue,
            body: reader.into_spool(),
        })
    }
}

/// Reads all pages, with every check that there is; the XOR of their checksums.
fn sum_of(
    body: &SpoolReader,
    metadata: &Metadata,
    mut change: Option<&mut Change>,
) -> Result<DbChecksum, ApiError> {
    let broken = |e: anabranch_format::DeltaError| match e.is_damage() {
        true => invalid(anabranch_store::causes(&e)),
        false => scratch_failed(&e),
    };
    let body = BufReader::with_capacity(BUFFER_BYTES, body.rewound());
    let mut reader = DeltaReader::new(body, metadata).map_err(broken)?;
    let mut page = vec![0; metadata.page_size.bytes()];
    let mut sum = DbChecksum::EMPTY;
    while let Some(pgno) = reader.next_page(&mut page).map_err(broken)? {
        sum.toggle(PageChecksum::of(pgno, &page));
        if let Some(change) = &mut change {
            change.frame(pgno, metadata.pages.1, &page);
        }
    }
    Ok(sum)
}

fn invalid(what: impl Into<String>) -> ApiError {
    let message = format!("what was pushed cannot be appended to any log: {}", what.into());
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
}

fn scratch_failed(e: &dyn std::error::Error) -> ApiError {
    tracing::error!(error = %anabranch_store::causes(e), "a temporary file cannot be used");
    ApiError::new(
        StatusCode::INSUFFICIENT_STORAGE,
        "no-space",
        "the server has no room for what was pushed",
    )
}
