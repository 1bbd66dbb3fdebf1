//! The program where the disk is full and where it may not write: a clear error, nothing half done,
//! and the same command works once there is room.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_anabranch");

struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        World { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM).current_dir(self.folder.path()).args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Runs the program with no file growing beyond `blocks` of 512 bytes: writes fail as on a full
    /// disk.
    fn cramped(&self, blocks: u32, args: &[&str]) -> Output {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        Command::new("sh")
            .current_dir(self.folder.path())
            .args(["-c", &script, "sh", PROGRAM])
            .args(args)
            .output()
            .unwrap()
    }
}

fn sqlite(db: &Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg("-bail").arg(db).arg(sql).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn said(out: &Output) -> String {
    format!("{:?}: {}", out.status.code(), String::from_utf8_lossy(&out.stderr))
}

/// Limits from "nothing can be written" to "nearly everything can".
const LIMITS: [u32; 7] = [0, 1, 17, 100, 700, 1500, 2600];

const CONTENT: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO t(v) SELECT hex(randomblob(150)) FROM n";

#[test]
fn i5_a_full_disk_leaves_nothing_half_done() {
    let world = World::new();
    let (a, b) = (world.path("a.db"), world.path("b.db"));
    sqlite(&a, CONTENT);
    let mut failures = 0;
    let mut again = |what: &str, cramped: &Output, args: &[&str]| {
        if !cramped.status.success() {
            failures += 1;
            let code = cramped.status.code();
            // Out of room on the way to the remote may look like a remote out of reach.
            assert!(matches!(code, Some(1 | 4)), "{what}: {}", said(cramped));
        }
        world.ok(args);
    };
    for blocks in LIMITS {
        let init = ["init", "a.db", "--remote", "r"];
        if !world.path("a.db-anabranch").exists() || blocks == 0 {
            let out = world.cramped(blocks, &init);
            if out.status.success() {
                continue;
            }
            assert_eq!(sqlite(&a, "PRAGMA integrity_check"), "ok");
        }
    }
    // An interrupted init is taken up by init or by any sync.
    let out = world.run(&["init", "a.db", "--remote", "r"]);
    assert!(out.status.success() || said(&out).contains("already"), "{}", said(&out));
    world.ok(&["sync", "a.db"]);
    for blocks in LIMITS {
        let clone = ["clone", "r", "b.db"];
        let out = world.cramped(blocks, &clone);
        assert_eq!(b.exists(), out.status.success(), "complete or not there: {}", said(&out));
        if !out.status.success() {
            again("clone", &out, &clone);
        }
        for suffix in ["", "-anabranch", "-anabranch-wal", "-anabranch-shm", "-anabranch-lock"] {
            let _ = fs::remove_file(world.path(&format!("b.db{suffix}")));
        }
    }
    world.ok(&["clone", "r", "b.db"]);
    for blocks in LIMITS {
        sqlite(&a, "UPDATE t SET v = hex(randomblob(150))");
        again("push", &world.cramped(blocks, &["sync", "a.db"]), &["sync", "a.db"]);
        again("pull", &world.cramped(blocks, &["sync", "b.db"]), &["sync", "b.db"]);
        for db in [&a, &b] {
            assert_eq!(sqlite(db, "PRAGMA integrity_check"), "ok", "{blocks} blocks");
        }
        assert_eq!(sqlite(&a, ".dump"), sqlite(&b, ".dump"), "{blocks} blocks");
    }
    assert!(failures > LIMITS.len(), "the limits were meant to hurt: {failures}");
    world.ok(&["verify", "a.db"]);
    world.ok(&["verify", "b.db"]);
}

/// Runs the program as somebody who may not do everything: root may.
fn humbly(world: &World, args: &[&str]) -> Output {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    // The test's own binary may lie where only root gets to.
    let program = world.path("program");
    if !program.exists() {
        fs::copy(PROGRAM, &program).unwrap();
    }
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.current_dir(world.folder.path()).args(args).output().unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn where_it_may_not_write_it_says_so_and_changes_nothing() {
    let world = World::new();
    mode(world.folder.path(), 0o777);
    let shared = world.path("shared");
    fs::create_dir(&shared).unwrap();
    mode(&shared, 0o777);
    let a = shared.join("a.db");
    sqlite(&a, CONTENT);
    mode(&a, 0o666);
    mode(&shared, 0o555);
    let out = humbly(&world, &["init", "shared/a.db", "--remote", "r"]);
    assert_eq!(out.status.code(), Some(1), "no room for a sidecar: {}", said(&out));
    assert!(said(&out).contains("a.db"), "{}", said(&out));
    mode(&shared, 0o777);
    mode(&a, 0o444);
    let out = humbly(&world, &["init", "shared/a.db", "--remote", "r"]);
    assert_eq!(out.status.code(), Some(1), "a file for reading only: {}", said(&out));
    mode(&a, 0o666);

    let out = humbly(&world, &["init", "shared/a.db", "--remote", "r"]);
    assert!(out.status.success(), "{}", said(&out));
    // Whoever the program ran as owns the remote: it is closed to that one.
    let log = fs::read_dir(world.path("r/db")).unwrap().next().unwrap().unwrap().path();
    let shards: Vec<_> =
        fs::read_dir(log.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    for shard in &shards {
        mode(shard, 0o555);
    }
    // What was refused leaves nothing to wait for, however often.
    for i in 0..12 {
        sqlite(&a, &format!("UPDATE t SET v = {i} WHERE id = 1"));
        let out = humbly(&world, &["sync", "shared/a.db"]);
        assert_eq!(out.status.code(), Some(1), "a remote for reading only: {}", said(&out));
    }
    let out = humbly(&world, &["status", "shared/a.db"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && !text.contains("waits for the remote"), "{text}");
    let out = humbly(&world, &["clone", "r", "shared/b.db"]);
    assert!(out.status.success(), "which is enough for a clone: {}", said(&out));
    for shard in &shards {
        mode(shard, 0o755);
    }
    let out = humbly(&world, &["sync", "shared/a.db"]);
    assert!(out.status.success(), "{}", said(&out));
    let out = humbly(&world, &["sync", "shared/b.db"]);
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(sqlite(&a, ".dump"), sqlite(&shared.join("b.db"), ".dump"));
}
