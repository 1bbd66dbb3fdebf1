//! Push: what changed here becomes one segment of the log.
//!
//! 1. capture: the changed pages of one read transaction become a delta (in memory, or in an
//!    anonymous temporary file once it is large), their checksums are staged in the sidecar; the
//!    `-wal` is made durable, so that nothing is published that a power failure could take back.
//! 2. intent: push id and staged entries are committed durably.
//! 3. append: the one atomic act, an object that is created only if it is absent.
//! 4. settle: the base moves on, from the staged checksums: the file may have changed meanwhile.
//!
//! Killed between any two, the next operation asks the log who stands at the place after the base:
//! one of our push ids means that the push happened. An empty place decides nothing, so every push
//! id that was tried there is kept until an object stands there.

use std::io;

use anabranch_format::{DeltaEncoder, Lsn, Metadata, PageSize, Pgno, canonicalise_page_one};
use anabranch_sqlite::View;
use anabranch_store::{
    Anchor, AppendError, Appended, Head, NewSegment, PackThreads, Progress, Rollover, Spool,
    StoreError,
};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::folder_of;
use crate::remote::{Remote, of_store};
use crate::replica::blocking;
use crate::report::Pushed;
use crate::session::{Act, Session};
use crate::state::{Base, Intent, PushIntent};
use crate::transaction_hash::{PushIds, TransactionHash};

/// At most this many pushes wait at one place of the log for an answer. Each keeps the checksums of
/// its pages in the sidecar until an object stands there; only a remote that takes requests and
/// never answers, for as many syncs with changes between them, gets there.
const UNDECIDED_MAX: usize = 1000;

/// A delta that is ready to be appended, its intent durable.
struct Prepared {
    session: Session,
    intent_id: i64,
    intent: PushIntent,
    /// The intent was made just now: no earlier attempt of it can be under way.
    fresh: bool,
    body: Spool,
    frames: u64,
}

enum Preparation {
    Nothing(Box<Session>),
    Ready(Box<Prepared>),
}

/// What became of a push.
pub(crate) enum Outcome {
    /// Nothing had changed here.
    Nothing,
    /// It is in the log.
    Done(Pushed),
    /// An earlier attempt turned out to be in the log; what changed since is not.
    DoneEarlier(Pushed),
    /// The log had moved on; nothing was sent.
    Lost {
        /// The newest position that is known.
        remote_lsn: Lsn,
        /// Pages that wait.
        local_pages: u64,
    },
}

/// Pushes what changed here. After an error the session is gone, its intents are not.
pub(crate) async fn push(
    session: Session,
    remote: &dyn Remote,
    head: &Head,
    progress: &Progress,
) -> Result<(Outcome, Session), Error> {
    let ids = remote.push_ids();
    match blocking(move || prepare(session, ids)).await? {
        Preparation::Nothing(session) => Ok((Outcome::Nothing, *session)),
        Preparation::Ready(prepared) => append(*prepared, remote, head, progress).await,
    }
}

/// Captures, encodes, stages and commits the intent.
fn prepare(mut session: Session, ids: PushIds) -> Result<Preparation, Error> {
    let mut live = session.live_prepared()?;
    let view = live.begin()?;
    let base = session.state.base.clone();
    let first = base.lsn().next().ok_or_else(|| session.sidecar.damaged("its position"))?;
    let spooling = |source| Error::Io {
        what: "writing a temporary file beside",
        path: session.db.clone(),
        source,
    };
    let spool = Spool::new(folder_of(&session.db));
    let encoder = DeltaEncoder::new(spool, session.state.page_size, first).map_err(spooling)?;
    let mut encoder = encoder.packed_by(Box::new(PackThreads::default()));
    let mut page_one = PageOneRule::new(&base, &view, session.state.page_size)?;

    session.sidecar.begin()?;
    let intent_id = session.sidecar.next_intent_id()?;
    let map = session.base_map();
    let mut staging = map.stage(intent_id);
    let changes = session.capture(&view, &mut |pgno, page, new| {
        page_one.encode(pgno, page, &mut encoder).map_err(spooling)?;
        Ok(staging.push(pgno, new)?)
    })?;
    staging.finish()?;
    drop(map);
    if changes.is_empty() {
        session.sidecar.rollback()?;
        session.note_unchanged(&view, &changes)?;
        return Ok(Preparation::Nothing(Box::new(session)));
    }
    // What is published must survive a power failure here.
    view.sync_wal()?;
    drop(view);
    drop(live);
    let encoded = encoder.finish(changes.size).map_err(spooling)?;
    session.let_go();
    let intent = PushIntent {
        push: match ids {
            PushIds::Drawn => entropy::push_id(),
            PushIds::OfContent => page_one.hash.finish(changes.size),
        },
        base: base.lsn(),
        size_before: base.size,
        size_after: changes.size,
        sum_after: changes.sum,
        log_cookie: page_one.log_cookie,
        file_cookie: changes.file_cookie,
        change_counter: changes.change_counter,
        mark: changes.mark,
        pages: encoded.frames,
    };
    let made = intent_id;
    let (intent_id, intent) = record(&session, intent_id, intent)?;
    crash_point!("push::after-intent");
    Ok(Preparation::Ready(Box::new(Prepared {
        intent_id,
        intent,
        fresh: intent_id == made,
        frames: encoded.frames,
        body: encoded.sink,
        session,
    })))
}

/// Commits the intent durably; or takes up an undecided one that leads to the same state, so that
/// repeating a push in vain does not pile them up.
fn record(session: &Session, id: i64, intent: PushIntent) -> Result<(i64, PushIntent), Error> {
    let mut undecided = 0;
    for (other_id, other) in session.sidecar.intents()? {
        let Intent::Push(other) = other else { continue };
        undecided += 1;
        let same = (other.base, other.size_after, other.sum_after, other.pages)
            == (intent.base, intent.size_after, intent.sum_after, intent.pages);
        if same {
            session.sidecar.rollback()?;
            return Ok((other_id, other));
        }
    }
    if undecided >= UNDECIDED_MAX {
        session.sidecar.rollback()?;
        return Err(Error::Undecided {
            path: session.db.clone(),
            remote: session.remote_name(),
            undecided,
        });
    }
    session.sidecar.put_intent(id, &Intent::Push(intent.clone()))?;
    session.sidecar.commit_durably()?;
    Ok((id, intent))
}

/// Brings page 1 into the form the log holds, and sees to it that it is there when the schema
/// changed: receivers must then change their own cookie, and know it from page 1 alone.
struct PageOneRule {
    size: u32,
    /// The log's schema cookie after this push.
    log_cookie: u32,
    /// Page 1 as it is now, until it is known to be in the delta; only if the schema changed.
    due: Option<Vec<u8>>,
    /// Of what was encoded.
    hash: TransactionHash,
}

impl PageOneRule {
    fn new(base: &Base, view: &View<'_>, page_size: PageSize) -> Result<Self, Error> {
        let first = base.size == 0;
        let changed = first || view.page_one().schema_cookie != base.file_cookie;
        let due = if changed {
            let mut page = vec![0; page_size.bytes()];
            view.page(Pgno::ONE, &mut page)?;
            Some(page)
        } else {
            None
        };
        let log_cookie = base.log_cookie.wrapping_add(u32::from(changed));
        let hash = TransactionHash::default();
        Ok(PageOneRule { size: view.db_size(), log_cookie, due, hash })
    }

    fn encode(
        &mut self,
        pgno: Pgno,
        page: &[u8],
        encoder: &mut DeltaEncoder<Spool>,
    ) -> io::Result<()> {
        if pgno == Pgno::ONE {
            self.due = None;
            return self.page_one(page.to_vec(), encoder);
        }
        if let Some(page_one) = self.due.take() {
            self.page_one(page_one, encoder)?;
        }
        self.hash.frame(pgno, page);
        encoder.page(pgno, page)
    }

    fn page_one(&mut self, mut page: Vec<u8>, encoder: &mut DeltaEncoder<Spool>) -> io::Result<()> {
        canonicalise_page_one(&mut page, self.log_cookie, self.size);
        self.hash.frame(Pgno::ONE, &page);
        encoder.page(Pgno::ONE, &page)
    }
}

async fn append(
    prepared: Prepared,
    remote: &dyn Remote,
    head: &Head,
    progress: &Progress,
) -> Result<(Outcome, Session), Error> {
    let Prepared { session, intent_id, intent, fresh, body, frames } = prepared;
    let base = &session.state.base;
    let new = NewSegment {
        push: intent.push.clone(),
        writer: session.state.replica.clone(),
        now: entropy::now(),
        page_size: session.state.page_size,
        pages: (base.size, intent.size_after),
        sum: (base.sum, intent.sum_after),
        frames,
        transactions: None,
        rollover: Rollover::WhenDue,
        body,
    };
    let bytes = new.body.len();
    let answer = remote.append(head, new, progress).await;
    crash_point!("push::after-append");
    let location = session.remote_name();
    match answer {
        Ok(Appended::Won(metadata)) => {
            let won = metadata.clone();
            let bytes = remote.bytes_of(bytes, &won);
            let settled = blocking(move || {
                let mut session = session;
                let base = intent.base_after(Anchor::of(&metadata));
                let (mark, counter) = (intent.mark, intent.change_counter);
                session.settle(intent_id, base, mark, counter, entropy::now())?;
                Ok((Outcome::Done(pushed(&intent, &metadata, bytes)), session))
            })
            .await?;
            remote.tidy(&won, entropy::now(), progress).await;
            Ok(settled)
        }
        Ok(Appended::Lost(metadata)) => blocking(move || decide(session, &metadata)).await,
        Err(AppendError::Unknown { source, .. }) => {
            Err(Error::Unconfirmed { remote: location, source })
        }
        // Others went on, and history up to there was dropped: what they did is found by a pull.
        Err(AppendError::BelowFloor { floor, .. }) if fresh => {
            let forgotten = blocking(move || {
                session.forget(&[intent_id])?;
                Ok((Outcome::Lost { remote_lsn: floor, local_pages: intent.pages }, session))
            });
            forgotten.await
        }
        Err(e) => {
            if fresh && e.is_definite() {
                blocking(move || session.forget(&[intent_id])).await?;
            }
            Err(of_append(&location, e))
        }
    }
}

/// The log has `metadata` at the place after the base: one of our pushes won, or none.
fn decide(mut session: Session, metadata: &Metadata) -> Result<(Outcome, Session), Error> {
    let base = session.state.base.lsn();
    let mut ids = Vec::new();
    let mut local_pages = 0;
    for (id, intent) in session.sidecar.intents()? {
        let Intent::Push(intent) = intent else { continue };
        if metadata.push.as_ref() == Some(&intent.push) && intent.base == base {
            settle_earlier(&mut session, id, &intent, Anchor::of(metadata))?;
            return Ok((Outcome::DoneEarlier(pushed(&intent, metadata, 0)), session));
        }
        ids.push(id);
        local_pages = intent.pages;
    }
    session.forget(&ids)?;
    Ok((Outcome::Lost { remote_lsn: metadata.lsn.1, local_pages }, session))
}

fn pushed(intent: &PushIntent, metadata: &Metadata, bytes: u64) -> Pushed {
    Pushed { from: intent.base, to: metadata.lsn.1, pages: intent.pages, bytes }
}

/// A push that an earlier operation had captured turned out to be in the log.
fn settle_earlier(
    session: &mut Session,
    id: i64,
    intent: &PushIntent,
    anchor: Anchor,
) -> Result<(), Error> {
    let (mark, counter) = (intent.mark, intent.change_counter);
    session.settle_earlier(Act::Plain(id), intent.base_after(anchor), mark, counter, entropy::now())
}

/// Decides the pushes that an earlier operation left undecided. Answers a line about it, and the
/// session; an empty place in the log decides nothing.
pub(crate) async fn recover(
    session: Session,
    remote: &dyn Remote,
) -> Result<(Option<String>, Session), Error> {
    let pending = session.sidecar.intents()?;
    if !pending.iter().any(|(_, intent)| matches!(intent, Intent::Push(_))) {
        return Ok((None, session));
    }
    let location = session.remote_name();
    let base = session.state.base.lsn();
    let failed = |e| of_store(&location, e);
    match remote.at_key_after(base).await {
        Ok(None) => return Ok((None, session)),
        Ok(Some(metadata)) => {
            let (outcome, session) = blocking(move || decide(session, &metadata)).await?;
            return Ok((Some(describe(&outcome)), session));
        }
        Err(StoreError::BelowFloor { .. }) => {}
        Err(e) => return Err(failed(e)),
    }
    // Below what the remote keeps there is no object any more, but its table of pushes.
    let last = remote.last_push(&session.state.replica).await.map_err(failed)?;
    let Some((push, lsn)) = last.filter(|(_, lsn)| *lsn > base) else { return Ok((None, session)) };
    blocking(move || {
        let mut session = session;
        for (id, intent) in session.sidecar.intents()? {
            let Intent::Push(intent) = intent else { continue };
            let first = base.next().filter(|_| intent.push == push);
            if let Some(first) = first {
                let anchor = Anchor { first, last: lsn, push: Some(push) };
                settle_earlier(&mut session, id, &intent, anchor)?;
                return Ok((
                    Some(format!("an earlier push had arrived, as position {lsn}")),
                    session,
                ));
            }
        }
        Ok((None, session))
    })
    .await
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(p) | Outcome::DoneEarlier(p) => {
            format!("an earlier push of {} pages had arrived, as position {}", p.pages, p.to)
        }
        _ => "an earlier push had not arrived; its changes are still here".to_owned(),
    }
}

fn of_append(remote: &str, e: AppendError) -> Error {
    match e {
        AppendError::Store(source) => of_store(remote, source),
        other => Error::Append { remote: remote.to_owned(), source: Box::new(other) },
    }
}
