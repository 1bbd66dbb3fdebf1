//! A database on a server, by SQL over HTTP.
//!
//! All statements go to one *stream* at the server, so that transactions, temporary tables and settings
//! last from one to the next; the *baton* of each answer names it in the next request. A server ends a
//! stream that is idle for long. Outside a transaction a new one takes its place, for the statement was
//! not carried out then; inside one the user is told.
//!
//! Whatever becomes of a request, the state here is right afterwards: an answer that was lost or given
//! up leaves no baton, and so no transaction, which the server rolls back soon.
//!
//! A server may name another address for the rest of a stream. It is not followed: token and
//! statements go where the user said.
//!
//! Memory: one answer, [`super::http::ANSWER_BYTES_MAX`] as JSON, and its values.

use std::sync::Arc;
use std::time::Duration;

use anabranch_hrana::{
    Batch, BatchCond, BatchResult, BatchStep, PipelineRequest, PipelineResponse, Stmt, StmtResult,
    StreamRequest, StreamResponse, StreamResult, Value,
};
use tokio::runtime::Handle;

use super::backend::{Backend, Done, Interrupt, Sink};
use super::error::ShellError;
use super::http::{Answer, Http, Version};

/// How long leaving may take.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
/// The code of an error that says that the stream is gone.
const STREAM_EXPIRED: &str = "STREAM_EXPIRED";

/// A stream at a server.
pub(super) struct Remote {
    http: Http,
    /// `None` until a server has answered.
    version: Option<Version>,
    baton: Option<String>,
    in_transaction: bool,
    runtime: Handle,
    interrupt: Arc<Interrupt>,
}

impl Remote {
    pub(super) fn new(http: Http, runtime: Handle, interrupt: Arc<Interrupt>) -> Self {
        let version = None;
        Remote { http, version, baton: None, in_transaction: false, runtime, interrupt }
    }

    /// Asks for one thing, and how the transaction stands after it. `sql` tells that where the server
    /// cannot.
    fn ask(&mut self, request: StreamRequest, sql: &str) -> Result<StreamResponse, ShellError> {
        let was_open = self.baton.is_some();
        let was_in_transaction = self.in_transaction;
        let answer = self.ask_once(request.clone(), sql);
        match answer {
            Err(e) if e.has_code(STREAM_EXPIRED) && was_open && !was_in_transaction => {
                self.ask_once(request, sql)
            }
            answer => answer,
        }
    }

    fn ask_once(
        &mut self,
        request: StreamRequest,
        sql: &str,
    ) -> Result<StreamResponse, ShellError> {
        // Whatever happens now, this one is used up.
        let baton = self.baton.take();
        let in_transaction = std::mem::replace(&mut self.in_transaction, false);
        let (version, response) = self.exchange(baton, request)?;
        let expected = if version == Version::V3 { 2 } else { 1 };
        if response.results.len() != expected {
            let what = format!("{} results for {expected} requests", response.results.len());
            return Err(self.http.protocol(what));
        }
        self.baton = response.baton;
        let mut results = response.results.into_iter();
        let (first, second) = (results.next(), results.next());
        let succeeded = matches!(first, Some(StreamResult::Ok { .. }));
        self.in_transaction = self.baton.is_some()
            && match second {
                Some(StreamResult::Ok {
                    response: StreamResponse::GetAutocommit { is_autocommit },
                }) => !is_autocommit,
                Some(StreamResult::Error { .. }) => false,
                Some(_) => return Err(self.http.protocol("the type of a result is wrong".into())),
                None if succeeded => after(sql, in_transaction),
                None => in_transaction,
            };
        match first {
            Some(StreamResult::Ok { response }) => Ok(response),
            Some(StreamResult::Error { error }) => Err(ShellError::of_server(error)),
            None => Err(self.http.protocol("it has no results".into())),
        }
    }

    /// Sends a request in the version that the server speaks.
    fn exchange(
        &mut self,
        baton: Option<String>,
        request: StreamRequest,
    ) -> Result<(Version, PipelineResponse), ShellError> {
        let versions: &[Version] = match self.version {
            Some(Version::V3) => &[Version::V3],
            Some(Version::V2) => &[Version::V2],
            None => &[Version::V3, Version::V2],
        };
        let mut requests = vec![request];
        let mut not_found = String::new();
        for &version in versions {
            requests.truncate(1);
            if version == Version::V3 {
                requests.push(StreamRequest::GetAutocommit);
            }
            let asked = PipelineRequest { baton: baton.clone(), requests };
            match self.wait_for(version, &asked)? {
                Answer::Pipeline(response) => {
                    self.version = Some(version);
                    return Ok((version, response));
                }
                Answer::StreamGone => {
                    let message = "the stream at the server has ended".to_owned();
                    let code = STREAM_EXPIRED.to_owned();
                    return Err(ShellError::Sql { code, message, offset: None });
                }
                Answer::NotFound { said } => not_found = said,
            }
            requests = asked.requests;
        }
        Err(ShellError::NoSql { at: self.http.at(), said: not_found })
    }

    /// Waits for an answer, or for Ctrl-C, which gives the request up.
    fn wait_for(&self, version: Version, asked: &PipelineRequest) -> Result<Answer, ShellError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.interrupt.raised() => Err(ShellError::Interrupted),
                answer = self.http.ask(version, asked) => answer,
            }
        })
    }

    fn mistyped(&self) -> ShellError {
        self.http.protocol("the type of a result is wrong".into())
    }
}

impl Backend for Remote {
    fn run(&mut self, sql: &str, args: &[Value], sink: &mut dyn Sink) -> Result<Done, ShellError> {
        let stmt = Stmt { args: args.to_vec(), ..Stmt::new(sql) };
        let response = self.ask(StreamRequest::Execute { stmt }, sql)?;
        let StreamResponse::Execute { result } = response else { return Err(self.mistyped()) };
        let done = done(&result);
        let columns: Vec<String> =
            result.cols.into_iter().map(|col| col.name.unwrap_or_default()).collect();
        if !columns.is_empty() {
            sink.begin(&columns)?;
        }
        for row in result.rows {
            if row.len() != columns.len() {
                let what = format!("a row has {} values for {} columns", row.len(), columns.len());
                return Err(self.http.protocol(what));
            }
            sink.row(row)?;
        }
        Ok(done)
    }

    fn run_all(&mut self, statements: Vec<Stmt>) -> Result<(), (usize, ShellError)> {
        let count = statements.len();
        let steps = statements.into_iter().enumerate().map(|(i, stmt)| {
            let before = i.checked_sub(1).and_then(|step| u32::try_from(step).ok());
            BatchStep { condition: before.map(|step| BatchCond::Ok { step }), stmt }
        });
        let batch = Batch { steps: steps.collect() };
        let response = self.ask(StreamRequest::Batch { batch }, "").map_err(|e| (0, e))?;
        let StreamResponse::Batch { result } = response else { return Err((0, self.mistyped())) };
        let BatchResult { step_results, step_errors } = result;
        if let Some((i, error)) =
            step_errors.into_iter().enumerate().find_map(|(i, e)| e.map(|e| (i, e)))
        {
            return Err((i, ShellError::of_server(error)));
        }
        match step_results.iter().flatten().count() {
            ran if ran == count => Ok(()),
            ran => Err((ran, self.http.protocol(format!("{ran} results for {count} steps")))),
        }
    }

    fn is_far(&self) -> bool {
        true
    }

    fn undo(&mut self, sql: &str) -> Result<(), ShellError> {
        // A request that Ctrl-C gave up has taken the transaction with it.
        if self.in_transaction { self.just_run(sql).map(|_| ()) } else { Ok(()) }
    }

    fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    fn close(&mut self) {
        let (Some(baton), Some(version)) = (self.baton.take(), self.version) else { return };
        let asked = PipelineRequest { baton: Some(baton), requests: vec![StreamRequest::Close] };
        // It ends by itself before long; this is only politeness.
        let _ = self.runtime.block_on(async {
            tokio::time::timeout(CLOSE_TIME_MAX, self.http.ask(version, &asked)).await
        });
    }
}

fn done(result: &StmtResult) -> Done {
    let took = result.query_duration_ms;
    Done {
        changes: result.affected_row_count,
        last_rowid: result.last_insert_rowid,
        server_ms: (took > 0.0).then_some(took),
    }
}

/// Whether a transaction is open after `sql` succeeded, as far as its first words tell.
fn after(sql: &str, before: bool) -> bool {
    let mut words = words(sql);
    match words.next().as_deref() {
        Some("BEGIN" | "SAVEPOINT") => true,
        Some("COMMIT" | "END") => false,
        // ROLLBACK TO a savepoint ends nothing.
        Some("ROLLBACK") => before && words.any(|word| word == "TO"),
        _ => before,
    }
}

/// Whether a statement writes rows, answers none, and leaves transactions alone.
pub(super) fn only_writes(sql: &str) -> bool {
    let mut words = words(sql);
    matches!(words.next().as_deref(), Some("INSERT" | "REPLACE" | "UPDATE" | "DELETE"))
        && words.all(|word| word != "RETURNING")
}

/// The words of a statement, without the comments before the first.
fn words(sql: &str) -> impl Iterator<Item = String> {
    let mut rest = sql.trim_start();
    loop {
        let after = match rest.as_bytes() {
            [b'-', b'-', ..] => rest.split_once('\n').map(|(_, after)| after),
            [b'/', b'*', ..] => rest.split_once("*/").map(|(_, after)| after),
            _ => break,
        };
        rest = after.unwrap_or_default().trim_start();
    }
    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_tell_of_transactions() {
        assert!(after("-- x\n /* y */ begin immediate;", false));
        assert!(after("SAVEPOINT a", false) && after("ROLLBACK TO a;", true));
        assert!(after("SELECT 'commit'", true) && !after("SELECT 1", false));
        assert!(!after("COMMIT;", true) && !after("end", true) && !after("ROLLBACK", true));
        assert!(after("-- only a comment", true));
        assert!(
            only_writes("insert into t values('returning x')") != only_writes("INSERT INTO t(a)")
        );
        assert!(!only_writes("DELETE FROM t RETURNING a") && !only_writes("WITH x AS (SELECT 1)"));
    }
}
