//! The way of a lineage's owner back to where everybody goes on.
//!
//! A passage is one transaction with the image, at the base of the generation after p, of every
//! page that can differ there from what the client has: those of its own frames, and those that the
//! log changed after the client's base (all, if the log does not keep that any more). It is kept before its first frame is served, so that every
//! server serves the same frames, and knows them when the client pushes them back.
//!
//! The client's connections know the schema by its cookie. If the client changed the schema, and the
//! log's cookie came to be the same, they would go on with root pages that are others' by now: then
//! page 1 gets a cookie that neither has, made from the lineage's name, so that all servers make the
//! same.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anabranch_format::{
    DeltaError, FrameHeader, PageOne, PageSet, Pgno, Salts, SectionWriter, WalChecksum,
    canonicalise_page_one, content_hash,
};
use anabranch_store::{
    AsideName, Chain, PagesAt, Progress, Spool, SpoolReader, StoreError, causes, crash_point,
};

use super::lineage::Lineage;
use super::load::{FrameWriter, laid_down, with_passage};
use super::states;
use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{Core, blocking, scratch, unavailable};
use crate::libsql::frame::{FrameFile, PAGE_BYTES};

/// Frames from `start` on of a lineage's owner, in its own generation; `None`: there are none, it
/// has come to the end.
pub(crate) async fn pull(
    db: &Database,
    core: &mut Core,
    mut lineage: Arc<Lineage>,
    start: u32,
) -> Result<Option<Arc<FrameFile>>, ApiError> {
    if start <= lineage.end {
        // It has lost what it pushed.
        return Ok(Some(Arc::clone(&lineage.frames)));
    }
    if lineage.passage.is_none() {
        lineage = Arc::new(made(db, &lineage).await?);
        core.healing.put(Arc::clone(&lineage));
    }
    crash_point!("heal::before-serving");
    let passage = lineage.passage.as_ref().filter(|passage| start <= passage.end);
    Ok(passage.map(|passage| Arc::clone(&passage.frames)))
}

/// Makes the passage, and keeps it.
async fn made(db: &Database, lineage: &Lineage) -> Result<Lineage, ApiError> {
    let (reserved, size) = lineage.reserved;
    let mut wanted = PageSet::new(size);
    if lineage.base.0.0 < db.log().floor().await.map_err(|e| unavailable(&e))? {
        // What the log changed since is not known any more: the whole database leads on from anywhere.
        (1..=size).filter_map(Pgno::new).for_each(|pgno| {
            wanted.insert(pgno);
        });
    } else {
        wanted = states::changed(db, lineage.base.0.0, reserved, wanted).await?;
    }
    let (frames, first, end) = (Arc::clone(&lineage.frames), lineage.base.1, lineage.end);
    let wanted = blocking(move || states::pages_of(&frames, first, end, wanted)).await?;
    let mut wanted = wanted.map_err(|e| scratch(&e))?;
    let grown = (lineage.pages + 1..=size).filter_map(Pgno::new);
    [Pgno::ONE].into_iter().chain(grown).for_each(|pgno| {
        wanted.insert(pgno);
    });
    let found = db.log().pages_at(reserved, wanted, Chain::Checked, &Progress::none()).await;
    let found = found.map_err(|e| unavailable(&e))?;
    let (dir, of) = (db.libsql().scratch.clone(), lineage.clone());
    let made = blocking(move || write(of, found, size, &dir)).await?;
    let (lineage, body) = made.map_err(|e| match StoreError::from_pages(e) {
        Ok(e) => unavailable(&e),
        Err(e) => ApiError::busy(causes(&e)),
    })?;
    crash_point!("heal::before-passage");
    let kept = db.log().put_aside(&lineage.id, &AsideName::After(lineage.end), &body).await;
    kept.map_err(|e| unavailable(&e))?;
    crash_point!("heal::after-passage");
    if db.is_sole() {
        return Ok(lineage);
    }
    // Another server may have kept one a moment before, of other pages if the floor rose in between:
    // all serve the one that is kept.
    with_passage(db, &lineage).await
}

/// Makes the client's connections read the schema anew, where they would not.
fn tell_schema(of: &Lineage, page: &mut [u8], size: u32) {
    let cookie = PageOne::read(page).map_or(0, |one| one.schema_cookie);
    if of.cookie == Some(cookie) {
        let name = content_hash(format!("{} {}", of.id, of.end).as_bytes());
        let other = u32::try_from(name & 0x3fff_ffff).unwrap_or_default() | 0x4000_0000;
        canonicalise_page_one(page, other, size);
    }
}

/// Writes the pages that were found as frames, to keep and to serve. Blocking.
fn write(
    of: Lineage,
    found: PagesAt,
    size: u32,
    dir: &Path,
) -> Result<(Lineage, SpoolReader), DeltaError> {
    let file = Arc::new(FrameFile::new(dir, of.end)?);
    let mut frames = FrameWriter::new(Arc::clone(&file), of.end + 1);
    let mut section = SectionWriter::new(Spool::new(dir));
    let mut source = found.into_pages();
    let mut page = vec![0; PAGE_BYTES];
    let mut held: Option<(Pgno, Vec<u8>)> = None;
    loop {
        let next = source.next_page(&mut page)?;
        if next == Some(Pgno::ONE) {
            tell_schema(&of, &mut page, size);
        }
        // Which one is the last, and commits, is known once there is no other.
        if let Some((pgno, page)) = held.take() {
            let commit_size = if next.is_none() { size } else { 0 };
            let (salts, checksum) = (Salts::default(), WalChecksum::default());
            let header = FrameHeader { pgno, commit_size, salts, checksum }.encode();
            for part in [&header[..], &page[..]] {
                section.write_all(part)?;
                frames.write_all(part)?;
            }
        }
        let Some(pgno) = next else { break };
        held = Some((pgno, page.clone()));
    }
    let end = frames.finish()?;
    let (section, lengths) = section.finish()?;
    let passage = laid_down(&of, file, end)?;
    let mut body = Spool::new(dir);
    body.write_all(&lengths.0.to_le_bytes())?;
    body.write_all(&lengths.1.to_le_bytes())?;
    std::io::copy(&mut section.finish(), &mut body)?;
    Ok((Lineage { passage: Some(passage), ..of }, body.finish()))
}
