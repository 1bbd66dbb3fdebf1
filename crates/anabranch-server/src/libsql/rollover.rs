//! Beginning a new generation: a transaction that changes nothing ends the current one.
//!
//! Clients with unpushed writes in the generation that ends cannot push them any more, so this is
//! done only when somebody asks for it, or when there is no other way on.

use std::sync::Arc;
use std::time::Instant;

use anabranch_format::{DeltaEncoder, Lsn, Pgno};
use anabranch_store::{
    AppendError, Appended, Head, NewSegment, Progress, Rollover, Spool, StoreError, causes,
    crash_point,
};

use super::engine::{Core, blocking, scratch, unavailable};
use super::frame::PAGE_SIZE;
use super::generation::{Generation, Span};
use crate::database::Database;
use crate::entropy;
use crate::error::ApiError;

/// How often it is tried while others append.
const ROUNDS_MAX: u32 = 16;

/// Ends the generation of `head`, and answers the head after that: of a newer generation, unless the
/// log is empty or numbers are used up.
pub(super) async fn append(
    db: &Arc<Database>,
    core: &mut Core,
    head: &Arc<Head>,
    now: Instant,
) -> Result<Arc<Head>, ApiError> {
    let before = Span::current(head).number;
    let mut head = Arc::clone(head);
    for _ in 0..ROUNDS_MAX {
        let _turn = db.turn().await;
        let Some(newest) = head.newest.clone() else { return Ok(head) };
        let current = db.engine().follow(db, core, &head, now).await?;
        let page = page_one(db, &current, &head).await?;
        let first = head.lsn().next().unwrap_or(Lsn::MAX);
        let (pages, sum) = ((newest.pages.1, newest.pages.1), (newest.sum.1, newest.sum.1));
        let encoded = encode(&page, first, pages.1, Spool::new(&db.libsql().scratch));
        let encoded = encoded.map_err(|e| scratch(&e))?;
        let new = NewSegment {
            push: entropy::push_id(),
            writer: db.libsql().writer.clone(),
            now: entropy::now(),
            page_size: PAGE_SIZE,
            pages,
            sum,
            frames: encoded.1,
            transactions: None,
            rollover: Rollover::Now,
            body: encoded.0,
        };
        match db.append(&head, new, "libsql").await {
            Ok(Appended::Won(metadata)) => {
                crash_point!("rollover::after-append");
                return Ok(Arc::new(head.after(metadata)));
            }
            Ok(Appended::Lost(_))
            | Err(AppendError::NotAtHead { .. } | AppendError::BelowFloor { .. }) => {}
            Err(e) => return Err(ApiError::busy(causes(&e))),
        }
        head = db.head().await.map_err(|e| unavailable(&e))?;
        if Span::current(&head).number > before {
            return Ok(head);
        }
    }
    Err(ApiError::busy("others append to this database all the time"))
}

fn encode(page: &[u8], first: Lsn, size: u32, spool: Spool) -> std::io::Result<(Spool, u64)> {
    let mut encoder = DeltaEncoder::new(spool, PAGE_SIZE, first)?;
    encoder.page(Pgno::ONE, page)?;
    let encoded = encoder.finish(size)?;
    Ok((encoded.sink, encoded.frames))
}

/// Page 1 at `head`: the last image in the frames at hand, or else that of the whole database.
async fn page_one(
    db: &Database,
    current: &Arc<Generation>,
    head: &Head,
) -> Result<Vec<u8>, ApiError> {
    let generation = Arc::clone(current);
    let found = blocking(move || last_page_one(&generation)).await?;
    if let Some(page) = found.map_err(|e| scratch(&e))? {
        return Ok(page);
    }
    let fetched = db.log().fetch(Lsn::ZERO, head, &Progress::none()).await;
    let fetched = fetched.map_err(|e| unavailable(&e))?;
    let first = blocking(move || {
        let mut page = vec![0; PAGE_SIZE.bytes()];
        let mut pages = fetched.into_unsummed_pages();
        pages.next_page(&mut page).map(|_| page)
    });
    first.await?.map_err(|e| match StoreError::from_pages(e) {
        Ok(e) => unavailable(&e),
        Err(e) => ApiError::busy(causes(&e)),
    })
}

fn last_page_one(generation: &Generation) -> std::io::Result<Option<Vec<u8>>> {
    let frames = &generation.frames;
    let found = frames.rfind(frames.last(), |frame| frame.pgno() == Pgno::ONE)?;
    Ok(found.map(|(_, frame)| frame.get(0).page().to_vec()))
}
