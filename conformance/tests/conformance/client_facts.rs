//! What the official client does of itself, seen against a naive server: what it asks, how often it
//! repeats, what it takes for an error. The server is written for these facts; should a new version
//! of the client change one, this is where it shows.

use std::net::SocketAddr;

use anabranch_conformance::{
    BATCH_FRAMES, Client, Exchange, Fault, Mock, Opening, Position, Proxy, read_position,
};

use crate::support::{ALL, CLIENT, TABLE, insert, insert_many, numbered};

struct Scene {
    dir: tempfile::TempDir,
    mock: Mock,
    proxy: Proxy,
}

impl Scene {
    fn new() -> Self {
        let mock = Mock::start(SocketAddr::from(([127, 0, 0, 1], 0)));
        let proxy = Proxy::start(mock.address());
        Scene { dir: tempfile::tempdir().unwrap(), mock, proxy }
    }

    fn unopened(&self, name: &str) -> Client {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Client::start(std::path::Path::new(CLIENT), &dir.join("app.db"))
    }

    fn client(&self, name: &str) -> Client {
        let mut client = self.unopened(name);
        client.open(&self.proxy.url("app"), &Opening::default()).unwrap();
        client
    }

    /// The requests since the last call, without the name of the database.
    fn asked(&self) -> Vec<String> {
        let short = |e: &Exchange| format!("{} {}", e.method, e.path.replacen("/app", "", 1));
        self.proxy.take_log().iter().map(short).collect()
    }
}

#[test]
fn opening_asks_for_info_and_export_and_a_sync_pushes_or_pulls() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    assert_eq!(scene.asked(), ["GET /info", "GET /export/1"]);
    assert_eq!(a.position(), Position { generation: 1, frame: 0 });

    assert_eq!(a.try_sync(), Ok(1), "a pull is always reported as one frame");
    assert_eq!(scene.asked(), ["GET /sync/1/1/129"]);

    a.execute(TABLE);
    a.execute(&insert("one"));
    let frames = a.try_sync().unwrap();
    assert_eq!(scene.asked(), [format!("POST /sync/1/1/{}", frames + 1)], "no pull after the push");
    let frame = u32::try_from(frames).unwrap();
    assert_eq!(a.position(), Position { generation: 1, frame });

    a.close();
    a.open(&scene.proxy.url("app"), &Opening::default()).unwrap();
    assert!(scene.asked().is_empty(), "a replica that is there is opened without a request");
    assert_eq!(a.rows(ALL), numbered(&["one"]));
}

#[test]
fn headers_are_a_bearer_token_even_if_empty_and_the_key_on_every_request() {
    let scene = Scene::new();
    let mut a = scene.unopened("a");
    let opening = Opening { key: Some("c2VjcmV0".to_owned()), ..Opening::default() };
    a.open(&scene.proxy.url("app"), &opening).unwrap();
    a.execute(TABLE);
    a.sync();
    let log = scene.proxy.take_log();
    assert_eq!(log.len(), 4, "info, export, push, pull");
    for exchange in log {
        assert_eq!(exchange.header("authorization").map(str::trim), Some("Bearer"));
        assert_eq!(exchange.header("x-turso-encryption-key"), Some("c2VjcmV0"));
        assert_eq!(exchange.header("content-type"), None);
    }
}

#[test]
fn a_slash_at_the_end_of_the_url_comes_doubled() {
    let scene = Scene::new();
    let mut a = scene.unopened("a");
    a.open(&format!("{}/", scene.proxy.url("app")), &Opening::default()).unwrap();
    a.sync();
    assert_eq!(
        scene.asked(),
        ["GET //info", "GET //export/1", "GET //sync/1/1/129", "GET //sync/1/1/129"]
    );
}

#[test]
fn a_large_transaction_comes_in_batches_with_the_batons_it_was_given() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(300, 4000));
    let _ = scene.asked();
    let frames = usize::try_from(a.try_sync().unwrap()).unwrap();
    let batches = frames.div_ceil(BATCH_FRAMES);
    let asked = scene.asked();
    assert_eq!(asked.len(), batches, "{asked:?}");
    assert_eq!(asked[0], "POST /sync/1/1/129");
    assert_eq!(asked[1], "POST /sync/1/129/257/mock-1");
    // The first request ended a transaction (the table's) before it began the large one.
    let mut b = scene.client("b");
    b.sync();
    assert_eq!(b.rows("SELECT count(*) FROM t"), ["300"]);
}

#[test]
fn a_sync_without_a_connection_reports_zero_frames_and_no_error() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    a.execute(TABLE);
    scene.proxy.script(|_| Fault::Drop);
    assert_eq!(a.try_sync(), Ok(0), "a push that found nobody");
    scene.proxy.calm();
    a.sync();
    scene.proxy.script(|_| Fault::LoseAnswer);
    assert_eq!(a.try_sync(), Ok(0), "a pull that found nobody");
}

#[test]
fn a_bootstrap_without_a_connection_is_an_error_and_is_not_repeated() {
    let scene = Scene::new();
    let mut a = scene.unopened("a");
    scene.proxy.script(|_| Fault::Refuse(503, "later".to_owned()));
    let error = a.open(&scene.proxy.url("app"), &Opening::default()).unwrap_err().error();
    assert!(error.contains("503"), "{error}");
    assert_eq!(scene.asked(), ["GET /info"], "unlike a push or a pull");
    assert_eq!(read_position(a.db()).unwrap(), None);
    // The same in the middle, where the export stops short.
    scene.proxy.nth(2, |_| true, || Fault::CutAnswer(100));
    let error = a.open(&scene.proxy.url("app"), &Opening::default()).unwrap_err().error();
    assert!(error.contains("body"), "{error}");
    assert!(!a.db().exists(), "nothing is put in place");
    scene.proxy.calm();
    a.open(&scene.proxy.url("app"), &Opening::default()).unwrap();
}

#[test]
fn a_push_and_a_pull_are_repeated_while_the_server_says_later() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    a.execute(TABLE);
    let _ = scene.asked();
    let later = |upto: usize| {
        move |seen: &anabranch_conformance::Seen| match seen.number {
            n if n <= upto => Fault::Refuse(503, "later".to_owned()),
            _ => Fault::None,
        }
    };
    scene.proxy.script(later(2));
    assert!(a.try_sync().is_ok());
    assert_eq!(scene.asked().len(), 3);
    scene.proxy.script(later(2));
    assert_eq!(a.try_sync(), Ok(1));
    assert_eq!(scene.asked().len(), 3);
}

#[test]
fn a_redirect_is_followed_once_and_only_as_the_first_answer() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    a.execute(TABLE);
    let elsewhere = Proxy::start(scene.mock.address());
    let target = elsewhere.url("app");
    let redirect = move |seen: &anabranch_conformance::Seen, at: usize| {
        let path = seen.path.replacen("/app", "", 1);
        if seen.number == at { Fault::Redirect(format!("{target}{path}")) } else { Fault::None }
    };
    let first = redirect.clone();
    scene.proxy.script(move |seen| first(seen, 1));
    let frames = a.try_sync().unwrap();
    assert!(frames > 0);
    let log = elsewhere.take_log();
    assert_eq!((log.len(), log[0].method.as_str()), (1, "POST"), "method and body are kept");
    assert!(log[0].header("authorization").is_some(), "the token goes along");

    // A second redirect is an error at once, and so is one after a repeat.
    a.execute(&insert("one"));
    let here = scene.proxy.url("app");
    elsewhere.script(move |seen| {
        Fault::Redirect(format!("{here}{}", seen.path.replacen("/app", "", 1)))
    });
    let first = redirect.clone();
    scene.proxy.script(move |seen| first(seen, 1));
    let error = a.try_sync().unwrap_err().error();
    assert!(error.contains("307"), "{error}");
    scene.proxy.script(move |seen| match seen.number {
        1 => Fault::Refuse(503, "later".to_owned()),
        _ => redirect(seen, 2),
    });
    let error = a.try_sync().unwrap_err().error();
    assert!(error.contains("307"), "{error}");
    scene.proxy.calm();
    a.sync();
}

#[test]
fn a_pull_takes_an_internal_error_for_the_end_of_the_generation() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    scene.proxy.script(|_| Fault::Refuse(500, "{\"generation\": 1}".to_owned()));
    assert_eq!(a.try_sync(), Ok(1), "nothing was pulled, and no error is reported");
    // Without the generation it is an error, but is not repeated either.
    scene.proxy.script(|_| Fault::Refuse(500, "{\"error\": \"disk\"}".to_owned()));
    let _ = scene.asked();
    let error = a.try_sync().unwrap_err().error();
    assert!(error.contains("json value error"), "{error}");
    assert_eq!(scene.asked().len(), 1);
}

#[test]
fn a_pull_that_is_cut_reports_an_error_and_keeps_the_transactions_before() {
    let scene = Scene::new();
    let mut a = scene.client("a");
    a.execute(TABLE);
    a.sync();
    let mut b = scene.client("b");
    b.sync();
    a.repeat(3, "INSERT INTO t(body) VALUES (?1)");
    a.execute(&insert_many(300, 4000));
    a.sync();
    scene.proxy.nth(2, anabranch_conformance::Seen::is_pull, || Fault::CutAnswer(5000));
    let error = b.try_sync().unwrap_err().error();
    assert!(error.contains("body"), "{error}");
    assert_eq!(b.rows("SELECT count(*) FROM t"), ["3"], "whole transactions only");
    b.sync();
    assert_eq!(b.rows("SELECT count(*) FROM t"), ["303"]);
}
