//! The application in another process, and a replica that checks every look against an oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anabranch_format::{DbChecksum, DeltaError, LOCAL_FIELDS, PageSize, PageSource, Pgno};
use anabranch_sqlite::{
    Applied, ApplyDelta, ApplyError, ApplyIntent, BaseMap, Captured, Compare, CookieRule,
    FileError, LiveFile, Mark, PageSet, UnderLock, View, Watcher,
};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

pub const BUSY: Duration = Duration::from_secs(5);
pub const SEED: u64 = 0x5eed_0123_4567_89ab;

pub fn p(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

/// Python's sqlite3 in a process of its own: one connection, one statement at a time.
pub struct App {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

const APP: &str = r#"
import json, sqlite3, sys
conn = None
for line in sys.stdin:
    order = json.loads(line)
    try:
        if "open" in order:
            conn = sqlite3.connect(order["open"], timeout=order["timeout"], isolation_level=None)
            answer = {"rows": []}
        elif "close" in order:
            conn.close()
            answer = {"rows": []}
        else:
            answer = {"rows": [list(r) for r in conn.execute(order["sql"], order["args"]).fetchall()]}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer, default=lambda b: b.hex()), flush=True)
"#;

impl App {
    pub fn open(db: &Path) -> App {
        Self::open_with_timeout(db, 5.0)
    }

    pub fn open_with_timeout(db: &Path, seconds: f64) -> App {
        let mut app = App::start();
        app.order(&json!({"open": db.to_str().unwrap(), "timeout": seconds})).unwrap();
        app
    }

    fn start() -> App {
        let mut child = Command::new("python3")
            .args(["-c", APP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed for these tests");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        App { child, stdin, stdout }
    }

    fn send(&mut self, order: &Value) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    fn receive(&mut self) -> Result<Vec<Vec<Value>>, String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("the application lives");
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap().to_owned()),
            None => Ok(serde_json::from_value(answer["rows"].clone()).unwrap()),
        }
    }

    fn order(&mut self, order: &Value) -> Result<Vec<Vec<Value>>, String> {
        self.send(order);
        self.receive()
    }

    pub fn try_sql(&mut self, sql: &str) -> Result<Vec<Vec<Value>>, String> {
        self.order(&json!({"sql": sql, "args": []}))
    }

    pub fn sql(&mut self, sql: &str) -> Vec<Vec<Value>> {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn all(&mut self, statements: &[&str]) {
        for sql in statements {
            self.sql(sql);
        }
    }

    pub fn number(&mut self, sql: &str) -> i64 {
        self.sql(sql)[0][0].as_i64().unwrap()
    }

    pub fn close(&mut self) {
        self.order(&json!({"close": true})).unwrap();
    }

    pub fn reopen(&mut self, db: &Path) {
        self.close();
        self.order(&json!({"open": db.to_str().unwrap(), "timeout": 5.0})).unwrap();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's `sqlite3`, run once.
pub fn cli(db: &Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg(db).arg(sql).output().expect("sqlite3 is needed");
    assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

pub fn assert_intact(db: &Path) {
    assert_eq!(cli(db, "PRAGMA integrity_check"), "ok");
}

/// All pages of one state, page 1 without its local fields, the lock page left out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Image {
    pub size: u32,
    pub pages: BTreeMap<u32, Vec<u8>>,
}

impl Image {
    pub fn of(view: &View<'_>, page_size: PageSize) -> Image {
        let mut pages = BTreeMap::new();
        for pgno in 1..=view.db_size() {
            if p(pgno) == page_size.lock_page() {
                continue;
            }
            let mut page = vec![0; page_size.bytes()];
            view.page(p(pgno), &mut page).unwrap();
            pages.insert(pgno, masked(pgno, page));
        }
        Image { size: view.db_size(), pages }
    }

    /// Numbers of the pages of `self` that are not the same in `other`.
    pub fn differing(&self, other: &Image) -> BTreeSet<u32> {
        self.pages
            .iter()
            .filter(|(n, page)| other.pages.get(n) != Some(page))
            .map(|(n, _)| *n)
            .collect()
    }
}

pub fn masked(pgno: u32, mut page: Vec<u8>) -> Vec<u8> {
    if pgno == 1 {
        for field in LOCAL_FIELDS {
            page[field].fill(0);
        }
    }
    page
}

/// A change as pages in memory.
#[derive(Clone, Debug)]
pub struct Change {
    pub page_size: PageSize,
    pub size_after: u32,
    pub pages: BTreeMap<u32, Vec<u8>>,
}

impl Change {
    pub fn source(&self) -> ChangeSource<'_> {
        ChangeSource(self.pages.iter())
    }
}

pub struct ChangeSource<'a>(std::collections::btree_map::Iter<'a, u32, Vec<u8>>);

impl PageSource for ChangeSource<'_> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        Ok(self.0.next().map(|(n, content)| {
            page.copy_from_slice(content);
            p(*n)
        }))
    }
}

/// A live file with a base map, each look checked against the true difference.
pub struct Replica {
    pub dir: TempDir,
    pub db: PathBuf,
    pub live: LiveFile,
    pub sidecar: Connection,
    pub base_size: u32,
    pub base_sum: DbChecksum,
    pub mark: Option<Mark>,
    pub image: Image,
    pub intents: i64,
    /// Where there is one, it names the candidates.
    pub watcher: Option<Watcher>,
}

impl Replica {
    /// A new database of this page size, in WAL mode, set up by `sql` through the stock CLI.
    pub fn new(page_size: u32, sql: &str) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        cli(&db, &format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; {sql}"));
        Replica::of(dir, db)
    }

    pub fn of(dir: TempDir, db: PathBuf) -> Replica {
        let mut live = LiveFile::open(&db, BUSY).unwrap();
        live.prepare().unwrap();
        let sidecar = Connection::open_in_memory().unwrap();
        BaseMap::create_tables(&sidecar).unwrap();
        let mut replica = Replica {
            dir,
            db,
            live,
            sidecar,
            base_size: 0,
            base_sum: DbChecksum::EMPTY,
            mark: None,
            image: Image::default(),
            intents: 0,
            watcher: None,
        };
        replica.look();
        replica
    }

    pub fn app(&self) -> App {
        App::open(&self.db)
    }

    pub fn page_size(&self) -> PageSize {
        self.live.page_size()
    }

    pub fn look(&mut self) -> Captured {
        self.look_while(|| {})
    }

    /// Captures, checks that exactly the changed pages were found, and makes them the base.
    /// `meanwhile` runs after the view has begun and before it is captured.
    pub fn look_while(&mut self, meanwhile: impl FnOnce()) -> Captured {
        self.examine(true, meanwhile)
    }

    /// Captures and checks, but leaves the base as it was, as if a remote could not be reached.
    pub fn look_in_vain(&mut self) -> Captured {
        self.examine(false, || {})
    }

    fn examine(&mut self, settle: bool, meanwhile: impl FnOnce()) -> Captured {
        let page_size = self.live.page_size();
        if let Some(watcher) = &mut self.watcher {
            watcher.announce();
        }
        let map = BaseMap::new(&self.sidecar, SEED, page_size);
        let view = self.live.begin().unwrap();
        meanwhile();
        let watched = self.watcher.as_mut().and_then(|watcher| watcher.candidates().unwrap());
        self.intents += 1;
        let mut staging = map.stage(self.intents);
        let mut found = BTreeMap::new();
        let with = Compare {
            ahead: None,
            restarted: false,
            watched: watched.as_ref(),
            since: self.mark.as_ref(),
            base_size: self.base_size,
            page_one_always: false,
        };
        let captured = view
            .capture(&with, &map, &mut |pgno, page, entry| {
                found.insert(pgno.get(), masked(pgno.get(), page.to_vec()));
                staging.push(pgno, entry)
            })
            .unwrap();
        assert_eq!(staging.finish().unwrap(), captured.pages_changed);
        let now = Image::of(&view, page_size);
        let truth: BTreeMap<u32, Vec<u8>> =
            now.differing(&self.image).into_iter().map(|n| (n, now.pages[&n].clone())).collect();
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            truth.keys().collect::<Vec<_>>(),
            "captured {captured:?}"
        );
        assert!(found == truth, "the pages are those of the view");
        assert_eq!(captured.removed, self.image.size.saturating_sub(now.size));
        let sum =
            map.checksum_after(self.intents, self.base_sum, self.base_size, now.size).unwrap();
        let mut rolled = self.base_sum;
        rolled.0 ^= captured.checksum_change.0;
        assert_eq!(rolled, sum);
        let mark = view.mark().copied();
        drop(view);
        if let Some(watcher) = &mut self.watcher {
            let mut changed = PageSet::new(now.size);
            found.keys().for_each(|n| {
                changed.insert(p(*n));
            });
            watcher.captured(changed, mark.as_ref()).unwrap();
        }
        if !settle {
            map.drop_staged(self.intents).unwrap();
            return captured;
        }
        self.mark = mark;
        map.settle(self.intents, now.size).unwrap();
        if let Some(watcher) = &mut self.watcher {
            watcher.settled(mark.as_ref()).unwrap();
        }
        assert_eq!(map.checksum(now.size).unwrap(), sum);
        self.base_size = now.size;
        self.base_sum = sum;
        self.image = now;
        captured
    }

    /// The change from this replica's base to the present state of `source`.
    pub fn change_to(&self, source: &mut LiveFile) -> Change {
        let page_size = source.page_size();
        let view = source.begin().unwrap();
        let there = Image::of(&view, page_size);
        let pages = there
            .differing(&self.image)
            .into_iter()
            .map(|n| {
                let mut page = vec![0; page_size.bytes()];
                view.page(p(n), &mut page).unwrap();
                (n, page)
            })
            .collect();
        Change { page_size, size_after: there.size, pages }
    }

    /// Applies a change to the base, with what the caller does meanwhile.
    pub fn try_apply(
        &mut self,
        change: &Change,
        cookie: CookieRule,
        before: impl FnOnce(),
    ) -> (Result<Applied, ApplyError<std::fmt::Error>>, Option<ApplyIntent>) {
        self.try_apply_at(change, cookie, None, before)
    }

    /// As `try_apply`, but only to the state that `at` marks, if it is given.
    pub fn try_apply_at(
        &mut self,
        change: &Change,
        cookie: CookieRule,
        at: Option<Mark>,
        before: impl FnOnce(),
    ) -> (Result<Applied, ApplyError<std::fmt::Error>>, Option<ApplyIntent>) {
        self.intents += 1;
        let id = self.intents;
        let map = BaseMap::new(&self.sidecar, SEED, self.live.page_size());
        let view = self.live.begin().unwrap();
        if at.is_some_and(|at| view.mark() != Some(&at)) {
            return (Err(ApplyError::Moved), None);
        }
        before();
        let mut told = None;
        let outcome = view.apply(
            ApplyDelta {
                before: None,
                page_size: change.page_size,
                size_after: change.size_after,
                pages: &mut anabranch_sqlite::Hashed::new(
                    change.source(),
                    map.hasher(),
                    change.page_size,
                ),
                schema_cookie: cookie,
                base: &map,
                intent: id,
            },
            &mut |lock: &UnderLock| {
                assert!(told.is_none(), "called once");
                told = Some(lock.intent.clone());
                Ok(())
            },
        );
        if outcome.is_err() {
            map.drop_staged(id).unwrap();
        }
        (outcome, told)
    }

    /// Applies a change, settles it, and checks that the file is what was meant.
    pub fn apply(&mut self, change: &Change) -> Applied {
        let (applied, told) = self.try_apply(change, CookieRule::Replace { random: 99 }, || {});
        let applied = applied.unwrap();
        self.settle(change, told.unwrap().id, applied.mark);
        let view = self.live.begin().unwrap();
        let now = Image::of(&view, change.page_size);
        assert_eq!(now.size, change.size_after);
        assert_eq!(now.differing(&self.image), BTreeSet::new());
        drop(view);
        applied
    }

    pub fn settle(&mut self, change: &Change, intent: i64, mark: Option<Mark>) {
        let map = BaseMap::new(&self.sidecar, SEED, self.live.page_size());
        self.base_sum =
            map.checksum_after(intent, self.base_sum, self.base_size, change.size_after).unwrap();
        map.settle(intent, change.size_after).unwrap();
        self.base_size = change.size_after;
        self.mark = mark;
        for (n, page) in &change.pages {
            self.image.pages.insert(*n, masked(*n, page.clone()));
        }
        self.image.pages.retain(|n, _| *n <= change.size_after);
        self.image.size = change.size_after;
    }

    /// Begins to watch, from a state that is in step.
    pub fn watch(&mut self) {
        self.watcher = Some(Watcher::open(&self.db, BUSY).unwrap());
        self.look();
    }

    pub fn watcher(&mut self) -> &mut Watcher {
        self.watcher.as_mut().unwrap()
    }

    /// Frames that there is room for in the `-wal`.
    pub fn wal_frames(&self) -> u64 {
        let bytes = std::fs::metadata(self.live.wal_path()).map_or(0, |wal| wal.len());
        bytes / (u64::from(self.page_size().get()) + 24)
    }

    pub fn wal_exists(&self) -> bool {
        self.live.wal_path().exists()
    }
}

/// A database file with its own live file, as the place changes come from.
pub struct Source {
    _dir: TempDir,
    pub db: PathBuf,
    pub live: LiveFile,
}

impl Source {
    /// A copy of the replica's database at its base, which must be all it holds.
    pub fn copy_of(replica: &Replica) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("source.db");
        // Not a copy by cp: SQLite's own backup reads through the WAL.
        cli(&replica.db, &format!(".backup '{}'", db.display()));
        let mut live = LiveFile::open(&db, BUSY).unwrap();
        live.prepare().unwrap();
        Source { _dir: dir, db, live }
    }

    pub fn app(&self) -> App {
        App::open(&self.db)
    }
}

/// Seeded, so that a failure can be repeated: `ANABRANCH_SEED=n cargo test`.
pub struct Rng(u64);

impl Rng {
    pub fn new(salt: u64) -> Rng {
        let seed = std::env::var("ANABRANCH_SEED").ok().and_then(|s| s.parse().ok());
        let seed: u64 = seed.unwrap_or(20_240_229);
        println!("ANABRANCH_SEED={seed}");
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub fn open_error(path: &Path) -> FileError {
    LiveFile::open(path, Duration::from_millis(50)).expect_err("it cannot be opened")
}
