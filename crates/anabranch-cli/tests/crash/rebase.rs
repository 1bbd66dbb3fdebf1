//! Both sides write, and the program dies while it puts one on top of the other; and both sides write
//! all the time while both sync.
//!
//! The oracle knows each row by a token that is nowhere else: rows under keys of the application's
//! own, rows under keys that SQLite chooses (two replicas choose the same), and rows that both sides
//! change. In the end all files are identical, each token is there once, and the journal of the replica
//! that merged has each row that did not end as it was written, once: those that both changed, with
//! what the other side had written; and those that got another key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::Value;

use crate::oracle::{assert_identical, assert_verified};
use crate::points::{die, drive_all, perhaps_die_again, succeed};
use crate::world::{App, Ended, Rng, World, rounds};

/// Those that a rebase passes, up to its settling.
pub(crate) const REBASE: &[&str] = &[
    "pull::after-fetch",
    "rebase::after-base-pages",
    "rebase::computed",
    "apply::under-lock",
    "rebase::under-lock",
    "apply::before-commit",
    "apply::after-commit",
    "rebase::after-commit",
    "settle::before-commit",
    "settle::after-commit",
    "push::after-intent",
    "append::before-put",
    "append::after-put",
    "push::after-append",
];
/// From here on the result is in the file.
const REBASED: &[&str] = &[
    "apply::after-commit",
    "rebase::after-commit",
    "settle::before-commit",
    "settle::after-commit",
    "push::after-intent",
    "append::before-put",
    "append::after-put",
    "push::after-append",
];

const SHARED: u64 = 40;

fn schema(rng: &mut Rng) -> String {
    let size = rng.pick(&[512, 1024, 4096, 4096, 16384]);
    let vacuum = rng.pick(&["none", "none", "full", "incremental"]);
    format!(
        "PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum};
         CREATE TABLE entry(token TEXT PRIMARY KEY, body TEXT);
         CREATE TABLE auto(id INTEGER PRIMARY KEY, token TEXT NOT NULL);
         CREATE TABLE shared(id INTEGER PRIMARY KEY, v TEXT);
         CREATE INDEX by_token ON auto(token);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {SHARED})
           INSERT INTO shared SELECT i, 'start ' || hex(randomblob(60)) FROM n;
         INSERT INTO auto(token) SELECT 'old ' || id FROM shared;
         INSERT INTO entry SELECT 'old ' || id, hex(randomblob(300)) FROM shared;"
    )
}

/// What one side writes, and what is known of it.
#[derive(Default)]
struct Side {
    name: &'static str,
    written: u64,
    /// Tokens of rows under keys of their own.
    entries: Vec<String>,
    /// Tokens of rows under keys that SQLite chose.
    autos: Vec<String>,
    /// What it wrote into rows that both may change.
    shared: BTreeMap<u64, String>,
}

impl Side {
    fn new(name: &'static str) -> Self {
        Side { name, ..Side::default() }
    }

    fn token(&mut self) -> String {
        self.written += 1;
        format!("{}{}", self.name, self.written)
    }

    /// SQL of new rows.
    fn adding(&mut self, rng: &mut Rng) -> String {
        let mut sql = "BEGIN IMMEDIATE;\n".to_owned();
        for _ in 0..1 + rng.below(4) {
            let token = self.token();
            let bytes = rng.pick(&[10, 500, 9000]);
            writeln!(sql, "INSERT INTO entry VALUES ('{token}', hex(randomblob({bytes})));")
                .unwrap();
            self.entries.push(token);
        }
        for _ in 0..rng.below(4) {
            let token = self.token();
            writeln!(sql, "INSERT INTO auto(token) VALUES ('{token}');").unwrap();
            self.autos.push(token);
        }
        sql + "COMMIT;\n"
    }

    /// SQL of changes in rows that both may change.
    fn changing(&mut self, rng: &mut Rng) -> String {
        let mut sql = "BEGIN IMMEDIATE;\n".to_owned();
        for _ in 0..1 + rng.below(10) {
            let (id, token) = (1 + rng.below(SHARED), self.token());
            writeln!(sql, "UPDATE shared SET v = '{token}' WHERE id = {id};").unwrap();
            self.shared.insert(id, token);
        }
        sql + "COMMIT;\n"
    }
}

/// The keys that rows have under which SQLite chose one, by their tokens.
fn keys(world: &World, db: &str) -> BTreeMap<String, i64> {
    let said = world.stock(db, "SELECT token, id FROM auto WHERE token NOT LIKE 'old %'");
    let rows = said.lines().map(|line| line.split_once('|').unwrap());
    rows.map(|(token, id)| (token.to_owned(), id.parse().unwrap())).collect()
}

fn journal(world: &World, db: &str) -> Vec<Value> {
    world.ok(["conflicts", db, "--all"])["conflicts"].as_array().unwrap().clone()
}

/// I2, I4: all that was written is there once, everywhere.
fn assert_rows(world: &World, dbs: &[&str], sides: &[&Side]) {
    let listed = |sql: &str, db: &str| {
        let mut rows: Vec<String> = world.stock(db, sql).lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let all = |of: fn(&Side) -> &Vec<String>| {
        let mut all: Vec<String> = sides.iter().flat_map(|side| of(side).clone()).collect();
        all.sort();
        all
    };
    for db in dbs {
        let entries = listed("SELECT token FROM entry WHERE token NOT LIKE 'old %'", db);
        assert_eq!(entries, all(|side| &side.entries), "I2: {db}");
        let autos = listed("SELECT token FROM auto WHERE token NOT LIKE 'old %'", db);
        assert_eq!(autos, all(|side| &side.autos), "I2: {db}");
        assert_eq!(world.stock(db, "PRAGMA integrity_check"), "ok", "I3: {db}");
        assert_eq!(world.stock(db, "SELECT count(*) FROM auto WHERE token LIKE 'old %'"), "40");
        assert_verified(world, db);
        assert_identical(&world.path(dbs[0]), &world.path(db));
    }
}

/// The journal has what did not end as it was written, once.
fn assert_journal(world: &World, here: &Side, there: &Side, keys_then: &BTreeMap<String, i64>) {
    let entries = journal(world, "b.db");
    let now = keys(world, "b.db");
    let mut expected: Vec<String> = Vec::new();
    for (id, mine) in &here.shared {
        if let Some(theirs) = there.shared.get(id) {
            expected.push(format!("shared {id} {mine} {theirs}"));
            let stands = world.stock("b.db", &format!("SELECT v FROM shared WHERE id = {id}"));
            assert_eq!(stands, *mine, "I2");
        }
    }
    for token in &here.autos {
        if now[token] != keys_then[token] {
            expected.push(format!("auto {} {token} {}", keys_then[token], now[token]));
        }
    }
    let mut found: Vec<String> = entries
        .iter()
        .map(|entry| {
            let text = |version: &str, column: &str| {
                entry[version][column].as_str().unwrap_or("-").to_owned()
            };
            let id = &entry["key"]["id"];
            match entry["table"].as_str().unwrap() {
                "shared" => format!("shared {id} {} {}", text("local", "v"), text("remote", "v")),
                table => format!("{table} {id} {} {}", text("local", "token"), entry["rowid"]),
            }
        })
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "I2: the journal");
}

fn rebase_dies(point: &'static str, rng: &mut Rng) {
    let world = World::new();
    world.stock("a.db", &schema(rng));
    world.ok(["init", "a.db", "--remote", "remote"]);
    world.ok(["clone", "remote", "b.db"]);
    let (mut there, mut here) = (Side::new("a"), Side::new("b"));
    world.stock("a.db", &(there.adding(rng) + &there.changing(rng)));
    succeed(&world, &["sync", "a.db"]);
    let mut app = rng.chance(2).then(|| App::open(&world.path("b.db")));
    let untouched = app.is_none() && rng.chance(2);
    let mut write = |world: &World, sql: &str| match &mut app {
        Some(app) => drop(app.run(sql)),
        None => drop(world.stock("b.db", sql)),
    };
    let sql = here.adding(rng) + &here.changing(rng) + &here.adding(rng);
    write(&world, &sql);
    let mut keys_then = keys(&world, "b.db");
    let rows_then = here.entries.len();
    die(&world, point, &["sync", "b.db"]);
    if !untouched {
        // I3: all of it, or nothing.
        let count = "SELECT count(*) FROM entry WHERE token NOT LIKE 'old %'";
        let rows: usize = world.stock("b.db", count).parse().unwrap();
        let all = rows_then + there.entries.len();
        assert_eq!(rows, if REBASED.contains(&point) { all } else { rows_then }, "I3: {point}");
    }
    if !untouched && rng.chance(2) {
        // The application goes on, from whatever is in the file.
        let before = here.autos.len();
        let sql = here.adding(rng);
        write(&world, &sql);
        let now = keys(&world, "b.db");
        for token in &here.autos[before..] {
            keys_then.insert(token.clone(), now[token]);
        }
    } else if rng.chance(2) {
        succeed(&world, &["pull", "a.db"]);
        world.stock("a.db", &there.adding(rng));
        succeed(&world, &["sync", "a.db"]);
    }
    perhaps_die_again(&world, rng, REBASE, &["sync", "b.db"]);
    succeed(&world, &["sync", "b.db"]);
    succeed(&world, &["sync", "a.db"]);
    succeed(&world, &["sync", "b.db"]);
    drop(app);
    world.ok(["clone", "remote", "fresh.db"]);
    assert_rows(&world, &["a.db", "b.db", "fresh.db"], &[&here, &there]);
    assert_journal(&world, &here, &there, &keys_then);
    assert!(journal(&world, "a.db").is_empty());
}

#[test]
fn a_rebase_that_died_anywhere_is_completed_by_the_next_sync() {
    drive_all("rebase", REBASE, 1, rebase_dies);
}

/// I2, I4b: applications write to both files all the time while both sync.
#[test]
fn applications_write_to_both_sides_through_rebases() {
    for round in 0..rounds(1) {
        println!("round {round}");
        let world = World::new();
        world.stock("a.db", &schema(&mut Rng::new(round, "both write")));
        world.ok(["init", "a.db", "--remote", "remote"]);
        world.ok(["clone", "remote", "b.db"]);
        // As many transactions as this are written while each sync runs.
        const MEANWHILE: usize = 15;
        let write = |name: &'static str, db: &'static str, credits: Receiver<()>| {
            let mut rng = Rng::new(round, name);
            let mut side = Side::new(name);
            let mut app = App::open(&world.path(db));
            for () in credits {
                app.run(&(side.adding(&mut rng) + &side.changing(&mut rng)));
            }
            side
        };
        let start = Barrier::new(2);
        let sync = |db: &'static str, credits: SyncSender<()>| {
            let mut merged = 0;
            for _ in 0..12 {
                // Both at once: one of them finds that the other was faster.
                start.wait();
                // Whoever writes is never further behind than by one round.
                (0..MEANWHILE).for_each(|_| credits.send(()).unwrap());
                let report = world.ok(["sync", db, "--busy-timeout", "60s"]);
                merged += u64::from(!report["rebased"].is_null());
                println!("{db}: {report}");
            }
            merged
        };
        let (sides, merged) = std::thread::scope(|scope| {
            let (write, sync) = (&write, &sync);
            let pairs: Vec<_> = [("a", "a.db"), ("b", "b.db")]
                .into_iter()
                .map(|(name, db)| {
                    let (send, receive) = sync_channel(MEANWHILE);
                    let writing = scope.spawn(move || write(name, db, receive));
                    (writing, scope.spawn(move || sync(db, send)))
                })
                .collect();
            let mut merged = 0;
            let mut sides = Vec::new();
            for (writing, syncing) in pairs {
                merged += syncing.join().unwrap();
                sides.push(writing.join().unwrap());
            }
            (sides, merged)
        });
        assert!(merged > 2, "{merged} rebases: nothing was live");
        for db in ["a.db", "b.db", "a.db", "b.db"] {
            succeed(&world, &["sync", db]);
        }
        world.ok(["clone", "remote", "fresh.db"]);
        assert_rows(&world, &["a.db", "b.db", "fresh.db"], &[&sides[0], &sides[1]]);
    }
}

/// I1: a pull was applied, and all that could tell was rewritten since. What came with it counts as
/// the remote's: it is there once, not once more as an insert of this side.
#[test]
fn i1_rows_of_a_pull_that_nobody_can_decide_on_are_not_doubled() {
    let world = World::new();
    let mut rng = Rng::new(1, "undecided");
    world.stock("a.db", &schema(&mut rng));
    world.ok(["init", "a.db", "--remote", "remote"]);
    world.ok(["clone", "remote", "b.db"]);
    let mut there = Side::new("a");
    for _ in 0..3 {
        world.stock("a.db", &there.adding(&mut rng));
    }
    succeed(&world, &["sync", "a.db"]);
    die(&world, "apply::after-commit", &["pull", "b.db"]);
    // Everything lies elsewhere afterwards, and the `-wal` is gone.
    world.stock(
        "b.db",
        "PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM entry WHERE token LIKE 'old %';
         DELETE FROM auto WHERE token LIKE 'old %';
         UPDATE shared SET v = v || hex(randomblob(400)); VACUUM;",
    );
    let report = world.ok(["sync", "b.db"]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("cannot be told"), "{report}");
    succeed(&world, &["sync", "a.db"]);
    let tokens = |db: &str| world.stock(db, "SELECT token FROM auto WHERE token NOT LIKE 'old %'");
    assert_eq!(tokens("b.db").lines().count(), there.autos.len(), "I1: {}", tokens("b.db"));
    assert_eq!(world.stock("a.db", "SELECT count(*) FROM entry WHERE token LIKE 'old %'"), "0");
    for db in ["a.db", "b.db"] {
        assert_verified(&world, db);
    }
    assert_identical(&world.path("a.db"), &world.path("b.db"));
}

/// I5: several operations at once on one replica, while both sides changed: the merge happens once.
#[test]
fn i5_operations_at_once_merge_once() {
    let world = World::new();
    let mut rng = Rng::new(2, "at once");
    world.stock("a.db", &schema(&mut rng));
    world.ok(["init", "a.db", "--remote", "remote"]);
    world.ok(["clone", "remote", "b.db"]);
    let (mut there, mut here) = (Side::new("a"), Side::new("b"));
    for _ in 0..3 {
        world.stock("a.db", &(there.adding(&mut rng) + &there.changing(&mut rng)));
        succeed(&world, &["sync", "a.db"]);
        world.stock("b.db", &(here.adding(&mut rng) + &here.changing(&mut rng)));
        let keys_then = keys(&world, "b.db");
        let commands = [["sync", "b.db"], ["pull", "b.db"], ["sync", "b.db"]];
        let children: Vec<_> = commands.iter().map(|line| world.spawn("", line)).collect();
        for child in children {
            let ended = Ended::of(child.wait_with_output().unwrap());
            assert_eq!(ended.code, Some(0), "{ended:?}");
        }
        for db in ["b.db", "a.db"] {
            succeed(&world, &["sync", db]);
        }
        assert_rows(&world, &["a.db", "b.db"], &[&here, &there]);
        let moved = keys(&world, "b.db")
            .iter()
            .filter(|(t, id)| keys_then.get(*t).is_some_and(|then| then != *id))
            .count();
        let renumbered =
            journal(&world, "b.db").iter().filter(|e| e["decision"] == "renumbered").count();
        assert!(renumbered >= moved, "I2: {renumbered} of {moved}");
        // What both changed is settled: the next round begins from there.
        here.shared.clear();
        there.shared.clear();
    }
    assert!(journal(&world, "a.db").is_empty());
}
