//! A program that writes by SQL, in every form there is, and keeps account of what it was told.
//!
//! Each transaction has a token; its rows carry it, and it adds one to the counter. An open transaction
//! adds by reading first, so a lost update shows in the counter.

use anabranch_conformance::{Chance, Sql, SqlFailure};

use crate::ledger::Ledger;

/// The forms in which a transaction goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One statement, which a trigger makes two of.
    Statement,
    /// Several in one batch, between BEGIN and COMMIT.
    Batch,
    /// A script with its own BEGIN and COMMIT.
    Script,
    /// Request by request.
    Open,
}

/// A writer on one server at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    name: String,
    sql: Sql,
    chance: Chance,
    written: usize,
    /// What it was told.
    pub(crate) ledger: Ledger,
}

/// What a transaction came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    Unknown,
    /// An open transaction was taken away, as it may be.
    TakenAway,
}

/// What makes one statement a whole transaction: the counter follows.
pub(crate) const COUNTING: &str =
    "CREATE TABLE single(token TEXT); CREATE TRIGGER counted AFTER INSERT ON single BEGIN
     INSERT INTO part VALUES (new.token, 1, 1, ''); UPDATE counter SET n = n + 1;
     DELETE FROM single; END;";

impl Writer {
    pub(crate) fn new(name: &str, url: &str, seed: u64) -> Self {
        Writer {
            name: name.to_owned(),
            sql: Sql::new(url, None),
            chance: Chance::new(seed),
            written: 0,
            ledger: Ledger::default(),
        }
    }

    /// Goes on at another server.
    pub(crate) fn go_to(&mut self, url: &str) {
        self.sql.go_to(url);
    }

    /// Runs one transaction of any form.
    ///
    /// # Panics
    ///
    /// If a server refuses what it must not.
    pub(crate) fn turn(&mut self) -> Outcome {
        let token = format!("{}-{}", self.name, self.written);
        self.written += 1;
        let forms = [Form::Statement, Form::Statement, Form::Batch, Form::Script, Form::Open];
        let form = forms[self.chance.below(forms.len())];
        let parts = if form == Form::Statement { 1 } else { 1 + self.chance.below(4) };
        let done = match form {
            Form::Statement => {
                self.sql.once(&format!("INSERT INTO single VALUES ('{token}')")).map(drop)
            }
            Form::Batch => {
                let mut statements = rows(&token, parts);
                statements.push("UPDATE counter SET n = n + 1".to_owned());
                self.sql.transaction(&statements)
            }
            Form::Script => {
                let rows = rows(&token, parts).join("; ");
                let script = format!("BEGIN; {rows}; UPDATE counter SET n = n + 1; COMMIT");
                self.sql.script(&script)
            }
            Form::Open => self.open(&token, parts),
        };
        match done {
            Ok(()) => {
                self.ledger.acknowledged.insert(token);
                Outcome::Acknowledged
            }
            Err(failure) if failure.is_unknown() => {
                self.sql.abandon();
                self.ledger.unknown.insert(token);
                Outcome::Unknown
            }
            Err(failure)
                if form == Form::Open && taken_away(&failure) || waited_in_vain(&failure) =>
            {
                self.sql.abandon();
                self.ledger.refused.insert(token);
                Outcome::TakenAway
            }
            Err(failure) => panic!("{token}, {form:?}: {failure}"),
        }
    }

    /// A transaction over several requests, which reads what it then writes.
    fn open(&mut self, token: &str, parts: usize) -> Result<(), SqlFailure> {
        self.sql.run("BEGIN IMMEDIATE")?;
        let n: u64 = self.sql.rows("SELECT n FROM counter")?[0].parse().expect("a number");
        for statement in rows(token, parts) {
            self.sql.run(&statement)?;
        }
        self.sql.run(&format!("UPDATE counter SET n = {}", n + 1))?;
        self.sql.once("COMMIT").map(drop)
    }
}

/// On a slow machine transactions of others last longer than a writer waits for its turn.
fn waited_in_vain(failure: &SqlFailure) -> bool {
    failure.code() == "SQLITE_BUSY"
        && failure.to_string().contains("another transaction holds the database for writing")
}

/// How a server says so, or that the stream went with the one that died.
fn taken_away(failure: &SqlFailure) -> bool {
    let codes = ["SQLITE_BUSY", "TRANSACTION_TIMEOUT", "STREAM_EXPIRED"];
    codes.contains(&failure.code()) || matches!(failure, SqlFailure::Refused { status: 400, .. })
}

fn rows(token: &str, parts: usize) -> Vec<String> {
    let row = |number| {
        format!("INSERT INTO part VALUES ('{token}', {number}, {parts}, hex(randomblob(20)))")
    };
    (1..=parts).map(row).collect()
}
