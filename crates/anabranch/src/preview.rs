//! What a sync would do, and which rows differ: nothing is changed by asking.
//!
//! The states are laid on the pinned file as for a rebase ([`Layers`]); rows are compared, and local
//! changes replayed, on layers that are thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_format::Lsn;
use anabranch_rebase::{BoxError, Changed, Conflict, KeyMap, RowChange, changed_rows};
use anabranch_sqlite::{PageSet, Scratch, SharedPages};
use anabranch_store::Fetched;
use serde::Serialize;

use crate::conflicts::told;
use crate::error::Error;
use crate::layers::{Layers, Local, locked};
use crate::pull::{Change, Mine};
use crate::rebase::{RemoteState, Replay, With, of_scratch, report};
use crate::remote::{Remote, of_store};
use crate::replica::{Replica, blocking, head};
use crate::report::{Rebased, TableChanges};
use crate::session::Session;
use crate::state::Phase;

/// So many conflicts are kept of those that a sync would decide; all are counted.
pub const PREVIEW_CONFLICTS_MAX: usize = 1000;

/// What a sync would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Where the replica stands.
    pub position: Lsn,
    /// Where the remote's log ends.
    pub remote_lsn: Lsn,
    /// Rows that others changed, table by table: they would be pulled.
    pub pull: Vec<TableChanges>,
    /// Rows that were changed here, table by table: they would be pushed.
    pub push: Vec<TableChanges>,
    /// What would become of these, if both sides changed.
    pub rebased: Option<Rebased>,
    /// The conflicts that would be decided, up to [`PREVIEW_CONFLICTS_MAX`] of them.
    pub conflicts: Vec<Conflict>,
}

/// Which differences are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Differing {
    /// What was changed here since the replica was last in step.
    Here,
    /// What others changed since then.
    Remote,
}

impl Replica {
    /// Tells what [`Replica::sync`] would do. Neither file nor remote is changed; what an interrupted
    /// operation left is decided first.
    pub async fn preview(&self) -> Result<Preview, Error> {
        let (session, with, fetched) = self.all_states().await?;
        blocking(move || preview(&session, &with, fetched)).await
    }

    /// Tells `each` of the rows that differ from the last common state, table by table, until it answers
    /// `false`.
    pub async fn diff(
        &self,
        which: Differing,
        each: impl FnMut(RowChange) -> bool,
    ) -> Result<(), Error> {
        let (session, with, fetched) = match which {
            Differing::Remote => self.all_states().await?,
            Differing::Here => {
                let (session, remote) = self.ready().await?;
                (session, With::new(remote, self.options()), None)
            }
        };
        told(
            move |each| {
                let states = States::lay(&session, &with, fetched)?;
                let changed = match which {
                    Differing::Here => states.layers.changed(),
                    Differing::Remote => states.changed_there(&session)?,
                };
                compare(&session, &changed, each)
            },
            each,
        )
        .await
    }

    /// A session, and what the remote has beyond the replica's position.
    async fn all_states(&self) -> Result<(Session, With, Option<Beyond>), Error> {
        let (session, remote) = self.ready().await?;
        let head = head(&session, &*remote).await?;
        let beyond = if head.anchor.last > session.state.base.lsn() {
            let base = session.state.base.lsn();
            let fetched = remote.fetch(base, &head, &self.options().progress).await;
            let fetched = fetched.map_err(|e| of_store(&session.remote_name(), e))?;
            Some(Beyond { fetched, anchor: head.anchor })
        } else {
            None
        };
        let remote: Arc<dyn Remote> = remote;
        Ok((session, With::new(remote, self.options()), beyond))
    }
}

/// What the remote has beyond the base.
struct Beyond {
    fetched: Fetched,
    anchor: anabranch_store::Anchor,
}

/// The states, laid on the file.
struct States {
    layers: Layers,
    remote: Option<RemoteState>,
    to: Lsn,
}

impl States {
    fn lay(session: &Session, with: &With, beyond: Option<Beyond>) -> Result<Self, Error> {
        let base = &session.state.base;
        if base.size == 0 || session.state.phase != Phase::Ready {
            let name = session.db.display();
            return Err(Error::Usage(format!(
                "nothing of {name} was published yet: all of it is new. `anabranch sync {name}` \
                 publishes it"
            )));
        }
        let local = Local::capture(session, None)?;
        let mut fetch = |pages: &PageSet| with.fetch_base(session, pages);
        let layers = Layers::lay(session, local, None, &mut fetch)?;
        let Some(Beyond { fetched, anchor }) = beyond else {
            return Ok(States { layers, remote: None, to: base.lsn() });
        };
        let to = anchor.last;
        let mut change =
            Change::new(session, fetched, anchor, Mine::Rebase(with), with.progress())?;
        let remote = RemoteState::keep(session, &mut change, &layers)?;
        Ok(States { layers, remote: Some(remote), to })
    }

    /// What differs between base and remote.
    fn changed_there(&self, session: &Session) -> Result<Changed, Error> {
        let before: SharedPages = self.layers.base.clone();
        let mut pages = PageSet::new(0);
        let Some(remote) = &self.remote else {
            let (after, pages) = (Arc::clone(&before), Arc::new(pages));
            return Ok(Changed { before, after, pages, before_gone: false });
        };
        let layer = locked(session, &remote.pages)?;
        let mut after = 0;
        while let Some(pgno) = layer.next_after(after) {
            after = pgno.get();
            pages.grow(after);
            pages.insert(pgno);
        }
        drop(layer);
        let after = remote.pages.clone();
        Ok(Changed { before, after, pages: Arc::new(pages), before_gone: false })
    }
}

fn preview(session: &Session, with: &With, beyond: Option<Beyond>) -> Result<Preview, Error> {
    let states = States::lay(session, with, beyond)?;
    let push = count(session, &states.layers.changed())?;
    let pull = count(session, &states.changed_there(session)?)?;
    let mut conflicts = Vec::new();
    let changed_here = !states.layers.local.changes.is_empty();
    let rebased = match &states.remote {
        Some(remote) if changed_here => {
            let result = Layers::on(session, remote.pages.clone(), None)?;
            let rules = with.rules(session)?;
            let replay = Replay {
                changed: states.layers.changed(),
                remote: remote.pages.clone(),
                result: &result,
                rules: &rules,
                deadline: None,
            };
            let summary = replay.run(session, &mut KeyMap::default(), &mut |conflict| {
                if conflicts.len() < PREVIEW_CONFLICTS_MAX {
                    conflicts.push(conflict);
                }
                Ok(())
            })?;
            Some(report(&summary))
        }
        _ => None,
    };
    let (position, remote_lsn) = (session.state.base.lsn(), states.to);
    Ok(Preview { position, remote_lsn, pull, push, rebased, conflicts })
}

fn count(session: &Session, changed: &Changed) -> Result<Vec<TableChanges>, Error> {
    let mut tables: BTreeMap<String, TableChanges> = BTreeMap::new();
    compare(session, changed, &mut |change: RowChange| {
        let counted = tables.entry(change.table).or_insert_with_key(|table| TableChanges {
            table: table.clone(),
            inserted: 0,
            updated: 0,
            deleted: 0,
        });
        match (change.before, change.after) {
            (None, _) => counted.inserted += 1,
            (_, None) => counted.deleted += 1,
            _ => counted.updated += 1,
        }
        true
    })?;
    Ok(tables.into_values().collect())
}

/// Ends a comparison of which nobody wants to hear more.
#[derive(Debug, thiserror::Error)]
#[error("enough was heard")]
struct Enough;

/// Tells `each` of the rows that differ, until it answers `false`.
fn compare(
    session: &Session,
    changed: &Changed,
    each: &mut dyn FnMut(RowChange) -> bool,
) -> Result<(), Error> {
    let failed = |e| of_scratch(session, e);
    let before = Scratch::read_only(changed.before.clone()).map_err(failed)?;
    let after = Scratch::read_only(changed.after.clone()).map_err(failed)?;
    let mut enough = false;
    let compared = changed_rows(&before, &after, Some(changed), &mut |change| match each(change) {
        true => Ok(()),
        false => {
            enough = true;
            Err(BoxError::from(Enough))
        }
    });
    match compared {
        Err(_) if enough => Ok(()),
        Err(e) => match before.take_failure().or_else(|| after.take_failure()) {
            Some(failure) => Err(of_scratch(session, failure.into())),
            None => Err(Error::from_rebase(&session.db, None, e)),
        },
        Ok(()) => Ok(()),
    }
}
