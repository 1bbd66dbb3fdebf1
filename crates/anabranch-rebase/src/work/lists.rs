//! What else the work database keeps: rows that neither side wrote, keys that moved, rows to be
//! looked at, and contents.

use rusqlite::{OptionalExtension, params};

use super::{Work, failed, int, place};
use crate::cell::{Cell, Tuple};
use crate::error::RebaseError;

impl Work {
    /// Puts down a row that is neither side's, to stand for a change.
    pub(crate) fn keep_row(
        &self,
        tab: usize,
        id: i64,
        row: Option<&Tuple>,
    ) -> Result<(), RebaseError> {
        self.run("DELETE FROM kept WHERE tab = ?1 AND id = ?2", params![int(tab), id])?;
        for (at, cell) in row.iter().flat_map(|row| row.cells.iter().enumerate()) {
            self.run(
                "INSERT INTO kept VALUES (?1, ?2, ?3, ?4)",
                params![int(tab), id, int(at), cell],
            )?;
        }
        Ok(())
    }

    /// The values that [`keep_row`](Self::keep_row) put down.
    pub(crate) fn kept_row(&self, tab: usize, id: i64) -> Result<Option<Vec<Cell>>, RebaseError> {
        let list = || -> rusqlite::Result<Vec<Cell>> {
            let mut statement = self
                .conn
                .prepare_cached("SELECT value FROM kept WHERE tab = ?1 AND id = ?2 ORDER BY col")?;
            let rows = statement
                .query_map(params![int(tab), id], |row| Ok(Cell::from(row.get_ref(0)?)))?;
            rows.collect()
        };
        let cells = list().map_err(failed("the work database"))?;
        Ok((!cells.is_empty()).then_some(cells))
    }

    pub(crate) fn add_move(
        &self,
        tab: usize,
        from: i64,
        to: i64,
        old: bool,
    ) -> Result<(), RebaseError> {
        self.run(
            "INSERT OR REPLACE INTO moved VALUES (?1, ?2, ?3, ?4)",
            params![int(tab), from, to, old],
        )
    }

    /// Where a rowid of the local side went; of the base's, if `old`.
    pub(crate) fn moved(
        &self,
        tab: usize,
        from: i64,
        old: bool,
    ) -> Result<Option<i64>, RebaseError> {
        self.number(
            "SELECT dest FROM moved WHERE tab = ?1 AND src = ?2 AND old >= ?3",
            params![int(tab), from, old],
        )
    }

    /// Which rowid of the local side went there.
    pub(crate) fn came_from(&self, tab: usize, to: i64) -> Result<Option<i64>, RebaseError> {
        self.number(
            "SELECT src FROM moved WHERE tab = ?1 AND dest = ?2 LIMIT 1",
            params![int(tab), to],
        )
    }

    /// The highest rowid that anything moved to.
    pub(crate) fn highest_move(&self, tab: usize) -> Result<Option<i64>, RebaseError> {
        self.number(
            "SELECT dest FROM moved WHERE tab = ?1 ORDER BY dest DESC LIMIT 1",
            params![int(tab)],
        )
    }

    /// Calls back with each move of this rebase: table, old and new rowid.
    pub(crate) fn each_move(
        &self,
        mut each: impl FnMut(usize, i64, i64),
    ) -> Result<(), RebaseError> {
        let mut list = || -> rusqlite::Result<()> {
            let mut statement =
                self.conn.prepare("SELECT tab, src, dest FROM moved WHERE NOT old")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                each(place(row.get(0)?), row.get(1)?, row.get(2)?);
            }
            Ok(())
        };
        list().map_err(failed("the keys that moved"))
    }

    /// Notes that a change's row has to be looked at (again).
    pub(crate) fn push(&self, tab: usize, id: i64) -> Result<(), RebaseError> {
        self.run("INSERT OR IGNORE INTO todo VALUES (?1, ?2)", params![int(tab), id])
    }

    /// The next row that has to be looked at.
    pub(crate) fn pop(&self) -> Result<Option<(usize, i64)>, RebaseError> {
        let next = self
            .conn
            .prepare_cached("SELECT tab, id FROM todo LIMIT 1")
            .and_then(|mut s| {
                s.query_row([], |row| Ok((place(row.get(0)?), row.get(1)?))).optional()
            })
            .map_err(failed("the work database"))?;
        if let Some((tab, id)) = next {
            self.run("DELETE FROM todo WHERE tab = ?1 AND id = ?2", params![int(tab), id])?;
        }
        Ok(next)
    }

    /// Notes the content of a row before (`new` false) or after its change, as a hash.
    pub(crate) fn add_half(&self, hash: i64, new: bool, id: i64) -> Result<(), RebaseError> {
        self.run("INSERT INTO half VALUES (?1, ?2, ?3)", params![hash, new, id])
    }

    /// Calls back with pairs of changes: what the first one's row was is, by its hash, what the
    /// second one's row became. No row is in two pairs in the same role. Ends with no halves left.
    pub(crate) fn each_pair(
        &self,
        mut each: impl FnMut(i64, i64) -> Result<(), RebaseError>,
    ) -> Result<(), RebaseError> {
        self.run("DROP TABLE IF EXISTS pair", [])?;
        self.run(
            "CREATE TABLE pair AS
             SELECT o.id AS old, n.id AS new FROM
                 (SELECT id, hash, row_number() OVER (PARTITION BY hash ORDER BY id) AS nth
                  FROM half WHERE NOT new) AS o
             JOIN (SELECT id, hash, row_number() OVER (PARTITION BY hash ORDER BY id) AS nth
                  FROM half WHERE new) AS n ON n.hash = o.hash AND n.nth = o.nth",
            [],
        )?;
        let mut after = 0;
        loop {
            let next: Option<(i64, i64, i64)> = self
                .conn
                .prepare_cached("SELECT rowid, old, new FROM pair WHERE rowid > ?1 LIMIT 1")
                .and_then(|mut s| {
                    s.query_row([after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                        .optional()
                })
                .map_err(failed("the work database"))?;
            let Some((rowid, old, new)) = next else { break };
            after = rowid;
            each(old, new)?;
        }
        self.run("DELETE FROM half", [])
    }

    /// Forgets all contents.
    pub(crate) fn clear_contents(&self) -> Result<(), RebaseError> {
        self.run("DELETE FROM content", [])
    }

    /// Notes the content of a row of the base, or of the remote (`there`), as a hash.
    pub(crate) fn add_content(&self, there: bool, hash: i64, id: i64) -> Result<(), RebaseError> {
        self.run("INSERT OR IGNORE INTO content VALUES (?1, ?2, ?3)", params![there, hash, id])
    }

    /// How many rows of a side have this content; those that were taken count.
    pub(crate) fn count_content(&self, there: bool, hash: i64) -> Result<Option<i64>, RebaseError> {
        self.number(
            "SELECT count(*) FROM content WHERE there IN (?1, ?1 + 2) AND hash = ?2",
            params![there, hash],
        )
    }

    /// The first row of the remote's from `from` on that has this content and was not taken.
    pub(crate) fn next_content(&self, hash: i64, from: i64) -> Result<Option<i64>, RebaseError> {
        self.number(
            "SELECT id FROM content WHERE there = 1 AND hash = ?1 AND id >= ?2 ORDER BY id LIMIT 1",
            params![hash, from],
        )
    }

    /// Takes a row of the remote's for one of the base's.
    pub(crate) fn take_content(&self, hash: i64, id: i64) -> Result<(), RebaseError> {
        self.run(
            "UPDATE content SET there = 3 WHERE there = 1 AND hash = ?1 AND id = ?2",
            params![hash, id],
        )
    }
}
