//! A stand-in for a stream: a plain connection to a scratch file, without any log.

use std::sync::Arc;
use std::time::Duration;

use anabranch_hrana::{
    Batch, BatchResult, Col, DescribeCol, DescribeParam, DescribeResult, Error, StepOutcome, Stmt,
    StmtResult, Value,
};
use rusqlite::Connection;
use rusqlite::types::{Value as Sql, ValueRef};

use super::sink::BatchSink;
use crate::database::Database;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) rights: Rights,
    #[expect(dead_code, reason = "the stand-in never runs anything again")]
    pub(crate) short: bool,
}

pub(crate) struct Stream(Connection);

fn error(e: &rusqlite::Error) -> Error {
    let code = match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => "SQLITE_CONSTRAINT",
        Some(rusqlite::ErrorCode::ReadOnly) => "SQLITE_READONLY",
        Some(rusqlite::ErrorCode::DatabaseBusy) => "SQLITE_BUSY",
        _ => "SQLITE_UNKNOWN",
    };
    Error::new(code, format!("SQLite error: {e}"))
}

struct Collected(Vec<Option<StmtResult>>, Vec<Option<Error>>);

impl BatchSink for Collected {
    fn restart(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn step_begin(&mut self, step: u32, cols: Vec<Col>) -> Result<(), Error> {
        self.0[step as usize] = Some(StmtResult { cols, ..StmtResult::default() });
        Ok(())
    }
    fn row(&mut self, row: Vec<Value>) -> Result<(), Error> {
        self.0.iter_mut().flatten().last().expect("a step began").rows.push(row);
        Ok(())
    }
    fn step_end(&mut self, affected: u64, last_insert_rowid: Option<i64>) -> Result<(), Error> {
        let result = self.0.iter_mut().flatten().last().expect("a step began");
        result.affected_row_count = affected;
        result.last_insert_rowid = last_insert_rowid;
        Ok(())
    }
    fn step_error(&mut self, step: u32, error: Error) -> Result<(), Error> {
        self.0[step as usize] = None;
        self.1[step as usize] = Some(error);
        Ok(())
    }
}

impl Stream {
    pub(crate) async fn open(db: &Arc<Database>) -> Result<Stream, Error> {
        let path = db.libsql().scratch.join(format!("stand-in-{}", db.id()));
        let connection = Connection::open(path).map_err(|e| error(&e))?;
        connection.busy_timeout(Duration::from_millis(1)).map_err(|e| error(&e))?;
        Ok(Stream(connection))
    }

    fn run<S: BatchSink>(
        &self,
        step: u32,
        stmt: &Stmt,
        told: Told,
        sink: &mut S,
    ) -> Result<(), Error> {
        let text = stmt.sql.as_deref().expect("resolved");
        let mut prepared = self.0.prepare(text).map_err(|e| error(&e))?;
        if told.rights == Rights::Read && !prepared.readonly() {
            return Err(Error::new("SQLITE_READONLY", "this token may only read"));
        }
        let cols = prepared.columns().map(|col| Col {
            name: Some(col.name().to_owned()),
            decltype: col.decl_type().map(ToOwned::to_owned),
        });
        let cols: Vec<Col> = cols.collect();
        let count = cols.len();
        let params: Vec<Sql> = stmt
            .args
            .iter()
            .map(|value| match value {
                Value::Null => Sql::Null,
                Value::Integer(n) => Sql::Integer(*n),
                Value::Float(n) => Sql::Real(*n),
                Value::Text(text) => Sql::Text(text.clone()),
                Value::Blob(bytes) => Sql::Blob(bytes.to_vec()),
            })
            .collect();
        sink.step_begin(step, cols)?;
        let before = self.0.total_changes();
        let mut rows = prepared.query(rusqlite::params_from_iter(params)).map_err(|e| error(&e))?;
        while let Some(row) = rows.next().map_err(|e| error(&e))? {
            let value = |i| match row.get_ref(i).expect("a column") {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => Value::Integer(n),
                ValueRef::Real(n) => Value::Float(n),
                ValueRef::Text(t) => Value::Text(String::from_utf8_lossy(t).into_owned()),
                ValueRef::Blob(b) => Value::Blob(b.to_vec().into()),
            };
            sink.row((0..count).map(value).collect())?;
        }
        let affected = self.0.total_changes() - before;
        let inserts = text.trim_start().to_ascii_uppercase().starts_with("INSERT");
        sink.step_end(affected, inserts.then(|| self.0.last_insert_rowid()))
    }

    pub(crate) async fn execute(&mut self, stmt: Stmt, told: Told) -> Result<StmtResult, Error> {
        let mut sink = Collected(vec![None], vec![None]);
        self.run(0, &stmt, told, &mut sink)?;
        Ok(sink.0.remove(0).expect("it ran"))
    }

    pub(crate) async fn batch(&mut self, batch: Batch, told: Told) -> Result<BatchResult, Error> {
        let steps = batch.steps.len();
        let sink = Collected(vec![None; steps], vec![None; steps]);
        let sink = self.batch_into(batch, told, sink).await?;
        Ok(BatchResult { step_results: sink.0, step_errors: sink.1 })
    }

    pub(crate) async fn batch_into<S: BatchSink>(
        &mut self,
        batch: Batch,
        told: Told,
        mut sink: S,
    ) -> Result<S, Error> {
        sink.restart()?;
        let mut outcomes = Vec::new();
        for (index, step) in (0..).zip(&batch.steps) {
            let holds =
                |cond: &anabranch_hrana::BatchCond| cond.holds(&outcomes, self.is_autocommit());
            if !step.condition.as_ref().is_none_or(holds) {
                outcomes.push(StepOutcome::Skipped);
                continue;
            }
            outcomes.push(match self.run(index, &step.stmt, told, &mut sink) {
                Ok(()) => StepOutcome::Ok,
                Err(e) => {
                    sink.step_error(index, e)?;
                    StepOutcome::Error
                }
            });
        }
        Ok(sink)
    }

    pub(crate) async fn sequence(&mut self, sql: String, _told: Told) -> Result<(), Error> {
        self.0.execute_batch(&sql).map_err(|e| error(&e))
    }

    pub(crate) async fn describe(
        &mut self,
        sql: String,
        _told: Told,
    ) -> Result<DescribeResult, Error> {
        let prepared = self.0.prepare(&sql).map_err(|e| error(&e))?;
        Ok(DescribeResult {
            params: (1..=prepared.parameter_count())
                .map(|i| DescribeParam { name: prepared.parameter_name(i).map(ToOwned::to_owned) })
                .collect(),
            cols: prepared
                .column_names()
                .into_iter()
                .map(|name| DescribeCol { name: name.to_owned(), decltype: None })
                .collect(),
            is_explain: false,
            is_readonly: prepared.readonly(),
        })
    }

    pub(crate) fn is_autocommit(&self) -> bool {
        self.0.is_autocommit()
    }

    pub(crate) async fn close(self) {}
}
