//! Up to where WALs were proven of which the log has nothing yet.
//!
//! The start of a transaction that takes several requests is acknowledged frame by frame and kept by
//! this server alone. Once that is lost, the client comes with frames that continue nothing that the
//! log has, and no chain leads from them to where the WAL left the log. So before the first request is
//! answered the store is told the frame up to which the WAL was proven. It is looked for by the salts
//! of the WAL: one that was emptied since has others.

use anabranch_format::{Lsn, Salts, WalChecksum};
use anabranch_store::{AsideName, Spool, crash_point};

use super::lineage::{Fork, Lineage};
use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::unavailable;

/// Keeps that the WAL with these salts, whose `first` frame after the fork has this checksum, was
/// proven up to `fork` while the log ended at `head`.
pub(crate) async fn note(
    db: &Database,
    (salts, first): (Salts, WalChecksum),
    fork: &Fork,
    head: Lsn,
) -> Result<(), ApiError> {
    let name = AsideName::Proven(head, fork.generation, fork.frame);
    let nothing = Spool::from_bytes(Vec::new()).finish();
    let kept = db.log().put_aside(&Lineage::name(salts, first), &name, &nothing).await;
    kept.map_err(|e| unavailable(&e))?;
    crash_point!("heal::proven");
    Ok(())
}

/// The last frame of `generation` up to which the WAL with these salts was proven.
pub(crate) async fn noted(
    db: &Database,
    salts: Salts,
    generation: u32,
) -> Result<Option<u32>, ApiError> {
    let listed = db.log().asides(&Lineage::prefix(salts)).await.map_err(|e| unavailable(&e))?;
    let proven = listed.iter().filter_map(|aside| match aside.name {
        AsideName::Proven(_, number, frame) if number == generation => Some(frame),
        _ => None,
    });
    Ok(proven.max())
}
