//! A new generation: clients walk over, and what they push goes where it belongs.

use anabranch_conformance::{Fault, Seen, sqlite};

use crate::support::{ALL, DATABASE, TABLE, Yard, insert, insert_many, numbered};

#[test]
fn clients_that_are_up_to_date_walk_over() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("first"));
    a.sync();
    b.sync();
    let before = yard.generation();
    yard.roll_over();
    let after = yard.generation();
    assert!(after > before, "{before} -> {after}");
    a.sync();
    assert_eq!(a.position().generation, after);
    a.execute(&insert("second"));
    a.sync();
    b.sync();
    b.execute(&insert("third"));
    b.sync();
    assert_eq!(b.position().generation, after);
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&["first", "second", "third"]));
}

#[test]
fn a_client_that_lags_walks_through_every_generation() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("first"));
    a.sync();
    b.sync();
    let mut bodies = vec!["first".to_owned()];
    for n in 0..4 {
        // Sometimes nothing lies between two rollovers, sometimes more than a request holds.
        for part in 0..n * 60 {
            let body = format!("{n}.{part}");
            a.execute(&insert(&body));
            bodies.push(body);
        }
        a.sync();
        yard.roll_over();
        a.sync();
    }
    a.execute(&insert("last"));
    a.sync();
    bodies.push("last".to_owned());
    assert_eq!(b.position().generation, 1);
    b.sync();
    assert_eq!(b.position(), a.position());
    b.execute(&insert("from b"));
    bodies.push("from b".to_owned());
    b.sync();
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&bodies));
}

#[test]
fn a_rollover_in_the_middle_of_a_pull_is_followed() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(400, 4000));
    a.sync();
    let mut b = yard.client_at("b", &proxy.url(DATABASE));
    let rollover = format!("{}/rollover", yard.url_of("admin/v1/databases/app"));
    proxy.nth(2, Seen::is_pull, move || {
        Fault::then(move || {
            let rolled = std::thread::spawn(move || {
                anabranch_conformance::ask("POST", &rollover, &[], Vec::new()).unwrap()
            });
            assert_eq!(rolled.join().unwrap().status / 100, 2);
        })
    });
    b.try_sync().unwrap();
    proxy.calm();
    assert_eq!(b.position().generation, yard.generation());
    b.execute(&insert("from b"));
    b.sync();
    yard.settle(&mut [&mut a, &mut b], "SELECT count(*) FROM t", &["401".to_owned()]);
}

#[test]
fn a_rollover_does_not_tear_a_push_apart() {
    let yard = Yard::new();
    let Some(_) = yard.ours() else { return };
    let proxy = yard.proxy();
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    a.execute(TABLE);
    a.sync();
    a.execute(&insert_many(400, 4000));
    let rollover = format!("{}/rollover", yard.url_of("admin/v1/databases/app"));
    let (tell, told) = std::sync::mpsc::channel();
    proxy.nth(2, Seen::is_push, move || {
        Fault::then(move || {
            // It may be refused, or wait for the push's end: so it is not awaited here.
            std::thread::spawn(move || {
                let answer = anabranch_conformance::ask("POST", &rollover, &[], Vec::new());
                tell.send(answer.unwrap()).unwrap();
            });
        })
    });
    a.try_sync().unwrap();
    proxy.calm();
    let answer = told.recv().unwrap();
    assert!(answer.status == 200 || answer.status == 503, "{} {}", answer.status, answer.text());
    yard.roll_over();
    yard.settle(&mut [&mut a], "SELECT count(*) FROM t", &["400".to_owned()]);
}

#[test]
fn frames_pushed_before_a_rollover_may_be_pushed_again_after_it() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    a.execute(TABLE);
    a.sync();
    a.repeat(200, "INSERT INTO t(body) VALUES (?1)");
    proxy.script(|seen| if seen.is_push() { Fault::LoseAnswer } else { Fault::None });
    assert_eq!(a.try_sync(), Ok(0));
    // Once more, so that the second batch is there too.
    let mut pushes = 0;
    proxy.script(move |seen| {
        pushes += usize::from(seen.is_push());
        if pushes >= 2 { Fault::LoseAnswer } else { Fault::None }
    });
    while a.try_sync() == Ok(0) {
        if yard.admin("GET", &format!("/admin/v1/databases/{DATABASE}")).status == 404 {
            break;
        }
        // Each round brings one batch more, until all are there.
        let mut pushes = 0;
        let rounds = 4;
        proxy.script(move |seen| {
            pushes += usize::from(seen.is_push());
            if pushes > rounds { Fault::LoseAnswer } else { Fault::None }
        });
    }
    proxy.calm();
    yard.roll_over();
    a.sync();
    assert_eq!(a.position().generation, yard.generation());
    yard.settle(&mut [&mut a], "SELECT count(*) FROM t", &["200".to_owned()]);
}

#[test]
fn writes_that_wait_at_a_rollover_are_a_loud_conflict_and_stay_in_the_file() {
    // By design of the dialect: the frames are numbered in a generation that is closed. Nothing may be
    // lost silently: the client reports it on every sync, keeps the rows, and the server is as it was.
    let yard = Yard::with(&["--heal", "off"]);
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("first"));
    a.sync();
    b.sync();
    b.execute(&insert("waiting"));
    yard.roll_over();
    for _ in 0..3 {
        let error = b.try_sync().unwrap_err().error();
        assert!(error.contains("conflict"), "{error}");
    }
    assert_eq!(b.rows(ALL), numbered(&["first", "waiting"]));
    // Whoever has nothing that waits walks over first and writes then.
    a.sync();
    a.execute(&insert("second"));
    a.sync();
    yard.settle(&mut [&mut a], ALL, &numbered(&["first", "second"]));
    assert!(b.try_sync().unwrap_err().error().contains("conflict"));
    b.close();
    assert_eq!(sqlite(b.db(), ALL), numbered(&["first", "waiting"]).join("\n"));
}

/// A generation grows beyond 65,536 frames, which is more than twice the pages: the last push of it
/// ends it.
#[test]
fn a_generation_that_has_grown_ends_by_itself() {
    const PAGES: usize = 1100;
    const ROUNDS: usize = 60;
    let yard = Yard::new();
    if yard.ours().is_none() {
        return;
    }
    let (mut a, mut b) = (yard.client("a"), yard.client("b"));
    a.execute(TABLE);
    a.execute(&insert_many(PAGES, 4000));
    a.sync();
    b.sync();
    let first = yard.generation();
    for round in 1..=ROUNDS {
        // Each row on a page of its own, and nothing that takes long to compress.
        a.execute(&format!("UPDATE t SET body = printf('%04000d', id * {ROUNDS} + {round})"));
        a.sync();
        if round % 20 == 0 {
            b.sync();
        }
    }
    let last = yard.generation();
    assert!(last > first, "{first} -> {last}");
    a.sync();
    b.sync();
    assert_eq!((a.position().generation, b.position().generation), (last, last));
    b.execute(&insert("from b"));
    b.sync();
    yard.settle(&mut [&mut a, &mut b], "SELECT count(*) FROM t", &[(PAGES + 1).to_string()]);
}

#[test]
fn our_replicas_write_across_rollovers() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    let mut bodies = Vec::new();
    for n in 0..3 {
        yard.roll_over();
        ours.sync(&replica);
        sqlite(&replica, &insert(&format!("ours {n}")));
        ours.sync(&replica);
        a.sync();
        a.execute(&insert(&format!("theirs {n}")));
        a.sync();
        ours.sync(&replica);
        bodies.push(format!("ours {n}"));
        bodies.push(format!("theirs {n}"));
    }
    assert_eq!(sqlite(&replica, ALL), numbered(&bodies).join("\n"));
    yard.settle(&mut [&mut a], ALL, &numbered(&bodies));
}
