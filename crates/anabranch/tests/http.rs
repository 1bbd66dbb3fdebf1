//! Replicas and a server with something in between: redirects, streams of events, and a log that moves
//! on in the middle of a download.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/net.rs"]
mod net;

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch::blocking::{RemoteLog, Replica};
use anabranch::{Error, Options, ServerError, StoreError, WatchEvent, WatchOptions};
use common::{World, assert_same, os, stock, value};
use net::Net;

const SCHEMA: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t(v) VALUES ('a'), ('b')";

/// Megabytes that do not compress.
const LARGE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); \
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
    INSERT INTO t(v) SELECT randomblob(16000) FROM n";

/// What takes longer does not happen.
const DEADLINE: Duration = Duration::from_secs(120);

fn published(world: &World, url: &str, name: &str, sql: &str) -> Replica {
    let db = world.path(name);
    stock(&db, sql);
    Replica::init(&db, os(url), Options::default()).unwrap().0
}

fn with_token() -> Options {
    Options { auth_token: Some("alpha".into()), ..Options::default() }
}

fn server(e: Error) -> ServerError {
    match e {
        Error::Server { source, .. } => *source,
        other => panic!("{other:?}"),
    }
}

fn to(location: &str) -> String {
    format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    )
}

fn bearers(heads: &[String]) -> usize {
    heads.iter().filter(|head| head.to_lowercase().contains("authorization: bearer alpha")).count()
}

#[test]
fn a_redirect_is_followed_and_the_token_stays_at_home() {
    let (world, net) = (World::new(), Net::new());
    published(&world, &net.url("notes"), "a.db", SCHEMA);
    let direct = net.direct;
    // Whoever the first one sends us to passes us on to the real server.
    let (stranger, at_stranger) = net.scripted(move |head| {
        let target = head.split(' ').nth(1).unwrap().replacen("/x/", "/notes/", 1);
        to(&format!("http://{direct}{target}"))
    });
    let (home, at_home) = net.scripted(move |head| {
        let target = head.split(' ').nth(1).unwrap();
        to(&format!("{}{target}", stranger.trim_end_matches("/x")))
    });
    Replica::clone_from(os(&home), &world.path("b.db"), with_token()).unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
    let (home, stranger) = (at_home.lock().unwrap(), at_stranger.lock().unwrap());
    assert_eq!((bearers(&home), bearers(&stranger)), (home.len(), 0));
    assert_eq!(home.len(), stranger.len());
}

#[test]
fn redirects_have_an_end() {
    let (world, net) = (World::new(), Net::new());
    let (home, heads) = net.scripted(|head| {
        let target = head.split(' ').nth(1).unwrap();
        to(&format!("{target}&again"))
    });
    let failed = Replica::clone_from(os(&home), &world.path("b.db"), Options::default());
    assert!(matches!(server(failed.err().unwrap()), ServerError::Redirects { .. }));
    assert_eq!(heads.lock().unwrap().len(), 6, "five are followed");
}

#[test]
fn what_is_pushed_goes_to_the_host_in_the_url_alone() {
    let (world, net) = (World::new(), Net::new());
    let url = net.url("notes");
    let first = published(&world, &url, "a.db", SCHEMA);
    stock(&world.path("a.db"), "INSERT INTO t(v) VALUES ('secret')");
    let (stranger, heads) = net.scripted(|_| "HTTP/1.1 200 OK\r\n\r\n".to_owned());
    net.rules.lock().unwrap().answer = Some(("POST /notes/log", 1, to(&stranger)));
    let refused = server(first.sync().unwrap_err());
    assert!(matches!(&refused, ServerError::Redirect { to, .. } if *to == stranger), "{refused:?}");
    assert!(heads.lock().unwrap().is_empty());
    // Within the host it goes where it is sent.
    net.requests();
    net.rules.lock().unwrap().answer = Some(("POST /notes/log", 1, to("{target}")));
    assert!(first.sync().unwrap().pushed.is_some());
    let posts = net.requests().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(posts, 2);
    let second = Replica::clone_from(os(&url), &world.path("b.db"), Options::default());
    second.unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
}

/// Clones while the connection breaks after `bytes`, and before it goes on the log is compacted, grows
/// and forgets what the first answer was made of.
fn clone_while_the_log_moves_on(world: &World, net: &Net, bytes: usize) -> Result<(), Error> {
    let url = net.url("notes");
    let first = published(world, &url, "a.db", LARGE);
    let a = world.path("a.db");
    // Two changes, of which a snapshot will take the place.
    stock(&a, "INSERT INTO t(v) VALUES ('one')");
    first.sync().unwrap();
    let before = stock(&a, "SELECT count(*), sum(length(v)) FROM t");
    let direct = format!("http://{}/notes", net.direct);
    let act = move || {
        let log = RemoteLog::open(os(&direct), Options::default()).unwrap();
        log.compact(Duration::ZERO).unwrap();
        stock(&a, "INSERT INTO t(v) VALUES ('one more')");
        first.sync().unwrap().pushed.unwrap();
        log.compact(Duration::ZERO).unwrap();
    };
    {
        let mut rules = net.rules.lock().unwrap();
        rules.cut = Some(("GET /notes/log/delta", 1, bytes));
        rules.on_cut = Some(Box::new(act));
    }
    net.requests();
    let b = world.path("b.db");
    Replica::clone_from(os(&url), &b, Options::default())?;
    assert_eq!(value(&b, "SELECT count(*), sum(length(v)) FROM t"), before);
    Ok(())
}

#[test]
fn a_download_begins_anew_if_other_bytes_lead_there_by_now() {
    let (world, net) = (World::new(), Net::new());
    // Before its pages can be read.
    clone_while_the_log_moves_on(&world, &net, 20_000).unwrap();
    let downloads = net.requests().iter().filter(|line| line.contains("/log/delta")).count();
    assert_eq!(downloads, 3, "cut off, told that it changed, anew");
    Replica::open(&world.path("b.db"), Options::default()).unwrap().sync().unwrap();
    assert_same(&world.path("a.db"), &world.path("b.db"));
}

#[test]
fn a_download_that_is_being_read_while_the_log_moves_on_leaves_nothing_and_works_again() {
    let (world, net) = (World::new(), Net::new());
    let failed = clone_while_the_log_moves_on(&world, &net, 1 << 20).unwrap_err();
    assert!(matches!(failed, Error::Store(StoreError::Unsettled { .. })), "{failed:?}");
    let b = world.path("b.db");
    assert!(!b.exists());
    Replica::clone_from(os(&net.url("notes")), &b, Options::default()).unwrap();
    assert_same(&world.path("a.db"), &b);
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A watch in a thread of its own, from when it is in step until `stop` is dropped.
fn watching(db: &Path) -> (tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let db = db.to_owned();
    let thread = std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let replica = anabranch::Replica::open(&db, Options::default());
        let replica = runtime.block_on(replica).unwrap();
        let tell = |event| tell.send(event).unwrap_or(());
        let stopped = async { stopped.await.unwrap_or(()) };
        runtime.block_on(replica.watch(&WatchOptions::default(), stopped, tell)).unwrap();
    });
    while !matches!(told.recv_timeout(DEADLINE).unwrap(), WatchEvent::Watching { .. }) {}
    (stop, thread)
}

/// The server tells of each push; a replica that watches asks only when it was told.
#[test]
fn a_watch_learns_of_pushes_from_the_server_alone() {
    let (world, net) = (World::new(), Net::new());
    let direct = format!("http://{}/notes", net.direct);
    let first = published(&world, &direct, "a.db", SCHEMA);
    let (a, b) = (world.path("a.db"), world.path("b.db"));
    Replica::clone_from(os(&net.url("notes")), &b, Options::default()).unwrap();
    let (stop, thread) = watching(&b);
    let open_streams = || {
        let rules = net.rules.lock().unwrap();
        rules.requests.iter().filter(|line| line.starts_with("GET /notes/log/watch")).count()
    };
    const PUSHES: usize = 5;
    for n in 0..PUSHES {
        wait("the stream of events", || open_streams() == n + 1);
        stock(&a, "INSERT INTO t(v) VALUES (hex(randomblob(50)))");
        first.push().unwrap().pushed.unwrap();
        let rows = (n + 3).to_string();
        wait("the push", || value(&b, "SELECT count(*) FROM t") == rows);
        if n == 0 {
            // What it asked before it first waited is not the question.
            net.rules.lock().unwrap().requests.retain(|line| line.contains("/log/watch"));
        }
    }
    drop(stop);
    thread.join().unwrap();
    let requests = net.requests();
    let asked = |path: &str| requests.iter().filter(|line| line.contains(path)).count();
    assert_eq!(asked("/log/delta"), PUSHES - 1, "{requests:#?}");
    assert!(asked("/log/head") <= 2 * PUSHES, "a look before and after, {requests:#?}");
    assert_eq!(asked("/log/next"), 0, "{requests:#?}");
    assert_same(&a, &b);
}
