//! What goes wrong on the way: lost requests and answers, retries, redirects.

use anabranch::{Error, LibsqlError, StoreError};

use crate::server::{Fault, Request, Server, database};
use crate::yard::{SCHEMA, Yard, assert_same, libsql, rows, run, synced};

const MANY: &str = "INSERT INTO t(v) SELECT randomblob(3000) FROM (WITH RECURSIVE c(n) AS \
                    (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300) SELECT n FROM c)";

/// Does `fault` to the `number`th request (from 0) of `method`, once.
fn once(method: &'static str, number: usize, fault: Fault) -> impl FnMut(&Request) -> Fault {
    let mut seen = 0;
    move |request| {
        let hit = request.method == method && seen == number;
        seen += usize::from(request.method == method);
        if hit { fault.clone() } else { Fault::None }
    }
}

#[test]
fn a_push_whose_answer_is_lost_arrives_once_whatever_the_server_thinks_of_repeats() {
    for repeats in [true, false] {
        for (sql, parts) in [("INSERT INTO t(v) VALUES ('x')", 1), (MANY, 3)] {
            for part in 0..parts {
                for fault in [Fault::Unanswered, Fault::Unheard, Fault::Cut] {
                    let (yard, a, first) = Yard::published(SCHEMA);
                    let (b, second) = yard.cloned("b.db");
                    yard.server.state().repeats = repeats;
                    run(&a, sql);
                    yard.server.script(once("POST", part, fault.clone()));
                    let outcome = first.sync();
                    yard.server.honest();
                    if outcome.is_err() {
                        synced(&first);
                    }
                    synced(&second);
                    assert_same(&yard, &[&a, &b]);
                    let (_, frames) = yard.server.end();
                    assert_eq!(synced(&first).pushed, None, "{repeats} {part} {fault:?}");
                    assert_eq!(yard.server.end().1, frames);
                }
            }
        }
    }
}

#[test]
fn a_push_that_nobody_answers_is_found_by_its_content_at_the_next_sync() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    let mut taken = false;
    yard.server.script(move |request| {
        if request.method == "POST" || taken {
            taken = true;
            return Fault::Unanswered;
        }
        Fault::None
    });
    // The repeats are lost, too, and so is the look at what stands there.
    let unsure = first.push().unwrap_err();
    assert!(matches!(unsure, Error::Unconfirmed { .. }), "{unsure:?}");
    yard.server.honest();
    // Somebody else goes on from it, and something else changes here.
    synced(&second);
    run(&b, "INSERT INTO t(v) VALUES ('b')");
    synced(&second);
    let report = first.sync().unwrap();
    assert!(report.notes.iter().any(|note| format!("{note:?}").contains("had arrived")));
    assert_same(&yard, &[&a, &b]);
    assert_eq!(rows(&a), "a x b");
}

#[test]
fn trouble_of_the_server_is_waited_for() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let busy = || Fault::Answer(503, Vec::new(), b"busy".to_vec());
    for number in 0..4 {
        yard.server.script(once("GET", number, busy()));
        let (db, replica) = yard.cloned(&format!("{number}.db"));
        run(&db, "INSERT INTO t(v) VALUES ('x')");
        yard.server.script(once("POST", 0, Fault::Answer(502, Vec::new(), Vec::new())));
        synced(&replica);
    }
    assert_eq!(yard.server.end(), (1, 4), "one page each");
}

#[test]
fn a_500_may_mean_the_end_of_a_generation_and_is_not_repeated() {
    let (yard, _, first) = Yard::published(SCHEMA);
    yard.server.script(|request| match request.method.as_str() {
        "GET" => Fault::Answer(500, Vec::new(), br#"{"generation":1}"#.to_vec()),
        _ => Fault::None,
    });
    yard.server.requests();
    assert_eq!(synced(&first).pulled, None);
    assert_eq!(yard.server.requests().len(), 1);
}

#[test]
fn a_server_that_stays_away_is_offline_and_nothing_is_lost() {
    let (yard, a, first) = Yard::published(SCHEMA);
    run(&a, "INSERT INTO t(v) VALUES ('waits')");
    yard.server.script(|_| Fault::Unheard);
    let report = first.sync().unwrap();
    assert_eq!(report.offline.unwrap().pages_to_push, 1);
    let offline = first.pull().unwrap_err();
    assert!(offline.is_offline(), "{offline:?}");
    yard.server.honest();
    assert!(synced(&first).pushed.is_some());
}

fn redirect(to: String) -> Fault {
    Fault::Answer(307, vec![("location", to)], Vec::new())
}

#[test]
fn redirects_keep_method_and_body_on_the_same_host() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let url = yard.server.url();
    yard.server.script(move |request| match request.path.contains("elsewhere") {
        true => Fault::None,
        false => redirect(format!("{url}/../elsewhere/..{}", request.path)),
    });
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    // Dots are resolved before the request is sent, so it comes back to the same path.
    let endless = first.sync().unwrap_err();
    assert!(matches!(libsql(&endless), LibsqlError::Redirect { .. }), "{endless:?}");
    let mut seen = std::collections::HashSet::new();
    yard.server.script(move |request| {
        let key = format!("{} {}", request.method, request.path);
        if seen.insert(key) { redirect(request.path.clone()) } else { Fault::None }
    });
    yard.server.requests();
    assert!(synced(&first).pushed.is_some());
    let requests = yard.server.requests();
    let posts: Vec<_> = requests.iter().filter(|r| r.starts_with("POST")).collect();
    assert_eq!(posts.len(), 2);
    assert_eq!(posts[0], posts[1]);
}

#[test]
fn another_host_gets_no_secret_and_no_rows() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let other = Server::empty();
    let mirror = yard.server.state().generations.clone();
    other.state().generations = mirror;
    let target = other.url();
    yard.server
        .script(move |request| redirect(target.trim_end_matches("/db").to_owned() + &request.path));
    synced(&first);
    {
        let state = other.state();
        assert!(!state.seen.is_empty());
        assert!(state.seen.iter().all(|r| !r.headers.contains_key("authorization")));
    }
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    let refused = first.sync().unwrap_err();
    assert!(matches!(libsql(&refused), LibsqlError::Redirect { .. }), "{refused:?}");
    assert!(other.requests().iter().all(|request| request.starts_with("GET")));
    yard.server.honest();
    assert!(synced(&first).pushed.is_some());
}

#[test]
fn a_server_that_lost_what_it_had_is_noticed_before_anything_is_put_on_top() {
    let lost = |error: &Error| {
        matches!(error, Error::RemoteWentBack { .. } | Error::Store(StoreError::Rewound { .. }))
    };
    let (yard, a, first) = Yard::published(SCHEMA);
    let before = yard.server.state().generations.clone();
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    synced(&first);
    // Fewer frames.
    yard.server.state().generations = before.clone();
    let gone = first.sync().unwrap_err();
    assert!(lost(&gone), "{gone:?}");
    run(&a, "INSERT INTO t(v) VALUES ('y')");
    let gone = first.sync().unwrap_err();
    assert!(lost(&gone), "{gone:?}");
    // As many, but others; and more.
    let (b, second) = yard.cloned("b.db");
    for _ in 0..2 {
        run(&b, "INSERT INTO t(v) VALUES ('other')");
        synced(&second);
        let gone = first.sync().unwrap_err();
        assert!(lost(&gone), "{gone:?}");
        assert_eq!(rows(&a), "a x y");
    }
    // An older generation.
    yard.server.roll();
    run(&b, "INSERT INTO t(v) VALUES ('third')");
    synced(&second);
    yard.server.state().generations = before;
    let gone = second.sync().unwrap_err();
    assert!(lost(&gone), "{gone:?}");
}
