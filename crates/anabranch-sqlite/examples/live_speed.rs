//! Measures the live file by hand: how fast a whole database is compared, what one changed row
//! costs with the WAL's chain intact, and what an apply costs with its verification.
//!
//! `cargo run --release -p anabranch-sqlite --example live_speed -- DIR [MEGABYTES] [PAGES]`
//!
//! DIR holds the database during the run. The figures are for the machine at hand; nothing is
//! asserted.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_format::{DbChecksum, DeltaError, PageSize, PageSource, Pgno};
use anabranch_sqlite::{ApplyDelta, BaseMap, Compare, CookieRule, How, LiveFile, Mark};
use rusqlite::Connection;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Bench {
    live: LiveFile,
    sidecar: Connection,
    size: u32,
    mark: Option<Mark>,
    intent: i64,
}

fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().ok_or("which directory?")?;
    let number = |text: Option<std::ffi::OsString>, default: u32| {
        text.and_then(|t| t.to_str()?.parse().ok()).unwrap_or(default)
    };
    let megabytes = number(args.next(), 1000);
    let pages = number(args.next(), 8300);
    let db = Path::new(&dir).join("live_speed.db");
    fill(&db, megabytes)?;
    let sidecar = Connection::open(Path::new(&dir).join("live_speed.sidecar"))?;
    sidecar.execute_batch("PRAGMA journal_mode = WAL")?;
    BaseMap::create_tables(&sidecar)?;
    let live = LiveFile::open(&db, Duration::from_secs(5))?;
    let mut bench = Bench { live, sidecar, size: 0, mark: None, intent: 0 };
    let app = Connection::open(&db)?;
    app.pragma_update(None, "wal_autocheckpoint", 0)?;
    app.execute("UPDATE t SET v = v || 'a' WHERE id = 1", [])?;

    bench.look("first look, every page staged")?;
    for _ in 0..3 {
        bench.mark = None;
        bench.look("scan, chain broken")?;
    }
    for n in 2..7 {
        app.execute("UPDATE t SET v = 'b' || v WHERE id = ?1", [n])?;
        bench.look("one row changed, chain intact")?;
    }
    bench.apply(pages)?;
    bench.apply(pages)?;
    bench.look("after the apply")?;
    std::fs::remove_file(Path::new(&dir).join("live_speed.sidecar"))?;
    Ok(())
}

fn fill(db: &Path, megabytes: u32) -> Outcome<()> {
    // What an earlier run left is no database any more: the applies write noise.
    for file in ["live_speed.db", "live_speed.db-wal", "live_speed.db-shm", "live_speed.sidecar"] {
        match std::fs::remove_file(db.with_file_name(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let conn = Connection::open(db)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
    )?;
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO t SELECT i, randomblob(3900) FROM n",
        [megabytes * 256],
    )?;
    Ok(())
}

impl Bench {
    fn look(&mut self, what: &str) -> Outcome<()> {
        self.intent += 1;
        let map = BaseMap::new(&self.sidecar, 42, self.live.page_size());
        self.sidecar.execute_batch("BEGIN")?;
        let began = Instant::now();
        let view = self.live.begin()?;
        let mut staging = map.stage(self.intent);
        let with = Compare {
            ahead: None,
            since: self.mark.as_ref(),
            base_size: self.size,
            page_one_always: false,
            restarted: false,
            watched: None,
        };
        let captured =
            view.capture(&with, &map, &mut |pgno, _, entry| staging.push(pgno, entry))?;
        staging.finish()?;
        let took = began.elapsed();
        self.mark = view.mark().copied();
        drop(view);
        map.settle(self.intent, captured.db_size)?;
        self.sidecar.execute_batch("COMMIT")?;
        self.size = captured.db_size;
        let bytes = captured.pages_read as f64 * f64::from(self.live.page_size().get());
        println!(
            "{what}: {took:?}, {} of {} pages changed{}",
            captured.pages_changed,
            captured.pages_read,
            match captured.how {
                How::Scan(_) => format!(", {:.2} GB/s", bytes / took.as_secs_f64() / 1e9),
                _ => String::new(),
            }
        );
        Ok(())
    }

    fn apply(&mut self, pages: u32) -> Outcome<()> {
        self.intent += 1;
        let page_size = self.live.page_size();
        let map = BaseMap::new(&self.sidecar, 42, page_size);
        self.sidecar.execute_batch("BEGIN")?;
        let noise = Noise { page_size, next: 100, end: (100 + pages).min(self.size) };
        let view = self.live.begin()?;
        let began = Instant::now();
        let mut under_lock = Duration::ZERO;
        let applied = view.apply::<rusqlite::Error>(
            ApplyDelta {
                before: None,
                page_size,
                size_after: self.size,
                pages: &mut anabranch_sqlite::Hashed::new(noise, map.hasher(), page_size),
                schema_cookie: CookieRule::Keep,
                base: &map,
                intent: self.intent,
            },
            &mut |_| {
                under_lock = began.elapsed();
                self.sidecar.execute_batch("COMMIT")
            },
        )?;
        println!(
            "apply of {} pages: {:?}, of it {under_lock:?} until all pages were written, \
             verified: {}",
            applied.pages,
            began.elapsed(),
            applied.verified
        );
        let sum = map.checksum_after(self.intent, DbChecksum::EMPTY, 0, self.size)?;
        println!("  checksum of what was staged: {sum}");
        map.settle(self.intent, self.size)?;
        self.mark = applied.mark;
        Ok(())
    }
}

/// Pages of noise: what they mean does not matter to an apply.
struct Noise {
    page_size: PageSize,
    next: u32,
    end: u32,
}

impl PageSource for Noise {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        if self.next >= self.end || page.len() != self.page_size.bytes() {
            return Ok(None);
        }
        let mut word = u64::from(self.next) + 1;
        for slot in page.as_chunks_mut::<8>().0 {
            word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
            *slot = word.to_le_bytes();
        }
        self.next += 1;
        Ok(Pgno::new(self.next - 1))
    }
}
