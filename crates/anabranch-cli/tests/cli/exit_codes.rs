//! What goes wrong is told plainly, with the documented exit code, and changes nothing.

use std::fs;

use crate::yard::Yard;

#[test]
fn a_push_to_a_remote_that_is_ahead_is_three() {
    let yard = Yard::published();
    yard.sql("a.db", "UPDATE note SET body = 'of a' WHERE id = 1");
    yard.ok(["sync", "a.db"]);
    yard.sql("b.db", "UPDATE note SET body = 'of b' WHERE id = 1");
    let said = yard.fails(3, ["push", "b.db"]);
    assert!(said.contains("pull first"), "{said}");
    assert_eq!(yard.run(["push", "b.db", "--json"]).json_error()["code"], "behind");
    assert_eq!(yard.number("b.db", "SELECT body = 'of b' FROM note WHERE id = 1"), 1);
}

#[test]
fn offline_is_four_and_a_report_for_sync() {
    let yard = Yard::published();
    fs::rename(yard.path("river"), yard.path("away")).unwrap();
    yard.sql("a.db", "UPDATE note SET body = 'x' WHERE id = 1");
    let ended = yard.run(["sync", "a.db"]);
    assert_eq!((ended.code, ended.err.as_str()), (4, ""));
    assert!(ended.out.starts_with("offline: 1 page waits to be pushed"), "{ended:?}");
    assert_eq!(ended.out.matches("offline").count(), 1, "said once: {ended:?}");
    let ended = yard.run(["sync", "a.db", "--json"]);
    assert_eq!(ended.code, 4);
    assert_eq!(ended.json()["offline"]["pages_to_push"], 1);
    let ended = yard.run(["sync", "a.db", "-q"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (4, "", ""));

    for command in ["push", "pull", "verify"] {
        let said = yard.fails(4, [command, "a.db"]);
        assert!(said.starts_with("error: offline: "), "{said}");
        assert!(said.contains("nothing is lost"), "{said}");
    }
    let said = yard.ok(["status", "a.db"]);
    assert!(said.contains("there     offline: "), "{said}");
    assert!(
        !yard.path("river").exists(),
        "no empty folder takes the place of the one that is gone"
    );

    fs::rename(yard.path("away"), yard.path("river")).unwrap();
    assert!(yard.ok(["sync", "a.db"]).starts_with("pushed 1 page"));
}

#[test]
fn a_place_that_is_mistyped_is_not_offline() {
    let yard = Yard::published();
    for args in [
        &["log", "nowhere"][..],
        &["clone", "nowhere", "c.db"],
        &["restore", "nowhere", "c.db"],
        &["compact", "nope.db"],
        &["remote", "a.db", "--set", "nowhere"],
        // A folder that holds something else.
        &["remote", "a.db", "--set", "."],
    ] {
        let said = yard.fails(1, args);
        assert!(said.starts_with("error: there is no remote at "), "{args:?}: {said}");
        assert!(!said.contains("local changes"), "{args:?}: {said}");
        let all = args.iter().chain(&["--json"]);
        assert_eq!(yard.run(all).json_error()["code"], "no-remote", "{args:?}");
        assert!(!yard.path("c.db").exists());
    }
    yard.make_notes("plain.db", 1);
    for args in [
        &["clone", "plain.db", "c.db"][..],
        &["init", "plain.db", "--remote", "b.db"],
        &["init", "plain.db", "--remote", "b.db/below"],
        &["remote", "a.db", "--set", "plain.db"],
    ] {
        let said = yard.fails(2, args);
        assert!(said.contains("is a file: a remote is a folder"), "{args:?}: {said}");
    }
    assert!(!yard.path("plain.db-anabranch").exists());
    assert!(yard.ok(["remote", "a.db"]).trim_end().ends_with("river"));
}

#[test]
fn options_that_cannot_be_used_are_refused_before_anything_panics() {
    let yard = Yard::published();
    let said = yard.fails(2, ["sync", "a.db", "--busy-timeout", "30d"]);
    assert!(said.contains("at most 24 days"), "{said}");
    yard.ok(["sync", "a.db", "--busy-timeout", "24d"]);
    yard.sql("fresh.db", "CREATE TABLE t(x)");
    for args in [
        &["clone", "s3://bucket/x", "c.db", "--endpoint", "nonsense"][..],
        &["log", "s3://bucket/x", "--endpoint", "minio:9000"],
        &["init", "fresh.db", "--remote", "az://c/x", "--endpoint", "nonsense"],
    ] {
        let said = yard.fails(2, args);
        assert!(said.contains("the endpoint '"), "{args:?}: {said}");
    }
    let mut command = yard.command(["log", "s3://bucket/x", "--json"]);
    let output = command.env("AWS_ENDPOINT_URL", "nonsense").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("{\"error\"") && said.contains("AWS_ENDPOINT_URL"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_sudden_death() {
    let yard = Yard::published();
    yard.sql(
        "a.db",
        "CREATE TABLE big(x); INSERT INTO big SELECT randomblob(4000) FROM note, (VALUES (1), (2))",
    );
    let script = format!("ulimit -f 300; exec '{}' sync a.db", crate::yard::PROGRAM);
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &script]).current_dir(yard.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?}: {said}", output.status);
    assert!(said.contains("has no room for"), "{said}");
    assert!(yard.ok(["sync", "a.db"]).starts_with("pushed "));
}

#[test]
fn i1_a_hole_in_the_log_is_told_and_nothing_is_pushed_into_it() {
    let yard = Yard::published();
    for n in 0..2 {
        yard.sql("a.db", &format!("UPDATE note SET body = 'v{n}' WHERE id = 1"));
        yard.ok(["sync", "a.db"]);
    }
    let log = yard.json(["log", "river"]);
    let first = log["entries"][1]["first"].as_u64().unwrap();
    let lost = yard.only("river", &format!("{first:016x}.wal.zst"));
    fs::rename(&lost, yard.path("lost")).unwrap();
    yard.sql("b.db", "UPDATE note SET body = 'of b' WHERE id = 2");
    for command in ["sync", "push", "pull"] {
        let said = yard.fails(1, [command, "b.db"]);
        assert!(said.contains("not all objects of the log are in "), "{said}");
        assert!(said.contains(&format!("{first:016x}.wal.zst is missing")), "{said}");
        assert!(said.contains("init FILE --remote NEW"), "{said}");
    }
    assert_eq!(yard.run(["sync", "b.db", "--json"]).json_error()["code"], "incomplete");
    assert!(!lost.exists());
    fs::rename(yard.path("lost"), &lost).unwrap();
    yard.ok(["sync", "b.db"]);
}

#[test]
fn a_remote_that_went_back_is_told_with_the_ways_out() {
    let yard = Yard::published();
    let before = yard.json(["log", "river"]);
    yard.sql("a.db", "UPDATE note SET body = 'v' WHERE id = 1");
    yard.ok(["sync", "a.db"]);
    let newest = yard.json(["log", "river"])["entries"][0]["first"].as_u64().unwrap();
    fs::remove_file(yard.only("river", &format!("{newest:016x}.wal.zst"))).unwrap();
    let said = yard.fails(1, ["sync", "a.db"]);
    assert!(said.contains("an older copy of the remote was put in its place"), "{said}");
    assert!(said.contains("repair FILE --take-remote"), "{said}");
    assert_eq!(yard.run(["sync", "a.db", "--json"]).json_error()["code"], "remote-went-back");
    yard.ok(["repair", "a.db", "--take-remote"]);
    assert_eq!(yard.json(["sync", "a.db"])["position"], before["entries"][0]["lsn"]);
}

#[test]
fn a_deleted_database_gives_its_place_free() {
    let yard = Yard::published();
    let floor = yard.only("river/db", "0000000000000000");
    fs::write(floor.with_file_name("ffffffffffffffff"), "").unwrap();
    let error = yard.run(["sync", "a.db", "--json"]).json_error();
    assert_eq!(error["code"], "deleted");
    let said = yard.fails(1, ["clone", "river", "c.db"]);
    assert!(said.contains("holds no database"), "{said}");
    yard.make_notes("new.db", 3);
    assert!(yard.ok(["init", "new.db", "--remote", "river"]).starts_with("published new.db"));
    yard.ok(["clone", "river", "c.db"]);
    assert_eq!(yard.number("c.db", "SELECT count(*) FROM note"), 3);
}

#[test]
fn wrong_usage_is_two_with_a_helpful_word() {
    let yard = Yard::published();
    for (args, hint) in [
        (&["snyc", "a.db"][..], "sync"),
        (&["init", "a.db"], "--remote"),
        (&["restore", "river", "x.db", "--at", "teatime"], "yesterday"),
        (&["restore", "river", "x.db", "--at", "2h"], "-2h"),
        (&["compact", "river", "--retain", "soon"], "30d"),
        (&["clone", "ftp://host/x", "x.db"], "s3://"),
        (&["clone", "s3:bucket/x", "x.db"], "//BUCKET"),
        (&["clone", "file:///river#1", "x.db"], "%23"),
        (&["repair", "a.db", "--adopt", "--take-remote"], "cannot be used with"),
        (&["repair", "a.db", "--relink"], "--remote"),
        (&["inspect", "river"], "folder"),
        (&["status"], "a.db"),
    ] {
        let said = yard.fails(2, args);
        assert!(said.contains(hint), "{args:?}: {said}");
        assert!(!yard.path("x.db").exists());
    }
}

#[test]
fn wrong_usage_is_json_too_if_that_was_asked_for() {
    let yard = Yard::new();
    for args in [&["--json", "snyc"][..], &["sync", "--json", "--frobnicate"], &["sync", "--json"]]
    {
        let ended = yard.run(args);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{args:?}");
        let error = ended.json_error();
        assert_eq!(error["code"], "usage");
        assert!(error["causes"].is_array());
    }
}

#[test]
fn errors_are_one_and_name_the_file() {
    let yard = Yard::published();
    let said = yard.fails(1, ["sync", "missing.db"]);
    assert!(said.contains("missing.db"), "{said}");
    yard.make_notes("plain.db", 1);
    let error = yard.run(["sync", "plain.db", "--json"]).json_error();
    assert_eq!(error["code"], "not-a-replica", "{error}");

    yard.fails(1, ["clone", "river", "a.db"]);
    assert_eq!(
        yard.run(["clone", "river", "a.db", "--json"]).json_error()["code"],
        "target-exists"
    );
    let error = yard.run(["restore", "river", "a.db", "--json"]).json_error();
    assert_eq!(error["code"], "target-exists");
    yard.fails(1, ["init", "a.db", "--remote", "river"]);
    yard.fails(1, ["init", "plain.db", "--remote", "river"]);

    fs::write(yard.path("text.db"), "this is no database, however long it may be ".repeat(99))
        .unwrap();
    let said = yard.fails(1, ["init", "text.db", "--remote", "pond"]);
    assert!(said.contains("text.db"), "{said}");
    fs::create_dir(yard.path("folder.db")).unwrap();
    yard.fails(1, ["init", "folder.db", "--remote", "pond"]);
    fs::create_dir(yard.path("empty")).unwrap();
    let said = yard.fails(1, ["clone", "empty", "c.db"]);
    assert!(said.contains("anabranch init"), "{said}");
}

#[test]
fn json_errors_have_code_message_and_causes() {
    let yard = Yard::new();
    yard.make_notes("a.db", 1);
    yard.ok(["init", "a.db", "--remote", "river"]);
    fs::rename(yard.path("river"), yard.path("away")).unwrap();
    let error = yard.run(["pull", "a.db", "--json"]).json_error();
    assert_eq!(error["code"], "offline");
    assert!(error["message"].as_str().unwrap().contains("river"));
    assert!(!error["causes"].as_array().unwrap().is_empty(), "{error}");
}

#[test]
fn verify_of_a_damaged_remote_is_one() {
    let yard = Yard::published();
    let segment = yard.only("river", ".wal.zst");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let ended = yard.run(["verify", "a.db"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("error: "), "{ended:?}");
    let said = yard.fails(1, ["clone", "river", "c.db"]);
    assert!(said.contains(".wal.zst"), "the object is named: {said}");
    assert!(!yard.path("c.db").exists());
}
