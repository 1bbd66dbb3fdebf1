//! Merging a part and appending what comes of it.

use std::io::Write;
use std::sync::Arc;

use anabranch_format::{
    ChecksumOrder, DeltaEncoder, Healed, Lsn, PART_BYTES_MAX, PageOne, PageSource, PartHeader,
    Pgno, Salts, WalChecksum, canonicalise_page_one,
};
use anabranch_rebase::{Changed, KeyMap};
use anabranch_sqlite::{Difference, Overlay, PageRead, SharedOverlay, SharedPages, lock_pages};
use anabranch_store::{
    AppendError, Appended, AsideName, GENERATION_MAX, Head, NewSegment, Rollover, Spool,
    SpoolReader, causes, crash_point,
};

use super::lineage::{Fork, Lineage, Origin};
use super::merge::{Merged, Merging, NotMerged, merge, section};
use super::mirror::Mirror;
use super::states::{self, Place};
use super::{FRAMES_MAX, STEP};
use crate::database::Database;
use crate::entropy;
use crate::error::ApiError;
use crate::libsql::engine::{Core, blocking, scratch, unavailable};
use crate::libsql::frame::{FrameFile, PAGE_BYTES, PAGE_SIZE};
use crate::libsql::generation::Span;
use crate::page_map::{Change, PageMap};

/// What the sections of a part are.
const PART_SECTIONS: [&str; 3] = ["the keys that changed", "the rows of the journal", "the frames"];
/// Frames that are copied at a time.
const READ_FRAMES: u32 = 128;

/// Whole transactions of a client, to be merged.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) origin: Origin,
    pub(crate) salts: Salts,
    pub(crate) order: ChecksumOrder,
    /// From the number after the origin's on, up to the last.
    pub(crate) frames: Arc<FrameFile>,
    /// The WAL's checksum after the first and the last.
    pub(crate) checksums: (WalChecksum, WalChecksum),
    /// Size of the client's database after them, in pages.
    pub(crate) pages: u32,
}

/// How it ended.
pub(crate) enum Outcome {
    /// It is in the log.
    Healed(Arc<Lineage>),
    /// Somebody else was first.
    Lost,
    /// It cannot be merged.
    Refused(&'static str, String),
}

/// What names the part and its place.
struct Plan {
    id: anabranch_format::LineageId,
    number: u32,
    fork: Fork,
    /// The state of the log that the client's own frames started from, and the first of them.
    base: (Place, u32),
    rollover: Rollover,
}

impl Own {
    fn first(&self) -> u32 {
        self.origin.next()
    }

    fn last(&self) -> u32 {
        self.frames.last()
    }

    /// The lineage whose own frames these continue right away.
    fn continued(&self) -> Option<&Arc<Lineage>> {
        match &self.origin {
            Origin::Lineage(lineage, last) if *last == lineage.end => Some(lineage),
            _ => None,
        }
    }

    fn plan(&self, head: &Head, rollover: Rollover) -> Result<Plan, (&'static str, String)> {
        let first = self.first();
        Ok(match &self.origin {
            Origin::Fork(fork) => {
                let number = Span::current(head).number + 1;
                let next = number + STEP - 1;
                if next > GENERATION_MAX {
                    let what = "the numbers of generations are used up".to_owned();
                    return Err(("generation", what));
                }
                Plan {
                    id: Lineage::name(self.salts, self.checksums.0),
                    number,
                    fork: *fork,
                    base: ((fork.lsn, fork.pages), first),
                    rollover: Rollover::To(next),
                }
            }
            Origin::Lineage(lineage, last) => Plan {
                id: lineage.id.clone(),
                number: lineage.number,
                fork: lineage.fork,
                base: if *last == lineage.end { lineage.base } else { (lineage.reserved, first) },
                rollover,
            },
        })
    }
}

/// Merges `own` onto `head` and appends the result; `rollover` says whether an ordinary rollover may
/// be due with it.
pub(crate) async fn heal(
    db: &Arc<Database>,
    core: &mut Core,
    head: &Head,
    own: &Own,
    rollover: Rollover,
) -> Result<Outcome, ApiError> {
    if own.last() - own.first() >= FRAMES_MAX {
        let what = format!("transactions of more than {FRAMES_MAX} frames are not merged");
        return Ok(Outcome::Refused("heal-size", what));
    }
    let plan = match own.plan(head, rollover) {
        Ok(plan) => plan,
        Err((reason, what)) => return Ok(Outcome::Refused(reason, what)),
    };
    let floor = db.log().floor().await.map_err(|e| unavailable(&e))?;
    if plan.base.0.0 < floor {
        let what = "it rests on a state that the log does not keep any more".to_owned();
        return Ok(Outcome::Refused("expired", what));
    }
    let mirror = Mirror::at(db, core.healing.mirror.take(), head).await?;
    let merged = merged(db, head, &mirror, own, &plan).await;
    let onto = mirror.pages();
    core.healing.mirror = Some(mirror);
    let (merged, cookie) = match merged? {
        Ok(merged) => merged,
        Err(NotMerged::Refused(reason, what)) => return Ok(Outcome::Refused(reason, what)),
        Err(NotMerged::Failed(what)) => return Err(ApiError::busy(what)),
    };
    let map = db.engine().take_map(db, head).await?;
    let delta = encode(db, head, map, onto, &merged.layer).await?;
    let appended = append(db, core, head, own, (plan, cookie), merged, &delta).await;
    let mut map = delta.map;
    if let Ok(Outcome::Healed(_)) = &appended
        && let Some(known) = db.known_head()
    {
        // Later appends may be known already: then the map is moved along as usual.
        if let Some(end) = head.lsn().checked_add(delta.frames).filter(|end| *end <= known.lsn()) {
            map.apply(end, &delta.change);
        }
    }
    db.engine().put_map(db, map);
    appended
}

async fn merged(
    db: &Database,
    head: &Head,
    mirror: &Mirror,
    own: &Own,
    plan: &Plan,
) -> Result<Result<(Merged, Option<u32>), NotMerged>, ApiError> {
    let base = states::state_at(db, mirror.pages(), head, plan.base.0).await?;
    let before = own.continued().map(|lineage| {
        (Arc::clone(&lineage.frames), lineage.base.1, lineage.end, lineage.keys.clone())
    });
    let (frames, first, last) = (Arc::clone(&own.frames), own.first(), own.last());
    let dir = db.libsql().scratch.clone();
    let keys = before.as_ref().map_or_else(KeyMap::default, |(.., keys)| keys.clone());
    let layers = blocking(move || {
        let mut base = base;
        if let Some((frames, first, last, _)) = before {
            states::lay(&mut base, &frames, first, last)?;
        }
        let base: SharedPages = base.shared();
        let mut local = Overlay::new(Arc::clone(&base), &dir)?;
        states::lay(&mut local, &frames, first, last)?;
        let before = cookie(&mut *lock_pages(&base)?)?;
        let cookies = (before, cookie(&mut local)?);
        let pages = Arc::new(local.page_set());
        let local: SharedPages = local.shared();
        let changed = Changed {
            before: Arc::clone(&base),
            after: Arc::clone(&local),
            pages,
            before_gone: false,
        };
        Ok((changed, cookies))
    });
    let (changed, cookies) = layers.await?.map_err(|e: std::io::Error| scratch(&e))?;
    let schema = cookies.0 != cookies.1 || own.continued().is_some_and(|l| l.cookie.is_some());
    let check = own.first() == 1;
    let (onto, scratch) = (mirror.pages(), db.libsql().scratch.clone());
    let merged = merge(Merging { changed, onto, keys, scratch, check }).await?;
    Ok(merged.map(|merged| (merged, schema.then_some(cookies.1))))
}

/// The schema cookie of a state; 0 of an empty one, as SQLite has it.
fn cookie(pages: &mut dyn PageRead) -> std::io::Result<u32> {
    if pages.size() == 0 {
        return Ok(0);
    }
    let mut page = vec![0; PAGE_BYTES];
    pages.read(Pgno::ONE, &mut page)?;
    Ok(PageOne::read(&page).map_or(0, |one| one.schema_cookie))
}

/// What leads from the head to the merged state.
struct Delta {
    body: SpoolReader,
    frames: u64,
    pages: u32,
    change: Change,
    map: PageMap,
}

async fn encode(
    db: &Database,
    head: &Head,
    map: PageMap,
    onto: SharedPages,
    layer: &SharedOverlay,
) -> Result<Delta, ApiError> {
    let first = head.lsn().next().unwrap_or(Lsn::MAX);
    let before = head.newest.as_ref().map_or(0, |newest| newest.pages.1);
    let (spool, layer) = (Spool::new(&db.libsql().scratch), Arc::clone(layer));
    let encoded = blocking(move || {
        let size = lock_pages(&layer)?.size();
        let mut encoder = DeltaEncoder::new(spool, PAGE_SIZE, first)?.growing_from(before);
        let mut change = Change::default();
        let mut page = vec![0; PAGE_BYTES];
        let mut difference = Difference::new(onto, vec![Arc::clone(&layer)]);
        let mut next = difference.next_page(&mut page).map_err(std::io::Error::other)?;
        if next.is_none() {
            // A segment has at least one frame: page 1 as it is.
            lock_pages(&layer)?.read(Pgno::ONE, &mut page)?;
            next = Some(Pgno::ONE);
        }
        while let Some(pgno) = next {
            if pgno == Pgno::ONE {
                let cookie = PageOne::read(&page).map_err(std::io::Error::other)?.schema_cookie;
                canonicalise_page_one(&mut page, cookie, size);
            }
            encoder.page(pgno, &page)?;
            change.frame(pgno, size, &page);
            next = difference.next_page(&mut page).map_err(std::io::Error::other)?;
        }
        let encoded = encoder.finish(size)?;
        Ok(Delta { body: encoded.sink.finish(), frames: encoded.frames, pages: size, change, map })
    });
    encoded.await?.map_err(|e: std::io::Error| scratch(&e))
}

async fn append(
    db: &Arc<Database>,
    core: &mut Core,
    head: &Head,
    own: &Own,
    (plan, cookie): (Plan, Option<u32>),
    merged: Merged,
    delta: &Delta,
) -> Result<Outcome, ApiError> {
    let push = entropy::push_id();
    let name = AsideName::Part(head.lsn().next().unwrap_or(Lsn::MAX), push.clone());
    let known = own.continued().map_or(0, |lineage| lineage.keys.moved.len());
    let conflicts = merged.conflicts;
    let keys = merged.keys.clone();
    let part = match part(db, own, (&plan, cookie), merged).await? {
        Ok(part) => part,
        Err(what) => return Ok(Outcome::Refused("heal-size", what)),
    };
    crash_point!("heal::before-part");
    let kept = db.log().put_aside(&plan.id, &name, &part).await;
    kept.map_err(|e| unavailable(&e))?;
    crash_point!("heal::after-part");
    let newest = head.newest.as_ref();
    let (pages, sum) =
        newest.map_or((0, anabranch_format::DbChecksum::EMPTY), |n| (n.pages.1, n.sum.1));
    let healed =
        Healed { lineage: plan.id.clone(), number: plan.number, frames: (own.first(), own.last()) };
    let new = NewSegment {
        push,
        writer: db.libsql().writer.clone(),
        now: entropy::now(),
        page_size: PAGE_SIZE,
        pages: (pages, delta.pages),
        sum: (sum, delta.map.sum_after(&delta.change)),
        frames: delta.frames,
        transactions: None,
        rollover: plan.rollover,
        body: delta.body.rewound().into_spool(),
    };
    let won = match db.append_healed(head, new, healed, "libsql").await {
        Ok(Appended::Won(metadata)) => metadata,
        Ok(Appended::Lost(_))
        | Err(AppendError::NotAtHead { .. } | AppendError::BelowFloor { .. }) => {
            return Ok(Outcome::Lost);
        }
        Err(e) => {
            let message = causes(&e);
            tracing::warn!(error = %message, "an append failed");
            return Err(ApiError::busy(message));
        }
    };
    crash_point!("heal::after-append");
    crate::metrics::libsql_healed(
        conflicts,
        (keys.moved.len() - known.min(keys.moved.len())) as u64,
    );
    tracing::info!(
        database = %db.name(), lineage = %plan.id, generation = plan.number,
        first = own.first(), last = own.last(), lsn = %won.lsn.1, conflicts,
        renumbered = keys.moved.len() - known.min(keys.moved.len()),
        "merged what a client had written past a conflict"
    );
    let lineage = extended(own, (plan, cookie), &won, name, keys).await?;
    core.healing.put(Arc::clone(&lineage));
    Ok(Outcome::Healed(lineage))
}

/// The part, ready to be kept; or what makes it too long for that.
async fn part(
    db: &Database,
    own: &Own,
    (plan, cookie): (&Plan, Option<u32>),
    merged: Merged,
) -> Result<Result<SpoolReader, String>, ApiError> {
    let dir = db.libsql().scratch.clone();
    let (frames, first, last) = (Arc::clone(&own.frames), own.first(), own.last());
    let mut header = PartHeader {
        version: PartHeader::VERSION,
        database: db.id().clone(),
        lineage: plan.id.clone(),
        number: plan.number,
        fork: (plan.fork.generation, plan.fork.frame, plan.fork.lsn),
        frames: (first, last),
        base: (plan.base.0.0, plan.base.0.1, plan.base.1),
        big_endian: own.order == ChecksumOrder::Big,
        checksum: (own.checksums.1.0, own.checksums.1.1),
        pages: own.pages,
        cookie,
        time: entropy::now(),
        conflicts: merged.conflicts,
        sections: [(0, 0); 3],
    };
    let made = blocking(move || {
        let moved: Vec<(&str, i64, i64)> =
            merged.keys.moved.iter().map(|m| (m.table.as_str(), m.from, m.to)).collect();
        let keys = section(&dir, |section| {
            serde_json::to_writer(section, &moved).map_err(std::io::Error::other)
        })?;
        let mut lines = merged.journal.finish();
        let journal = section(&dir, |section| std::io::copy(&mut lines, section).map(|_| ()))?;
        let frames = section(&dir, |section| {
            let mut number = first;
            while number <= last {
                let to = last.min(number + READ_FRAMES - 1);
                section.write_all(frames.read(number, to)?.bytes())?;
                number = to + 1;
            }
            Ok(())
        })?;
        let mut spool = Spool::new(&dir);
        header.sections = [keys.1, journal.1, frames.1];
        for ((what, max), (_, bytes)) in
            PART_SECTIONS.iter().zip(PART_BYTES_MAX).zip(header.sections)
        {
            if bytes > max {
                return Ok(Err(format!("{what} are {bytes} bytes, and {max} are kept at most")));
            }
        }
        spool.write_all(&header.encode().map_err(std::io::Error::other)?)?;
        for (section, _) in [keys, journal, frames] {
            std::io::copy(&mut section.finish(), &mut spool)?;
        }
        Ok(Ok(spool.finish()))
    });
    made.await?.map_err(|e: std::io::Error| scratch(&e))
}

/// The lineage with the new part.
async fn extended(
    own: &Own,
    (plan, cookie): (Plan, Option<u32>),
    won: &anabranch_format::Metadata,
    name: AsideName,
    keys: KeyMap,
) -> Result<Arc<Lineage>, ApiError> {
    let mut lineage = match &own.origin {
        Origin::Fork(fork) => Lineage {
            id: plan.id,
            order: own.order,
            number: plan.number,
            fork: *fork,
            reserved: (won.lsn.1, won.pages.1),
            // The file is the lineage's from now on.
            frames: Arc::clone(&own.frames),
            crossed: Vec::new(),
            parts: Vec::new(),
            base: plan.base,
            end: 0,
            checksum: own.checksums.1,
            pages: 0,
            cookie: None,
            keys: KeyMap::default(),
            passage: None,
        },
        Origin::Lineage(lineage, last) => {
            let mut longer = Lineage::clone(lineage);
            if *last > lineage.end
                && let Some(passage) = &lineage.passage
            {
                longer.crossed.push((lineage.end + 1, passage.end));
                copy(&passage.frames, lineage.end + 1, passage.end, &lineage.frames).await?;
            }
            copy(&own.frames, own.first(), own.last(), &lineage.frames).await?;
            longer
        }
    };
    lineage.parts.push((name, won.clone()));
    (lineage.base, lineage.end, lineage.checksum) = (plan.base, own.last(), own.checksums.1);
    lineage.cookie = cookie;
    (lineage.pages, lineage.keys, lineage.passage) = (own.pages, keys, None);
    Ok(Arc::new(lineage))
}

/// Copies frames by number.
pub(super) async fn copy(
    from: &Arc<FrameFile>,
    first: u32,
    last: u32,
    to: &Arc<FrameFile>,
) -> Result<(), ApiError> {
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let copied = blocking(move || {
        let mut number = first;
        while number <= last {
            let end = last.min(number + READ_FRAMES - 1);
            to.write(number, from.read(number, end)?.bytes())?;
            number = end + 1;
        }
        to.publish(last);
        Ok(())
    });
    copied.await?.map_err(|e: std::io::Error| scratch(&e))
}
