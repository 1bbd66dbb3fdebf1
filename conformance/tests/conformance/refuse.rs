//! What a server says no to, and how the official client reports it.

use std::fs;

use anabranch_conformance::{BATCH_FRAMES, FRAME_BYTES, Opening, Wal, path_beside, sqlite};

use crate::support::{ALL, DATABASE, TABLE, Yard, insert, numbered};

#[test]
fn an_unknown_database_is_not_found_until_somebody_makes_it() {
    let yard = Yard::with(&["--create", "explicit"]);
    if yard.ours().is_none() {
        return;
    }
    let mut a = yard.unopened("a");
    let error = a.open(&yard.url(), &yard.opening()).unwrap_err().error();
    assert!(error.contains("404"), "{error}");
    assert!(error.contains(DATABASE), "it names the database: {error}");
    assert!(!a.db().exists(), "nothing is left behind");
    let path = format!("/admin/v1/databases/{DATABASE}");
    assert_eq!(yard.admin("PUT", &path).status, 201);
    assert_eq!(yard.admin("PUT", &path).status, 200);
    a.open(&yard.url(), &yard.opening()).unwrap();
    a.execute(TABLE);
    a.execute(&insert("one"));
    a.sync();
    yard.settle(&mut [&mut a], ALL, &numbered(&["one"]));
}

#[test]
fn a_name_that_no_database_can_have_is_not_found() {
    let yard = Yard::new();
    if yard.ours().is_none() {
        return;
    }
    for name in ["UPPER", "_x", "a.b", &"a".repeat(64), "metrics"] {
        let mut a = yard.unopened("a");
        let error = a.open(&yard.url_of(name), &yard.opening()).unwrap_err().error();
        assert!(error.contains("404"), "{name}: {error}");
    }
}

#[test]
fn without_the_right_token_nothing_is_shown() {
    let yard = Yard::with_tokens("right-token", "");
    if yard.ours().is_none() {
        return;
    }
    for token in ["", "wrong-token"] {
        let mut a = yard.unopened("a");
        let opening = Opening { token: token.to_owned(), ..Opening::default() };
        let error = a.open(&yard.url(), &opening).unwrap_err().error();
        assert!(error.contains("401"), "{error}");
        let opening = Opening { remote_writes: true, ..opening };
        let error = a.open(&yard.url(), &opening).unwrap_err().error();
        assert!(error.contains("Unauthorized"), "{error}");
    }
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("one"));
    a.sync();
    // A token that is taken back while there is something to push.
    a.execute(&insert("two"));
    a.close();
    let opening = Opening { token: "old-token".to_owned(), ..Opening::default() };
    a.open(&yard.url(), &opening).unwrap();
    let error = a.try_sync().unwrap_err().error();
    assert!(error.contains("401"), "{error}");
    a.close();
    a.open(&yard.url(), &yard.opening()).unwrap();
    yard.settle(&mut [&mut a], ALL, &numbered(&["one", "two"]));
}

#[test]
fn a_token_that_may_only_read_pulls_and_cannot_push() {
    let yard = Yard::with_tokens("write-token", "read read-token");
    if yard.ours().is_none() {
        return;
    }
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("one"));
    a.sync();
    let mut reader = yard.unopened("reader");
    let opening = Opening { token: "read-token".to_owned(), ..Opening::default() };
    reader.open(&yard.url(), &opening).unwrap();
    reader.sync();
    assert_eq!(reader.rows(ALL), numbered(&["one"]));
    reader.execute(&insert("not allowed"));
    let error = reader.try_sync().unwrap_err().error();
    assert!(error.contains("403"), "{error}");
    assert_eq!(reader.rows(ALL).len(), 2, "the row stays in the file");
    yard.settle(&mut [&mut a], ALL, &numbered(&["one"]));
}

#[test]
fn a_database_with_other_pages_is_refused_in_words() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let origin = yard.db("origin");
    let sql = format!("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; {TABLE}");
    sqlite(&origin, &sql);
    sqlite(&origin, &insert("one"));
    ours.init(&origin);
    let mut a = yard.unopened("a");
    let error = a.open(&yard.url(), &yard.opening()).unwrap_err().error();
    assert!(error.contains("8192") && error.contains("4096"), "{error}");
    assert!(!a.db().exists(), "nothing is left behind");
    // Ours go on with it.
    let copy = yard.db("copy");
    ours.clone_to(&copy);
    sqlite(&copy, &insert("two"));
    ours.sync(&copy);
    ours.sync(&origin);
    assert_eq!(sqlite(&origin, ALL), numbered(&["one", "two"]).join("\n"));
}

#[test]
fn a_key_for_encryption_at_the_server_is_refused_in_words_or_does_no_harm() {
    let yard = Yard::new();
    let key = Some("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned());
    let mut a = yard.unopened("a");
    match a.open(&yard.url(), &Opening { key, ..yard.opening() }) {
        Err(failure) => {
            let error = failure.error();
            assert!(error.contains("encrypt"), "{error}");
            assert!(!a.db().exists(), "nothing is left behind");
        }
        Ok(_) => {
            a.execute(TABLE);
            a.execute(&insert("one"));
            a.sync();
            yard.settle(&mut [&mut a], ALL, &numbered(&["one"]));
        }
    }
}

#[test]
fn malformed_pushes_are_refused_and_change_nothing() {
    let yard = Yard::new();
    if yard.ours().is_none() {
        return;
    }
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    let next = a.position().frame + 1;
    a.execute(&insert("not pushed"));
    let wal = Wal::read(&path_beside(a.db(), "-wal")).unwrap();
    let frame = wal.frames.last().unwrap().clone();
    assert_eq!(frame.len(), FRAME_BYTES);
    let with = |at: usize, number: u32| {
        let mut frame = frame.clone();
        frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        frame
    };
    let end = next + 1;
    let push = |path: String, body: Vec<u8>| {
        let answer = yard.ask("POST", &format!("{}/sync/{path}", yard.url()), body);
        (answer.status, answer.json())
    };
    let far = u64::from(u32::MAX) + 1;
    for (what, path, body) in [
        ("no frame", format!("1/{next}/{next}"), Vec::new()),
        ("half a frame", format!("1/{next}/{end}"), frame[..2000].to_vec()),
        ("more than announced", format!("1/{next}/{end}"), frame.repeat(2)),
        ("less than announced", format!("1/{next}/{}", next + 2), frame.clone()),
        ("an end before the start", format!("1/{next}/1"), frame.clone()),
        ("frame 0", "1/0/1".to_owned(), frame.clone()),
        ("page 0", format!("1/{next}/{end}"), with(0, 0)),
        ("a page far away", format!("1/{next}/{end}"), with(0, u32::MAX - 1)),
        ("a size that no push can bring about", format!("1/{next}/{end}"), with(4, u32::MAX)),
        ("generation 0", format!("0/{next}/{end}"), frame.clone()),
        ("no number", format!("1/x/{end}"), frame.clone()),
        ("a negative number", format!("1/-1/{end}"), frame.clone()),
        ("a number too large", format!("1/{far}/{}", far + 1), frame.clone()),
        ("too many frames", format!("1/1/{}", u32::MAX), frame.repeat(BATCH_FRAMES)),
    ] {
        let (status, answer) = push(path, body);
        let refused = (400..500).contains(&status) && answer["error"].is_string()
            || status == 200 && answer["status"] == "conflict";
        assert!(refused, "{what}: {status} {answer}");
    }
    for path in ["sync/1/0/10", "sync/1/5/5", "sync/1/x/y", "sync/0/1/2", "export/0", "export/99"] {
        let answer = yard.ask("GET", &format!("{}/{path}", yard.url()), Vec::new());
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    // A page written twice in a transaction by other than its commit frame would shift all numbers.
    let twice = [with(4, 0), with(4, 0), frame.clone()].concat();
    let (status, answer) = push(format!("1/{next}/{}", next + 3), twice);
    let refused = (400..500).contains(&status) || answer["status"] == "conflict";
    assert!(refused, "{status} {answer}");
    yard.settle(&mut [&mut a], ALL, &numbered(&["not pushed"]));
}

#[test]
fn a_replica_with_only_one_of_its_files_is_not_opened() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    a.close();
    fs::remove_file(path_beside(a.db(), "-info")).unwrap();
    let error = a.open(&yard.url(), &yard.opening()).unwrap_err().error();
    assert!(error.contains("invalid local state"), "{error}");
}

#[test]
fn a_client_of_a_server_that_lost_its_database_reports_it() {
    // The store is empty again: the client is ahead of everything the server knows. It must not be
    // told that all is well, and its frames must not become a database without a beginning.
    let mut yard = Yard::new();
    if yard.server().is_none() {
        return;
    }
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.repeat(30, "INSERT INTO t(body) VALUES (?1)");
    a.sync();
    let server = yard.server().unwrap();
    server.kill();
    fs::remove_dir_all(server.data()).unwrap();
    server.restart();
    a.execute(&insert("after the loss"));
    let said = a.try_sync();
    let mut fresh = yard.client("fresh");
    fresh.sync();
    let tables = fresh.rows("SELECT count(*) FROM sqlite_schema");
    match said {
        // Everything was pushed anew, from the first frame.
        Ok(_) => {
            a.sync();
            fresh.sync();
            assert_eq!(fresh.rows("SELECT count(*) FROM t"), ["31"]);
        }
        Err(failure) => {
            let error = failure.error();
            assert!(error.contains("conflict") || error.contains("lower frame_no"), "{error}");
            assert_eq!(tables, ["0"], "nothing half of it came in");
        }
    }
    fresh.close();
    let _ = anabranch_conformance::checked_image(fresh.db());
}
