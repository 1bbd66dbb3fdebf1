//! SQL for files, as scripts use it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::yard::{PROGRAM, Yard};

#[test]
fn statements_come_as_arguments_or_on_standard_input() {
    let yard = Yard::new();
    yard.make_notes("a.db", 3);
    assert_eq!(yard.ok(["shell", "a.db", "SELECT count(*) FROM note", "SELECT 'b'"]), "3\nb\n");
    let piped = |input: &str, args: &[&str]| {
        let mut command = yard.command(["shell", "a.db"]);
        let output = command.args(args).write_stdin(input).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let input = "BEGIN;\nDELETE FROM note\n  WHERE id = 1;\nCOMMIT;\n.mode csv\n.headers on\n\
                 SELECT id, 'x,y' AS v FROM note";
    assert_eq!(piped(input, &[]), (0, "id,v\n2,\"x,y\"\n3,\"x,y\"\n".to_owned(), String::new()));

    let input = "SELECT 1;\nSELECT missing FROM note;\nSELECT 2;";
    let (code, out, err) = piped(input, &[]);
    assert_eq!((code, out.as_str()), (1, "1\n"));
    assert!(err.starts_with("error: line 2: no such column: missing\n  SELECT missing"), "{err}");
    let (code, out, err) = piped(input, &["--no-bail"]);
    assert_eq!((code, out.as_str()), (1, "1\n2\n"));
    assert!(err.contains("line 2"), "{err}");

    let (code, _, err) = piped("BEGIN; DELETE FROM note;", &[]);
    assert_eq!(code, 1);
    assert!(err.contains("COMMIT was missing"), "{err}");
    assert_eq!(yard.number("a.db", "SELECT count(*) FROM note"), 2);
}

#[test]
fn programs_get_json() {
    let yard = Yard::new();
    yard.sql("a.db", "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, x'00ff'), (2.5, NULL)");
    let rows = yard.json(["shell", "a.db", "SELECT * FROM t"]);
    assert_eq!(rows[0]["b"]["hex"], "00ff");
    assert_eq!((&rows[1]["a"], &rows[1]["b"]), (&2.5.into(), &serde_json::Value::Null));
    assert_eq!(yard.json(["shell", "a.db", "SELECT * FROM t WHERE 0"]), serde_json::json!([]));
    let ended = yard.run(["shell", "--json", "a.db", "INSERT INTO x VALUES(1)"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert_eq!(ended.json_error()["code"], "SQLITE_ERROR");
}

#[test]
fn a_mistyped_name_makes_no_file() {
    let yard = Yard::new();
    let said = yard.fails(2, ["shell", "typo.db", "SELECT 1"]);
    assert!(said.contains("there is no file typo.db") && said.contains("--create"), "{said}");
    assert!(!yard.path("typo.db").exists());
    yard.ok(["shell", "new.db", "--create", "CREATE TABLE t(a)"]);
    assert_eq!(yard.number("new.db", "SELECT count(*) FROM t"), 0);
    std::fs::create_dir(yard.path("folder")).unwrap();
    for place in ["folder", "s3://bucket/x"] {
        assert!(yard.fails(2, ["shell", place]).contains("anabranch clone"), "{place}");
    }
    assert!(yard.fails(2, ["shell", "wss://host/x"]).contains("http or https"));
    assert!(yard.fails(2, ["shell", "https://u:secret@host/x"]).contains("--auth-token"));
    std::fs::write(yard.path("text.db"), "this is no database, whatever its name says").unwrap();
    assert!(yard.fails(1, ["shell", "text.db", "SELECT 1"]).contains("not a database"));
}

#[test]
fn what_a_shell_writes_to_a_replica_is_pushed() {
    let yard = Yard::published();
    yard.ok(["shell", "a.db", "UPDATE note SET body = 'by hand' WHERE id = 5"]);
    yard.ok(["sync", "a.db"]);
    yard.ok(["sync", "b.db"]);
    let counted = yard.ok(["shell", "b.db", "SELECT count(*) FROM note WHERE body = 'by hand'"]);
    assert_eq!(counted, "1\n");
    let dumps = ["a.db", "b.db"].map(|file| yard.ok(["shell", file, ".dump"]));
    assert_eq!(dumps[0], dumps[1]);
    assert!(dumps[0].ends_with("COMMIT;\n"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_shell() {
    let yard = Yard::new();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut child = Command::new(PROGRAM)
        .args(["shell", ":memory:", endless])
        .current_dir(yard.path("."))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 100]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn control_c_ends_a_script_and_rolls_back() {
    let yard = Yard::new();
    yard.make_notes("a.db", 3);
    for signal in ["-INT", "-TERM"] {
        let mut child = Command::new(PROGRAM)
            .args(["shell", "a.db"])
            .current_dir(yard.path("."))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input
            .write_all(
                b"BEGIN; DELETE FROM note; SELECT 'begun';\nWITH RECURSIVE n(i) AS (SELECT 1 UNION \
                  ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0;\n",
            )
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut begun = [0; 6];
        out.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"begun\n");
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(output.status.code(), Some(if signal == "-INT" { 130 } else { 143 }));
        assert_eq!(yard.number("a.db", "SELECT count(*) FROM note"), 3);
        drop(input);
    }
}
