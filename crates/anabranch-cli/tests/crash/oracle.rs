//! What must be true, known without the program under test.
//!
//! The ledger knows every row that was committed and every row of an acknowledged push. Content is a
//! function of the row's id, so that a damaged or invented row is found. Each transaction also counts
//! up a tally: a reader that sees rows and tally apart has seen half a transaction, and a push that
//! is in the log twice shows as a position whose tally is not new.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anabranch::blocking::RemoteLog;
use anabranch::{At, Options};
use rusqlite::{Connection, OpenFlags};

use crate::world::{App, Rng, World, stock};

pub(crate) const SCHEMA: &str = "
    CREATE TABLE entry(id INTEGER PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE tally(writes INTEGER NOT NULL, entries INTEGER NOT NULL);
    INSERT INTO tally VALUES (0, 0);";

/// The body of a row: between 20 and some 4,000 characters, so that some rows overflow a page.
pub(crate) fn body(id: u64) -> String {
    let mut text = String::new();
    let words = 1 + (id * 7919) % 97 * ((id % 5) / 4) * 2 + id % 7;
    for n in 0..words {
        write!(text, "{:020} ", (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ n)).unwrap();
    }
    text
}

/// The rows that exist where things are written, and those of the last acknowledged push.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    next: u64,
    pub(crate) live: BTreeSet<u64>,
    pub(crate) acknowledged: BTreeSet<u64>,
}

impl Ledger {
    /// SQL of one transaction that adds `count` rows.
    pub(crate) fn adding(&mut self, count: u64) -> String {
        let mut sql = String::from("BEGIN IMMEDIATE;\n");
        for id in self.next..self.next + count {
            writeln!(sql, "INSERT INTO entry VALUES ({id}, '{}');", body(id)).unwrap();
            self.live.insert(id);
        }
        self.next += count;
        writeln!(sql, "UPDATE tally SET writes = writes + 1, entries = entries + {count}; COMMIT;")
            .unwrap();
        sql
    }

    /// SQL of one transaction that removes about a third of the rows.
    pub(crate) fn removing(&mut self, rng: &mut Rng) -> String {
        let gone: Vec<u64> = self.live.iter().copied().filter(|_| rng.chance(3)).collect();
        let list = gone.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        self.live.retain(|id| !gone.contains(id));
        format!(
            "BEGIN IMMEDIATE; DELETE FROM entry WHERE id IN ({list});
             UPDATE tally SET writes = writes + 1, entries = entries - {}; COMMIT;\n",
            gone.len()
        )
    }

    /// SQL of something an application may do: mostly new rows.
    pub(crate) fn anything(&mut self, rng: &mut Rng) -> String {
        match rng.below(8) {
            0 => self.removing(rng) + "VACUUM;\n",
            1 => self.removing(rng),
            2 => self.adding(150),
            3 => self.adding(3) + "PRAGMA wal_checkpoint(TRUNCATE);\n",
            n => self.adding(n),
        }
    }

    /// A push of everything that was committed was acknowledged.
    pub(crate) fn acknowledge(&mut self) {
        self.acknowledged = self.live.clone();
    }
}

/// The rows of a database; I3: one consistent state, and every body as it was written.
pub(crate) fn rows(db: &Path) -> BTreeSet<u64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let conn = Connection::open_with_flags(db, flags).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(verdict, "ok", "I3: {}", db.display());
    conn.execute_batch("BEGIN").unwrap();
    let mut statement = conn.prepare("SELECT id, body FROM entry").unwrap();
    let rows =
        statement.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))).unwrap();
    let mut found = BTreeSet::new();
    for row in rows {
        let (id, text) = row.unwrap();
        let id = u64::try_from(id).unwrap();
        assert_eq!(text, body(id), "I2: row {id} of {}", db.display());
        found.insert(id);
    }
    let entries: i64 = conn.query_row("SELECT entries FROM tally", [], |r| r.get(0)).unwrap();
    assert_eq!(
        usize::try_from(entries),
        Ok(found.len()),
        "I3: half a transaction in {}",
        db.display()
    );
    found
}

/// I2: the file holds what was committed to it.
pub(crate) fn assert_rows(db: &Path, expected: &BTreeSet<u64>) {
    let found = rows(db);
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(expected).collect();
    let name = db.display();
    assert!(missing.is_empty() && surplus.is_empty(), "{name}: -{missing:?} +{surplus:?}");
}

/// I1: the log is one chain, and each write that reached it did so once. Answers its length.
pub(crate) fn assert_log(world: &World, expected: &BTreeSet<u64>) -> usize {
    let remote = world.path("remote");
    let log = RemoteLog::open(remote.as_os_str(), Options::default()).unwrap();
    let mut history = log.history(usize::MAX >> 1).unwrap();
    history.reverse();
    for pair in history.windows(2) {
        assert_eq!(pair[0].lsn.next(), Some(pair[1].first), "I1: a gap in the log");
    }
    let mut writes = -1;
    let skip = history.len().saturating_sub(40);
    for entry in &history[skip..] {
        let target = world.path(format!("at-{}.db", entry.lsn));
        log.restore(&target, At::Lsn(entry.lsn)).unwrap();
        let tally: i64 = stock(&target, "SELECT writes FROM tally").parse().unwrap();
        assert!(tally > writes, "I1: {} says nothing new: {tally} after {writes}", entry.lsn);
        writes = tally;
        if entry.lsn == history[history.len() - 1].lsn {
            assert_rows(&target, expected);
        }
        std::fs::remove_file(&target).unwrap();
    }
    history.len()
}

/// Bytes of page 1 that are a file's own: versions, change counter, size, cookie, version-valid-for
/// and SQLite's version.
const OWN: [std::ops::Range<usize>; 5] = [18..20, 24..28, 28..32, 40..44, 92..100];

fn content(db: &Path) -> Vec<u8> {
    // The last connection that closes moves the WAL into the file.
    stock(db, "PRAGMA wal_checkpoint(TRUNCATE);");
    let mut bytes = std::fs::read(db).unwrap();
    for range in OWN {
        bytes[range].fill(0);
    }
    bytes
}

/// I4: two files are the same page by page. Nobody may have them open.
pub(crate) fn assert_identical(a: &Path, b: &Path) {
    let (one, two) = (content(a), content(b));
    let differs = one.iter().zip(&two).position(|(x, y)| x != y);
    let names = format!("{} and {}", a.display(), b.display());
    assert_eq!((one.len(), differs), (two.len(), None), "I4: {names}");
}

/// I4: `verify` finds the replica in step with its remote, every page.
pub(crate) fn assert_verified(world: &World, replica: &str) {
    let report = world.ok(["verify", replica]);
    let empty = |name: &str| report[name].as_array().is_some_and(Vec::is_empty);
    assert!(empty("damaged") && empty("local"), "I4: {replica}: {report}");
    assert_eq!(report["remote_consistent"], true, "{report}");
}

/// The rows that a fresh clone has: what everyone else would get now.
pub(crate) fn cloned_rows(world: &World, name: &str) -> BTreeSet<u64> {
    world.ok(["clone", "remote", name]);
    rows(&world.path(name))
}

/// Everything holds: `replicas` are in step with each other, the log and a fresh clone.
pub(crate) fn assert_in_step(world: &World, replicas: &[&str], ledger: &Ledger) {
    for replica in replicas {
        assert_verified(world, replica);
        assert_rows(&world.path(replica), &ledger.live);
    }
    assert_eq!(cloned_rows(world, "fresh.db"), ledger.live, "I1");
    for replica in replicas {
        assert_identical(&world.path("fresh.db"), &world.path(replica));
    }
    assert_log(world, &ledger.live);
}

/// A published database with some rows, and a clone of it. `pragmas` come first.
pub(crate) fn published(pragmas: &str) -> (World, Ledger) {
    let world = World::new();
    let mut ledger = Ledger::default();
    let sql = format!("{pragmas}\n{SCHEMA}\n{}", ledger.adding(60));
    world.stock("a.db", &sql);
    world.ok(["init", "a.db", "--remote", "remote"]);
    ledger.acknowledge();
    world.ok(["clone", "remote", "b.db"]);
    (world, ledger)
}

/// How an application meets the file: through one process each time, or one that keeps it open.
pub(crate) enum Writer {
    Brief,
    Holding(App),
}

impl Writer {
    pub(crate) fn write(&mut self, world: &World, db: &str, sql: &str) {
        match self {
            Writer::Brief => drop(world.stock(db, sql)),
            Writer::Holding(app) => drop(app.run(sql)),
        }
    }
}
