//! The way of a lineage's owner back to where everybody goes on.
//!
//! A passage is one transaction with the image, at the base of the generation after p, of every
//! page that can differ there from what the client has: those of its own frames, and those that the
//! log changed after the client's base. It is kept before its first frame is served, so that every
//! server serves the same frames, and knows them when the client pushes them back.

use std::io::Write;
use std::sync::Arc;

use anabranch_format::{
    FrameHeader, Lsn, PageOne, Pgno, Salts, WalChecksum, canonicalise_page_one,
};
use anabranch_store::{AsideName, Progress, Spool, StoreError};

use super::lineage::Lineage;
use super::load::{FrameWriter, laid_down};
use super::merge::section;
use super::states::{self, Failed};
use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{Core, blocking, unavailable};
use crate::libsql::frame::{FrameFile, PAGE_BYTES, PAGE_SIZE};

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
    let passage = lineage.passage.as_ref().filter(|passage| start <= passage.end);
    Ok(passage.map(|passage| Arc::clone(&passage.frames)))
}

/// Makes the passage, and keeps it.
async fn made(db: &Database, lineage: &Lineage) -> Result<Lineage, ApiError> {
    let reserved = lineage.reserved;
    let size = states::size_at(db, reserved).await?;
    let mut wanted = states::changed(db, lineage.base.0, reserved).await?;
    let (frames, first, end) = (Arc::clone(&lineage.frames), lineage.base.1, lineage.end);
    let own = blocking(move || states::pages_of(&frames, first, end)).await?;
    wanted.extend(own.map_err(|e| crate::libsql::engine::scratch(&e))?);
    wanted.extend(lineage.pages + 1..=size);
    wanted.insert(Pgno::ONE.get());
    wanted.retain(|pgno| *pgno <= size && *pgno != PAGE_SIZE.lock_page().get());
    let position = db.log().segment_at(reserved).await.map_err(|e| unavailable(&e))?;
    let fetched = db.log().fetch_position(Lsn::ZERO, &position, &Progress::none()).await;
    let fetched = fetched.map_err(|e| unavailable(&e))?;
    let dir = db.libsql().scratch.clone();
    let of = lineage.clone();
    let made = blocking(move || {
        let last = wanted.last().copied();
        let frames = Arc::new(FrameFile::new(&dir, of.end)?);
        let mut writer =
            FrameWriter { file: Arc::clone(&frames), number: of.end + 1, bytes: Vec::new() };
        let (spool, lengths) = section_of(&dir, |section| {
            fetched.for_each(|pgno, page| {
                if !wanted.contains(&pgno.get()) {
                    return Ok(());
                }
                let commit_size = if Some(pgno.get()) == last { size } else { 0 };
                let (salts, checksum) = (Salts::default(), WalChecksum::default());
                let mut frame =
                    FrameHeader { pgno, commit_size, salts, checksum }.encode().to_vec();
                let mut page = page.to_vec();
                if pgno == Pgno::ONE {
                    let cookie = PageOne::read(&page).map_or(0, |one| one.schema_cookie);
                    canonicalise_page_one(&mut page, cookie, size);
                }
                debug_assert_eq!(page.len(), PAGE_BYTES);
                frame.append(&mut page);
                section.write_all(&frame)?;
                writer.write_all(&frame)?;
                Ok::<(), Failed>(())
            })
        })?;
        let end = writer.finish()?;
        let passage = laid_down(&of, frames, end)?;
        let mut body = Spool::new(&dir);
        body.write_all(&lengths.0.to_le_bytes())?;
        body.write_all(&lengths.1.to_le_bytes())?;
        std::io::copy(&mut spool.finish(), &mut body)?;
        Ok::<_, Failed>((Lineage { passage: Some(passage), ..of }, body.finish()))
    });
    let (lineage, body) = made.await?.map_err(ApiError::from)?;
    let kept = db.log().put_aside(&lineage.id, &AsideName::After(lineage.end), &body).await;
    kept.map_err(|e| unavailable(&e))?;
    crash_point!("heal::after-passage");
    Ok(lineage)
}

/// [`section`], of what speaks in errors of the store.
fn section_of(
    dir: &std::path::Path,
    write: impl FnOnce(&mut anabranch_format::SectionWriter<Spool>) -> Result<(), Failed>,
) -> Result<(Spool, (u64, u64)), Failed> {
    let mut failed: Option<StoreError> = None;
    let made = section(dir, |section| {
        write(section).map_err(|e| match e {
            Failed::Scratch(e) => e,
            Failed::Store(e) => {
                failed = Some(e);
                std::io::ErrorKind::Other.into()
            }
        })
    });
    match failed {
        Some(e) => Err(Failed::Store(e)),
        None => Ok(made?),
    }
}
