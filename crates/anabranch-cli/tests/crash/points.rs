//! The program dies at each named crash point, and the same command, run again, recovers.
//!
//! Only one side writes at a time; what happens when both did is in `rebase.rs`. Chosen at random, from the printed seed: page size, what is written, whether
//! applications keep the file open (the WAL stays), close it after the crash (the WAL is gone), or do
//! not touch it before the recovery (the WAL is as the crash left it); whether more is written, or
//! others go on, before the recovery; and whether the recovery dies as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anabranch::Options;
use anabranch::blocking::Replica;

use crate::oracle::{
    Ledger, SCHEMA, Writer, assert_identical, assert_in_step, assert_rows, assert_verified,
    cloned_rows, published, rows,
};
use crate::rebase::REBASE;
use crate::world::{App, Ended, Rng, World, rounds, seed, stock};

const PUSH: &[&str] = &[
    "push::after-intent",
    "append::before-put",
    "append::after-put",
    "push::after-append",
    "settle::before-commit",
    "settle::after-commit",
];
/// From here on the push is in the log.
const PUSHED: &[&str] =
    &["append::after-put", "push::after-append", "settle::before-commit", "settle::after-commit"];
const PULL: &[&str] = &[
    "pull::after-fetch",
    "apply::under-lock",
    "pull::under-lock",
    "apply::before-commit",
    "apply::after-commit",
    "pull::after-commit",
    "settle::before-commit",
    "settle::after-commit",
];
/// From here on the pull is in the file.
const PULLED: &[&str] =
    &["apply::after-commit", "pull::after-commit", "settle::before-commit", "settle::after-commit"];
const INIT: &[&str] = &["init::after-sidecar", "init::after-name"];
const CLONE: &[&str] = &["clone::after-sidecar", "clone::after-place"];
const COMPACT: &[&str] = &["compact::before-snapshot", "compact::after-snapshot"];
const DELTA: &[&str] = &["compact::after-delta"];
const RETAIN: &[&str] = &["retain::after-floor", "retain::midway"];

/// Runs `drive` for each of `points`, `each` times and more if asked for, printing what failed.
pub(crate) fn drive_all(
    act: &str,
    points: &[&'static str],
    each: u64,
    drive: fn(&'static str, &mut Rng),
) {
    for round in 0..rounds(each) {
        for point in points {
            let scenario = format!("{act} {point} {round}");
            // Shown only if it fails.
            println!("CRASH_SEED={} scenario: {scenario}", seed());
            drive(point, &mut Rng::new(seed(), &scenario));
        }
    }
}

/// Runs the command, which must die at `point`.
pub(crate) fn die(world: &World, point: &str, command: &[&str]) {
    let ended = world.run_with(&format!("{point}=return"), command);
    assert!(ended.died(), "{command:?} does not reach {point}: {ended:?}");
}

/// Perhaps the recovery dies, too, wherever it gets to.
pub(crate) fn perhaps_die_again(world: &World, rng: &mut Rng, points: &[&str], command: &[&str]) {
    for _ in 0..rng.below(3) {
        let point = rng.pick(points);
        let action = rng.pick(&["return", "1*off->return"]);
        let ended = world.run_with(&format!("{point}={action}"), command);
        assert!(ended.died() || ended.code == Some(0), "{point}: {ended:?}");
    }
}

pub(crate) fn succeed(world: &World, command: &[&str]) -> Ended {
    let ended = world.run(command);
    assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    ended
}

fn pragmas(rng: &mut Rng) -> String {
    let size = rng.pick(&[512, 1024, 4096, 4096, 16384, 65536]);
    let vacuum = rng.pick(&["none", "none", "full", "incremental"]);
    format!("PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum};")
}

/// What applications do with the file from before the crash until after the recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// One keeps it open.
    Held,
    /// All that open it close it again, last of all after the crash.
    Closed,
    /// Nobody opens it between crash and recovery.
    Untouched,
}

fn choose_use(rng: &mut Rng) -> Use {
    rng.pick(&[Use::Held, Use::Closed, Use::Untouched])
}

fn writer(world: &World, db: &str, how: Use) -> Writer {
    match how {
        Use::Held => Writer::Holding(App::open(&world.path(db))),
        _ => Writer::Brief,
    }
}

/// A crash loses nothing, tears nothing, and shows others all of it or nothing.
fn after_crash(world: &World, db: &str, how: Use, ledger: &Ledger) {
    if how != Use::Untouched {
        assert_rows(&world.path(db), &ledger.live);
    }
    let others = cloned_rows(world, "after-crash.db");
    assert!(others == ledger.live || others == ledger.acknowledged, "I1: half a push");
}

fn push_dies(command: &'static str, point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = published(&pragmas(rng));
    let how = choose_use(rng);
    let mut app = writer(&world, "a.db", how);
    if rng.chance(2) {
        app.write(&world, "a.db", &ledger.anything(rng));
        succeed(&world, &["sync", "a.db"]);
        ledger.acknowledge();
    }
    app.write(&world, "a.db", &ledger.adding(1 + rng.below(4)));
    if rng.chance(2) {
        app.write(&world, "a.db", &ledger.anything(rng));
    }
    die(&world, point, &[command, "a.db"]);
    after_crash(&world, "a.db", how, &ledger);
    if rng.chance(3) && how != Use::Untouched {
        app.write(&world, "a.db", &ledger.anything(rng));
    } else if PUSHED.contains(&point) && rng.chance(2) {
        // The others have it, and go on from it.
        ledger.acknowledge();
        succeed(&world, &["pull", "b.db"]);
        world.stock("b.db", &ledger.adding(2));
        succeed(&world, &["push", "b.db"]);
        ledger.acknowledge();
    }
    perhaps_die_again(&world, rng, PUSH, &[command, "a.db"]);
    succeed(&world, &[command, "a.db"]);
    // I4b: what was there before is out.
    assert_eq!(cloned_rows(&world, "told.db"), ledger.live, "I4b");
    for replica in ["a.db", "b.db"] {
        succeed(&world, &["sync", replica]);
    }
    drop(app);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn a_push_that_died_anywhere_is_completed_by_the_next() {
    drive_all("push", PUSH, 1, |point, rng| push_dies("push", point, rng));
}

#[test]
fn a_sync_that_died_while_pushing_is_completed_by_the_next() {
    drive_all("sync-push", PUSH, 1, |point, rng| push_dies("sync", point, rng));
}

fn pull_dies(command: &'static str, point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = published(&pragmas(rng));
    let how = choose_use(rng);
    let mut app = writer(&world, "b.db", how);
    if rng.chance(2) {
        app.write(&world, "b.db", &ledger.adding(2));
        for replica in ["b.db", "a.db"] {
            succeed(&world, &["sync", replica]);
        }
    }
    let before = ledger.live.clone();
    let mut sql = ledger.adding(3) + &ledger.adding(100);
    if rng.chance(2) {
        sql += &ledger.anything(rng);
    }
    // B leaves this alone, so that its file tells for sure whether the pull is in it.
    sql += "CREATE TABLE quiet(x); INSERT INTO quiet VALUES (randomblob(9000));";
    world.stock("a.db", &sql);
    succeed(&world, &["sync", "a.db"]);
    ledger.acknowledge();
    die(&world, point, &[command, "b.db"]);
    if how != Use::Untouched {
        let pulled = PULLED.contains(&point);
        assert_rows(&world.path("b.db"), if pulled { &ledger.live } else { &before });
    }
    if PULLED.contains(&point) && rng.chance(2) && how != Use::Untouched {
        // Nobody knows yet that the pull is in the file, and applications go on from it.
        app.write(&world, "b.db", &ledger.anything(rng));
    } else if rng.chance(2) {
        world.stock("a.db", &ledger.anything(rng));
        succeed(&world, &["sync", "a.db"]);
    }
    perhaps_die_again(&world, rng, PULL, &[command, "b.db"]);
    succeed(&world, &[command, "b.db"]);
    assert_rows(&world.path("b.db"), &ledger.live);
    for replica in ["b.db", "a.db"] {
        succeed(&world, &["sync", replica]);
    }
    drop(app);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn a_pull_that_died_anywhere_is_completed_by_the_next() {
    drive_all("pull", PULL, 1, |point, rng| pull_dies("pull", point, rng));
}

#[test]
fn a_sync_that_died_while_pulling_is_completed_by_the_next() {
    drive_all("sync-pull", PULL, 1, |point, rng| pull_dies("sync", point, rng));
}

/// An unpublished database.
fn unpublished(rng: &mut Rng) -> (World, Ledger) {
    let (world, mut ledger) = (World::new(), Ledger::default());
    let mode = rng.pick(&["delete", "wal"]);
    let sql =
        format!("{} PRAGMA journal_mode={mode}; {SCHEMA} {}", pragmas(rng), ledger.adding(40));
    world.stock("a.db", &sql);
    (world, ledger)
}

fn init_dies(point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = unpublished(rng);
    let command = ["init", "a.db", "--remote", "remote"];
    die(&world, point, &command);
    assert_rows(&world.path("a.db"), &ledger.live);
    if rng.chance(2) {
        world.stock("a.db", &ledger.anything(rng));
    }
    // Any command goes on; the same one may find that there is nothing left to do.
    if rng.chance(2) {
        perhaps_die_again(&world, rng, PUSH, &["sync", "a.db"]);
    } else {
        let again = world.run(command);
        let done = again.code == Some(1) && again.error() == "already-a-replica";
        let settled = point == "settle::after-commit";
        assert!(again.code == Some(0) || (done && settled), "{again:?}");
    }
    succeed(&world, &["sync", "a.db"]);
    ledger.acknowledge();
    world.ok(["clone", "remote", "b.db"]);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn an_init_that_died_anywhere_is_completed_by_the_next() {
    drive_all("init", INIT, 2, init_dies);
    drive_all("init", PUSH, 1, init_dies);
}

fn clone_dies(point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = published(&pragmas(rng));
    die(&world, point, &["clone", "remote", "c.db"]);
    if rng.chance(2) {
        world.stock("a.db", &ledger.anything(rng));
        succeed(&world, &["sync", "a.db"]);
        ledger.acknowledge();
    }
    let again = world.run(["clone", "remote", "c.db"]);
    let placed = point == "clone::after-place";
    assert!(
        again.code == Some(0) && !placed
            || again.code == Some(1) && placed && again.error() == "target-exists",
        "{again:?}"
    );
    succeed(&world, &["sync", "c.db"]);
    world.stock("c.db", &ledger.adding(1));
    for replica in ["c.db", "a.db", "b.db"] {
        succeed(&world, &["sync", replica]);
    }
    assert_in_step(&world, &["a.db", "b.db", "c.db"], &ledger);
    let left: Vec<PathBuf> = files(&world.path("."))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("part"))
        .collect();
    assert!(left.is_empty() || placed, "the next clone removes what the first left: {left:?}");
}

#[test]
fn a_clone_that_died_anywhere_can_be_repeated_or_used() {
    drive_all("clone", CLONE, 2, clone_dies);
}

fn repair_dies(point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = published(&pragmas(rng));
    let how = choose_use(rng);
    let mut app = writer(&world, "b.db", how);
    let mut there = ledger.clone();
    app.write(&world, "b.db", &there.adding(5));
    world.stock("a.db", &(ledger.adding(120) + &ledger.anything(rng)));
    succeed(&world, &["sync", "a.db"]);
    ledger.acknowledge();
    let command = ["repair", "b.db", "--take-remote"];
    die(&world, point, &command);
    perhaps_die_again(&world, rng, &PULL[1..], &command);
    succeed(&world, &command);
    // I2: what the file had is in a copy beside it.
    let copies = (1..).map(|n| world.path(format!("b.db.before-repair-{n}")));
    let kept: Vec<BTreeSet<u64>> =
        copies.take_while(|copy| copy.exists()).map(|copy| rows(&copy)).collect();
    assert!(kept.contains(&there.live), "I2: {} copies", kept.len());
    app.write(&world, "b.db", &ledger.adding(1));
    for replica in ["b.db", "a.db"] {
        succeed(&world, &["sync", replica]);
    }
    drop(app);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn a_repair_that_died_anywhere_can_be_repeated() {
    drive_all("repair", &PULL[1..], 1, repair_dies);
}

fn compact_dies(point: &'static str, rng: &mut Rng) {
    let (world, mut ledger) = published(&pragmas(rng));
    for _ in 0..4 {
        world.stock("a.db", &ledger.anything(rng));
        succeed(&world, &["push", "a.db"]);
    }
    let mut command = vec!["compact", "remote"];
    if RETAIN.contains(&point) {
        // The older of two snapshots becomes the floor.
        succeed(&world, &command);
        world.stock("a.db", &ledger.anything(rng));
        succeed(&world, &["push", "a.db"]);
        command.extend(["--retain", "0s"]);
    }
    die(&world, point, &command);
    assert_eq!(cloned_rows(&world, "after-crash.db"), ledger.live, "I1");
    if rng.chance(2) {
        world.stock("a.db", &ledger.anything(rng));
        succeed(&world, &["push", "a.db"]);
    }
    succeed(&world, &command);
    // B comes from below the floor, if there is one.
    succeed(&world, &["sync", "b.db"]);
    succeed(&world, &command);
    ledger.acknowledge();
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn a_compaction_that_died_anywhere_changes_nothing_for_anyone() {
    drive_all("compact", COMPACT, 2, compact_dies);
    drive_all("retain", RETAIN, 2, compact_dies);
}

/// A delta replaces a thousand segments, and so there must be that many.
#[test]
fn a_compaction_that_died_after_a_delta_goes_on_from_it() {
    let (world, mut ledger) = published("");
    let replica = Replica::open(&world.path("a.db"), Options::default()).unwrap();
    let mut app = App::open(&world.path("a.db"));
    for _ in 0..1010 {
        app.run(&ledger.adding(1));
        replica.push().unwrap();
    }
    ledger.acknowledge();
    for round in 0..rounds(2) {
        println!("round {round}");
        for snapshot in files(&world.path("remote")) {
            // As if nobody had compacted before; a push may have done it by itself.
            let name = snapshot.to_string_lossy();
            if name.contains("/delta/") || name.contains("/snapshot/") {
                std::fs::remove_file(&snapshot).unwrap();
            }
        }
        die(&world, DELTA[0], &["compact", "remote"]);
        assert_eq!(cloned_rows(&world, &format!("crash{round}.db")), ledger.live, "I1");
        succeed(&world, &["compact", "remote"]);
        assert_eq!(cloned_rows(&world, &format!("again{round}.db")), ledger.live, "I1");
    }
    drop(app);
    succeed(&world, &["sync", "b.db"]);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

/// All files under `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Those that only a server of the libSQL dialect leads to, driven by the test beside this one.
const LIBSQL: &[&str] =
    &["adopt::after-info", "adopt::after-sidecar", "libsql::before-commit", "libsql::mid-push"];

/// Those of a server with official libSQL clients, which a project of its own drives.
const CONFORMANCE: &[&str] = &[
    "aside::between-deletes",
    "aside::between-pieces",
    "frames::after-append",
    "frames::announced",
    "frames::before-append",
    "frames::kept-aside",
    "heal::after-append",
    "heal::after-drop",
    "heal::after-part",
    "heal::after-passage",
    "heal::before-part",
    "heal::before-passage",
    "heal::before-serving",
    "heal::loading",
    "heal::proven",
    "rollover::after-append",
];

#[test]
fn every_crash_point_in_the_sources_is_driven() {
    let beside = include_str!("../libsql.rs");
    assert!(LIBSQL.iter().all(|point| beside.contains(&format!("\"{point}\""))));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let there = workspace.join("conformance/tests/conformance/heal_points.rs");
    let there = std::fs::read_to_string(there).unwrap();
    assert!(CONFORMANCE.iter().all(|point| there.contains(&format!("\"{point}\""))));
    let driven: BTreeSet<String> =
        [PUSH, PULL, REBASE, INIT, CLONE, COMPACT, DELTA, RETAIN, LIBSQL, CONFORMANCE]
            .iter()
            .flat_map(|points| points.iter().map(|&point| point.to_owned()))
            .collect();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut named = BTreeSet::new();
    for path in files(crates) {
        let source = path.components().any(|part| part.as_os_str() == "src");
        if !source || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for call in ["crash_point!(\"", "fail_point!(\""] {
            let calls = text.split(call).skip(1);
            named.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    assert_eq!(named, driven, "left: in the sources; right: driven");
}

/// A push whose answer was lost, and everything about it compacted away before its replica returns.
#[test]
fn a_push_that_died_is_recognised_when_its_place_is_below_the_floor() {
    let (world, mut ledger) = published("");
    world.stock("a.db", &ledger.adding(2));
    die(&world, "push::after-append", &["push", "a.db"]);
    ledger.acknowledge();
    for _ in 0..2 {
        succeed(&world, &["pull", "b.db"]);
        world.stock("b.db", &ledger.adding(1));
        succeed(&world, &["push", "b.db"]);
        succeed(&world, &["compact", "remote", "--retain", "0s"]);
    }
    world.stock("b.db", &ledger.adding(1));
    succeed(&world, &["push", "b.db"]);
    succeed(&world, &["sync", "a.db"]);
    assert_rows(&world.path("a.db"), &ledger.live);
    world.stock("a.db", &ledger.adding(1));
    for replica in ["a.db", "b.db"] {
        succeed(&world, &["sync", replica]);
    }
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

/// An application writes to a file whose pull died before it was committed: then both sides changed,
/// and the rows of both are there.
#[test]
fn i2_what_is_written_after_a_pull_that_was_not_applied_is_kept() {
    for point in ["pull::under-lock", "apply::before-commit"] {
        for held in [false, true] {
            let (world, mut ledger) = published("");
            let mut app = held.then(|| App::open(&world.path("b.db")));
            world.stock("a.db", &ledger.adding(100));
            succeed(&world, &["sync", "a.db"]);
            die(&world, point, &["pull", "b.db"]);
            let sql = "INSERT INTO entry VALUES (900, 'nine'), (901, 'more');";
            match &mut app {
                Some(app) => drop(app.run(sql)),
                None => drop(stock(&world.path("b.db"), sql)),
            }
            succeed(&world, &["sync", "b.db"]);
            succeed(&world, &["sync", "a.db"]);
            drop(app);
            for replica in ["a.db", "b.db"] {
                assert_verified(&world, replica);
                let found = world.stock(replica, "SELECT count(*) FROM entry");
                assert_eq!(found, (ledger.live.len() + 2).to_string(), "I2: {point}, {held}");
            }
            assert_identical(&world.path("a.db"), &world.path("b.db"));
        }
    }
}
