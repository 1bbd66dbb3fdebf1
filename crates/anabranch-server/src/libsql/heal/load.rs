//! Lineages out of what the store keeps of them.
//!
//! What is listed is no proof: a part counts if the segment that it names came of it. Listed after
//! the request came, since another server may have merged a part just before.

use std::io::{self, BufReader, Write};
use std::sync::Arc;

use anabranch_format::{
    ChecksumOrder, Healed, LineageId, Lsn, Metadata, MetadataError, PartHeader, Salts, WalChecksum,
    read_section, skip_section,
};
use anabranch_rebase::{KeyMap, MovedKey};
use anabranch_store::{Aside, AsideName, Progress, SpoolReader, StoreError, crash_point};
use futures::TryStreamExt;

use super::STEP;
use super::lineage::{Fork, Lineage, Passage, run_on};
use super::states::Place;
use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{Core, blocking, scratch, unavailable};
use crate::libsql::frame::{FRAME_BYTES, FrameFile, Frames};

/// What a passage's object begins with: packed and unpacked length.
pub(super) const PASSAGE_LEAD_BYTES: usize = 16;

/// All lineages with these salts.
pub(crate) async fn find(
    db: &Database,
    core: &mut Core,
    salts: Salts,
) -> Result<Vec<Arc<Lineage>>, ApiError> {
    let listed = db.log().asides(&Lineage::prefix(salts)).await.map_err(|e| unavailable(&e))?;
    let mut found = Vec::new();
    for of_one in listed.chunk_by(|a, b| a.lineage == b.lineage) {
        found.extend(known(db, core, of_one).await?);
    }
    Ok(found)
}

/// The lineage whose generation is `number`.
pub(crate) async fn of_number(
    db: &Database,
    core: &mut Core,
    id: &LineageId,
) -> Result<Option<Arc<Lineage>>, ApiError> {
    let listed = db.log().asides(id.as_str()).await.map_err(|e| unavailable(&e))?;
    known(db, core, &listed).await
}

/// A lineage of which this is all that is kept; `None` if nothing of it counts.
async fn known(
    db: &Database,
    core: &mut Core,
    listed: &[Aside],
) -> Result<Option<Arc<Lineage>>, ApiError> {
    let Some(id) = listed.first().map(|aside| aside.lineage.clone()) else { return Ok(None) };
    let counted = counted(db, core, &id, listed).await?;
    if counted.is_empty() {
        core.healing.forget(&id);
        return Ok(None);
    }
    let at_hand = core.healing.get(&id).filter(|lineage| lineage.parts == counted);
    let mut lineage = match at_hand {
        Some(lineage) => lineage,
        None => Arc::new(load(db, &id, &counted, listed).await?),
    };
    let after = AsideName::After(lineage.end);
    if lineage.passage.is_none() && listed.iter().any(|aside| aside.name == after) {
        lineage = Arc::new(with_passage(db, &lineage).await?);
    }
    core.healing.put(Arc::clone(&lineage));
    Ok(Some(lineage))
}

/// The parts that count, oldest first, with what their segments say.
async fn counted(
    db: &Database,
    core: &Core,
    id: &LineageId,
    listed: &[Aside],
) -> Result<Vec<(AsideName, Metadata)>, ApiError> {
    // After the listing: what retention has begun to delete is below the floor by then, and what is
    // left of it would end too early.
    let floor = db.log().floor().await.map_err(|e| unavailable(&e))?;
    let at_hand = core.healing.get(id);
    let mut counted: Vec<(AsideName, Metadata)> = Vec::new();
    for aside in listed {
        let AsideName::Part(lsn, push) = &aside.name else { continue };
        // What the log says of a position never changes, as long as it says anything.
        let metadata = match at_hand.as_ref().and_then(|l| l.counted(&aside.name)) {
            Some(metadata) => metadata,
            None => match segment(db, *lsn).await? {
                Some(metadata) if metadata.push.as_ref() == Some(push) => metadata,
                _ => continue,
            },
        };
        if metadata.lsn.1 >= floor {
            counted.push((aside.name.clone(), metadata));
        }
    }
    counted.sort_by_key(|(_, metadata)| metadata.lsn.0);
    // Without its first part, which retention takes first, the others lead nowhere.
    let whole = counted.first().is_some_and(|(_, metadata)| {
        let number = metadata.healed.as_ref().map_or(0, |healed| healed.number);
        metadata.next_generation == Some(number + STEP - 1)
    });
    Ok(if whole { counted } else { Vec::new() })
}

/// The segment that begins at `lsn`, if the log has it and keeps it.
async fn segment(db: &Database, lsn: Lsn) -> Result<Option<Metadata>, ApiError> {
    match db.log().segment_at(lsn).await {
        Ok(position) => Ok(position.metadata.filter(|metadata| metadata.lsn.0 == lsn)),
        Err(StoreError::BelowFloor { .. } | StoreError::BeyondHead { .. }) => Ok(None),
        Err(e) => Err(unavailable(&e)),
    }
}

fn damaged(id: &LineageId, what: &str) -> ApiError {
    tracing::error!(lineage = %id, what, "what is kept of a client cannot be read");
    ApiError::busy(format!("what is kept of this client cannot be read: {what}"))
}

async fn load(
    db: &Database,
    id: &LineageId,
    counted: &[(AsideName, Metadata)],
    listed: &[Aside],
) -> Result<Lineage, ApiError> {
    let mut lineage: Option<Lineage> = None;
    for (name, metadata) in counted {
        let opened = db.log().aside(id, name).await.map_err(|e| unavailable(&e))?;
        let part = opened.ok_or_else(|| damaged(id, "a part is missing"))?;
        if let Some(known) = lineage.take() {
            let crosses = metadata.healed.as_ref().is_some_and(|h| h.frames.0 != known.end + 1);
            let after = AsideName::After(known.end);
            lineage = Some(if crosses && listed.iter().any(|aside| aside.name == after) {
                with_passage(db, &known).await?
            } else {
                known
            });
        }
        let (id, dir) = (id.clone(), db.libsql().scratch.clone());
        let (name, metadata) = (name.clone(), metadata.clone());
        let read = blocking(move || {
            let added = add(lineage, &id, name, &metadata, part, &dir);
            added.map_err(|e| match e {
                AddError::Scratch(e) => scratch(&e),
                AddError::Damaged(what) => damaged(&id, &what),
            })
        });
        lineage = Some(read.await??);
        crash_point!("heal::loading");
    }
    lineage.ok_or_else(|| damaged(id, "it has no part"))
}

enum AddError {
    Scratch(io::Error),
    Damaged(String),
}

impl From<io::Error> for AddError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                AddError::Damaged(e.to_string())
            }
            _ => AddError::Scratch(e),
        }
    }
}

impl From<MetadataError> for AddError {
    fn from(e: MetadataError) -> Self {
        AddError::Damaged(e.to_string())
    }
}

/// Adds a part to what is known of a lineage. Blocking.
fn add(
    known: Option<Lineage>,
    id: &LineageId,
    name: AsideName,
    metadata: &Metadata,
    part: SpoolReader,
    dir: &std::path::Path,
) -> Result<Lineage, AddError> {
    let wrong = |what: &str| AddError::Damaged(what.to_owned());
    let mut source = BufReader::new(part);
    let header = PartHeader::decode(&mut source)?;
    let healed = metadata.healed.as_ref().filter(|healed| {
        healed.lineage == *id && header.lineage == *id && healed.frames == header.frames
    });
    let healed = healed.ok_or_else(|| wrong("a part is not what its segment says"))?;
    let mut keys = Vec::new();
    read_section(&mut source, header.sections[0], &mut keys)?;
    let keys: Vec<(String, i64, i64)> =
        serde_json::from_slice(&keys).map_err(|e| AddError::Damaged(e.to_string()))?;
    let moved = keys.into_iter().map(|(table, from, to)| MovedKey { table, from, to }).collect();
    skip_section(&mut source, header.sections[1])?;
    let (first, last) = header.frames;
    let mut lineage = match known {
        Some(known) => crossed(known, first)?,
        None => Lineage {
            id: id.clone(),
            order: if header.big_endian { ChecksumOrder::Big } else { ChecksumOrder::Little },
            number: healed.number,
            fork: Fork {
                generation: header.fork.0,
                frame: header.fork.1,
                lsn: header.fork.2,
                pages: 0,
            },
            reserved: (metadata.lsn.1, metadata.pages.1),
            frames: Arc::new(FrameFile::new(dir, header.fork.1)?),
            crossed: Vec::new(),
            parts: Vec::new(),
            base: base_of(&header),
            end: header.fork.1,
            checksum: WalChecksum::default(),
            pages: 0,
            cookie: None,
            keys: KeyMap::default(),
            passage: None,
        },
    };
    if first != lineage.end + 1 && !lineage.crossed.iter().any(|(_, last)| last + 1 == first) {
        return Err(wrong("a part does not follow the one before"));
    }
    let mut frames = FrameWriter::new(Arc::clone(&lineage.frames), first);
    read_section(&mut source, header.sections[2], &mut frames)?;
    if frames.finish()? != last {
        return Err(wrong("a part has another number of frames than it says"));
    }
    lineage.parts.push((name, metadata.clone()));
    (lineage.base, lineage.end, lineage.pages) = (base_of(&header), last, header.pages);
    lineage.checksum = WalChecksum(header.checksum.0, header.checksum.1);
    lineage.cookie = header.cookie;
    (lineage.keys, lineage.passage) = (KeyMap { moved }, None);
    Ok(lineage)
}

/// The client came over the passage before it wrote the part that begins with frame `first`.
fn crossed(mut known: Lineage, first: u32) -> Result<Lineage, AddError> {
    if let Some(passage) = known.passage.take().filter(|passage| passage.end + 1 == first) {
        let mut number = known.end + 1;
        known.crossed.push((number, passage.end));
        while number <= passage.end {
            let to = passage.end.min(number + 127);
            known.frames.write(number, passage.frames.read(number, to)?.bytes())?;
            number = to + 1;
        }
        known.frames.publish(passage.end);
    }
    Ok(known)
}

fn base_of(header: &PartHeader) -> (Place, u32) {
    let (lsn, pages, first) = header.base;
    ((lsn, pages), first)
}

/// Lays whole frames down as their bytes come.
pub(super) struct FrameWriter {
    file: Arc<FrameFile>,
    /// Number of the next whole frame.
    number: u32,
    bytes: Vec<u8>,
}

impl FrameWriter {
    /// The first frame will have this number.
    pub(super) fn new(file: Arc<FrameFile>, number: u32) -> Self {
        FrameWriter { file, number, bytes: Vec::new() }
    }

    /// Number of the last frame, once all of it came.
    pub(super) fn finish(mut self) -> io::Result<u32> {
        self.write_whole()?;
        if !self.bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.publish(self.number - 1);
        Ok(self.number - 1)
    }

    fn write_whole(&mut self) -> io::Result<()> {
        let count = self.bytes.len() / FRAME_BYTES;
        if count > 0 {
            let rest = self.bytes.split_off(count * FRAME_BYTES);
            let whole = std::mem::replace(&mut self.bytes, rest);
            let frames = Frames::new(whole.into())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a frame of page 0"))?;
            self.file.write(self.number, frames.bytes())?;
            self.number += u32::try_from(count).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Write for FrameWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(data);
        if self.bytes.len() >= 128 * FRAME_BYTES {
            self.write_whole()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `lineage` with the passage that is kept of it.
pub(super) async fn with_passage(db: &Database, lineage: &Lineage) -> Result<Lineage, ApiError> {
    let name = AsideName::After(lineage.end);
    let opened = db.log().aside(&lineage.id, &name).await.map_err(|e| unavailable(&e))?;
    let opened = opened.ok_or_else(|| damaged(&lineage.id, "the way on is missing"))?;
    let dir = db.libsql().scratch.clone();
    let lineage = lineage.clone();
    let read = blocking(move || {
        read_passage(&lineage, opened, &dir)
            .map(|passage| Lineage { passage: Some(passage), ..lineage.clone() })
            .map_err(|e| match e {
                AddError::Scratch(e) => scratch(&e),
                AddError::Damaged(what) => damaged(&lineage.id, &what),
            })
    });
    read.await?
}

fn read_passage(
    lineage: &Lineage,
    object: SpoolReader,
    dir: &std::path::Path,
) -> Result<Passage, AddError> {
    let mut source = BufReader::new(object);
    let mut lead = [0; PASSAGE_LEAD_BYTES];
    io::Read::read_exact(&mut source, &mut lead)?;
    let (packed, plain) = lead.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let lengths = (number(packed), number(plain));
    // Each page once at most.
    if lengths.1 > u64::from(lineage.reserved.1) * FRAME_BYTES as u64 {
        return Err(AddError::Damaged("it claims to be too long".to_owned()));
    }
    let frames = Arc::new(FrameFile::new(dir, lineage.end)?);
    let mut writer = FrameWriter::new(Arc::clone(&frames), lineage.end + 1);
    read_section(&mut source, lengths, &mut writer)?;
    let end = writer.finish()?;
    laid_down(lineage, frames, end).map_err(AddError::from)
}

/// What follows from the frames of a passage. Blocking.
pub(super) fn laid_down(
    lineage: &Lineage,
    frames: Arc<FrameFile>,
    end: u32,
) -> io::Result<Passage> {
    let (mut checksum, mut pages, mut number) = (lineage.checksum, 0, lineage.end + 1);
    while number <= end {
        let to = end.min(number + 127);
        let read = frames.read(number, to)?;
        checksum = run_on(lineage.order, checksum, &read);
        pages = read.get(read.len() - 1).header.commit_size;
        number = to + 1;
    }
    if pages == 0 {
        let what = "a way on that ends in the middle of a transaction";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Passage { frames, end, checksum })
}

/// The last frame of the lineage that the log says was merged, of which nothing else is kept.
pub(crate) async fn last_merged(
    db: &Database,
    owner: &Healed,
    from: Lsn,
    to: Lsn,
) -> Result<u32, ApiError> {
    let mut last = owner.frames.1;
    let mut segments = db.log().segments(from, to, &Progress::none());
    while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
        if let Some(healed) = segment.metadata.healed.filter(|h| h.lineage == owner.lineage) {
            last = last.max(healed.frames.1);
        }
    }
    Ok(last)
}
