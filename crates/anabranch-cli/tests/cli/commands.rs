//! Every command's ordinary use, in text and in JSON.

use crate::yard::Yard;

#[test]
fn init_publishes_and_says_that_it_switched_the_journal_mode() {
    let yard = Yard::new();
    yard.make_notes("a.db", 10);
    let said = yard.ok(["init", "a.db", "--remote", "river"]);
    assert!(said.starts_with("published a.db at "), "{said}");
    assert!(said.contains("WAL mode now"), "{said}");
    assert!(said.contains("in step at position 00000000000000"), "{said}");

    let yard = Yard::new();
    yard.make_notes("a.db", 10);
    let report = yard.json(["init", "a.db", "--remote", "river"]);
    assert_eq!(report["notes"][0]["note"], "switched-to-wal");
    assert!(report["published"]["pages"].as_u64().unwrap() > 1, "{report}");
}

#[test]
fn init_creates_a_database_only_if_asked_to() {
    let yard = Yard::new();
    yard.fails(1, ["init", "new.db", "--remote", "river"]);
    assert!(!yard.path("new.db").exists());
    yard.ok(["init", "new.db", "--remote", "river", "--create"]);
    yard.sql("new.db", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    assert!(yard.json(["sync", "new.db"])["pushed"]["pages"].as_u64().unwrap() > 0);
    yard.ok(["clone", "river", "copy.db"]);
    assert_eq!(yard.number("copy.db", "SELECT a FROM t"), 1);
}

#[test]
fn what_one_replica_writes_the_other_has_after_both_synced() {
    let yard = Yard::published();
    yard.sql("a.db", "UPDATE note SET body = 'changed' WHERE id = 5");
    let said = yard.ok(["sync", "a.db"]);
    assert!(said.starts_with("pushed 1 page ("), "{said}");
    let report = yard.json(["sync", "b.db"]);
    assert_eq!(report["pulled"]["pages"], 1);
    assert_eq!(report["offline"], serde_json::Value::Null);
    let changed = yard.number("b.db", "SELECT count(*) FROM note WHERE body = 'changed'");
    assert_eq!(changed, 1);
    let said = yard.ok(["sync", "b.db"]);
    assert!(said.starts_with("already in step at position"), "{said}");
}

#[test]
fn push_and_pull_do_one_direction_each() {
    let yard = Yard::published();
    yard.sql("a.db", "DELETE FROM note WHERE id > 50");
    assert!(yard.ok(["push", "a.db"]).starts_with("pushed "));
    assert!(yard.ok(["push", "a.db"]).starts_with("nothing to push\n"));
    assert!(yard.ok(["pull", "b.db"]).starts_with("pulled "));
    let report = yard.json(["pull", "b.db"]);
    assert_eq!(report["pulled"], serde_json::Value::Null);
    assert_eq!(yard.json(["push", "b.db"])["position"], report["position"]);
    assert_eq!(yard.number("b.db", "SELECT count(*) FROM note"), 50);
}

#[test]
fn status_tells_what_changed_here_and_there() {
    let yard = Yard::published();
    let said = yard.ok(["status", "a.db"]);
    assert!(said.contains("here      nothing changed\n"), "{said}");
    assert!(said.contains("there     nothing new\n"), "{said}");

    yard.sql("a.db", "INSERT INTO note(body) VALUES ('x'); DELETE FROM note WHERE id = 3");
    let said = yard.ok(["status", "a.db", "--tables"]);
    assert!(said.contains("changed, to be pushed"), "{said}");
    let report = yard.json(["status", "a.db", "--tables"]);
    assert!(report["local_pages"].as_u64().unwrap() > 0);
    let note = &report["tables"][0];
    assert_eq!(
        (&note["table"], &note["inserted"], &note["deleted"]),
        (&"note".into(), &1.into(), &1.into())
    );

    yard.ok(["sync", "a.db"]);
    let report = yard.json(["status", "b.db"]);
    assert_eq!(report["remote_status"]["state"], "ahead");
    assert!(yard.ok(["status", "b.db"]).contains(" ahead, at position "));
    let said = yard.ok(["status", "b.db", "--no-remote"]);
    assert!(said.contains("there     not asked\n"), "{said}");
}

#[test]
fn log_shows_the_newest_first_and_says_if_there_is_more() {
    let yard = Yard::published();
    for n in 0..3 {
        yard.sql("a.db", &format!("UPDATE note SET body = 'v{n}' WHERE id = 1"));
        yard.ok(["sync", "a.db"]);
    }
    let all = yard.json(["log", "river"]);
    let entries = all["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &all["more"]), (4, &false.into()));
    let lsns: Vec<u64> = entries.iter().map(|e| e["lsn"].as_u64().unwrap()).collect();
    assert!(lsns.is_sorted_by(|newer, older| newer > older), "{lsns:?}");
    assert!(entries[0]["at"].as_str().unwrap().ends_with('Z'));

    let two = yard.ok(["log", "a.db", "-n", "2"]);
    let lines: Vec<&str> = two.lines().collect();
    assert_eq!(lines.len(), 4, "{two}");
    assert!(lines[0].starts_with("position"), "{two}");
    assert!(lines[1].starts_with(&format!("{:016x}  2", lsns[0])), "{two}");
    assert!(lines[3].contains("-n N"), "{two}");
}

#[test]
fn log_and_restore_tell_when_the_remote_received_what_others_wrote_before() {
    let yard = Yard::published();
    let alike = yard.json(["log", "river"]);
    assert!(alike["entries"][0]["received"].as_i64().unwrap() > 0, "{alike}");
    yard.sql("a.db", "DELETE FROM note WHERE id > 7");
    yard.ok(["sync", "a.db"]);
    let newest = &yard.json(["log", "river"])["entries"][0];
    // As if the store's clock were a day ahead, or the object had been copied there.
    let first = newest["first"].as_u64().unwrap();
    let object = yard.only("river", &format!("{first:016x}.wal.zst"));
    let day = std::time::Duration::from_secs(24 * 3600);
    let file = std::fs::File::options().write(true).open(object).unwrap();
    file.set_modified(std::time::SystemTime::now() + day).unwrap();
    let entries = yard.json(["log", "river"])["entries"].clone();
    let received = entries[0]["received_at"].as_str().unwrap();
    assert_ne!(received[..10], entries[0]["at"].as_str().unwrap()[..10]);
    let said = yard.ok(["log", "river"]);
    assert_eq!(said.matches("(received ").count(), 1, "{said}");
    let asked = entries[0]["at"].as_str().unwrap();
    let said = yard.ok(["restore", "river", "old.db", "--at", asked]);
    let lsn = entries[0]["lsn"].as_u64().unwrap();
    assert!(said.contains(&format!("note: position {lsn:016x} was written at ")), "{said}");
    assert!(said.contains(&format!("--at {lsn:016x}")), "{said}");
    assert_eq!(yard.number("old.db", "SELECT count(*) FROM note"), 100);
    let said = yard.ok(["restore", "river", "older.db", "--at", &format!("{}", lsn - 1)]);
    assert!(!said.contains("was written at"), "{said}");
}

#[test]
fn a_log_of_no_entries_does_not_say_that_there_are_none() {
    let yard = Yard::published();
    let said = yard.ok(["log", "river", "-n", "0"]);
    assert!(!said.contains("no history"), "{said}");
    assert!(said.contains("older entries"), "{said}");
}

#[test]
fn restore_brings_back_a_state_by_position_and_by_time() {
    let yard = Yard::published();
    yard.sql("a.db", "DELETE FROM note");
    yard.ok(["sync", "a.db"]);
    let log = yard.json(["log", "river"]);
    let first = &log["entries"][1];
    let lsn = first["lsn"].as_u64().unwrap();
    let said = yard.ok(["restore", "a.db", "old.db", "--at", &format!("{lsn:016x}")]);
    assert!(said.starts_with(&format!("restored the state at position {lsn:016x}")), "{said}");
    assert_eq!(yard.number("old.db", "SELECT count(*) FROM note"), 100);
    assert_eq!(yard.number("old.db", "SELECT count(*) FROM pragma_integrity_check"), 1);

    yard.ok(["restore", "river", "new.db"]);
    assert_eq!(yard.number("new.db", "SELECT count(*) FROM note"), 0);
    let report = yard.json(["restore", "river", "now.db", "--at", "now"]);
    assert_eq!(report["position"], log["entries"][0]["lsn"]);
    // Nothing was there an hour ago.
    let said = yard.fails(1, ["restore", "river", "never.db", "--at", "-1h"]);
    assert!(said.contains("holds nothing that old"), "{said}");
    assert!(!yard.path("never.db").exists());
}

#[test]
fn verify_finds_replicas_equal_and_names_pages_that_changed_here() {
    let yard = Yard::published();
    let said = yard.ok(["verify", "b.db"]);
    assert!(said.contains("every page is equal to the remote's"), "{said}");
    yard.sql("b.db", "UPDATE note SET body = 'mine' WHERE id = 1");
    let report = yard.json(["verify", "b.db"]);
    assert_eq!(report["local"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["damaged"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!(report["remote_consistent"], true);
}

#[test]
fn a_remote_that_moved_is_named_anew() {
    let yard = Yard::published();
    assert!(yard.ok(["remote", "a.db"]).trim_end().ends_with("river"));
    std::fs::rename(yard.path("river"), yard.path("brook")).unwrap();
    let said = yard.ok(["remote", "a.db", "--set", "brook"]);
    assert!(said.contains("brook now"), "{said}");
    assert!(yard.json(["remote", "a.db"])["remote"].as_str().unwrap().ends_with("brook"));
    yard.ok(["sync", "a.db"]);
    // Another database is refused.
    yard.make_notes("c.db", 1);
    yard.ok(["init", "c.db", "--remote", "lake"]);
    yard.fails(1, ["remote", "a.db", "--set", "lake"]);
    assert!(yard.ok(["remote", "a.db"]).trim_end().ends_with("brook"));
}

#[test]
fn repair_takes_the_remotes_state_and_keeps_the_file() {
    let yard = Yard::published();
    yard.sql("b.db", "DELETE FROM note WHERE id = 1");
    let report = yard.json(["repair", "b.db", "--take-remote"]);
    assert_eq!(yard.number("b.db", "SELECT count(*) FROM note"), 100);
    let kept = report["kept"].as_str().unwrap();
    assert_eq!(yard.number(kept, "SELECT count(*) FROM note"), 99);
    yard.ok(["sync", "b.db"]);
}

#[test]
fn a_lost_sidecar_is_built_anew() {
    let yard = Yard::published();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(yard.path(format!("b.db-anabranch{suffix}")));
    }
    yard.fails(1, ["sync", "b.db"]);
    yard.ok(["repair", "b.db", "--relink", "--remote", "river"]);
    let said = yard.ok(["sync", "b.db"]);
    assert!(said.starts_with("already in step"), "{said}");
}

#[test]
fn compact_keeps_every_state_of_the_retention() {
    let yard = Yard::published();
    yard.sql("a.db", "DELETE FROM note WHERE id > 7");
    yard.ok(["sync", "a.db"]);
    yard.ok(["compact", "river", "--retain", "30d"]);
    let report = yard.json(["compact", "a.db"]);
    assert!(report["deltas"].is_u64(), "{report}");
    yard.ok(["clone", "river", "c.db"]);
    assert_eq!(yard.number("c.db", "SELECT count(*) FROM note"), 7);
    yard.ok(["verify", "a.db"]);
}

#[test]
fn completions_exist_for_every_shell() {
    let yard = Yard::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(yard.ok(["completions", shell]).contains("anabranch"), "{shell}");
    }
    let report = yard.json(["completions", "fish"]);
    assert!(report["script"].as_str().unwrap().contains("restore"));
}

#[test]
fn quiet_is_silent_but_for_what_was_asked() {
    let yard = Yard::published();
    yard.sql("a.db", "DELETE FROM note WHERE id = 1");
    for args in [["sync", "a.db"], ["pull", "b.db"], ["verify", "b.db"], ["push", "a.db"]] {
        assert_eq!(yard.ok([args[0], args[1], "--quiet"]), "", "{args:?}");
    }
    assert_ne!(yard.ok(["status", "a.db", "-q"]), "");
    assert!(!yard.fails(1, ["-q", "sync", "missing.db"]).is_empty());
}

#[test]
fn the_only_replica_of_a_folder_need_not_be_named() {
    let yard = Yard::new();
    yard.make_notes("a.db", 3);
    yard.ok(["init", "a.db", "--remote", "river"]);
    for args in [["sync"], ["push"], ["pull"], ["status"], ["log"], ["verify"], ["remote"]] {
        yard.ok(args);
    }
    yard.ok(["restore", "old.db"]);
    assert_eq!(yard.number("old.db", "SELECT count(*) FROM note"), 3);
    yard.ok(["clone", "river", "b.db"]);
    let said = yard.fails(2, ["sync"]);
    assert!(said.contains("a.db, b.db"), "{said}");
}

#[test]
fn alone_it_prints_help_and_every_help_has_an_example() {
    let yard = Yard::new();
    let help = yard.ok::<&str>([]);
    assert!(help.contains("Exit codes:"), "{help}");
    for command in [
        "init",
        "clone",
        "push",
        "pull",
        "sync",
        "status",
        "log",
        "restore",
        "verify",
        "remote",
        "repair",
        "compact",
        "inspect",
        "demo",
        "completions",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let text = yard.ok([command, "--help"]);
        assert!(text.contains("Example"), "{text}");
    }
    assert!(yard.ok(["--version"]).starts_with("anabranch "));
}

#[test]
fn verbose_tells_more_on_standard_error_only() {
    let yard = Yard::published();
    let ended = yard.run(["-vvv", "sync", "a.db", "--json"]);
    assert_eq!(ended.code, 0);
    ended.json();
}
