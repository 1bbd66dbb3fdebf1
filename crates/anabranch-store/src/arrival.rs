//! A bundle that is arriving: from bytes, in any portions, to pages.
//!
//! Short bundles are gathered in memory. Longer ones go to a temporary file, and as soon as all
//! objects but the last (the longest) are there, pages can be read while the rest is still coming:
//! the reader waits for what it needs. Whatever is announced is checked first: no length is believed
//! beyond the limits of `bundle`, no byte beyond what was announced is taken.
//!
//! The same bytes may be cut off and go on later: [`Arrival::received`] says where.

use std::sync::Arc;

use anabranch_format::{
    DatabaseId, Kind, Lsn, METADATA_BYTES_MAX, Metadata, MetadataError, SKIPPABLE_HEADER_BYTES,
};

use crate::bundle::{MANIFEST_BYTES_MAX, MANIFEST_HEADER_BYTES, MANIFEST_MAGIC, Manifest};
use crate::collect::{Collected, check_identity};
use crate::context::Context;
use crate::error::{Damage, StoreError};
use crate::fetch::Fetched;
use crate::growing::Growing;
use crate::history::Position;
use crate::keys::Keys;
use crate::runs::{Chain, OpenPiece};
use crate::spool::SpoolReader;

/// Bundles up to this length are held in memory: what comes from there may be written while it is
/// unpacked. Those of changes that are short enough for that are hardly longer.
const MEMORY_BYTES_MAX: u64 = 16 << 20;

/// How errors speak of what comes.
const NAME: &str = "what the server sent";

/// A bundle that is arriving from a remote that is no object store.
#[derive(Debug)]
pub struct Arrival {
    context: Context,
    keys: Keys,
    database: DatabaseId,
    /// Where the change must start, unless the whole database comes; where it must lead.
    from: Lsn,
    to: Position,
    received: u64,
    /// The frame of the manifest, as far as it is there.
    frame: Vec<u8>,
    manifest: Option<Manifest>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Memory(Vec<u8>),
    File(Arc<Growing>),
    /// What was in memory was handed out.
    Gone,
}

impl Arrival {
    /// Nothing yet, of what leads from `from` to `to` in the log of `database`. Temporary files go
    /// into `scratch`; errors name `location`.
    #[must_use]
    pub fn new(
        location: &str,
        database: &DatabaseId,
        scratch: &std::path::Path,
        from: Lsn,
        to: &Position,
    ) -> Self {
        Arrival {
            context: Context::new(location, scratch),
            keys: Keys::new(database),
            database: database.clone(),
            from,
            to: to.clone(),
            received: 0,
            frame: Vec::new(),
            manifest: None,
            sink: Sink::Memory(Vec::new()),
        }
    }

    /// How many bytes are here.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes there will be, once that is known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let manifest = self.manifest.as_ref()?;
        Some(self.frame.len() as u64 + manifest.bytes()?)
    }

    /// Whether everything is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.total() == Some(self.received)
    }

    /// Whether the next bytes go to memory, so that taking them cannot take long.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.manifest.is_some() && matches!(self.sink, Sink::Memory(_))
    }

    /// Takes the next bytes. Blocking, unless they are few or go to memory. Bytes beyond the end are
    /// an error.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if self.manifest.is_none() {
            bytes = self.write_manifest(bytes)?;
        }
        let Some(total) = self.total() else { return Ok(()) };
        if self.received + bytes.len() as u64 > total {
            return Err(self.refuse(format!("more than the {total} bytes that it announces")));
        }
        match &mut self.sink {
            Sink::Memory(memory) => memory.extend_from_slice(bytes),
            Sink::File(file) => {
                file.write(bytes).map_err(|e| self.context.scratch_failed(e))?;
            }
            Sink::Gone => return Err(self.refuse("more than it announces")),
        }
        self.received += bytes.len() as u64;
        if self.is_complete()
            && let Sink::File(file) = &self.sink
        {
            file.complete();
        }
        Ok(())
    }

    /// Takes what belongs to the manifest; answers the rest.
    fn write_manifest<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
        let rest = self.gather(bytes, MANIFEST_HEADER_BYTES);
        let Some(header) = self.frame.first_chunk::<MANIFEST_HEADER_BYTES>() else {
            return Ok(rest);
        };
        let [magic, length] = [0, 4].map(|at| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        });
        if magic != MANIFEST_MAGIC {
            return Err(self.refuse(format!("it begins with {magic:#010x}, not with a manifest")));
        }
        let length = length as usize;
        if length > MANIFEST_BYTES_MAX {
            let text =
                format!("a manifest of {length} bytes, more than the {MANIFEST_BYTES_MAX} allowed");
            return Err(self.refuse(text));
        }
        let rest = self.gather(rest, MANIFEST_HEADER_BYTES + length);
        if self.frame.len() < MANIFEST_HEADER_BYTES + length {
            return Ok(rest);
        }
        let manifest = Manifest::decode(&self.frame[MANIFEST_HEADER_BYTES..])
            .map_err(|what| self.refuse(what))?;
        self.check(&manifest)?;
        if manifest.bytes().is_some_and(|bytes| bytes > MEMORY_BYTES_MAX) {
            let file = Growing::new(self.context.scratch());
            self.sink = Sink::File(Arc::new(file.map_err(|e| self.context.scratch_failed(e))?));
        } else if let Sink::Memory(memory) = &mut self.sink {
            // Growing would copy what is there, and ask for twice as much.
            memory.reserve_exact(manifest.bytes().and_then(|b| b.try_into().ok()).unwrap_or(0));
        }
        self.manifest = Some(manifest);
        Ok(rest)
    }

    /// Moves bytes to the frame until that has `length`; answers the rest.
    fn gather<'a>(&mut self, bytes: &'a [u8], length: usize) -> &'a [u8] {
        let take = length.saturating_sub(self.frame.len()).min(bytes.len());
        self.frame.extend_from_slice(&bytes[..take]);
        self.received += take as u64;
        &bytes[take..]
    }

    fn check(&self, manifest: &Manifest) -> Result<(), StoreError> {
        if manifest.database != self.database {
            let (found, expected) = (manifest.database.clone(), self.database.clone());
            return Err(self.context.corrupt(NAME, Damage::Database { found, expected }));
        }
        if manifest.to != self.to.lsn || manifest.from.is_some_and(|from| from != self.from) {
            let from = manifest.from.unwrap_or(Lsn::ZERO);
            return Err(self.refuse(format!(
                "it leads from {from} to {}, not from {} to {}",
                manifest.to, self.from, self.to.lsn
            )));
        }
        Ok(())
    }

    fn refuse(&self, what: impl Into<String>) -> StoreError {
        self.context.contradiction(NAME, what)
    }

    /// Whether [`Arrival::hand_out`] may be called: only the last object is not complete yet.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let Some(manifest) = &self.manifest else { return false };
        match &self.sink {
            Sink::Memory(_) => self.is_complete(),
            Sink::File(_) => {
                let tail = manifest.pieces.get(manifest.tail).copied().unwrap_or(0);
                let head = SKIPPABLE_HEADER_BYTES as u64 + METADATA_BYTES_MAX as u64;
                let rest = tail.saturating_sub(head.min(tail));
                self.total().is_some_and(|total| self.received + rest >= total)
            }
            Sink::Gone => false,
        }
    }

    /// What is arriving, to be read while the rest still comes; once, when
    /// [`Arrival::is_readable`] says so.
    pub fn hand_out(&mut self) -> Result<Readable, StoreError> {
        let (Some(manifest), true) = (self.manifest.clone(), self.is_readable()) else {
            return Err(self.refuse("it is not complete"));
        };
        let bytes = manifest.bytes().unwrap_or(0);
        let all = match std::mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Memory(memory) => SpoolReader::from_bytes(memory.into()),
            Sink::File(file) => {
                self.sink = Sink::File(Arc::clone(&file));
                SpoolReader::from_growing(file, bytes)
            }
            Sink::Gone => return Err(self.refuse("it was taken already")),
        };
        Ok(Readable {
            context: self.context.clone(),
            keys: self.keys.clone(),
            to: self.to.clone(),
            bytes: self.total().unwrap_or(0),
            manifest,
            all,
        })
    }

    /// Whether nobody reads what was handed out any more, so that the rest need not come.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        matches!(&self.sink, Sink::File(file) if Growing::is_unread(file))
    }

    /// The rest will not come: whoever reads what was handed out gets `e`.
    pub fn fail(self, e: StoreError) {
        if let Sink::File(file) = &self.sink {
            file.fail(e);
        }
    }
}

impl Drop for Arrival {
    /// Nobody may wait for bytes that nobody brings.
    fn drop(&mut self) {
        if let Sink::File(file) = &self.sink {
            file.fail(StoreError::Interrupted);
        }
    }
}

/// A bundle of which so much is here that its pages can be read: a read waits for what it needs.
#[derive(Debug)]
pub struct Readable {
    context: Context,
    keys: Keys,
    to: Position,
    manifest: Manifest,
    all: SpoolReader,
    bytes: u64,
}

impl Readable {
    /// The pages. If not everything is here yet, somebody must go on bringing the rest meanwhile.
    pub async fn fetched(self) -> Result<Fetched, StoreError> {
        let mut collected =
            Collected::new(&self.context, &self.keys, &self.to, Chain::LeftToReader);
        for (start, bytes) in self.manifest.starts().into_iter().zip(&self.manifest.pieces) {
            let piece = self.open(self.all.part(start, *bytes)).await?;
            collected = collected.add(piece).await?;
        }
        let Readable { to, manifest, bytes, .. } = self;
        collected.pushes.extend(manifest.pushes);
        collected.bytes = bytes;
        collected.check_end(manifest.from, &to)?;
        tokio::task::spawn_blocking(move || collected.fetched(manifest.from, &to))
            .await
            .map_err(|_| StoreError::Interrupted)?
    }

    async fn open(&self, mut body: SpoolReader) -> Result<OpenPiece, StoreError> {
        let context = self.context.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let metadata = Metadata::decode(&mut body).map_err(|e| match e {
                MetadataError::Io(e) => context.scratch_failed(e),
                e => context.corrupt(NAME, Damage::Metadata(e)),
            })?;
            Ok::<_, StoreError>((metadata, body.rest()))
        });
        let (metadata, body) = opened.await.map_err(|_| StoreError::Interrupted)??;
        let (first, last) = metadata.lsn;
        let key = match metadata.kind {
            Kind::Snapshot => format!("the snapshot at {last} that the server sent"),
            _ => format!("the change from {first} to {last} that the server sent"),
        };
        check_identity(&self.context, &self.manifest.database, &key, &metadata, metadata.kind)?;
        if metadata.body.is_some() {
            return Err(self.context.contradiction(&key, "its bytes are said to be elsewhere"));
        }
        Ok(OpenPiece { key, metadata, body })
    }
}
