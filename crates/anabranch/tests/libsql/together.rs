//! What works where everybody does as the protocol says.

use std::time::Duration;

use anabranch::blocking::{RemoteLog, Replica};
use anabranch::{At, Error, LibsqlError, Lsn, RemoteStatus, Repair};

use crate::server::{Fault, Server, database, empty_database};
use crate::yard::{SCHEMA, Yard, assert_same, libsql, options, rows, run, synced, text};

#[test]
fn replicas_meet_at_a_libsql_server_and_an_idle_sync_is_one_request() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    assert_same(&yard, &[&a, &b]);
    run(&a, "INSERT INTO t(v) VALUES ('from a'); CREATE TABLE u(id INTEGER PRIMARY KEY, v)");
    let pushed = synced(&first).pushed.unwrap();
    assert_eq!(pushed.to.get() >> 32, 1);
    assert_eq!(pushed.bytes, pushed.pages * 4120);
    let pulled = synced(&second).pulled.unwrap();
    assert_eq!(pulled.to, pushed.to);
    run(&b, "UPDATE t SET v = 'from b' WHERE id = 1; INSERT INTO u(v) VALUES (1)");
    synced(&second);
    synced(&first);
    assert_same(&yard, &[&a, &b]);
    yard.server.requests();
    assert_eq!(synced(&first).pushed, None);
    let (_, frames) = yard.server.end();
    assert_eq!(yard.server.requests(), [format!("GET /db/sync/1/{}/{}", frames + 1, frames + 129)]);
}

#[test]
fn the_token_and_the_key_go_with_every_request() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let settings = anabranch::Options { encryption_key: Some("a2V5".into()), ..options() };
    let db = yard.path("a.db");
    let (replica, _) = Replica::clone_from(yard.server.url().as_ref(), &db, settings).unwrap();
    run(&db, "INSERT INTO t(v) VALUES (2)");
    synced(&replica);
    let state = yard.server.state();
    assert!(state.seen.len() > 4);
    // The first one finds out that another dialect is not spoken.
    for request in state.seen.iter().filter(|request| !request.path.contains("/log/")) {
        assert_eq!(request.headers["authorization"], "Bearer secret");
        assert_eq!(request.headers["x-turso-encryption-key"], "a2V5");
    }
}

#[test]
fn a_large_transaction_goes_in_parts_and_comes_in_the_servers_own() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    yard.server.state().frames_max = 7;
    let many = "INSERT INTO t(v) SELECT randomblob(3000) FROM (WITH RECURSIVE c(n) AS \
                (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 400) SELECT n FROM c)";
    run(&a, many);
    yard.server.requests();
    let pages = synced(&first).pushed.unwrap().pages;
    let posts: Vec<_> =
        yard.server.requests().into_iter().filter(|r| r.starts_with("POST")).collect();
    assert_eq!(posts.len() as u64, pages.div_ceil(128), "{posts:?}");
    assert!(posts[1].ends_with("/b%2F1%3F"), "{posts:?}");
    synced(&second);
    assert_same(&yard, &[&a, &b]);
    run(&b, "DELETE FROM t WHERE id > 1; VACUUM");
    synced(&second);
    synced(&first);
    assert_same(&yard, &[&a, &b]);
    assert!(std::fs::metadata(&a).unwrap().len() < 20_000);
}

#[test]
fn generations_that_moved_on_are_an_ordinary_pull_or_nothing_at_all() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    // The end of a generation changes nothing, whatever waits here.
    run(&a, "INSERT INTO t(v) VALUES ('waits')");
    yard.server.roll();
    yard.server.roll();
    let pushed = synced(&first).pushed.unwrap();
    assert_eq!(pushed.to.get() >> 32, 3);
    assert!(synced(&second).pulled.is_some());
    assert_same(&yard, &[&a, &b]);
    // A rollover with every push.
    yard.server.state().rollover = 1;
    for round in 0..3 {
        run(&b, &format!("INSERT INTO t(v) VALUES ('round {round}')"));
        synced(&second);
    }
    assert_eq!(yard.server.end(), (6, 0));
    let report = synced(&first);
    assert!(report.pulled.is_some());
    assert_same(&yard, &[&a, &b]);
    assert_eq!(synced(&first).pulled, None);
    let (c, _) = yard.cloned("c.db");
    assert_same(&yard, &[&a, &b, &c]);
}

#[test]
fn a_server_that_rolls_between_look_and_push_gets_it_in_the_new_generation() {
    let (yard, a, first) = Yard::published(SCHEMA);
    run(&a, "INSERT INTO t(v) VALUES ('late')");
    let mut looks = 0;
    yard.server.script(move |request| match request.method.as_str() {
        "POST" => Fault::None,
        _ => {
            looks += 1;
            // The head, and the newest frame that is known; then the push.
            if looks == 2 { Fault::Roll } else { Fault::None }
        }
    });
    let pushed = synced(&first).pushed.unwrap();
    assert_eq!(pushed.to.get() >> 32, 2);
    assert_same(&yard, &[&a]);
    assert_eq!(synced(&first).pulled, None);
}

#[test]
fn both_sides_changed_is_put_on_top_of_each_other() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    run(&a, "INSERT INTO t(v) VALUES ('a')");
    run(&b, "INSERT INTO t(v) VALUES ('b')");
    synced(&first);
    let behind = second.push().unwrap_err();
    assert!(matches!(behind, Error::Behind { .. }), "{behind:?}");
    let report = synced(&second);
    assert!(report.rebased.is_some() && report.pushed.is_some(), "{report:?}");
    synced(&first);
    assert_eq!(rows(&b), "a a b");
    assert_same(&yard, &[&a, &b]);
    run(&b, "INSERT INTO t(v) VALUES ('again')");
    synced(&second);
    synced(&first);
    assert_same(&yard, &[&a, &b]);
}

#[test]
fn a_base_with_tables_is_cloned_and_verified() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let (a, replica) = yard.cloned("a.db");
    assert_eq!(rows(&a), "a");
    assert_eq!(replica.get().file(), a.canonicalize().unwrap());
    run(&a, "INSERT INTO t(v) VALUES ('b')");
    synced(&replica);
    let verified = replica.verify().unwrap();
    assert!(verified.remote_consistent && verified.damaged.is_empty(), "{verified:?}");
    run(&a, "INSERT INTO t(v) VALUES ('c')");
    assert_eq!(replica.verify().unwrap().local.len(), 1);
    synced(&replica);
    yard.server.state().generations[0].frames.last_mut().unwrap()[24 + 4000] ^= 1;
    let verified = replica.verify().unwrap();
    assert!(!verified.remote_consistent, "{verified:?}");
}

#[test]
fn publishing_needs_an_empty_server_and_cloning_one_that_is_not() {
    let yard = Yard::new(Server::empty());
    assert!(matches!(yard.try_clone("b.db"), Err(Error::RemoteEmpty { .. })));
    let (a, _) = yard.publish("a.db", SCHEMA).unwrap();
    let refused = yard.publish("other.db", SCHEMA).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::RemoteNotEmpty { .. }), "{refused:?}");
    yard.server.roll();
    let refused = yard.publish("third.db", SCHEMA).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::RemoteNotEmpty { .. }), "{refused:?}");
    assert!(!yard.path("third.db-anabranch").exists());
    assert_same(&yard, &[&a]);
    let based = Yard::new(Server::with(database(SCHEMA)));
    let refused = based.publish("a.db", SCHEMA).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::RemoteNotEmpty { .. }), "{refused:?}");
}

#[test]
fn only_pages_of_4096_bytes_can_be_published() {
    let yard = Yard::new(Server::empty());
    let refused = yard.publish("a.db", &format!("PRAGMA page_size = 8192; {SCHEMA}"));
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::OnlyPageSize { .. }), "{refused:?}");
    assert!(!yard.path("a.db-anabranch").exists());
}

#[test]
fn status_names_the_dialect_and_how_far_the_server_is_ahead() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (_b, second) = yard.cloned("b.db");
    run(&a, "INSERT INTO t(v) VALUES (1)");
    let frames = synced(&first).pushed.unwrap().pages;
    yard.server.roll();
    run(&a, "INSERT INTO t(v) VALUES (2)");
    let more = synced(&first).pushed.unwrap();
    let status = second.status(true, true).unwrap();
    assert_eq!(status.dialect, "libsql");
    assert_eq!(
        status.remote_status,
        RemoteStatus::Ahead { head: more.to, frames: frames + more.pages }
    );
}

#[test]
fn a_server_without_history_says_so_but_states_of_its_generation_can_be_restored() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let before = first.status(false, true).unwrap().position;
    run(&a, "INSERT INTO t(v) VALUES ('later')");
    synced(&first);
    let log = RemoteLog::open(yard.server.url().as_ref(), options()).unwrap();
    let none = log.history(10).unwrap_err();
    assert!(matches!(libsql(&none), LibsqlError::NoHistory), "{none:?}");
    let none = log.restore(&yard.path("x.db"), At::Time(anabranch::Micros(1))).unwrap_err();
    assert!(matches!(libsql(&none), LibsqlError::NoHistory), "{none:?}");
    let none = log.compact(Duration::from_secs(1)).unwrap_err();
    assert!(matches!(libsql(&none), LibsqlError::NoHistory), "{none:?}");
    log.restore(&yard.path("old.db"), At::Lsn(before)).unwrap();
    assert_eq!(rows(&yard.path("old.db")), "a");
    log.restore(&yard.path("new.db"), At::Head).unwrap();
    assert_eq!(rows(&yard.path("new.db")), "a later");
    let inside = Lsn::new(before.get() - 1);
    let none = log.restore(&yard.path("y.db"), At::Lsn(inside)).unwrap_err();
    assert!(matches!(libsql(&none), LibsqlError::NoState(_)), "{none:?}");
}

#[test]
fn a_file_of_an_older_position_is_told_and_can_go_on_from_there() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let old = std::fs::read(&a).unwrap();
    run(&a, "INSERT INTO t(v) VALUES ('new')");
    synced(&first);
    std::fs::write(&a, old).unwrap();
    let older = first.sync().unwrap_err();
    assert!(matches!(older, Error::FileIsOlder { lsn: Some(_), .. }), "{older:?}");
    Replica::repair(&a, Repair::Adopt, options()).unwrap();
    synced(&first);
    assert_eq!(rows(&a), "a new");
    assert_same(&yard, &[&a]);
}

#[test]
fn an_empty_database_can_be_linked_and_filled_later() {
    let yard = Yard::new(Server::with(empty_database()));
    let db = yard.path("new.db");
    let (replica, report) = Replica::init_new(&db, yard.server.url().as_ref(), options()).unwrap();
    assert!(report.published.is_some(), "its one page");
    run(&db, SCHEMA);
    synced(&replica);
    let (b, _) = yard.cloned("b.db");
    assert_same(&yard, &[&db, &b]);
    assert_eq!(text(&b, "SELECT count(*) FROM t"), "1");
}
