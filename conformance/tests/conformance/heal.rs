//! Clients that wrote without having seen each other: nobody deletes files, and no row is lost.
//!
//! To the official client a conflict is a dead end (libsql #2122). The server takes what it pushes,
//! merges the rows, and leads it to where everybody goes on; the client notices nothing but a
//! generation that is its own for a while.

use anabranch_conformance::{Client, Failure, Fault, Opening, Proxy, Seen, rows, sqlite};

use crate::support::{ALL, DATABASE, TABLE, Yard, insert, insert_many, numbered, overtaken};

const BODIES: &str = "SELECT body FROM t ORDER BY body";
const COUNT: &str = "SELECT count(*), count(DISTINCT body) FROM t";

/// Syncs until it has succeeded `times` times.
fn sync_patiently(client: &mut Client, times: usize) {
    let mut done = 0;
    for _ in 0..20 {
        match client.try_sync() {
            Ok(_) => done += 1,
            Err(Failure::Error(text)) if text.contains("lower frame_no") => done = 0,
            Err(other) => panic!("{other}"),
        }
        if done == times {
            return;
        }
    }
    panic!("the client does not come through");
}

/// Everybody pushes and pulls until nothing moves any more, then the judgement.
#[track_caller]
fn judge(yard: &Yard, clients: &mut [&mut Client], sql: &str, expected: &[String]) {
    for _ in 0..2 {
        for client in clients.iter_mut() {
            sync_patiently(client, 2);
        }
    }
    yard.settle(clients, sql, expected);
}

fn sorted(bodies: &[&str]) -> Vec<String> {
    let mut bodies: Vec<String> = bodies.iter().map(|body| (*body).to_owned()).collect();
    bodies.sort();
    bodies
}

/// Clients of a table, each of which has written and not synced; none has seen the others' rows.
fn diverged(yard: &Yard, names: &[&str], url: &str) -> Vec<Client> {
    let mut clients: Vec<Client> = names.iter().map(|name| yard.client_at(name, url)).collect();
    clients[0].execute(TABLE);
    clients[0].execute(&insert("shared"));
    clients[0].sync();
    for client in &mut clients[1..] {
        client.sync();
    }
    for (client, name) in clients.iter_mut().zip(names) {
        client.execute(&insert(&format!("from {name}")));
        client.execute(&insert(&format!("from {name} too")));
    }
    clients
}

#[test]
fn two_clients_that_wrote_apart_come_together_round_by_round() {
    let yard = Yard::new();
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let mut bodies = vec!["shared".to_owned()];
    for round in 0..5 {
        for name in ["a", "b"] {
            if round == 0 {
                bodies.push(format!("from {name}"));
                bodies.push(format!("from {name} too"));
            }
        }
        let [a, b] = &mut clients[..] else { unreachable!() };
        for (client, name) in [(&mut *a, "a"), (&mut *b, "b")] {
            let body = format!("{name} {round}");
            client.execute(&insert(&body));
            bodies.push(body);
        }
        // Either may be first.
        if round % 2 == 0 {
            a.sync()
        } else {
            b.sync()
        }
        a.sync();
        b.sync();
    }
    let expected = sorted(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    let [a, b] = &mut clients[..] else { unreachable!() };
    judge(&yard, &mut [a, b], BODIES, &expected);
}

#[test]
fn three_clients_with_pushes_of_many_batches_lose_nothing() {
    let yard = Yard::new();
    let mut clients = diverged(&yard, &["a", "b", "c"], &yard.url());
    for client in &mut clients {
        client.execute(&insert_many(300, 4000));
        client.repeat(160, "INSERT INTO t(body) SELECT hex(randomblob(16)) || ?1");
        client.execute("UPDATE t SET body = body || '.' WHERE id > 200");
    }
    for client in &mut clients {
        sync_patiently(client, 1);
    }
    let [a, b, c] = &mut clients[..] else { unreachable!() };
    let count = 1 + 3 * (2 + 300 + 160);
    judge(&yard, &mut [a, b, c], COUNT, &[format!("{count}|{count}")]);
}

#[test]
fn what_is_written_between_push_and_pull_finds_its_rows() {
    let yard = Yard::new();
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let [a, b] = &mut clients[..] else { unreachable!() };
    a.sync();
    b.try_sync().unwrap();
    // Its rows have other keys in the log by now.
    b.execute("UPDATE t SET body = 'changed by b' WHERE body = 'from b'");
    b.execute(&insert("later"));
    b.try_sync().unwrap();
    b.execute("DELETE FROM t WHERE body = 'from b too'");
    judge(
        &yard,
        &mut [b, a],
        BODIES,
        &sorted(&["shared", "from a", "from a too", "changed by b", "later"]),
    );
}

/// Where a fault meets the healing of a client, and what it is; then everybody comes together.
fn interrupted(fault: impl Fn(&Client) -> Fault, seen: fn(&Seen) -> bool) {
    for n in 1..=4 {
        let yard = Yard::new();
        let proxy = yard.proxy();
        let mut clients = diverged(&yard, &["a", "b"], &yard.url());
        let mut b = clients.pop().unwrap();
        b.close();
        drop(b);
        clients[0].sync();
        let mut b = yard.client_at("b", &proxy.url(DATABASE));
        b.execute(&insert_many(280, 4000));
        b.execute(&insert("last"));
        let fault = fault(&b);
        proxy.nth(n, seen, move || fault);
        // Push and pull; the fault meets one of them, or none if there are not so many requests.
        let _ = b.try_sync();
        let _ = b.try_sync();
        let mut b = come_back(&yard, b, &proxy);
        b.execute(&insert("once more"));
        judge(&yard, &mut [&mut b, &mut clients[0]], COUNT, &["287|287".to_owned()]);
    }
}

/// The client again, in a new process if the old one was killed.
fn come_back(yard: &Yard, b: Client, proxy: &Proxy) -> Client {
    proxy.calm();
    drop(b);
    let mut again = yard.unopened("b");
    again.open(&proxy.url(DATABASE), &Opening::default()).unwrap();
    again
}

#[test]
fn a_client_killed_at_any_push_or_pull_is_healed_once() {
    interrupted(
        |client| {
            let killer = client.killer();
            Fault::after(move || killer.kill())
        },
        |_| true,
    );
    interrupted(
        |client| {
            let killer = client.killer();
            Fault::before(move || killer.kill())
        },
        Seen::is_pull,
    );
}

#[test]
fn a_begun_transaction_that_was_overtaken_goes_on() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let (mut a, mut b) = overtaken(&yard, &proxy);
    judge(&yard, &mut [&mut a, &mut b], COUNT, &["286|286".to_owned()]);
}

#[test]
fn lost_answers_double_nothing() {
    interrupted(|_| Fault::LoseAnswer, Seen::is_push);
    interrupted(|_| Fault::LoseAnswer, Seen::is_pull);
}

#[test]
fn a_server_killed_at_any_request_goes_on() {
    for n in 1..=5 {
        let mut yard = Yard::new();
        if yard.server().is_none() {
            return;
        }
        let proxy = yard.proxy();
        let mut clients = diverged(&yard, &["a", "b"], &proxy.url(DATABASE));
        let mut b = clients.pop().unwrap();
        let mut a = clients.pop().unwrap();
        a.sync();
        b.execute(&insert_many(280, 4000));
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        proxy.nth(
            n,
            |_| true,
            move || {
                Fault::after(move || {
                    tell.send(()).unwrap();
                    wait.recv().unwrap();
                })
            },
        );
        let working = std::thread::spawn(move || {
            for _ in 0..3 {
                let _ = b.try_sync();
            }
            b
        });
        told.recv().unwrap();
        yard.server().unwrap().restart();
        go.send(()).unwrap();
        let mut b = working.join().unwrap();
        proxy.calm();
        judge(&yard, &mut [&mut b, &mut a], COUNT, &["285|285".to_owned()]);
    }
}

#[test]
fn a_rollover_and_retention_between_push_and_pull_do_no_harm() {
    // Soon takes nobody any more to be in the middle of what retention dropped.
    let yard = Yard::with(&["--push-session", "1s"]);
    if yard.ours().is_none() {
        return;
    }
    let mut clients = diverged(&yard, &["a", "b", "c"], &yard.url());
    let [a, b, c] = &mut clients[..] else { unreachable!() };
    a.sync();
    b.try_sync().unwrap();
    for n in 0..2 {
        yard.roll_over();
        a.sync();
        a.execute(&insert(&format!("meanwhile {n}")));
        a.sync();
    }
    // Written in a generation that is closed by now.
    c.try_sync().unwrap();
    let path = format!("/admin/v1/databases/{DATABASE}/compact?retain-seconds=0");
    for n in 0..2 {
        a.sync();
        a.execute(&insert(&format!("compacted {n}")));
        a.sync();
        let answer = yard.admin("POST", &path);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let all = [
        "shared",
        "from a",
        "from a too",
        "from b",
        "from b too",
        "from c",
        "from c too",
        "meanwhile 0",
        "meanwhile 1",
        "compacted 0",
        "compacted 1",
    ];
    judge(&yard, &mut [a, b, c], BODIES, &sorted(&all));
}

#[test]
fn a_schema_that_both_changed_is_refused_as_ever() {
    let yard = Yard::new();
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let [a, b] = &mut clients[..] else { unreachable!() };
    a.execute("CREATE TABLE u(x)");
    b.execute("CREATE TABLE u(y TEXT, z)");
    a.sync();
    for _ in 0..3 {
        let error = b.try_sync().unwrap_err().error();
        assert!(error.contains("conflict"), "{error}");
    }
    assert_eq!(b.rows("SELECT count(*) FROM u"), ["0"], "its file is as it was");
    yard.settle(&mut [a], BODIES, &sorted(&["shared", "from a", "from a too"]));
}

#[test]
fn rows_that_both_changed_are_in_the_servers_journal() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("shared"));
    a.sync();
    b.sync();
    a.execute("UPDATE t SET body = 'as a has it'");
    b.execute("UPDATE t SET body = 'as b has it'");
    a.sync();
    b.sync();
    judge(&yard, &mut [&mut a, &mut b], BODIES, &sorted(&["as b has it"]));
    let told = ours.ok(["conflicts", "--json", &yard.url()]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let [row] = &told["conflicts"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&row["table"], &row["kind"]), (&"t".into(), &"update-update".into()));
    assert_eq!(row["local"]["body"], "as b has it");
    assert_eq!(row["remote"]["body"], "as a has it");
    let shown = ours.ok(["conflicts", &yard.url()]);
    assert!(shown.contains("as a has it") && shown.contains("the client's version"), "{shown}");
}

#[test]
fn two_servers_on_one_store_heal_together() {
    let mut yard = Yard::new();
    let Some(server) = yard.server() else { return };
    let data = server.data().to_owned();
    let second = anabranch_conformance::Server::start(anabranch_conformance::ServerOptions {
        data,
        args: Vec::new(),
        token: None,
    });
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let mut b = clients.pop().unwrap();
    let a = &mut clients[0];
    a.sync();
    b.try_sync().unwrap();
    b.execute(&insert("at the other server"));
    b.close();
    drop(b);
    // The other server has seen nothing of it, and finds all of it.
    let mut b = yard.client_at("b", &second.url(DATABASE));
    b.try_sync().unwrap();
    b.sync();
    let all = ["shared", "from a", "from a too", "from b", "from b too", "at the other server"];
    judge(&yard, &mut [&mut b, a], BODIES, &sorted(&all));
}

#[test]
fn our_replica_and_official_clients_write_apart() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    sqlite(&replica, &insert("ours"));
    ours.sync(&replica);
    let [a, b] = &mut clients[..] else { unreachable!() };
    a.sync();
    b.sync();
    let all = ["shared", "ours", "from a", "from a too", "from b", "from b too"];
    judge(&yard, &mut [a, b], BODIES, &sorted(&all));
    ours.sync(&replica);
    assert_eq!(rows(&replica, BODIES), sorted(&all));
}

#[test]
fn switched_off_a_conflict_is_a_conflict() {
    let yard = Yard::with(&["--heal", "off"]);
    let mut clients = diverged(&yard, &["a", "b"], &yard.url());
    let [a, b] = &mut clients[..] else { unreachable!() };
    a.sync();
    assert!(b.try_sync().unwrap_err().error().contains("conflict"));
    yard.settle(&mut [a], ALL, &numbered(&["shared", "from a", "from a too"]));
}
