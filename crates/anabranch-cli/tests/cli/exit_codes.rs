//! What goes wrong is told plainly, with the documented exit code, and changes nothing.

use std::fs;

use crate::yard::Yard;

/// Both replicas have changed.
fn diverged() -> Yard {
    let yard = Yard::published();
    yard.sql("a.db", "UPDATE note SET body = 'of a' WHERE id = 1");
    yard.ok(["sync", "a.db"]);
    yard.sql("b.db", "UPDATE note SET body = 'of b' WHERE id = 1");
    yard
}

#[test]
fn divergence_is_three_and_says_what_to_do() {
    let yard = diverged();
    for command in ["sync", "pull"] {
        let said = yard.fails(3, [command, "b.db"]);
        assert!(said.starts_with("error: diverged: 1 page"), "{said}");
        assert!(said.contains("repair FILE --take-remote"), "{said}");
    }
    let error = yard.run(["sync", "b.db", "--json"]).json_error();
    assert_eq!(error["code"], "diverged");
    assert_eq!(error["details"]["local_pages"], 1);
    assert_eq!(yard.number("b.db", "SELECT body = 'of b' FROM note WHERE id = 1"), 1);

    let said = yard.fails(3, ["push", "b.db"]);
    assert!(said.contains("pull first"), "{said}");
    assert_eq!(yard.run(["push", "b.db", "--json"]).json_error()["code"], "behind");
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
    yard.fails(4, ["log", "river"]);
    yard.fails(4, ["clone", "river", "c.db"]);
    assert!(!yard.path("c.db").exists());
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
fn wrong_usage_is_two_with_a_helpful_word() {
    let yard = Yard::published();
    for (args, hint) in [
        (&["snyc", "a.db"][..], "sync"),
        (&["init", "a.db"], "--remote"),
        (&["restore", "river", "x.db", "--at", "teatime"], "yesterday"),
        (&["restore", "river", "x.db", "--at", "2h"], "-2h"),
        (&["compact", "river", "--retain", "soon"], "30d"),
        (&["clone", "ftp://host/x", "x.db"], "s3://"),
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
    let error = yard.run(["log", "nowhere", "--json"]).json_error();
    assert_eq!(error["code"], "offline");
    assert!(error["message"].as_str().unwrap().contains("nowhere"));
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
