//! Three states made by SQL, and what a rebase makes of them.

use std::sync::{Arc, Mutex};

use anabranch_format::{PageSet, PageSize, Pgno};
use anabranch_sqlite::PageRead;
use rusqlite::backup::Backup;

use super::*;
use crate::candidates::Changed;
use crate::keymap::KeyMap;

/// The pages of a database.
struct Pages {
    size: PageSize,
    bytes: Vec<u8>,
}

impl Pages {
    fn page(&self, pgno: u32) -> Option<&[u8]> {
        self.bytes.chunks(self.size.bytes()).nth(pgno as usize - 1)
    }
}

impl PageRead for Pages {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn size(&self) -> u32 {
        u32::try_from(self.bytes.len() / self.size.bytes()).unwrap()
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> std::io::Result<()> {
        buf.copy_from_slice(self.page(pgno.get()).unwrap());
        Ok(())
    }
}

fn pages(conn: &Connection) -> Pages {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("pages.db");
    let mut file = Connection::open(&path).unwrap();
    file.pragma_update(None, "synchronous", "OFF").unwrap();
    Backup::new(conn, &mut file).unwrap().step(-1).unwrap();
    drop(file);
    let size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    Pages { size: PageSize::new(size).unwrap(), bytes: std::fs::read(path).unwrap() }
}

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
        self.run_with(None)
    }

    /// As [`run`](Self::run), with the pages that differ.
    pub(super) fn run_by_pages(&self) -> Done {
        self.run_with(Some(&self.changed())).unwrap()
    }

    /// Where nobody has the base any more, only the pages that differ from it are known.
    pub(super) fn run_without_base(mut self) -> Result<Done, RebaseError> {
        let after = pages(&self.local);
        let before = Pages { size: after.size, bytes: Vec::new() };
        let changed =
            Changed { before: Arc::new(Mutex::new(before)), before_gone: true, ..self.changed() };
        self.base = Connection::open_in_memory().unwrap();
        self.rules = self.rules.without_base();
        self.run_with(Some(&changed))
    }

    fn changed(&self) -> Changed {
        let [before, after] = [&self.base, &self.local].map(pages);
        let different = (1..=before.size().max(after.size()))
            .filter(|&n| before.page(n) != after.page(n))
            .filter_map(Pgno::new);
        let mut set = PageSet::new(before.size().max(after.size()));
        for pgno in different {
            set.insert(pgno);
        }
        Changed {
            before: Arc::new(Mutex::new(before)),
            after: Arc::new(Mutex::new(after)),
            pages: Arc::new(set),
            before_gone: false,
        }
    }

    fn run_with(&self, changed: Option<&Changed>) -> Result<Done, RebaseError> {
        let result = copy(&self.remote);
        let mut journal = Vec::new();
        let mut keys = self.keys.clone();
        let summary = rebase(
            Sides {
                base: &self.base,
                local: &self.local,
                remote: &self.remote,
                onto: &result,
                changed,
            },
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
