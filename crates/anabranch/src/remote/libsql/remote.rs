//! The log of a database on a libSQL server, as the sync engine sees it.
//!
//! Keeps one thing between calls: the last [`Walk`]. The end of the log can only be found by pulling, so
//! what `head` pulled is what `fetch` hands out, and a sync with nothing to do is one request.
//!
//! Before frames of the server are put on top of what this replica has, and before any are pushed
//! there, the server must still have the newest frame that this replica knows: one request more, which
//! an idle sync does without.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_format::{DatabaseId, Kind, Lsn, Metadata, Micros, PushId, WriterId};
use anabranch_store::{
    Anchor, AppendError, Appended, At, CompactReport, Entry, Fetched, Head, NewSegment, Position,
    Progress, Step, StoreError, Unstated,
};
use async_trait::async_trait;

use super::error::LibsqlError;
use super::inbox::split;
use super::outbox::Outbox;
use super::pages::Pages;
use super::send::Sender;
use super::spot::Spot;
use super::walk::{Route, Walk, after, next_generation, walk};
use super::wire::{Pulled, Wire, off_thread};
use super::{BATCH_FRAMES, FRAME_BYTES, PAGE_SIZE};
use crate::entropy;
use crate::remote::{Dialect, Remote};
use crate::transaction_hash::{PushIds, TransactionHash};

/// Who wrote frames is not known to such a server.
const NOBODY: &str = "libsql";

/// See the module.
pub(super) struct LibsqlRemote {
    wire: Arc<Wire>,
    location: String,
    database: DatabaseId,
    folder: PathBuf,
    progress: Progress,
    walked: Mutex<Option<Walk>>,
}

impl LibsqlRemote {
    pub(super) fn new(
        wire: Arc<Wire>,
        database: DatabaseId,
        folder: PathBuf,
        progress: Progress,
    ) -> Self {
        let location = wire.url().to_string();
        LibsqlRemote { wire, location, database, folder, progress, walked: Mutex::new(None) }
    }

    fn failed(&self) -> impl Fn(LibsqlError) -> StoreError + '_ {
        |e| e.at(&self.location)
    }

    fn walked(&self) -> std::sync::MutexGuard<'_, Option<Walk>> {
        self.walked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks from `from` on, to `until` or the end.
    async fn walk(&self, from: Spot, until: Option<Spot>) -> Result<Walk, LibsqlError> {
        let counter = self.progress.step(Step::Downloading, None);
        let route = Route { from, until, folder: &self.folder };
        walk(&self.wire, &route, None, &counter).await
    }

    /// Walks from the base of a generation on, with the whole database.
    async fn walk_whole(&self, generation: u32, until: Option<Spot>) -> Result<Walk, LibsqlError> {
        let counter = self.progress.step(Step::Downloading, None);
        let base = self.wire.export(generation, &self.folder, &counter).await?;
        let bytes = counter.done();
        let route = Route { from: Spot::base(generation), until, folder: &self.folder };
        let mut walk = walk(&self.wire, &route, Some(base), &counter).await?;
        walk.requests += 1;
        walk.bytes += bytes;
        Ok(walk)
    }

    /// The log does not hold what `known` was read from it.
    fn rewound(&self, known: Spot, found: Spot) -> StoreError {
        StoreError::Rewound {
            location: self.location.clone(),
            key: known.to_string(),
            at: known.lsn(),
            found: found.lsn(),
        }
    }

    /// Fails if the server has not the frame any more that ends `known`.
    async fn check_past(&self, known: &Anchor, end: Spot) -> Result<(), StoreError> {
        let (Some(at), Some(push)) = (Spot::of(known.last), &known.push) else { return Ok(()) };
        if at.frame == 0 {
            return Ok(());
        }
        match self.wire.pull(at, 1).await {
            Ok(Pulled::Frames(frame)) => {
                let (header, page) = split(&frame, at).map_err(self.failed())?;
                let mut last = TransactionHash::default();
                last.frame(header.pgno, page);
                match last.ends(push, header.commit_size) {
                    Some(false) => Err(self.rewound(at, end)),
                    _ => Ok(()),
                }
            }
            Ok(Pulled::End { .. }) => Err(self.rewound(at, end)),
            // What is not kept cannot be compared.
            Err(LibsqlError::GenerationGone { .. }) => Ok(()),
            Err(e) => Err(e.at(&self.location)),
        }
    }

    /// Walks on from what is known to the end.
    async fn walk_on(&self, known: &Anchor) -> Result<Walk, StoreError> {
        let Some(from) = Spot::of(known.last) else {
            if known.last > Lsn::ZERO {
                return Err(LibsqlError::NoState(Spot { generation: 0, frame: 0 }))
                    .map_err(self.failed());
            }
            let generation = self.wire.info().await.map_err(self.failed())?;
            return self.walk_whole(generation, None).await.map_err(self.failed());
        };
        let mut walk = match self.walk(from, None).await {
            Ok(walk) => walk,
            Err(LibsqlError::OlderGeneration { found, .. }) => {
                return Err(self.rewound(from, Spot::base(found)));
            }
            Err(e @ LibsqlError::GenerationGone { .. }) => {
                // Gone by, or not come yet?
                let newest = self.wire.info().await.map_err(self.failed())?;
                return Err(match newest < from.generation {
                    true => self.rewound(from, Spot::base(newest)),
                    false => e.at(&self.location),
                });
            }
            Err(e) => return Err(e.at(&self.location)),
        };
        let moved = walk.end != from;
        let short = walk.newest.is_some_and(|newest| newest < walk.end.frame);
        if moved || short {
            let newest = walk.newest.filter(|_| short).unwrap_or(walk.end.frame);
            self.check_past(known, Spot { frame: newest, ..walk.end }).await?;
            walk.past_checked = true;
        }
        Ok(walk)
    }

    /// The walk from `from` to `to`: the one that was just made, if it is that, else a new one.
    async fn walk_between(&self, from: Lsn, to: Lsn) -> Result<Walk, LibsqlError> {
        let start = Spot::of(from);
        let fits = |walk: &Walk| {
            let begins = match start {
                Some(start) => walk.base.is_none() && walk.from == start,
                None => walk.base.is_some(),
            };
            begins && walk.to().lsn() == to
        };
        let made = self.walked().take_if(|walk| fits(walk));
        if let Some(walk) = made {
            return Ok(walk);
        }
        let nowhere = LibsqlError::NoState(Spot { generation: 0, frame: 0 });
        let until = Spot::of(to).ok_or(nowhere)?;
        match start {
            Some(from) => self.walk(from, Some(until)).await,
            None => self.walk_whole(until.generation, Some(until)).await,
        }
    }

    async fn fetched(&self, from: Lsn, to: Lsn) -> Result<Fetched, LibsqlError> {
        let walk = self.walk_between(from, to).await?;
        let Walk { base, inbox, requests, bytes, .. } = walk;
        let nothing = Spot::of(to).unwrap_or(Spot::base(0));
        let size = inbox.size().ok_or(LibsqlError::NoState(nothing))?;
        let whole = base.is_some();
        let pages_max = if whole { u64::from(size) } else { inbox.pages() };
        let folder = self.folder.clone();
        let source = off_thread(move || {
            Pages::new(base, inbox, size).map_err(|source| LibsqlError::Scratch { folder, source })
        });
        Ok(Fetched::unstated(Unstated {
            from: Some(from).filter(|_| !whole),
            to,
            page_size: PAGE_SIZE,
            size,
            pages_max,
            objects: requests,
            bytes,
            source: Box::new(source.await?),
        }))
    }

    fn metadata(&self, first: Spot, last: Spot, push: PushId, size: u32) -> Metadata {
        let (database, lsn) = (self.database.clone(), (first.lsn(), last.lsn()));
        let writer = NOBODY.parse().expect("letters are an id");
        Metadata {
            generation: (first.generation, Spot::base(first.generation).lsn()),
            push: Some(push),
            time: entropy::now(),
            pages: (0, size),
            ..Metadata::new(Kind::Segment, database, writer, lsn, PAGE_SIZE)
        }
    }

    /// The transaction that stands after `place`; `None` if none does, or none that is whole.
    async fn next_transaction(&self, place: Spot) -> Result<Option<Metadata>, LibsqlError> {
        let mut reached = place;
        let mut first = None;
        let mut hash = TransactionHash::default();
        loop {
            let start = reached.after(1).ok_or(LibsqlError::Exhausted(reached))?;
            let frames = match self.wire.pull(start, BATCH_FRAMES).await? {
                Pulled::Frames(frames) => frames,
                Pulled::End { generation, .. } => {
                    let open = u64::from(first.is_some());
                    match next_generation(reached, generation, open)? {
                        Some(next) => reached = next,
                        None => return Ok(None),
                    }
                    continue;
                }
            };
            for frame in frames.chunks_exact(FRAME_BYTES) {
                reached = after(reached, FRAME_BYTES)?;
                let first = *first.get_or_insert(reached);
                let (header, page) = split(frame, reached)?;
                hash.frame(header.pgno, page);
                if header.is_commit() {
                    let size = header.commit_size;
                    return Ok(Some(self.metadata(first, reached, hash.finish(size), size)));
                }
            }
        }
    }

    /// Where a first push goes: the base of the server's generation, which must be without content.
    /// Also if it is not: then something stands there, and is looked at.
    async fn start(&self) -> Result<(Spot, bool), LibsqlError> {
        let base = Spot::base(self.wire.info().await?);
        let first = Spot { frame: 1, ..base };
        let free = match self.wire.pull(first, 1).await? {
            Pulled::End { generation, .. } if generation == base.generation => {
                self.wire.base_is_empty(generation).await?
            }
            Pulled::End { .. } | Pulled::Frames(_) => true,
        };
        Ok((base, free))
    }

    /// Where the frames of a push after `head` go.
    async fn place_of(&self, head: &Head) -> Result<Spot, StoreError> {
        let known = &head.anchor;
        let walked = {
            let walked = self.walked();
            let here = walked.as_ref().filter(|walk| walk.to().lsn() == known.last);
            here.map(|walk| (walk.end, walk.past_checked))
        };
        let Some(spot) = Spot::of(known.last) else {
            return match self.start().await {
                Ok((spot, true)) => Ok(spot),
                Ok((_, false)) => Err(self.failed()(LibsqlError::NotEmpty)),
                Err(e) => Err(e.at(&self.location)),
            };
        };
        let (place, checked) = walked.unwrap_or((spot, false));
        if !checked {
            self.check_past(known, place).await?;
        }
        Ok(place)
    }

    async fn make_outbox(&self, place: Spot, new: NewSegment) -> Result<Outbox, LibsqlError> {
        let first = place.after(1).ok_or(LibsqlError::Exhausted(place))?;
        let frames = u32::try_from(new.frames).map_err(|_| LibsqlError::Exhausted(place))?;
        let last = place.after(frames).ok_or(LibsqlError::Exhausted(place))?;
        let metadata = Metadata {
            writer: new.writer,
            pages: new.pages,
            ..self.metadata(first, last, new.push, new.pages.1)
        };
        let folder = self.folder.clone();
        off_thread(move || Outbox::new(new.body, &metadata, &folder)).await
    }
}

#[async_trait]
impl Remote for LibsqlRemote {
    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Libsql)
    }

    fn push_ids(&self) -> PushIds {
        PushIds::OfContent
    }

    fn frames_between(&self, from: Lsn, to: Lsn) -> Option<u64> {
        let walked = self.walked();
        let fits = |walk: &&Walk| (walk.from.lsn(), walk.to().lsn()) == (from, to);
        walked.as_ref().filter(fits).map(|walk| walk.inbox.frames()).or(to.frames_since(from))
    }

    fn bytes_of(&self, _body: u64, won: &Metadata) -> u64 {
        won.frame_count() * FRAME_BYTES as u64
    }

    async fn head(&self, known: &Anchor) -> Result<Head, StoreError> {
        // What was pulled before is of no use any more, and may be large.
        drop(self.walked().take());
        let walk = self.walk_on(known).await?;
        let anchor = match walk.inbox.newest() {
            Some(newest) => Anchor {
                first: newest.first.lsn(),
                last: newest.last.lsn(),
                push: Some(newest.id.clone()),
            },
            // The base of a later generation is the state at the end of the one before.
            None if walk.base.is_none() || walk.is_empty_database() => known.clone(),
            None => Anchor { first: walk.from.lsn(), last: walk.from.lsn(), push: None },
        };
        *self.walked() = Some(walk);
        Ok(Head { anchor, newest: None, modified: None, floor: Lsn::ZERO })
    }

    async fn fetch(
        &self,
        from: Lsn,
        to: &Head,
        _progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        self.fetched(from, to.anchor.last).await.map_err(self.failed())
    }

    async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        let definite = |e: LibsqlError| AppendError::Store(e.at(&self.location));
        if new.page_size != PAGE_SIZE {
            return Err(definite(LibsqlError::PageSize { found: new.page_size }));
        }
        let place = self.place_of(head).await.map_err(AppendError::Store)?;
        // What was walked is not the end any more.
        drop(self.walked().take());
        let (push, writer, pages) = (new.push.clone(), new.writer.clone(), new.pages);
        let outbox = self.make_outbox(place, new).await.map_err(definite)?;
        let frames = outbox.frames();
        let counter = progress.step(Step::Uploading, Some(u64::from(frames) * FRAME_BYTES as u64));
        let mut sender = Sender::new(Arc::clone(&self.wire), place, outbox, counter);
        let sent = sender.send().await;
        let unsure = |e: LibsqlError, arrived: bool| match arrived {
            true => AppendError::Unknown {
                after: head.anchor.last,
                source: Box::new(e.at(&self.location)),
            },
            false => AppendError::Store(e.at(&self.location)),
        };
        match sent {
            Ok(Some(last)) => {
                let first = Spot { frame: last.frame - (frames - 1), ..last };
                let metadata = self.metadata(first, last, push, pages.1);
                Ok(Appended::Won(Metadata { writer, pages, ..metadata }))
            }
            Ok(None) => match self.next_transaction(sender.place()).await {
                Ok(Some(other)) => Ok(Appended::Lost(other)),
                Ok(None) => Err(definite(LibsqlError::Unfinished { after: sender.place() })),
                Err(e) => Err(unsure(e, sender.arrived())),
            },
            Err(e) => Err(unsure(e, sender.arrived())),
        }
    }

    async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        let place = match Spot::of(after) {
            Some(place) => place,
            None => Spot::base(self.wire.info().await.map_err(self.failed())?),
        };
        self.next_transaction(place).await.map_err(self.failed())
    }

    async fn last_push(&self, _writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> {
        Ok(None)
    }

    async fn position_at(&self, at: At) -> Result<Position, StoreError> {
        let lsn = match at {
            At::Head => self.head(&Anchor::start()).await?.anchor.last,
            // Whether it is a state is seen when it is fetched.
            At::Lsn(lsn) => lsn,
            At::Time(_) => return Err(self.failed()(LibsqlError::NoHistory)),
        };
        Ok(Position { lsn, metadata: None, modified: None, clock_gap: None })
    }

    async fn fetch_whole(
        &self,
        position: &Position,
        _progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        self.fetched(Lsn::ZERO, position.lsn).await.map_err(self.failed())
    }

    async fn history(&self, _count: usize) -> Result<Vec<Entry>, StoreError> {
        Err(self.failed()(LibsqlError::NoHistory))
    }

    async fn compact(
        &self,
        _now: Micros,
        _retain: Duration,
        _progress: &Progress,
    ) -> Result<CompactReport, StoreError> {
        Err(self.failed()(LibsqlError::NoHistory))
    }

    async fn tidy(&self, _won: &Metadata, _now: Micros, _progress: &Progress) {}
}
