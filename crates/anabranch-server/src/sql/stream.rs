//! A stream: one connection for one client, with its transaction.
//!
//! Requests of a stream run one after the other. Whoever has them run does so in a task of its own: a
//! client that goes away does not cut it off half way, and the writers' place is given up in good order.
//!
//! A request that began outside a transaction and loses to another writer is run again, from its
//! start, and nobody notices. One that began inside cannot: the client has seen what its first part
//! read. Its transaction is rolled back, and it is told so.
//!
//! A transaction that is open is watched: without a statement for a while, or open for long, it is
//! rolled back; so is one that has written, once the log has gone on without it. The next statement is
//! told; until the client shows that it knows (by COMMIT, ROLLBACK or BEGIN, or by asking whether a
//! transaction is open) nothing is run that it believes to be part of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anabranch_hrana::{Batch, BatchResult, BatchStep, DescribeResult, Error, Stmt, StmtResult};
use anabranch_sql::{Rights, Session, from_sqlite};
use rusqlite::TransactionState;
use tokio::sync::Mutex;

use super::place::{Held, Outcome, Stay};
use super::run::{Context, Pause, Run, Steps, end_reading, transaction_state};
use super::sink::{BatchSink, Dropped, Results};
use super::{Sql, busy};
use crate::database::Database;

/// A request that loses is run again this often, and no longer than [`AGAIN_FOR`].
const AGAIN: u32 = 100;
const AGAIN_FOR: Duration = Duration::from_secs(20);

/// What is told of a request, with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// What the client may do.
    pub(crate) rights: Rights,
    /// The stream is closed before the client is answered: what it opens stays open for no longer.
    pub(crate) short: bool,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    core: Arc<Mutex<Core>>,
    /// Whether a transaction is open, or was taken away and the client does not know.
    in_transaction: Arc<AtomicBool>,
    db: Arc<Database>,
    closed: bool,
}

/// What a request works on.
#[derive(Debug)]
struct Core {
    db: Arc<Database>,
    sql: Arc<Sql>,
    /// `None` before the first request, and while one runs.
    session: Option<Session>,
    /// The epoch that the session is of.
    epoch: u64,
    /// The writers' place, while an open transaction has it.
    held: Option<Held>,
    open: Option<Open>,
    /// The transaction was taken away.
    lost: Option<Error>,
    in_transaction: Arc<AtomicBool>,
}

/// An open transaction.
#[derive(Debug, Clone, Copy)]
struct Open {
    began: Instant,
    used: Instant,
    /// Somebody watches it.
    watched: bool,
}

impl Stream {
    /// Opens a stream of `db`.
    pub(crate) async fn open(db: &Arc<Database>) -> Result<Self, Error> {
        let sql = db.sql().get(db).await?;
        let in_transaction = Arc::new(AtomicBool::new(false));
        let core = Core {
            db: Arc::clone(db),
            sql,
            session: None,
            epoch: 0,
            held: None,
            open: None,
            lost: None,
            in_transaction: Arc::clone(&in_transaction),
        };
        Ok(Stream {
            core: Arc::new(Mutex::new(core)),
            in_transaction,
            db: Arc::clone(db),
            closed: false,
        })
    }

    /// Runs one statement.
    pub(crate) async fn execute(&mut self, stmt: Stmt, told: Told) -> Result<StmtResult, Error> {
        let steps = vec![BatchStep { condition: None, stmt }];
        let mut results = self.results(steps, told).await?;
        let (result, error) = (results.results.pop().flatten(), results.errors.pop().flatten());
        result.ok_or_else(|| error.unwrap_or_else(|| internal("the statement was not run")))
    }

    /// Runs the steps of a batch.
    pub(crate) async fn batch(&mut self, batch: Batch, told: Told) -> Result<BatchResult, Error> {
        let results = self.results(batch.steps, told).await?;
        Ok(BatchResult { step_results: results.results, step_errors: results.errors })
    }

    async fn results(&mut self, steps: Vec<BatchStep>, told: Told) -> Result<Results, Error> {
        let sink = Results::new(steps.len(), self.db.sql_settings().limits.result);
        let (sink, ended) = self.run(Steps::Batch(steps), told, sink).await?;
        ended.map(|()| sink)
    }

    /// Runs the steps of a batch, into `sink`.
    pub(crate) async fn batch_into<S: BatchSink>(
        &mut self,
        batch: Batch,
        told: Told,
        sink: S,
    ) -> Result<S, Error> {
        let (sink, ended) = self.run(Steps::Batch(batch.steps), told, sink).await?;
        ended.map(|()| sink)
    }

    /// Runs the statements of a text, up to the first that fails.
    pub(crate) async fn sequence(&mut self, sql: String, told: Told) -> Result<(), Error> {
        self.run(Steps::Text(sql), told, Dropped).await?.1
    }

    /// Says what a statement would take and give.
    pub(crate) async fn describe(
        &mut self,
        sql: String,
        told: Told,
    ) -> Result<DescribeResult, Error> {
        self.core.lock().await.describe(sql, told).await
    }

    /// Whether no transaction is open. A client that asks knows from then on.
    pub(crate) async fn get_autocommit(&mut self) -> bool {
        let mut core = self.core.lock().await;
        core.lost = None;
        core.note();
        core.open.is_none()
    }

    /// Whether a transaction is open, or the client does not know yet that it is not.
    pub(crate) fn in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::SeqCst)
    }

    /// Ends the stream; an open transaction is rolled back.
    pub(crate) async fn close(mut self) {
        self.closed = true;
        self.core.lock().await.close();
    }

    async fn run<S: BatchSink>(
        &mut self,
        steps: Steps,
        told: Told,
        sink: S,
    ) -> Result<(S, Result<(), Error>), Error> {
        let mut core = self.core.lock().await;
        let ran = core.run(steps, told, sink).await;
        if ran.is_err() {
            core.roll_back();
        }
        core.note();
        core.watch(Arc::downgrade(&self.core));
        ran
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let core = Arc::clone(&self.core);
        if tokio::runtime::Handle::try_current().is_ok() {
            self.db.tasks().spawn(async move { core.lock_owned().await.close() });
        }
    }
}

impl Core {
    /// A connection on what is open of the database.
    async fn ready(&mut self) -> Result<(), Error> {
        if self.open.is_some() {
            return Ok(());
        }
        let sql = self.db.sql().get(&self.db).await?;
        let current = Arc::ptr_eq(&sql, &self.sql) && self.epoch == sql.epoch();
        if self.session.is_none() || !current {
            self.session = None;
            // First the epoch: a connection that is made meanwhile may be of the next one.
            self.epoch = sql.epoch();
            self.session = Some(sql.session(self.epoch).await?);
            self.sql = sql;
        }
        Ok(())
    }

    /// What is acknowledged is seen.
    async fn fresh(&mut self) -> Result<(), Error> {
        if self.sql.settings.read_fresh {
            self.db.head().await.map_err(|e| super::failed(&e))?;
        } else {
            self.sql.look_now_and_then(&self.db).await;
        }
        self.sql.catch_up(&self.db).await
    }

    async fn run<S: BatchSink>(
        &mut self,
        steps: Steps,
        told: Told,
        sink: S,
    ) -> Result<(S, Result<(), Error>), Error> {
        if self.open.is_some() && self.held.is_some() && self.sql.is_behind(&self.db) {
            self.take_away(overtaken());
        }
        let inside = self.open.is_some() || self.lost.is_some();
        let since = Instant::now();
        let mut run = Run::new(steps, sink, inside, self.lost.take());
        let mut tries = 0;
        loop {
            self.ready().await?;
            if self.open.is_none() {
                self.fresh().await?;
            }
            let (back, ended) = self.run_once(run, told, since).await?;
            run = back;
            let lost = match ended {
                Ended::Done(ended) => {
                    self.lost = run.lost.take();
                    return Ok((run.sink, ended));
                }
                Ended::Lost => overtaken(),
                Ended::Broken(error) => error,
            };
            self.roll_back();
            tries += 1;
            if !run.can_restart() || tries >= AGAIN || since.elapsed() > AGAIN_FOR {
                return Ok((run.sink, Err(lost)));
            }
            run.restart()?;
        }
    }

    /// Runs it to its end, or until it has lost.
    async fn run_once<S: BatchSink>(
        &mut self,
        mut run: Run<S>,
        told: Told,
        since: Instant,
    ) -> Result<(Run<S>, Ended), Error> {
        let mut first = self.first_pause(&run, told);
        loop {
            let pause;
            if let Some(known) = first.take() {
                pause = known;
            } else {
                (run, pause) = self.advance(run, told).await?;
            }
            let ended = match pause {
                Pause::Writer { transaction } => {
                    let stay = if transaction && !told.short { Stay::Open } else { Stay::Short };
                    match self.sql.place(&self.db, stay).await {
                        Ok(held) => {
                            self.held = Some(held);
                            None
                        }
                        Err(error) => {
                            // To be told like an error of the statement.
                            if since.elapsed() < AGAIN_FOR && self.sql.is_broken() {
                                return Ok((run, Ended::Broken(error)));
                            }
                            run.refuse(error)
                        }
                    }
                }
                Pause::Append => {
                    let outcome = self.append().await;
                    if outcome == Outcome::Lost {
                        self.ready().await?;
                    }
                    run.appended(outcome, overtaken())
                }
                Pause::Behind => {
                    if self.open.is_some() || since.elapsed() > AGAIN_FOR {
                        return Ok((run, Ended::Lost));
                    }
                    self.sql.settle(&self.db).await?;
                    None
                }
                end @ Pause::End(_) => Some(end),
            };
            if let Some(Pause::End(result)) = ended {
                return Ok((run, self.end(result).await));
            }
        }
    }

    /// What the run will stop at before it has run anything, if the text alone tells: that spares a
    /// way to another thread and back.
    fn first_pause<S: BatchSink>(&self, run: &Run<S>, told: Told) -> Option<Pause> {
        if self.held.is_some() {
            return None;
        }
        let transaction = run.first_wants_place(self.open.is_some(), told.rights)?;
        Some(Pause::Writer { transaction })
    }

    /// What was committed on the way is appended; a transaction that is open keeps what it has.
    async fn end(&mut self, result: Result<(), Error>) -> Ended {
        let writes = self
            .session
            .as_ref()
            .is_some_and(|session| transaction_state(session) == TransactionState::Write);
        if self.held.is_none() || writes {
            return Ended::Done(result);
        }
        match self.append().await {
            Outcome::Appended => Ended::Done(result),
            Outcome::Lost => Ended::Lost,
            Outcome::Failed(error) => Ended::Done(Err(error)),
        }
    }

    /// What this connection has committed goes into the log; the place is given up.
    async fn append(&mut self) -> Outcome {
        match self.held.take() {
            Some(held) => held.join(&self.db).await,
            None => Outcome::Appended,
        }
    }

    /// Goes on with the statements until they have to wait.
    async fn advance<S: BatchSink>(
        &mut self,
        mut run: Run<S>,
        told: Told,
    ) -> Result<(Run<S>, Pause), Error> {
        let Some(mut session) = self.session.take() else {
            return Err(internal("a connection is missing"));
        };
        let context = Context {
            sql: Arc::clone(&self.sql),
            has_place: self.held.is_some(),
            rights: told.rights,
            until: self.until(),
            held_back_max: self.sql.settings.limits.result,
        };
        let worked = tokio::task::spawn_blocking(move || {
            let pause = run.advance(&mut session, &context);
            (run, session, pause)
        });
        let Ok((run, session, pause)) = worked.await else {
            // The connection is gone, and with it what it had begun.
            self.held = None;
            self.open = None;
            return Err(internal("the server is stopping, or met a bug"));
        };
        self.session = Some(session);
        self.note();
        Ok((run, pause))
    }

    /// When what runs now must be done.
    fn until(&self) -> Instant {
        let limits = &self.sql.settings.limits;
        let statement = Instant::now() + limits.statement;
        self.open.map_or(statement, |open| statement.min(open.began + limits.transaction))
    }

    async fn describe(&mut self, sql: String, told: Told) -> Result<DescribeResult, Error> {
        self.ready().await?;
        if self.open.is_none() {
            self.fresh().await?;
        }
        let Some(mut session) = self.session.take() else {
            return Err(internal("a connection is missing"));
        };
        let (published, until) = (Arc::clone(&self.sql), self.until());
        let worked = tokio::task::spawn_blocking(move || {
            let described = describe(&mut session, &published, &sql, told.rights, until);
            (session, described)
        });
        let (session, described) =
            worked.await.map_err(|_| internal("the server is stopping, or met a bug"))?;
        self.session = Some(session);
        if let Some(open) = &mut self.open {
            open.used = Instant::now();
        }
        described
    }

    /// Notes whether a transaction is open.
    fn note(&mut self) {
        let is_open = self.session.as_ref().is_some_and(|session| !session.is_autocommit());
        let now = Instant::now();
        self.open = is_open.then(|| {
            let began = self.open.map_or(now, |open| open.began);
            Open { began, used: now, watched: self.open.is_some_and(|open| open.watched) }
        });
        self.in_transaction.store(is_open || self.lost.is_some(), Ordering::SeqCst);
    }

    /// Has somebody watch an open transaction.
    fn watch(&mut self, core: Weak<Mutex<Core>>) {
        let Some(open) = self.open.as_mut().filter(|open| !open.watched) else { return };
        open.watched = true;
        let (began, limits) = (open.began, self.sql.settings.limits.clone());
        let mut newest = self.db.newest();
        let at = self.sql.at();
        // Not waited for when the server stops.
        tokio::spawn(async move {
            let mut until = Instant::now() + limits.transaction_idle;
            loop {
                let moved = tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => false,
                    moved = newest.wait_for(|lsn| *lsn > at) => moved.is_ok(),
                };
                let Some(core) = core.upgrade() else { return };
                let mut core = core.lock_owned().await;
                let Some(open) = core.open.filter(|open| open.began == began) else { return };
                let now = Instant::now();
                let ends =
                    (open.used + limits.transaction_idle).min(open.began + limits.transaction);
                if moved && core.held.is_some() {
                    core.take_away(overtaken());
                } else if now >= ends {
                    core.take_away(timed_out(&limits));
                } else {
                    until = ends;
                    if moved {
                        // It only reads, or does not hold anybody up.
                        newest = core.db.newest();
                        newest.mark_unchanged();
                        drop(core);
                        tokio::time::sleep_until(until.into()).await;
                    }
                    continue;
                }
                return;
            }
        });
    }

    /// Rolls back, without the client.
    fn take_away(&mut self, error: Error) {
        tracing::debug!(database = %self.db.name(), error = error.message, "a transaction was rolled back");
        self.roll_back();
        self.lost = Some(error);
        self.note();
    }

    fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && !session.is_autocommit()
            && let Err(error) = session.connection().execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "rolling back failed; the connection is dropped");
            self.session = None;
        }
        self.held = None;
        self.note();
    }

    fn close(&mut self) {
        self.roll_back();
        self.lost = None;
        if let Some(session) = self.session.take() {
            self.sql.recycle(session, self.epoch);
        }
        self.note();
    }
}

/// How a request ended.
enum Ended {
    /// It has its results, or an error of the whole.
    Done(Result<(), Error>),
    /// Another writer was first.
    Lost,
    /// The replica has to be made anew.
    Broken(Error),
}

/// Compiles a statement with the schema of what the stream sees.
fn describe(
    session: &mut Session,
    sql: &Sql,
    text: &str,
    rights: Rights,
    until: Instant,
) -> Result<DescribeResult, Error> {
    session.set_rights(rights)?;
    session.start_clock(until);
    let alone = session.is_autocommit();
    if transaction_state(session) == TransactionState::None
        && !sql.begin(session).map_err(|e| from_sqlite(&e))?
    {
        tracing::debug!("a statement is described as of the newest state");
    }
    let described = session.describe(text);
    if alone {
        end_reading(session);
    }
    described
}

fn overtaken() -> Error {
    busy("another writer was first; begin the transaction again")
}

fn timed_out(limits: &crate::config::SqlLimits) -> Error {
    Error::new(
        "TRANSACTION_TIMEOUT",
        format!(
            "the transaction was rolled back: it was idle for {} s, or open for {} s",
            limits.transaction_idle.as_secs_f64(),
            limits.transaction.as_secs_f64()
        ),
    )
}

fn internal(message: &str) -> Error {
    Error::new("INTERNAL", message)
}
