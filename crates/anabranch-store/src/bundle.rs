//! A fetch on its way to one that cannot reach the store: a manifest, then the objects of the plan,
//! byte for byte as the store has them.
//!
//! The manifest is a zstd skippable frame and every object is a row of zstd frames, so the whole
//! still reads with `zstd -d`. Nothing is compressed anew and nothing but a block of an object is
//! in memory, whatever the length, but for many small changes: those are merged first, so that a
//! page that changed a thousand times does not travel a thousand times.
//!
//! Objects come in the order of the log, but for the longest one, which comes last: who receives them
//! can begin to read pages as soon as it begins. Bytes that were asked for twice are the same twice
//! as long as the tag is: it covers the manifest, which has the lengths of the objects, and the
//! contents of what was merged; objects themselves never change.

use std::collections::HashSet;

use anabranch_format::{DatabaseId, Kind, Lsn, Metadata, content_hash};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};
use serde::{Deserialize, Serialize};

use crate::blocking::at_once;
use crate::error::{Damage, StoreError};
use crate::fetch::Pushed;
use crate::history::Position;
use crate::keys::Target;
use crate::log::Log;
use crate::objects::{Objects, is_vanished};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::runs::Chain;

/// Magic of the skippable frame that holds the manifest, as a little-endian number.
pub const MANIFEST_MAGIC: u32 = 0x184D_2A51;
/// Length of that frame's header: magic and size.
pub(crate) const MANIFEST_HEADER_BYTES: usize = 8;
/// No manifest is longer.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// No bundle is longer: 4 TiB.
pub const BUNDLE_BYTES_MAX: u64 = 1 << 42;
/// Version of the form.
const VERSION: u32 = 1;
/// No bundle has more objects; a manifest of so many fits its limit.
pub(crate) const PIECES_MAX: usize = 50_000;
/// Of pushes that compaction or merging hides the newest of each writer is told, and of those so
/// many.
const PUSHES_MAX: usize = 1_000;

/// From this many changes on they are merged, if they are no longer than [`MERGED_BYTES_MAX`].
const MERGED_PIECES_MIN: usize = 8;
/// Compressed bytes of changes that are merged: a fraction of a second of one processor.
const MERGED_BYTES_MAX: u64 = 8 << 20;

/// A plan that was overtaken is made anew this often.
const PLANS_MAX: u32 = 6;
/// Objects that are looked at at the same time.
const LOOKS_AT_ONCE: usize = 16;
/// What is read of a local file at a time.
const BLOCK_BYTES: usize = 512 * 1024;

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the form.
    #[serde(rename = "anabranch")]
    pub(crate) version: u32,
    /// The database.
    #[serde(rename = "db")]
    pub database: DatabaseId,
    /// Where the change starts; absent: it is the whole database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Lsn>,
    /// Where it leads.
    pub to: Lsn,
    /// Lengths of the objects, oldest first.
    pub(crate) pieces: Vec<u64>,
    /// Which of them comes last, after all others.
    #[serde(default)]
    pub(crate) tail: usize,
    /// Pushes that compaction hides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pushes: Vec<Pushed>,
}

impl Manifest {
    /// The skippable frame.
    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("ids and numbers are plain JSON");
        let len = u32::try_from(json.len()).expect("bounded by the number of pieces and pushes");
        let mut frame = Vec::with_capacity(MANIFEST_HEADER_BYTES + json.len());
        frame.extend_from_slice(&MANIFEST_MAGIC.to_le_bytes());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&json);
        frame
    }

    /// Reads the content of the frame, and checks what can be checked by itself.
    pub(crate) fn decode(json: &[u8]) -> Result<Self, String> {
        let manifest: Manifest =
            serde_json::from_slice(json).map_err(|e| format!("malformed JSON: {e}"))?;
        if manifest.version != VERSION {
            return Err(format!("a manifest of version {}", manifest.version));
        }
        let pieces = manifest.pieces.len();
        if pieces > PIECES_MAX || manifest.tail >= pieces.max(1) {
            return Err(format!("{pieces} objects, of which number {} last", manifest.tail));
        }
        if manifest.bytes().is_none() {
            return Err(format!("more than {BUNDLE_BYTES_MAX} bytes"));
        }
        Ok(manifest)
    }

    /// Bytes of all objects; `None` if they are too many.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let sum = self.pieces.iter().try_fold(0u64, |sum, bytes| sum.checked_add(*bytes));
        sum.filter(|sum| *sum <= BUNDLE_BYTES_MAX)
    }

    /// Where the objects begin among the bytes that follow the manifest, in the order of the log.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let mut starts = vec![0; self.pieces.len()];
        let mut at = 0;
        for index in self.order() {
            starts[index] = at;
            at += self.pieces[index];
        }
        starts
    }

    /// The numbers of the objects as they come.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (tail, pieces) = (self.tail, self.pieces.len());
        (0..pieces).filter(move |index| *index != tail).chain((tail < pieces).then_some(tail))
    }
}

/// A fetch that is ready to be sent.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    objects: Objects,
    /// The manifest, then the objects, as they come.
    parts: Vec<Part>,
    tag: u64,
}

/// Consecutive bytes of a bundle.
#[derive(Debug, Clone)]
enum Part {
    Here(Bytes),
    Object { key: String, bytes: u64 },
}

impl Part {
    fn bytes(&self) -> u64 {
        match self {
            Part::Here(bytes) => bytes.len() as u64,
            Part::Object { bytes, .. } => *bytes,
        }
    }
}

/// An object of the plan, looked at.
struct Piece {
    target: Target,
    metadata: Metadata,
    part: Part,
}

impl Bundle {
    /// What it holds.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// The same as long as the bytes are.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("{:016x}", self.tag)
    }

    /// The bytes from `start` on. After an error nothing more comes, and what came is incomplete.
    pub fn stream(
        &self,
        start: u64,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<> {
        let mut skip = start;
        let mut parts = Vec::new();
        for part in &self.parts {
            let skipped = skip.min(part.bytes());
            skip -= skipped;
            if skipped < part.bytes() {
                parts.push((part.clone(), skipped));
            }
        }
        let objects = self.objects.clone();
        futures::stream::iter(parts)
            .map(move |(part, skip)| match part {
                Part::Here(bytes) => {
                    let rest = bytes.slice(usize::try_from(skip).unwrap_or(bytes.len())..);
                    futures::stream::once(async { Ok(rest) }).boxed()
                }
                Part::Object { key, bytes } => objects.clone().read(key, skip, bytes),
            })
            .flatten()
    }
}

impl Log {
    /// Prepares to send what leads from `from` to `to`; see [`Log::fetch`].
    pub async fn bundle(&self, from: Lsn, to: &Position) -> Result<Bundle, StoreError> {
        if from > to.lsn {
            let (location, at, head) = (self.location().to_owned(), from, to.lsn);
            return Err(StoreError::BeyondHead { location, at, head });
        }
        let (log, to) = (self.clone(), to.clone());
        let work = move || async move { log.bundle_newly_planned(from, &to).await };
        at_once(self.objects.kind(), work).await?
    }

    async fn bundle_newly_planned(&self, from: Lsn, to: &Position) -> Result<Bundle, StoreError> {
        let mut plans = 1;
        loop {
            match self.try_bundle(from, to).await {
                Err(e) if is_vanished(&e) && plans < PLANS_MAX => plans += 1,
                made => return made,
            }
        }
    }

    async fn try_bundle(&self, from: Lsn, to: &Position) -> Result<Bundle, StoreError> {
        let plan = if from == to.lsn {
            Plan { from: Some(from), pieces: Vec::new() }
        } else {
            self.plan(from, to).await?
        };
        if plan.pieces.len() > PIECES_MAX {
            let text = format!("{} objects lead to position {}", plan.pieces.len(), to.lsn);
            return Err(self.contradiction(&self.keys.log(), text));
        }
        let pieces = self.look_at(&plan).await?;
        let mut pushes = Vec::new();
        for piece in &pieces {
            pushes.extend(self.hidden_pushes(&piece.metadata).await?);
        }
        let (pieces, merged) = self.merge_small(pieces, to, &mut pushes).await?;
        pushes.sort_by_key(|pushed| std::cmp::Reverse(pushed.lsn));
        let mut writers = HashSet::new();
        pushes.retain(|pushed| writers.insert(pushed.writer.clone()));
        pushes.truncate(PUSHES_MAX);
        let lengths: Vec<u64> = pieces.iter().map(Part::bytes).collect();
        let tail = (0..lengths.len()).max_by_key(|index| lengths[*index]).unwrap_or(0);
        let manifest = Manifest {
            version: VERSION,
            database: self.database().clone(),
            from: plan.from,
            to: to.lsn,
            pieces: lengths,
            tail,
            pushes,
        };
        let mut covered = manifest.encode();
        let mut parts = vec![Part::Here(covered.clone().into())];
        parts.extend(manifest.order().map(|index| pieces[index].clone()));
        covered.extend_from_slice(&merged.to_le_bytes());
        let (objects, tag) = (self.objects.clone(), content_hash(&covered));
        Ok(Bundle { manifest, objects, parts, tag })
    }

    async fn look_at(&self, plan: &Plan) -> Result<Vec<Piece>, StoreError> {
        let targets: Vec<Target> = plan.pieces.iter().map(|(target, _)| *target).collect();
        futures::stream::iter(targets)
            .map(|target| self.piece(target))
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Looks at an object; follows it to its body if that lies elsewhere.
    async fn piece(&self, target: Target) -> Result<Piece, StoreError> {
        let mut key = self.keys.target_key(&target);
        let seen = self.objects.metadata(&key).await?;
        let seen = seen.ok_or_else(|| self.objects.missing(&key))?;
        let (metadata, mut bytes) = (seen.metadata, seen.bytes);
        self.check_target(&key, target, &metadata)?;
        if let Some(name) = &metadata.body {
            let body = self.keys.resolve_body(name).ok_or_else(|| {
                self.contradiction(&key, format!("it names a body where none can be: {name:?}"))
            })?;
            let size = self.objects.size(&body).await?;
            bytes = size.ok_or_else(|| self.objects.missing(&body))?;
            key = body;
        }
        Ok(Piece { target, metadata, part: Part::Object { key, bytes } })
    }

    /// Merges the changes, if they are many and short. Answers the parts, and a hash of the contents
    /// of what was merged.
    async fn merge_small(
        &self,
        pieces: Vec<Piece>,
        to: &Position,
        pushes: &mut Vec<Pushed>,
    ) -> Result<(Vec<Part>, u64), StoreError> {
        let whole = pieces.iter().take_while(|p| p.metadata.kind == Kind::Snapshot).count();
        let changes = &pieces[whole..];
        let bytes: u64 = changes.iter().map(|p| p.part.bytes()).sum();
        let ends = changes.first().map(|p| p.metadata.from()).zip(to.metadata.clone());
        let unmerged = |pieces: Vec<Piece>| pieces.into_iter().map(|p| p.part).collect();
        let (Some((from, last)), true, true) =
            (ends, changes.len() >= MERGED_PIECES_MIN, bytes <= MERGED_BYTES_MAX)
        else {
            return Ok((unmerged(pieces), 0));
        };
        let targets = changes.iter().map(|p| (p.target, p.part.bytes())).collect();
        let plan = Plan { from: Some(from), pieces: targets };
        let collected = self.collect(&plan, to, Chain::LeftToReader, &Progress::none()).await?;
        pushes.clone_from(&collected.pushes);
        let Some((metadata, body)) = self.merge(collected, from, last).await? else {
            return Ok((unmerged(pieces), 0));
        };
        let key = self.keys.delta(from, to.lsn);
        let head =
            metadata.encode().map_err(|e| self.objects.corrupt(&key, Damage::Metadata(e)))?;
        let merged = self.whole(head, &body).await?;
        let hash = content_hash(&merged);
        let mut parts: Vec<Part> = pieces.into_iter().take(whole).map(|p| p.part).collect();
        parts.push(Part::Here(merged));
        Ok((parts, hash))
    }
}

impl Objects {
    /// The bytes of the object from `start` to `end`, which is its length.
    fn read(
        self,
        key: String,
        start: u64,
        end: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let opened = async move {
            let range = Some(GetRange::Bounded(start..end));
            let options = GetOptions { range, ..GetOptions::default() };
            let found = match self.store().get_opts(&Path::from(key.as_str()), options).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Err(self.missing(&key)),
                Err(e) => return Err(self.failed(&key, e)),
            };
            if found.meta.size != end {
                let text = format!("it has {} bytes, and had {end} before", found.meta.size);
                return Err(self.context().contradiction(&key, text));
            }
            Ok(match found.payload {
                GetResultPayload::File(file, _) => self.read_file(key, file, start, end).boxed(),
                GetResultPayload::Stream(stream) => {
                    stream.map_err(move |e| self.failed(&key, e)).boxed()
                }
            })
        };
        futures::stream::once(opened).try_flatten().boxed()
    }

    fn read_file(
        self,
        key: String,
        file: std::fs::File,
        start: u64,
        end: u64,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
        futures::stream::try_unfold((file, start), move |(file, at)| {
            let (objects, key) = (self.clone(), key.clone());
            async move {
                if at == end {
                    return Ok(None);
                }
                let read = tokio::task::spawn_blocking(move || read_block(file, at, end));
                let (file, block) =
                    read.await.map_err(|_| StoreError::Interrupted)?.map_err(|e| {
                        let source = Box::new(e);
                        objects
                            .failed(&key, object_store::Error::Generic { store: "folder", source })
                    })?;
                let next = at + block.len() as u64;
                Ok(Some((block, (file, next))))
            }
        })
    }
}

/// A block of the file from `at` on.
fn read_block(
    mut file: std::fs::File,
    at: u64,
    end: u64,
) -> std::io::Result<(std::fs::File, Bytes)> {
    use std::io::{Read, Seek, SeekFrom};
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    let mut block = vec![0; BLOCK_BYTES.min(left)];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut block)?;
    Ok((file, block.into()))
}
