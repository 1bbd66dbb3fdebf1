//! The file stays as it is, on top of a state that it has nothing in common with any more.

use anabranch_format::{DbChecksum, Pgno};
use anabranch_store::{Anchor, Fetched};

use super::Taken;
use super::change::{BYTES_AHEAD, mismatch};
use crate::entropy;
use crate::error::Error;
use crate::image::cookie_of;
use crate::read_ahead::ReadAhead;
use crate::report::Pulled;
use crate::session::{Act, Session};
use crate::state::Base;

/// Takes the whole database `fetched` for the base, and leaves the file as it is: whatever differs from
/// it is a local change from now on. One transaction of the sidecar.
pub(crate) fn stand(
    session: &mut Session,
    fetched: Fetched,
    anchor: Anchor,
) -> Result<Taken, Error> {
    let (from, to, bytes) = (session.state.base.lsn(), anchor.last, fetched.bytes);
    let (size, stated) = (fetched.pages.1, fetched.stated_sum());
    let (cookie, counter) = {
        let mut live = session.live_prepared()?;
        let view = live.begin()?;
        session.check_still_the_same()?;
        (view.page_one().schema_cookie, view.page_one().change_counter)
    };
    session.sidecar.begin()?;
    let id = session.sidecar.next_intent_id()?;
    let (mut sum, mut log_cookie) = (DbChecksum::EMPTY, 0);
    {
        let map = session.base_map();
        let mut pages = ReadAhead::hashed(fetched, map.hasher(), BYTES_AHEAD)?;
        let mut staging = map.stage(id);
        while let Some(pgno) = pages.advance().map_err(Error::from_pages)? {
            if pgno == Pgno::ONE {
                log_cookie = cookie_of(pages.page());
            }
            sum.toggle(pages.entry().shared);
            staging.push(pgno, pages.entry())?;
        }
        staging.finish()?;
    }
    if let Some(expected) = stated.filter(|expected| *expected != sum) {
        session.sidecar.rollback()?;
        return Err(mismatch(to, sum, expected));
    }
    // Another cookie than the file's: the push that follows tells that the schema changed.
    let base = Base { anchor, size, sum, log_cookie, file_cookie: !cookie };
    // What this replica was at earlier positions must not make the file look older than it is.
    session.sidecar.forget_history()?;
    session.settle_earlier(Act::Stand(id), base, None, counter, entropy::now())?;
    let pulled = Pulled { from, to, pages: 0, bytes };
    Ok(Taken { pulled, rebased: None, kept: None, ahead: true })
}
