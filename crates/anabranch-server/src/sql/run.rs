//! The statements of one request on one connection, as far as they go without waiting for others.
//!
//! This is the part that blocks. It stops where it needs the writers' place, or the end of an append,
//! and says so ([`Pause`]); the stream waits for that and has it go on. Outside a transaction, and
//! until a transaction writes, what is read is the published state; who has the place sees everything.
//!
//! Results that depend on an append are held back until it is known what became of it: those of a
//! request that began in the middle of a transaction, one by one, because its first part cannot be
//! done again. All others are done again as a whole.

use std::sync::Arc;
use std::time::Instant;

use anabranch_hrana::{BatchStep, Col, Error, StepOutcome, Stmt, Value};
use anabranch_sql::text::{self, Class, Mode};
use anabranch_sql::{Collected, Done, Need, Rights, Rows, Session, from_sqlite};
use rusqlite::TransactionState;

use super::Sql;
use super::place::Outcome;
use super::sink::BatchSink;

/// What is to be run.
#[derive(Debug)]
pub(super) enum Steps {
    /// Statements with conditions.
    Batch(Vec<BatchStep>),
    /// A text of statements, up to the first that fails.
    Text(String),
}

/// Where it stops.
#[derive(Debug)]
pub(super) enum Pause {
    /// The next statement needs the place; a transaction over several statements begins if so.
    Writer { transaction: bool },
    /// What was just committed must be appended before the request goes on.
    Append,
    /// The published state cannot be shown any more: there is a newer one.
    Behind,
    /// Everything was run, or the text up to an error.
    End(Result<(), Error>),
}

/// What a run may rely on.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) sql: Arc<Sql>,
    pub(super) has_place: bool,
    pub(super) rights: Rights,
    /// No statement runs longer.
    pub(super) until: Instant,
    /// Longest result that is held back in memory, in bytes.
    pub(super) held_back_max: u64,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Run<S> {
    steps: Steps,
    next: usize,
    /// Where in a text the next statement begins, and where it ends.
    at: (usize, usize),
    outcomes: Vec<StepOutcome>,
    pub(super) sink: S,
    /// It began inside a transaction.
    inside: bool,
    /// A step that was run; it counts once what it committed is appended.
    pending: Option<Pending>,
    /// The transaction was taken away; what the client is told until it has understood.
    pub(super) lost: Option<Error>,
}

#[derive(Debug)]
struct Pending {
    rows: Collected,
    done: Done,
    /// It ended a transaction that the client knows of.
    ended: bool,
}

/// The rows of a step on their way to the sink.
struct Through<'a, S> {
    step: u32,
    sink: &'a mut S,
}

impl<S: BatchSink> Rows for Through<'_, S> {
    fn cols(&mut self, cols: Vec<Col>) -> Result<(), Error> {
        self.sink.step_begin(self.step, cols)
    }

    fn row(&mut self, row: Vec<Value>) -> Result<(), Error> {
        self.sink.row(row)
    }
}

/// How a statement is run.
enum Way {
    /// As it is.
    Plainly,
    /// In a read transaction of its own, which is open now.
    Reading,
}

impl<S: BatchSink> Run<S> {
    pub(super) fn new(steps: Steps, sink: S, inside: bool, lost: Option<Error>) -> Self {
        let outcomes = Vec::new();
        Run { steps, next: 0, at: (0, 0), outcomes, sink, inside, pending: None, lost }
    }

    /// Whether it can be done again from its start.
    pub(super) fn can_restart(&self) -> bool {
        !self.inside
    }

    /// It is done again from its start.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        (self.next, self.at, self.pending) = (0, (0, 0), None);
        self.outcomes.clear();
        self.sink.restart()
    }

    /// As [`wants_place`], of the first statement, while nothing was run.
    pub(super) fn first_wants_place(&self, is_open: bool, rights: Rights) -> Option<bool> {
        if self.lost.is_some() {
            return None;
        }
        let sql = match &self.steps {
            Steps::Batch(steps) => {
                let first = steps.first().filter(|step| step.condition.is_none())?;
                first.stmt.sql.as_deref()?
            }
            Steps::Text(text) => text,
        };
        wants_place(sql, is_open, rights)
    }

    /// Goes on until it has to stop.
    pub(super) fn advance(&mut self, session: &mut Session, context: &Context) -> Pause {
        if let Err(error) = session.set_rights(context.rights) {
            return Pause::End(Err(error));
        }
        session.start_clock(context.until);
        loop {
            if let Some(pause) = self.one(session, context) {
                return pause;
            }
        }
    }

    /// Runs the next statement, if its condition holds. `Some` stops the run.
    fn one(&mut self, session: &mut Session, context: &Context) -> Option<Pause> {
        let Some(stmt) = self.current(session.is_autocommit()) else {
            return Some(Pause::End(Ok(())));
        };
        let Some(stmt) = stmt else {
            self.outcomes.push(StepOutcome::Skipped);
            self.next += 1;
            return None;
        };
        let sql = stmt.sql.as_deref().unwrap_or_default();
        if let Some(answer) = self.answer_if_lost(sql) {
            return self.settled(answer);
        }
        let way = match way(session, sql, context) {
            Ok(Ok(way)) => way,
            Ok(Err(pause)) => return Some(pause),
            Err(error) => return self.settled(Err(error)),
        };
        let reading = matches!(way, Way::Reading);
        let was_open = !session.is_autocommit() && !reading;
        // What may commit, and cannot be run again with all that came before it.
        if self.inside && context.has_place && (!was_open || ends(sql)) {
            return self.hold_back(session, &stmt, was_open, context);
        }
        session.limit_results(self.sink.bytes_max(), u64::MAX);
        let mut through = Through { step: self.step(), sink: &mut self.sink };
        let ran = session.execute(sql, &stmt.args, &stmt.named_args, &mut through);
        if reading {
            end_reading(session);
        }
        self.settled(ran)
    }

    /// Runs a statement whose result counts once what it committed is appended.
    fn hold_back(
        &mut self,
        session: &mut Session,
        stmt: &Stmt,
        was_open: bool,
        context: &Context,
    ) -> Option<Pause> {
        let sql = stmt.sql.as_deref().unwrap_or_default();
        let mut rows = Collected::default();
        session.limit_results(self.sink.bytes_max().min(context.held_back_max), u64::MAX);
        match session.execute(sql, &stmt.args, &stmt.named_args, &mut rows) {
            Ok(done) => {
                self.pending = Some(Pending { rows, done, ended: was_open });
                if session.is_autocommit() { Some(Pause::Append) } else { self.deliver() }
            }
            Err(error) => self.settled(Err(error)),
        }
    }

    fn step(&self) -> u32 {
        u32::try_from(self.next).unwrap_or(u32::MAX)
    }

    /// The next statement; `Some(None)` if its condition does not hold.
    fn current(&mut self, is_autocommit: bool) -> Option<Option<Stmt>> {
        match &self.steps {
            Steps::Batch(steps) => {
                let step = steps.get(self.next)?;
                let holds = step
                    .condition
                    .as_ref()
                    .is_none_or(|cond| cond.holds(&self.outcomes, is_autocommit));
                Some(holds.then(|| step.stmt.clone()))
            }
            Steps::Text(text) => {
                let (sql, rest) = text::split(&text[self.at.0..]);
                if sql.is_empty() {
                    return None;
                }
                let stmt = Stmt::new(sql);
                self.at.1 = text.len() - rest.len();
                Some(Some(stmt))
            }
        }
    }

    /// What a statement is answered without being run, since its transaction was taken away.
    fn answer_if_lost(&mut self, sql: &str) -> Option<Result<Done, Error>> {
        let error = self.lost.clone()?;
        match text::class(sql) {
            Class::Rollback => {
                self.lost = None;
                let begun = self.sink.step_begin(self.step(), Vec::new());
                Some(begun.map(|()| Done::default()))
            }
            Class::Commit => {
                self.lost = None;
                Some(Err(error))
            }
            Class::Begin(_) => {
                self.lost = None;
                None
            }
            _ => Some(Err(error)),
        }
    }

    /// Notes what became of the current step, and goes on to the next; a text ends at an error.
    fn settled(&mut self, ran: Result<Done, Error>) -> Option<Pause> {
        let step = self.step();
        self.next += 1;
        self.at.0 = self.at.1;
        let ran = ran.and_then(|done| self.sink.step_end(&done));
        match ran {
            Ok(()) => {
                self.outcomes.push(StepOutcome::Ok);
                None
            }
            Err(error) if matches!(self.steps, Steps::Text(_)) => Some(Pause::End(Err(error))),
            Err(error) => {
                self.outcomes.push(StepOutcome::Error);
                self.sink.step_error(step, error).err().map(|error| Pause::End(Err(error)))
            }
        }
    }

    /// Hands on what was held back.
    fn deliver(&mut self) -> Option<Pause> {
        let Pending { rows, done, .. } = self.pending.take()?;
        let step = self.step();
        let handed = self
            .sink
            .step_begin(step, rows.cols)
            .and_then(|()| rows.rows.into_iter().try_for_each(|row| self.sink.row(row)));
        self.settled(handed.map(|()| done))
    }

    /// The current statement fails without having been run.
    pub(super) fn refuse(&mut self, error: Error) -> Option<Pause> {
        self.settled(Err(error))
    }

    /// What was committed last was appended, or not. `Some` ends the run.
    pub(super) fn appended(&mut self, outcome: Outcome, lost: Error) -> Option<Pause> {
        match outcome {
            Outcome::Appended => self.deliver(),
            Outcome::Failed(error) => {
                self.pending = None;
                self.settled(Err(error))
            }
            Outcome::Lost => {
                let pending = self.pending.take();
                if pending.is_some_and(|pending| !pending.ended) {
                    // A statement of its own, which is run again.
                    return None;
                }
                self.settled(Err(lost))
            }
        }
    }
}

/// Whether a text alone tells that it needs the place; and if so, whether as a part of a transaction
/// over several statements.
fn wants_place(sql: &str, is_open: bool, rights: Rights) -> Option<bool> {
    if rights != Rights::Write {
        return None;
    }
    match text::class(sql) {
        Class::Begin(Mode::Immediate | Mode::Exclusive) if !is_open => Some(true),
        Class::Write => Some(is_open),
        _ => None,
    }
}

/// How to run `sql` now; or what to wait for before.
fn way(session: &mut Session, sql: &str, context: &Context) -> Result<Result<Way, Pause>, Error> {
    if context.has_place {
        return Ok(Ok(Way::Plainly));
    }
    let is_open = !session.is_autocommit();
    if let Some(transaction) = wants_place(sql, is_open, context.rights) {
        return Ok(Err(Pause::Writer { transaction }));
    }
    if !matches!(text::class(sql), Class::Read | Class::Unknown | Class::Write) {
        return Ok(Ok(Way::Plainly));
    }
    let begun = is_open && transaction_state(session) != TransactionState::None;
    if !begun {
        let shown = context.sql.begin(session).map_err(|e| from_sqlite(&e))?;
        if !shown {
            if !is_open {
                end_reading(session);
            }
            return Ok(Err(Pause::Behind));
        }
    }
    let need = session.need(sql);
    if !is_open && !matches!(need, Ok(Need::Read)) {
        end_reading(session);
    }
    match need? {
        Need::Read if is_open => Ok(Ok(Way::Plainly)),
        Need::Read => Ok(Ok(Way::Reading)),
        Need::Nothing => Ok(Ok(Way::Plainly)),
        Need::Write => Ok(Err(Pause::Writer { transaction: is_open })),
    }
}

/// Whether a statement may end a transaction.
fn ends(sql: &str) -> bool {
    matches!(text::class(sql), Class::Commit | Class::Rollback | Class::Release | Class::Unknown)
}

/// What the connection's transaction has begun with.
pub(super) fn transaction_state(session: &Session) -> TransactionState {
    let state = session.connection().transaction_state(Some(rusqlite::MAIN_DB));
    state.unwrap_or(TransactionState::None)
}

/// Ends a read transaction that was begun for one statement.
pub(super) fn end_reading(session: &Session) {
    // A statement that failed badly may have ended it already.
    if session.is_autocommit() {
        return;
    }
    let ended = session.unguarded(|conn| conn.prepare_cached("ROLLBACK")?.execute([]));
    if let Err(error) = ended {
        tracing::warn!(%error, "ending a read transaction failed");
    }
}
