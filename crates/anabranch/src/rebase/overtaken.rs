//! Going on from a result that was overtaken: somebody wrote to the file before it could be applied.
//!
//! ```text
//! result      what this round writes                        R''
//! reached     what the round before came to                 R'
//! remote      the remote's state                            R
//! back        the pages written meanwhile, as they were     L0
//! file        a read transaction of the file as it is now   L1
//! ```
//!
//! What turns L0 into L1 is replayed on R', as what turns the base into L0 was replayed on R: by the
//! same rules, with the keys that rows got so far. So this costs what was written since, not what was
//! changed before.

use std::time::Instant;

use anabranch_format::Pgno;
use anabranch_rebase::{Changed, Summary};
use anabranch_sqlite::{Overlay, PageRead, PageSet, SharedOverlay, SharedPages, lock_pages};

use super::{Merged, Replay, Work};
use crate::error::Error;
use crate::image::folder_of;
use crate::layers::{Layers, Local, cookie_in, locked, spooling};
use crate::session::Session;

/// Replays what was written to the file between the round that was overtaken and `local`, which has
/// the same schema.
pub(super) fn go_on(
    session: &Session,
    work: &Work<'_>,
    overtaken: Merged,
    local: Local,
    deadline: Option<Instant>,
) -> Result<Merged, Error> {
    let (back, moved) = back(session, &overtaken.local, &local)?;
    let remote = flattened(session, back.clone(), &overtaken)?;
    let reached = Layers::on(session, remote.clone(), Some(&overtaken.result))?;
    let written = Layers::on(session, reached.clone(), None)?;
    let changed = Changed {
        before: back.clone(),
        after: local.shared(),
        pages: moved.into(),
        before_gone: false,
    };
    let rules = work.with.rules(session)?;
    let replay =
        Replay { changed, remote: reached.clone(), result: &written, rules: &rules, deadline };
    let (mut keys, origin) = (overtaken.keys, work.origin(session));
    let mut journal = |conflict| session.sidecar.put_conflict(&origin, conflict);
    let since = replay.run(session, &mut keys, &mut journal)?;
    let schema_moved = cookie_in(session, &written)? != cookie_in(session, &reached)?;
    add(session, &reached, &written)?;
    let merged = Merged {
        local,
        under: vec![back],
        remote,
        log_cookie: overtaken.log_cookie,
        result: reached,
        keys,
        summary: both(overtaken.summary, since),
        carried: overtaken.carried || schema_moved,
        new_schema: false,
    };
    merged.shown(session)
}

/// The file as it was, on the file as it is; and the pages in which they differ.
fn back(session: &Session, was: &Local, is: &Local) -> Result<(SharedOverlay, PageSet), Error> {
    let failed = |e| spooling(session, e);
    let mut back = Overlay::new(is.shared(), folder_of(&session.db)).map_err(failed)?;
    let (old, new) = (was.shared(), is.shared());
    let mut old = lock_pages(&old).map_err(failed)?;
    let mut new = lock_pages(&new).map_err(failed)?;
    let (size, now) = (old.size(), new.size());
    back.resize(size).map_err(failed)?;
    let mut moved = PageSet::new(size.max(now));
    let bytes = session.state.page_size.bytes();
    let (mut a, mut b) = (vec![0; bytes], vec![0; bytes]);
    let lock_page = session.state.page_size.lock_page();
    // A page that was as in the base, and is, is the same.
    let mut after = 0;
    while let Some(pgno) = next(after, was, is, size, now) {
        after = pgno.get();
        if pgno == lock_page {
            continue;
        }
        if after <= size {
            old.read(pgno, &mut a).map_err(failed)?;
        }
        if after <= now {
            new.read(pgno, &mut b).map_err(failed)?;
        }
        if after > size || after > now || a != b {
            moved.insert(pgno);
            if after <= size {
                back.put(pgno, &a).map_err(failed)?;
            }
        }
    }
    drop(new);
    Ok((back.shared(), moved))
}

/// The next page that may differ between the two states of the file: it differs from the base in one
/// of them, or is there in one only.
fn next(after: u32, was: &Local, is: &Local, size: u32, now: u32) -> Option<Pgno> {
    let beyond = after.max(size.min(now)).saturating_add(1);
    let beyond = Pgno::new(beyond).filter(|pgno| pgno.get() <= size.max(now));
    [was.changed.next_after(after), is.changed.next_after(after), beyond]
        .into_iter()
        .flatten()
        .min()
}

/// The remote's state in one layer on `lower`, which is the file as the round that was overtaken had it.
fn flattened(
    session: &Session,
    lower: SharedPages,
    overtaken: &Merged,
) -> Result<SharedOverlay, Error> {
    let failed = |e| spooling(session, e);
    let size = locked(session, &overtaken.remote)?.size();
    let mut own = PageSet::new(size);
    for layer in overtaken.under.iter().chain([&overtaken.remote]) {
        let pages = locked(session, layer)?.page_set();
        for pgno in pages.iter().take_while(|pgno| pgno.get() <= size) {
            own.insert(pgno);
        }
    }
    let flat = Layers::on(session, lower, None)?;
    let mut layer = locked(session, &flat)?;
    layer.resize(size).map_err(failed)?;
    let mut page = vec![0; session.state.page_size.bytes()];
    for pgno in own.iter() {
        locked(session, &overtaken.remote)?.read(pgno, &mut page).map_err(failed)?;
        layer.put(pgno, &page).map_err(failed)?;
    }
    drop(layer);
    Ok(flat)
}

/// Adds what was put on top of a layer to it.
fn add(session: &Session, to: &SharedOverlay, top: &SharedOverlay) -> Result<(), Error> {
    let failed = |e| spooling(session, e);
    // One lock at a time: the one on top reads from the one beneath.
    let (own, size) = {
        let top = locked(session, top)?;
        (top.page_set(), top.size())
    };
    let mut page = vec![0; session.state.page_size.bytes()];
    for pgno in own.iter() {
        locked(session, top)?.read(pgno, &mut page).map_err(failed)?;
        locked(session, to)?.put(pgno, &page).map_err(failed)?;
    }
    locked(session, to)?.resize(size).map_err(failed)
}

/// What two rounds did.
fn both(mut earlier: Summary, since: Summary) -> Summary {
    for (table, done) in since.tables {
        let all = earlier.tables.entry(table).or_default();
        all.inserted += done.inserted;
        all.updated += done.updated;
        all.deleted += done.deleted;
        all.conflicts += done.conflicts;
        all.renumbered += done.renumbered;
    }
    earlier.objects += since.objects;
    earlier
}
