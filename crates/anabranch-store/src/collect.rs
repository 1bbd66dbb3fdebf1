//! From the objects of a plan to pages: how objects follow one another, wherever their bytes come
//! from.
//!
//! Objects are added in the order of the log. Before a page of them is handed out everything that
//! can be known is checked: each is of this database, each begins with the state in which the one
//! before it ends, and the last ends at the position wanted.

use anabranch_format::{DatabaseId, DbChecksum, Kind, Lsn, Metadata, PageOrder, PageSize};

use crate::blocking::blocking;
use crate::context::Context;
use crate::error::{Damage, StoreError};
use crate::fetch::{Fetched, Pushed};
use crate::history::Position;
use crate::keys::Keys;
use crate::runs::{Chain, OpenPiece, Ordered, Runs};

/// The objects that were read so far, as they follow one another.
pub(crate) struct Collected {
    context: Context,
    keys: Keys,
    pub(crate) runs: Runs,
    pub(crate) first: Option<Metadata>,
    last: Option<Metadata>,
    last_key: String,
    pub(crate) pushes: Vec<Pushed>,
    /// Bytes of the objects.
    pub(crate) bytes: u64,
    objects: u64,
    in_memory: bool,
    pages_max: u64,
}

impl Collected {
    /// Nothing yet, on the way to `to`.
    pub(crate) fn new(context: &Context, keys: &Keys, to: &Position, chain: Chain) -> Self {
        let page_size = to.metadata.as_ref().map_or(PageSize::DEFAULT, |m| m.page_size);
        Collected {
            context: context.clone(),
            runs: Runs::new(context, page_size, chain),
            first: None,
            last: None,
            last_key: keys.log(),
            keys: keys.clone(),
            pushes: Vec::new(),
            bytes: 0,
            objects: 0,
            in_memory: true,
            pages_max: 0,
        }
    }

    /// Adds the next object.
    pub(crate) async fn add(mut self, piece: OpenPiece) -> Result<Self, StoreError> {
        check_next(&self.context, &self.keys, self.last.as_ref(), &piece.key, &piece.metadata)?;
        let metadata = &piece.metadata;
        if let (Kind::Segment, Some(push)) = (metadata.kind, &metadata.push) {
            let (writer, lsn) = (metadata.writer.clone(), metadata.lsn.1);
            self.pushes.push(Pushed { writer, push: push.clone(), lsn });
        }
        self.objects += 1;
        self.in_memory &= piece.body.is_in_memory();
        let pages = match metadata.kind {
            Kind::Snapshot => u64::from(metadata.pages.1),
            _ => metadata.frame_count(),
        };
        self.pages_max = self.pages_max.saturating_add(pages);
        self.first.get_or_insert_with(|| metadata.clone());
        self.last = Some(metadata.clone());
        self.last_key.clone_from(&piece.key);
        blocking(move || self.runs.add(piece).map(|()| self))
            .await
            .ok_or(StoreError::Interrupted)?
    }

    /// That the objects lead from `from` to `to`.
    pub(crate) fn check_end(&self, from: Option<Lsn>, to: &Position) -> Result<(), StoreError> {
        let Some(wanted) = &to.metadata else { return Ok(()) };
        let refuse = |text: String| Err(self.context.contradiction(&self.last_key, text));
        let Some(last) = &self.last else {
            // Nothing to do is no way to anywhere else.
            return match from {
                Some(from) if from == to.lsn => Ok(()),
                _ => refuse(format!("no object leads to position {}", to.lsn)),
            };
        };
        let fits = last.lsn.1 == wanted.lsn.1
            && (last.pages.1, last.sum.1) == (wanted.pages.1, wanted.sum.1)
            && last.page_size == wanted.page_size;
        if !fits {
            return refuse(format!("it does not end in the state of position {}", to.lsn));
        }
        let start = self.first.as_ref().filter(|first| first.kind != Kind::Snapshot);
        if let Some(first) = start
            && first.from() != from.unwrap_or(Lsn::ZERO)
        {
            return refuse(format!("it begins at {}, not where the plan says", first.from()));
        }
        Ok(())
    }

    /// What was collected as one change from `from` (the whole database if that is `None`).
    /// Blocking.
    pub(crate) fn fetched(self, from: Option<Lsn>, to: &Position) -> Result<Fetched, StoreError> {
        let Collected { runs, first, last, last_key, mut pushes, bytes, in_memory, .. } = self;
        pushes.sort_by_key(|p| p.lsn);
        let end = last.as_ref().or(to.metadata.as_ref());
        let page_size = end.map_or(PageSize::DEFAULT, |m| m.page_size);
        let after = end.map_or((0, DbChecksum::EMPTY), |m| (m.pages.1, m.sum.1));
        let before = match (from, &first) {
            (None, _) => (0, DbChecksum::EMPTY),
            (Some(_), Some(first)) => (first.pages.0, first.sum.0),
            (Some(_), None) => after,
        };
        let order = PageOrder::new(page_size, before.0, after.0);
        let source = Box::new(Ordered { source: runs.finish()?, order });
        let whole = from.is_none() && after.0 > 0;
        Ok(Fetched {
            from,
            to: to.lsn,
            page_size,
            pages: (before.0, after.0),
            sum: (before.1, after.1),
            pushes,
            objects: self.objects,
            bytes,
            in_memory,
            pages_max: self.pages_max,
            stated: true,
            whole: whole.then_some((self.context, last_key)),
            pages_source: source,
        })
    }
}

/// The next object of a plan must follow the one before it, which `before` is the metadata of.
pub(crate) fn check_next(
    context: &Context,
    keys: &Keys,
    before: Option<&Metadata>,
    key: &str,
    next: &Metadata,
) -> Result<(), StoreError> {
    if next.kind == Kind::Snapshot {
        return Ok(());
    }
    if before.is_some_and(|b| next.from() > b.lsn.1) {
        let hole = before.and_then(|b| b.lsn.1.next()).unwrap_or(Lsn::MAX);
        return Err(context.missing(&keys.segment(hole)));
    }
    check_follows(context, key, before, next)
}

/// An object must be what its place says, of this database.
pub(crate) fn check_identity(
    context: &Context,
    database: &DatabaseId,
    key: &str,
    metadata: &Metadata,
    kind: Kind,
) -> Result<(), StoreError> {
    if metadata.database != *database {
        let damage =
            Damage::Database { found: metadata.database.clone(), expected: database.clone() };
        return Err(context.corrupt(key, damage));
    }
    if metadata.kind != kind {
        let text = format!("it is a {:?}, not a {kind:?}", metadata.kind);
        return Err(context.contradiction(key, text));
    }
    Ok(())
}

/// What `next` says of the state before it must be what `before` says of the state after it.
pub(crate) fn check_follows(
    context: &Context,
    key: &str,
    before: Option<&Metadata>,
    next: &Metadata,
) -> Result<(), StoreError> {
    let Some(before) = before else {
        if next.from() == Lsn::ZERO && (next.pages.0 != 0 || next.sum.0.0 != 0) {
            let text = "it is the first of the log, but does not begin with nothing";
            return Err(context.contradiction(key, text));
        }
        return Ok(());
    };
    let fits = next.from() == before.lsn.1
        && next.pages.0 == before.pages.1
        && next.sum.0 == before.sum.1
        && next.page_size == before.page_size;
    if fits {
        return Ok(());
    }
    let state = |lsn: Lsn, pages: u32, sum| format!("position {lsn}, {pages} pages, sum {sum}");
    Err(context.contradiction(
        key,
        format!(
            "it begins at {}, but what is before it ends at {}",
            state(next.from(), next.pages.0, next.sum.0),
            state(before.lsn.1, before.pages.1, before.sum.1),
        ),
    ))
}
