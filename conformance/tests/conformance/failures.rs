//! Clients and servers that are killed, answers that are lost: the next sync goes on.

use anabranch_conformance::{Client, Failure, Fault, Opening, Proxy, Seen};

use crate::support::{DATABASE, TABLE, Yard, insert, insert_many};

const COUNT: &str = "SELECT count(*) FROM t";

/// A client with a table pushed and two transactions waiting, small and of several batches.
fn writer_with_work(yard: &Yard, proxy: &Proxy) -> Client {
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    a.execute(TABLE);
    a.sync();
    a.repeat(20, "INSERT INTO t(body) VALUES (?1)");
    a.execute(&insert_many(280, 4000));
    a.repeat(5, "INSERT INTO t(body) VALUES (?1)");
    a
}

/// All rows of that work.
fn all() -> Vec<String> {
    vec!["305".to_owned()]
}

/// Opens the replica of a client that was killed again, and syncs until it is through.
fn come_back(yard: &Yard, name: &str, proxy: &Proxy) -> Client {
    proxy.calm();
    let mut again = yard.unopened(name);
    again.open(&proxy.url(DATABASE), &Opening::default()).unwrap();
    sync_patiently(&mut again);
    again
}

/// Syncs until it succeeds twice; "lower frame_no" is what the library reports when the server had
/// forgotten the begun transaction twice: it succeeds when told again.
fn sync_patiently(client: &mut Client) {
    let mut done = 0;
    for _ in 0..6 {
        match client.try_sync() {
            Ok(_) => done += 1,
            Err(Failure::Error(text)) if text.contains("lower frame_no") => done = 0,
            Err(other) => panic!("{other}"),
        }
        if done == 2 {
            return;
        }
    }
    panic!("the client does not come through");
}

fn kill_the_writer(fault: fn(anabranch_conformance::Killer) -> Fault) {
    for n in 1..=3 {
        let yard = Yard::new();
        let proxy = yard.proxy();
        let mut a = writer_with_work(&yard, &proxy);
        let killer = a.killer();
        proxy.nth(n, Seen::is_push, move || fault(killer));
        assert!(a.try_sync().unwrap_err().is_death(), "killed at push {n}");
        let mut a = come_back(&yard, "a", &proxy);
        yard.settle(&mut [&mut a], COUNT, &all());
    }
}

#[test]
fn a_client_killed_before_the_server_sees_its_push_goes_on() {
    kill_the_writer(|killer| Fault::before(move || killer.kill()));
}

#[test]
fn a_client_killed_after_its_push_was_stored_goes_on() {
    // The library saves its position only at the end of a push (libsql #1999): it sends again what
    // the server has. The server knows these frames and answers as if they were new.
    kill_the_writer(|killer| Fault::after(move || killer.kill()));
}

#[test]
fn a_client_killed_in_the_middle_of_a_pull_goes_on() {
    for n in 1..=3 {
        let yard = Yard::new();
        let proxy = yard.proxy();
        let mut a = writer_with_work(&yard, &proxy);
        let mut b = yard.client_at("b", &proxy.url(DATABASE));
        b.sync();
        a.sync();
        let killer = b.killer();
        proxy.nth(n, Seen::is_pull, move || Fault::after(move || killer.kill()));
        assert!(b.try_sync().unwrap_err().is_death(), "killed at pull {n}");
        let mut b = come_back(&yard, "b", &proxy);
        b.execute(&insert("from b"));
        b.sync();
        yard.settle(&mut [&mut a, &mut b], COUNT, &["306".to_owned()]);
    }
}

#[test]
fn a_lost_answer_of_a_push_is_made_good_by_the_next_sync() {
    for n in 1..=3 {
        let yard = Yard::new();
        let proxy = yard.proxy();
        let mut a = writer_with_work(&yard, &proxy);
        proxy.nth(n, Seen::is_push, || Fault::LoseAnswer);
        assert_eq!(a.try_sync(), Ok(0), "a lost connection is no error to the library");
        proxy.calm();
        sync_patiently(&mut a);
        yard.settle(&mut [&mut a], COUNT, &all());
    }
}

#[test]
fn answers_lost_again_and_again_double_nothing() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = writer_with_work(&yard, &proxy);
    // Of each three requests one comes through, one never arrives, one answer is lost.
    proxy.script(|seen| match seen.number % 3 {
        0 => Fault::LoseAnswer,
        1 => Fault::None,
        _ => Fault::Drop,
    });
    for n in 0..12 {
        a.execute(&insert(&format!("more {n}")));
        match a.try_sync() {
            Ok(_) => {}
            Err(Failure::Error(text)) if text.contains("lower frame_no") => {}
            Err(other) => panic!("{other}"),
        }
    }
    proxy.calm();
    sync_patiently(&mut a);
    yard.settle(&mut [&mut a], COUNT, &["317".to_owned()]);
}

#[test]
fn a_server_that_asks_for_patience_gets_it() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = writer_with_work(&yard, &proxy);
    proxy.script(|seen| match seen.number % 2 {
        1 => Fault::Refuse(503, "{\"error\": \"later\"}".to_owned()),
        _ => Fault::None,
    });
    a.sync();
    proxy.calm();
    yard.settle(&mut [&mut a], COUNT, &all());
}

fn kill_the_server(after_its_work: bool) {
    for n in 1..=3 {
        let mut yard = Yard::new();
        if yard.server().is_none() {
            return;
        }
        let proxy = yard.proxy();
        let mut a = writer_with_work(&yard, &proxy);
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let hook = move || {
            tell.send(()).unwrap();
            wait.recv().unwrap();
        };
        proxy.nth(n, Seen::is_push, move || match after_its_work {
            true => Fault::after(hook),
            false => Fault::before(hook),
        });
        let pushing = std::thread::spawn(move || {
            let done = a.try_sync();
            (a, done)
        });
        told.recv().unwrap();
        yard.server().unwrap().restart();
        go.send(()).unwrap();
        let (mut a, done) = pushing.join().unwrap();
        assert_eq!(done, Ok(0), "a lost connection is no error to the library");
        proxy.calm();
        sync_patiently(&mut a);
        yard.settle(&mut [&mut a], COUNT, &all());
    }
}

#[test]
fn a_server_killed_before_it_answers_has_lost_nothing() {
    kill_the_server(true);
}

#[test]
fn a_server_killed_between_two_pushes_has_lost_nothing() {
    kill_the_server(false);
}

#[test]
fn a_server_that_stops_finishes_what_is_under_way() {
    let mut yard = Yard::new();
    if yard.server().is_none() {
        return;
    }
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(280, 4000));
    a.sync();
    let server = yard.server().unwrap();
    assert!(server.stop(), "{}", server.log());
    assert_eq!(a.try_sync(), Ok(0), "nobody is there");
    yard.server().unwrap().restart();
    yard.settle(&mut [&mut a], COUNT, &["280".to_owned()]);
}

#[test]
fn the_batches_of_one_transaction_may_fall_into_two_lives_of_the_server() {
    let mut yard = Yard::new();
    if yard.server().is_none() {
        return;
    }
    let proxy = yard.proxy();
    let mut a = writer_with_work(&yard, &proxy);
    let (tell, told) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    // The answer to the second batch comes through; the third meets a server that knows nothing of
    // the first two, which is answered with what it has whole, and the library begins again.
    proxy.nth(2, Seen::is_push, move || {
        Fault::then(move || {
            tell.send(()).unwrap();
            wait.recv().unwrap();
        })
    });
    let pushing = std::thread::spawn(move || {
        let done = a.try_sync();
        (a, done)
    });
    told.recv().unwrap();
    yard.server().unwrap().restart();
    go.send(()).unwrap();
    let (mut a, done) = pushing.join().unwrap();
    assert!(done.is_ok(), "{done:?}");
    yard.settle(&mut [&mut a], COUNT, &all());
}
