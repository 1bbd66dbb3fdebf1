//! Servers that break the protocol: a typed error, nothing changed, and once they are honest again
//! everything goes on.

use anabranch::{Error, LibsqlError};

use crate::server::{FRAME, Fault, PAGE, Server, database};
use crate::yard::{SCHEMA, Yard, assert_same, dump, libsql, run, synced};

fn frame(pgno: u32, size: u32, page: &[u8]) -> Vec<u8> {
    let mut bytes = [pgno.to_be_bytes(), size.to_be_bytes()].concat();
    bytes.resize(24, 0);
    bytes.extend_from_slice(page);
    bytes
}

/// Answers to a pull that must not be believed.
fn bad_pulls(page_one: &[u8]) -> Vec<(&'static str, u16, Vec<u8>)> {
    let page = vec![7; PAGE];
    let mut other_size = page_one.to_vec();
    other_size[16..18].copy_from_slice(&[32, 0]);
    vec![
        ("nothing", 200, Vec::new()),
        ("half a frame", 200, vec![0; 2000]),
        ("a frame and a half", 200, vec![1; FRAME + 100]),
        ("more than was asked for", 200, frame(2, 0, &page).repeat(129)),
        ("page 0", 200, frame(0, 2, &page)),
        ("the lock page", 200, frame(262_145, 2, &page)),
        ("a size that cannot be", 200, frame(2, 262_145, &page)),
        ("a size beyond what came", 200, frame(2, u32::MAX, &page)),
        ("growth without pages", 200, [frame(2, 2, &page), frame(5, 5, &page)].concat()),
        ("another file's page 1", 200, frame(1, 2, &page)),
        ("another page size", 200, frame(1, 2, &other_size)),
        ("a page 1 of another size", 200, frame(1, 3, page_one)),
        ("a growth that page 1 does not know", 200, frame(3, 3, &page)),
        ("no JSON", 400, b"no".to_vec()),
        ("JSON of another kind", 400, br#"{"error":"no"}"#.to_vec()),
        ("an odd generation", 400, br#"{"generation":"x"}"#.to_vec()),
        ("an older generation", 400, br#"{"generation":0}"#.to_vec()),
        ("a long refusal", 400, vec![b'x'; 1 << 20]),
        ("another status", 418, b"teapot".to_vec()),
        ("success without content", 204, Vec::new()),
        ("not found", 404, Vec::new()),
        ("gone", 410, Vec::new()),
        ("forbidden", 403, Vec::new()),
    ]
}

#[test]
fn pulls_that_cannot_be_believed_change_nothing() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    synced(&first);
    let page_one = yard.server.state().generations[0].image()[..PAGE].to_vec();
    let before = dump(&b);
    for (what, status, body) in bad_pulls(&page_one) {
        let mut first = true;
        // What comes first is bad; asked for the rest, the server has none.
        yard.server.script(move |request| {
            let answer = std::mem::take(&mut first);
            if answer && request.path.contains("/sync/1/") {
                return Fault::Answer(status, Vec::new(), body.clone());
            }
            let end = br#"{"generation":1}"#.to_vec();
            let known = request.path.ends_with("/sync/1/2/3");
            if known { Fault::None } else { Fault::Answer(400, Vec::new(), end) }
        });
        let error = second.sync().expect_err(what);
        assert!(!matches!(error, Error::Panicked(_)), "{what}: {error:?}");
        assert_eq!(dump(&b), before, "{what}");
        yard.server.honest();
    }
    synced(&second);
    assert_same(&yard, &[&a, &b]);
}

#[test]
fn endless_generations_are_given_up() {
    let (yard, _, first) = Yard::published(SCHEMA);
    yard.server
        .script(|_| Fault::Answer(400, Vec::new(), br#"{"generation":4294967295}"#.to_vec()));
    let error = first.sync().unwrap_err();
    assert!(matches!(libsql(&error), LibsqlError::TooManyGenerations(_)), "{error:?}");
}

#[test]
fn images_that_are_no_database_are_refused() {
    let mut other_size = database(SCHEMA);
    other_size[16..18].copy_from_slice(&[32, 0]);
    let mut larger = database(SCHEMA);
    larger[31] = 200;
    for image in
        [Vec::new(), vec![0; 100], vec![0; 8192], b"<html>".repeat(4096), other_size, larger]
    {
        let yard = Yard::new(Server::with(image.clone()));
        let error = yard.try_clone("a.db").map(|_| ()).unwrap_err();
        assert!(matches!(libsql(&error), LibsqlError::Export { .. }), "{error:?}");
        assert!(!yard.path("a.db").exists() && !yard.path("a.db-anabranch").exists());
    }
}

#[test]
fn infos_that_make_no_sense_are_refused() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let answers: [(u16, &[u8]); 5] = [
        (200, br#"{"current_generation":0}"#),
        (200, b"hello"),
        (200, br#"{"current_generation":-1}"#),
        (404, b""),
        (401, b"who are you?"),
    ];
    for (status, body) in answers {
        yard.server.script(move |_| Fault::Answer(status, Vec::new(), body.to_vec()));
        let error = yard.try_clone("a.db").map(|_| ()).unwrap_err();
        match status {
            401 => assert!(matches!(error, Error::Server { .. }), "{error:?}"),
            _ => assert!(matches!(error, Error::NoDialect { .. }), "{error:?}"),
        }
    }
}

/// An answer to a push that was carried out.
fn pushed(status: &str, generation: u32, newest: usize) -> Vec<u8> {
    format!(r#"{{"status":"{status}","generation":{generation},"max_frame_no":{newest}}}"#).into()
}

#[test]
fn a_push_that_arrived_counts_whatever_the_server_says_of_it() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    for (round, lie) in (0..).zip([
        |_: usize| b"what?".to_vec(),
        |n| pushed("ok", 1, n + 10),
        |n| pushed("ok", 1, n - 1),
        |n| pushed("conflict", 1, n),
        |n| pushed("ok", 7, n),
        |n| pushed("maybe", 1, n),
        |_| vec![b' '; 1 << 20],
    ]) {
        run(&a, &format!("INSERT INTO t(v) VALUES ('round {round}')"));
        let newest = yard.server.end().1 + 1;
        yard.server.script(move |request| match request.method.as_str() {
            "POST" => Fault::Lie(200, lie(newest)),
            _ => Fault::None,
        });
        let outcome = first.push();
        yard.server.honest();
        if let Err(error) = outcome {
            assert!(matches!(error, Error::Unconfirmed { .. }), "{round}: {error:?}");
            synced(&first);
        }
        assert_eq!(yard.server.end().1, newest, "{round}");
        synced(&second);
        assert_same(&yard, &[&a, &b]);
    }
}

type Expected = fn(&LibsqlError) -> bool;

#[test]
fn a_push_that_did_not_arrive_is_never_taken_for_one_that_did() {
    let (yard, a, first) = Yard::published(SCHEMA);
    let (b, second) = yard.cloned("b.db");
    run(&a, "INSERT INTO t(v) VALUES ('x')");
    let newest = yard.server.end().1 + 1;
    let answers: [(u16, Vec<u8>, Expected); 7] = [
        (200, pushed("ok", 1, newest - 1), |e| matches!(e, LibsqlError::LowerFrame { .. })),
        (200, pushed("ok", 1, newest + 1), |e| matches!(e, LibsqlError::HigherFrame { .. })),
        (200, pushed("conflict", 1, 0), |e| matches!(e, LibsqlError::Conflict { .. })),
        (200, pushed("ok", 2, newest), |e| matches!(e, LibsqlError::OtherGeneration { .. })),
        (200, pushed("no", 1, newest), |e| matches!(e, LibsqlError::PushStatus(_))),
        (403, b"read only".to_vec(), |e| matches!(e, LibsqlError::Denied { .. })),
        (413, b"too large".to_vec(), |e| matches!(e, LibsqlError::Status { .. })),
    ];
    for (status, body, expected) in answers {
        yard.server.script(move |request| match request.method.as_str() {
            "POST" => Fault::Answer(status, Vec::new(), body.clone()),
            _ => Fault::None,
        });
        let error = first.push().unwrap_err();
        assert!(expected(libsql(&error)), "{error:?}");
    }
    yard.server.honest();
    synced(&first);
    synced(&second);
    assert_same(&yard, &[&a, &b]);
}
