//! Replicas in step through a server: what is asked, and what happens when answers are lost, cut off
//! or wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/net.rs"]
mod net;

use std::path::Path;

use anabranch::blocking::{RemoteLog, Replica};
use anabranch::{At, Error, ErrorKind, Options, RemoteStatus, ServerError};
use common::{World, assert_same, os, stock, value};
use net::Net;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t(v) VALUES ('a'), ('b')";

/// A megabyte or more that does not compress.
const LARGE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); \
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700) \
    INSERT INTO t(v) SELECT randomblob(16000) FROM n";

fn published(world: &World, net: &Net, name: &str, sql: &str) -> Replica {
    let db = world.path(name);
    stock(&db, sql);
    Replica::init(&db, os(&net.url("notes")), Options::default()).unwrap().0
}

fn cloned(world: &World, net: &Net, name: &str) -> Replica {
    let url = net.url("notes");
    Replica::clone_from(os(&url), &world.path(name), Options::default()).unwrap().0
}

fn count(db: &Path) -> String {
    value(db, "SELECT count(*) FROM t")
}

fn methods(requests: &[String]) -> Vec<String> {
    let short = |line: &String| line.split(['?', ' ']).take(2).collect::<Vec<_>>().join(" ");
    requests.iter().map(short).collect()
}

#[test]
fn replicas_meet_at_a_server_with_as_few_requests_as_can_be() {
    let (world, net) = (World::new(), Net::new());
    let (a, b) = (world.path("a.db"), world.path("b.db"));
    let first = published(&world, &net, "a.db", SCHEMA);
    assert_eq!(
        methods(&net.requests()),
        ["GET /notes/log/head", "PUT /notes/log", "POST /notes/log"]
    );
    let second = cloned(&world, &net, "b.db");
    assert_eq!(methods(&net.requests()), ["GET /notes/log/head", "GET /notes/log/delta"]);
    assert_same(&a, &b);

    stock(&a, "INSERT INTO t(v) VALUES ('from a')");
    assert!(first.sync().unwrap().pushed.is_some());
    assert_eq!(methods(&net.requests()), ["POST /notes/log"], "one request for a push");
    assert!(second.sync().unwrap().pulled.is_some());
    assert_eq!(methods(&net.requests()), ["GET /notes/log/head", "GET /notes/log/delta"]);
    assert!(second.sync().unwrap().pulled.is_none());
    assert_eq!(methods(&net.requests()), ["GET /notes/log/head"], "one for nothing");
    assert_same(&a, &b);

    stock(&b, "DELETE FROM t WHERE id = 1");
    second.push().unwrap();
    assert_eq!(methods(&net.requests()), ["POST /notes/log"]);
    first.pull().unwrap();
    assert_same(&a, &b);
    net.requests();

    let status = first.status(false, true).unwrap();
    assert_eq!((status.dialect, status.remote_status), ("anabranch", RemoteStatus::UpToDate));
    assert!(first.verify().unwrap().damaged.is_empty());
    let log = RemoteLog::open(os(&net.url("notes")), Options::default()).unwrap();
    let history = log.history(10).unwrap();
    assert_eq!(history.len(), 3);
    let old = world.path("old.db");
    log.restore(&old, At::Lsn(history[1].lsn)).unwrap();
    assert_eq!(count(&old), "3");
    log.compact(std::time::Duration::from_secs(3600)).unwrap();
    let third = cloned(&world, &net, "c.db");
    assert_same(&a, &world.path("c.db"));
    assert!(third.sync().unwrap().pushed.is_none());
}

#[test]
fn a_push_that_comes_too_late_is_put_on_top_and_sent_again() {
    let (world, net) = (World::new(), Net::new());
    let first = published(&world, &net, "a.db", SCHEMA);
    let second = cloned(&world, &net, "b.db");
    stock(&world.path("a.db"), "INSERT INTO t(v) VALUES ('a3')");
    stock(&world.path("b.db"), "INSERT INTO t(v) VALUES ('b3')");
    first.sync().unwrap();
    assert!(matches!(second.push(), Err(Error::Behind { .. })));
    let report = second.sync().unwrap();
    assert!(report.rebased.is_some() && report.pushed.is_some(), "{report:?}");
    first.sync().unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
    assert!(stock(&world.path("a.db"), ".dump").contains("'b3'"));
}

/// I1, I2: the end of a generation moves the position and changes nothing. What waits here, what came
/// from others before it, and what was put on top of that already are all there once.
#[test]
fn a_rollover_while_changes_wait_here_loses_and_doubles_nothing() {
    for (ahead, theirs) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, net) = (World::new(), Net::new());
        let (a, b) = (world.path("a.db"), world.path("b.db"));
        let first = published(&world, &net, "a.db", SCHEMA);
        let second = cloned(&world, &net, "b.db");
        let mut expected = vec!["a", "b", "mine"];
        if ahead {
            stock(&a, "INSERT INTO t(v) VALUES ('early theirs')");
            stock(&b, "INSERT INTO t(v) VALUES ('early mine')");
            first.sync().unwrap();
            assert!(second.pull().unwrap().rebased.is_some());
            expected.extend(["early mine", "early theirs"]);
        }
        stock(&b, "INSERT INTO t(v) VALUES ('mine'); UPDATE t SET v = v WHERE id = 1");
        if theirs {
            stock(&a, "INSERT INTO t(v) VALUES ('theirs')");
            first.sync().unwrap();
            expected.push("theirs");
        }
        net.rollover("notes");
        let report = second.sync().unwrap();
        assert!(report.pulled.is_some() && report.pushed.is_some(), "{report:?}");
        // Once more, with nothing waiting.
        net.rollover("notes");
        let report = second.sync().unwrap();
        assert!(report.pulled.is_some() && report.pushed.is_none(), "{report:?}");
        first.sync().unwrap();
        cloned(&world, &net, "c.db");
        for db in [&a, &b, &world.path("c.db")] {
            expected.sort_unstable();
            assert_eq!(
                stock(db, "SELECT v FROM t ORDER BY v").lines().collect::<Vec<_>>(),
                expected
            );
            assert_same(&a, db);
        }
        assert!(second.verify().unwrap().damaged.is_empty());
    }
}

/// Both replicas have changed rows of the large table; the second is about to find out.
fn both_changed(world: &World, net: &Net) -> (Replica, Replica) {
    let first = published(world, net, "a.db", LARGE);
    let second = cloned(world, net, "b.db");
    stock(&world.path("a.db"), "UPDATE t SET v = 'of a' WHERE id = 1");
    stock(&world.path("b.db"), "UPDATE t SET v = randomblob(15000) WHERE id > 640");
    first.sync().unwrap();
    net.requests();
    (first, second)
}

fn assert_merged(world: &World, first: &Replica, second: &Replica) {
    assert!(second.sync().unwrap().rebased.is_some());
    first.sync().unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
    assert_eq!(value(&world.path("b.db"), "SELECT v FROM t WHERE id = 1"), "of a");
}

const PAGES: &str = "POST /notes/log/pages";

#[test]
fn of_the_common_state_only_the_pages_that_changed_here_are_asked_for() {
    let (world, net) = (World::new(), Net::new());
    let (first, second) = both_changed(&world, &net);
    // The first answer breaks off, and is asked for again.
    net.rules.lock().unwrap().cut = Some((PAGES, 1, 100_000));
    let before = net.rules.lock().unwrap().bytes;
    assert_merged(&world, &first, &second);
    let asked = methods(&net.requests());
    assert_eq!(asked.iter().filter(|line| *line == PAGES).count(), 2, "{asked:?}");
    let bytes = net.rules.lock().unwrap().bytes - before;
    assert!(bytes < 5_000_000, "{bytes} bytes, of a database of 12 MB");
}

#[test]
fn i5_pages_of_the_common_state_that_are_wrong_are_noticed_and_nothing_is_touched() {
    let (world, net) = (World::new(), Net::new());
    let (first, second) = both_changed(&world, &net);
    let dump = stock(&world.path("b.db"), ".dump");
    net.rules.lock().unwrap().flip = Some((PAGES, 200_000));
    for _ in 0..2 {
        let error = second.sync().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error:?}");
        assert_eq!(stock(&world.path("b.db"), ".dump"), dump);
    }
    net.rules.lock().unwrap().flip = None;
    assert_merged(&world, &first, &second);
}

#[test]
fn from_a_server_that_cannot_hand_out_pages_the_whole_common_state_is_taken() {
    for (status, code) in [("404 Not Found", "no-endpoint"), ("405 Method Not Allowed", "method")] {
        let (world, net) = (World::new(), Net::new());
        let (first, second) = both_changed(&world, &net);
        let body = format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"unknown\"}}}}");
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             anabranch-protocol: 1\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        net.rules.lock().unwrap().answer = Some((PAGES, 1, answer));
        assert_merged(&world, &first, &second);
        let asked = methods(&net.requests());
        let downloads = asked.iter().filter(|line| *line == "GET /notes/log/delta").count();
        assert!(
            downloads >= 3,
            "the change, the state before it, and what the other pulls: {asked:?}"
        );
    }
}

#[test]
fn a_database_that_the_administrator_made_is_published_to() {
    let world = World::new();
    let net = Net::with(|config| config.create = anabranch_server::Create::Explicit);
    let db = world.path("a.db");
    stock(&db, SCHEMA);
    let url = net.url("notes");
    let refused = Replica::init(&db, os(&url), Options::default()).map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, Error::Server { source, .. }
        if matches!(**source, ServerError::Forbidden { .. })),
        "{refused:?}"
    );
    net.put("/admin/v1/databases/notes");
    let empty = Replica::clone_from(os(&url), &world.path("b.db"), Options::default());
    assert!(matches!(empty, Err(Error::RemoteEmpty { .. })));
    Replica::init(&db, os(&url), Options::default()).unwrap();
    cloned(&world, &net, "b.db");
    assert_same(&db, &world.path("b.db"));
    let other = world.path("other.db");
    stock(&other, SCHEMA);
    let taken = Replica::init(&other, os(&url), Options::default()).map(|_| ()).unwrap_err();
    assert!(matches!(taken, Error::RemoteNotEmpty { .. }));
}

/// I1: whatever becomes of the answers, a push is there once.
#[test]
fn a_push_whose_answer_is_lost_is_in_the_log_exactly_once() {
    for lost in [1, 2, 4, 9] {
        let (world, net) = (World::new(), Net::new());
        let first = published(&world, &net, "a.db", SCHEMA);
        let second = cloned(&world, &net, "b.db");
        let a = world.path("a.db");
        stock(&a, "INSERT INTO t(v) VALUES ('once')");
        net.rules.lock().unwrap().lose = Some(("POST ", lost));
        match first.push() {
            Ok(report) => assert!(lost < 4 && report.pushed.is_some(), "{lost}"),
            Err(e) => assert!(lost >= 4 && matches!(e, Error::Unconfirmed { .. }), "{lost}: {e:?}"),
        }
        net.rules.lock().unwrap().lose = None;
        // What is written meanwhile comes after it.
        stock(&a, "INSERT INTO t(v) VALUES ('after')");
        first.sync().unwrap();
        second.sync().unwrap();
        assert_same(&a, &world.path("b.db"));
        assert_eq!(count(&a), "4");
        let log = RemoteLog::open(os(&net.url("notes")), Options::default()).unwrap();
        assert_eq!(log.history(10).unwrap().len(), 3, "{lost} answers lost");
    }
}

#[test]
fn a_download_that_is_cut_off_goes_on_where_it_was() {
    let (world, net) = (World::new(), Net::new());
    published(&world, &net, "a.db", LARGE);
    let length = {
        let before = net.rules.lock().unwrap().bytes;
        cloned(&world, &net, "b.db");
        net.rules.lock().unwrap().bytes - before
    };
    assert!(length > 10 << 20);
    let cuts = 5;
    {
        let mut rules = net.rules.lock().unwrap();
        rules.cut = Some(("GET /notes/log/delta", cuts, 1 << 20));
        rules.bytes = 0;
    }
    net.requests();
    cloned(&world, &net, "c.db");
    assert_same(&world.path("a.db"), &world.path("c.db"));
    let again = net.requests().iter().filter(|line| line.contains("delta")).count();
    assert_eq!(again, 1 + cuts as usize);
    let bytes = net.rules.lock().unwrap().bytes;
    assert!(bytes < length + (1 << 20), "{bytes} bytes instead of {length}");

    // Cut off again and again without a byte in between, nothing is made.
    net.rules.lock().unwrap().cut = Some(("GET /notes/log/delta", u32::MAX, 0));
    let url = net.url("notes");
    let d = world.path("d.db");
    let failed = Replica::clone_from(os(&url), &d, Options::default()).err().unwrap();
    assert!(failed.is_offline(), "{failed:?}");
    assert!(!d.exists());
}

#[test]
fn what_comes_damaged_changes_nothing() {
    let (world, net) = (World::new(), Net::new());
    let first = published(&world, &net, "a.db", SCHEMA);
    let second = cloned(&world, &net, "b.db");
    stock(&world.path("a.db"), "INSERT INTO t(v) SELECT hex(randomblob(2000)) FROM t");
    first.sync().unwrap();
    let dump = stock(&world.path("b.db"), ".dump");
    for at in [700, 900, 1500, 2500] {
        net.rules.lock().unwrap().flip = Some(("GET /notes/log/delta", at));
        let failed = second.sync().unwrap_err();
        assert!(matches!(failed.kind(), ErrorKind::Failed), "{at}: {failed:?}");
        assert_eq!(stock(&world.path("b.db"), ".dump"), dump);
    }
    net.rules.lock().unwrap().flip = None;
    second.sync().unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
}

#[test]
fn errors_say_what_can_be_done() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "alpha\nread beta\n").unwrap();
    let tokens = anabranch_server::Tokens::read(tokens.path()).unwrap();
    let (world, net) = (World::new(), Net::with(|config| config.tokens = Some(tokens)));
    let with = |token: &str| Options {
        auth_token: (!token.is_empty()).then(|| token.into()),
        ..Options::default()
    };
    let clone = |url: &str, token: &str| {
        let failed = Replica::clone_from(os(url), &world.path("x.db"), with(token));
        failed.map(|_| ()).unwrap_err()
    };
    let server = |e: Error| match e {
        Error::Server { source, .. } => *source,
        other => panic!("{other:?}"),
    };
    let notes = net.url("notes");
    assert!(matches!(server(clone(&notes, "")), ServerError::Unauthorized { given: false }));
    assert!(matches!(server(clone(&notes, "gamma")), ServerError::Unauthorized { given: true }));
    assert!(matches!(clone(&notes, "alpha"), Error::RemoteEmpty { .. }));
    let invalid = clone(&net.url("No_Name"), "alpha");
    assert_eq!(invalid.kind(), ErrorKind::Usage);
    assert!(matches!(server(invalid), ServerError::InvalidName { .. }));

    let db = world.path("a.db");
    stock(&db, SCHEMA);
    let refused = Replica::init(&db, os(&notes), with("beta")).map(|_| ()).unwrap_err();
    assert!(matches!(server(refused), ServerError::Forbidden { .. }));
    let (replica, _) = Replica::init(&db, os(&notes), with("alpha")).unwrap();
    let other = world.path("other.db");
    stock(&other, SCHEMA);
    let taken = Replica::init(&other, os(&notes), with("alpha")).map(|_| ()).unwrap_err();
    assert!(matches!(taken, Error::RemoteNotEmpty { .. }));
    // Another database under the name of this one.
    let (mut stranger, _) = Replica::init(&other, os(&net.url("other")), with("alpha")).unwrap();
    let moved = stranger.set_remote(os(&notes), true).unwrap_err();
    assert!(matches!(moved, Error::OtherDatabase { .. }), "{moved:?}");
    drop(replica);

    for (answer, what) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", "404"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>", "a page"),
    ] {
        let failed = clone(&net.answering(answer), "alpha");
        assert!(matches!(failed, Error::NoDialect { .. }), "{what}: {failed:?}");
    }
    let busy = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(clone(&net.answering(busy), "alpha").is_offline());
    let down = "HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\
                Connection: close\r\n\r\n";
    assert!(matches!(server(clone(&net.answering(down), "alpha")), ServerError::Redirect { .. }));
    assert!(clone("http://127.0.0.1:1/x", "").is_offline());
}

#[test]
fn a_replica_works_on_while_the_server_is_away() {
    let world = World::new();
    let first = {
        let net = Net::new();
        let first = published(&world, &net, "a.db", SCHEMA);
        assert!(first.sync().unwrap().offline.is_none());
        first
    };
    stock(&world.path("a.db"), "INSERT INTO t(v) VALUES ('offline')");
    let report = first.sync().unwrap();
    assert_eq!(report.offline.unwrap().pages_to_push, 1);
}
