//! Measures by hand what a rebase of many rows costs: time, and the most memory it took.
//!
//! `cargo run --release -p anabranch-rebase --example rebase_rows -- DIR ROWS CHANGES [BLOB]`
//!
//! A table of ROWS rows; each side changes CHANGES of them and inserts as many (with keys that
//! collide); BLOB is the size in bytes of one more row that the local side changed. Nothing is
//! asserted.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anabranch_rebase::{KeyMap, Rules, Sides, rebase};
use rusqlite::{Connection, OpenFlags, params};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().ok_or("which directory?")?);
    let mut number = |default: i64| -> i64 {
        args.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(default)
    };
    let (rows, changes, blob) = (number(1_000_000), number(1_000), number(0));
    let [base, local, remote, onto] =
        ["base", "local", "remote", "onto"].map(|name| dir.join(name).with_extension("db"));
    fill(&base, rows)?;
    for (copy, first) in [(&local, 1), (&remote, changes + 1)] {
        std::fs::copy(&base, copy)?;
        change(copy, first, changes)?;
    }
    if blob > 0 {
        Connection::open(&local)?
            .execute("UPDATE t SET note = randomblob(?1) WHERE id = ?2", params![blob, rows])?;
    }
    std::fs::copy(&remote, &onto)?;

    let before = peak()?;
    let start = Instant::now();
    let read = |path: &Path| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let (base, local, remote) = (read(&base)?, read(&local)?, read(&remote)?);
    let onto = Connection::open(&onto)?;
    onto.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")?;
    let mut keys = KeyMap::default();
    let mut told = 0_u64;
    let sides = Sides { base: &base, local: &local, remote: &remote, onto: &onto, changed: None };
    let summary = rebase(sides, &Rules::default(), &mut keys, &mut |_| {
        told += 1;
        Ok(())
    })?;
    println!("{:?}, told {told}, moved {}", summary.tables, keys.moved.len());
    println!("{:.2} s, peak {} KiB, {before} KiB before", start.elapsed().as_secs_f64(), peak()?);
    Ok(())
}

fn fill(path: &Path, rows: i64) -> Outcome<()> {
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, amount REAL, note);
         BEGIN;",
    )?;
    {
        let mut insert = conn.prepare("INSERT INTO t VALUES (?1, 'name ' || ?1, ?1 / 7.0, ?2)")?;
        for id in 1..=rows {
            insert.execute(params![id, "some text that makes the row a little longer"])?;
        }
    }
    conn.execute_batch("COMMIT")?;
    Ok(())
}

fn change(path: &Path, first: i64, changes: i64) -> Outcome<()> {
    let conn = Connection::open(path)?;
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
    conn.execute(
        "UPDATE t SET amount = amount + 1 WHERE id >= ?1 AND id < ?1 + ?2",
        params![first, changes],
    )?;
    {
        let mut insert =
            conn.prepare("INSERT INTO t(name, note) VALUES (?1 || ' of ' || ?2, 'new')")?;
        for id in 0..changes {
            insert.execute(params![id, first])?;
        }
    }
    conn.execute_batch("COMMIT")?;
    Ok(())
}

/// The most memory that this process had so far, in KiB.
fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}
