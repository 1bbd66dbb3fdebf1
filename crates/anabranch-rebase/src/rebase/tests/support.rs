//! Three states made by SQL, and what a rebase makes of them.

use rusqlite::backup::Backup;

use super::*;
use crate::keymap::KeyMap;

/// The states of a database.
pub(super) struct Case {
    pub(super) base: Connection,
    pub(super) local: Connection,
    pub(super) remote: Connection,
    pub(super) rules: Rules,
    pub(super) keys: KeyMap,
}

/// What came out.
pub(super) struct Done {
    pub(super) result: Connection,
    pub(super) journal: Vec<Conflict>,
    pub(super) summary: Summary,
    pub(super) keys: KeyMap,
}

pub(super) fn copy(from: &Connection) -> Connection {
    let mut to = Connection::open_in_memory().unwrap();
    Backup::new(from, &mut to).unwrap().step(-1).unwrap();
    to
}

impl Case {
    /// `base` makes the base, `local` and `remote` what the sides did to it. Foreign keys are not
    /// enforced unless the texts say so.
    pub(super) fn new(base: &str, local: &str, remote: &str) -> Self {
        let start = Connection::open_in_memory().unwrap();
        start.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        start.execute_batch(base).unwrap();
        let (here, there) = (copy(&start), copy(&start));
        for (conn, sql) in [(&here, local), (&there, remote)] {
            conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
            conn.execute_batch(sql).unwrap();
        }
        Self {
            base: start,
            local: here,
            remote: there,
            rules: Rules::default(),
            keys: KeyMap::default(),
        }
    }

    pub(super) fn policy(mut self, policy: Policy) -> Self {
        self.rules.policy = policy;
        self
    }

    pub(super) fn insert(mut self, table: &str, rule: InsertRule) -> Self {
        let rules = TableRules { policy: None, insert: Some(rule) };
        self.rules.tables.insert(table.into(), rules);
        self
    }

    pub(super) fn try_run(&self) -> Result<Done, RebaseError> {
        let result = copy(&self.remote);
        let mut journal = Vec::new();
        let mut keys = self.keys.clone();
        let summary = rebase(
            Sides { base: &self.base, local: &self.local, remote: &self.remote, onto: &result },
            &self.rules,
            &mut keys,
            &mut |conflict| {
                journal.push(conflict);
                Ok(())
            },
        )?;
        let check: String =
            result.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        Ok(Done { result, journal, summary, keys })
    }

    pub(super) fn run(&self) -> Done {
        self.try_run().unwrap()
    }
}

impl Done {
    /// The rows of a query, values in one line, as SQLite quotes them.
    pub(super) fn rows(&self, sql: &str) -> Vec<String> {
        lines(&self.result, sql)
    }

    /// Kind and decision of each journal entry.
    pub(super) fn told(&self) -> Vec<(ConflictKind, Decision)> {
        self.journal.iter().map(|c| (c.kind, c.decision.clone())).collect()
    }
}

pub(super) fn lines(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values: Vec<String> = (0..columns)
            .map(|at| match row.get::<_, Value>(at).unwrap() {
                Value::Null => "NULL".into(),
                Value::Integer(i) => i.to_string(),
                Value::Real(r) => format!("{r:?}"),
                Value::Text(t) => t,
                Value::Blob(b) => format!("{b:?}"),
            })
            .collect();
        all.push(values.join("|"));
    }
    all
}
