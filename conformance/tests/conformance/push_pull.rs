//! What works when nothing goes wrong: pushes, pulls, both kinds of replica on one database.

use anabranch_conformance::{Position, sqlite};

use crate::support::{ALL, TABLE, Yard, insert, insert_many, numbered};

#[test]
fn the_first_push_makes_the_database_and_a_second_client_pulls_it() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("one"));
    a.execute(&insert("two"));
    a.sync();
    let mut b = yard.client("b");
    b.sync();
    assert_eq!(b.rows(ALL), numbered(&["one", "two"]));
    assert_eq!(a.position(), b.position(), "both number the frames alike");
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&["one", "two"]));
}

#[test]
fn a_database_that_nobody_has_written_to_is_empty_and_in_order() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.sync();
    assert_eq!(a.position(), Position { generation: 1, frame: 0 });
    assert_eq!(a.rows("SELECT count(*) FROM sqlite_schema"), ["0"]);
    // Two begin with the same emptiness; the second to push is in conflict, not lost.
    a.execute(TABLE);
    a.sync();
    yard.settle(&mut [&mut a], ALL, &[]);
}

#[test]
fn two_clients_write_in_turns() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    let mut b = yard.client("b");
    let mut bodies = Vec::new();
    for turn in 0..6 {
        let (writer, reader) = if turn % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        writer.sync();
        for part in 0..3 {
            let body = format!("turn {turn}, row {part}");
            writer.execute(&insert(&body));
            bodies.push(body);
        }
        writer.sync();
        reader.sync();
        assert_eq!(reader.rows(ALL), numbered(&bodies));
    }
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&bodies));
}

#[test]
fn updates_deletes_and_schema_changes_arrive() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.batch(&format!("{TABLE}; CREATE INDEX by_body ON t(body);"));
    a.execute(&insert_many(500, 200));
    a.sync();
    b.sync();
    b.batch(
        "DELETE FROM t WHERE id % 2 = 0; UPDATE t SET body = 'b' || id; \
         ALTER TABLE t ADD COLUMN note DEFAULT 'none'; DROP INDEX by_body; \
         CREATE VIEW odd AS SELECT id FROM t;",
    );
    b.sync();
    a.sync();
    let sql = "SELECT id, body, note FROM t ORDER BY id";
    let expected: Vec<String> = (1..500).step_by(2).map(|id| format!("{id}|b{id}|none")).collect();
    assert_eq!(a.rows("SELECT count(*) FROM odd"), ["250"]);
    yard.settle(&mut [&mut a, &mut b], sql, &expected);
}

#[test]
fn a_sync_with_nothing_to_do_is_one_request() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = yard.client_at("a", &proxy.url("app"));
    a.execute(TABLE);
    a.sync();
    let _ = proxy.take_log();
    a.try_sync().unwrap();
    let log = proxy.take_log();
    let end = a.position().frame + 1;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].path, format!("/app/sync/1/{end}/{}", end + 128));
    assert_eq!(log[0].status, 400, "the end of the generation");
    assert_eq!(log[0].answer.as_ref().unwrap()["generation"], 1);
}

#[test]
fn many_small_transactions_come_and_go_in_few_requests() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = yard.client_at("a", &proxy.url("app"));
    a.execute(TABLE);
    a.sync();
    a.repeat(1000, "INSERT INTO t(body) VALUES (?1)");
    let _ = proxy.take_log();
    let frames = a.try_sync().unwrap();
    let log = proxy.take_log();
    assert_eq!(log.len() as u64, frames.div_ceil(128), "no repeats");
    let expected = numbered(&(1..=1000).map(|n| n.to_string()).collect::<Vec<_>>());
    yard.settle(&mut [&mut a], ALL, &expected);
}

#[test]
fn databases_of_one_server_are_apart() {
    let yard = Yard::new();
    let mut clients = Vec::new();
    // The last is `default`, and its URL ends with a slash: both come doubled.
    let urls = [yard.url_of("one"), yard.url_of("two/"), yard.url_of("")];
    for (n, url) in urls.iter().enumerate() {
        let mut client = yard.client_at(&format!("a{n}"), url);
        client.execute(TABLE);
        client.execute(&insert(&format!("database {n}")));
        client.sync();
        clients.push(client);
    }
    for (n, url) in urls.iter().enumerate() {
        let mut other = yard.client_at(&format!("b{n}"), url);
        other.sync();
        assert_eq!(other.rows(ALL), numbered(&[format!("database {n}")]));
    }
    let mut other = yard.client_at("c", &yard.url_of("default"));
    other.sync();
    assert_eq!(other.rows(ALL), numbered(&["database 2"]));
}

#[test]
fn our_replicas_and_official_clients_share_a_database() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("official, first"));
    a.sync();

    let replica = yard.db("replica");
    ours.clone_to(&replica);
    sqlite(&replica, "INSERT INTO t(body) VALUES ('ours'), ('ours too')");
    ours.sync(&replica);
    a.sync();
    let mut bodies = vec!["official, first", "ours", "ours too"];
    assert_eq!(a.rows(ALL), numbered(&bodies));

    a.execute(&insert("official, second"));
    a.sync();
    bodies.push("official, second");
    ours.sync(&replica);
    let seen: Vec<String> = sqlite(&replica, ALL).lines().map(str::to_owned).collect();
    assert_eq!(seen, numbered(&bodies));

    // One after the other without a look between: theirs, ours, theirs.
    for n in 0..4 {
        a.execute(&insert(&format!("official {n}")));
        a.sync();
        ours.sync(&replica);
        sqlite(&replica, &insert(&format!("ours {n}")));
        ours.sync(&replica);
        a.sync();
    }
    let mut expected: Vec<String> = bodies.iter().map(|b| (*b).to_owned()).collect();
    expected.extend((0..4).flat_map(|n| [format!("official {n}"), format!("ours {n}")]));
    yard.settle(&mut [&mut a], ALL, &numbered(&expected));
}

#[test]
fn a_database_published_by_us_is_taken_and_written_by_official_clients() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let origin = yard.db("origin");
    sqlite(&origin, &format!("PRAGMA journal_mode = WAL; {TABLE}; {}", insert_many(2000, 400)));
    ours.init(&origin);
    let mut a = yard.client("a");
    a.sync();
    assert_eq!(a.rows("SELECT count(*) FROM t"), ["2000"]);
    a.execute("UPDATE t SET body = 'x' WHERE id > 1000");
    a.execute("DELETE FROM t WHERE id <= 500");
    a.sync();
    ours.sync(&origin);
    let expected = ["1500|1000"];
    assert_eq!(sqlite(&origin, "SELECT count(*), sum(body = 'x') FROM t"), expected[0]);
    let sql = "SELECT count(*), sum(body = 'x') FROM t";
    yard.settle(&mut [&mut a], sql, &expected.map(str::to_owned));
}

#[test]
fn official_clients_follow_when_we_grow_shrink_and_reshape_the_database() {
    let yard = Yard::new();
    let Some(ours) = yard.ours() else { return };
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(1500, 1000));
    a.sync();
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    let sql = "SELECT count(*) FROM t";
    for (change, count) in [
        // Every page, in one delta of one transaction.
        ("DELETE FROM t WHERE id > 20; VACUUM", "20"),
        (&*insert_many(3000, 1000), "3020"),
        ("CREATE TABLE u AS SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t", "3020"),
        ("DELETE FROM t WHERE id % 7", "431"),
        ("VACUUM", "431"),
    ] {
        sqlite(&replica, change);
        ours.sync(&replica);
        a.sync();
        assert_eq!(a.rows(sql), [count], "{change}");
        yard.settle(&mut [&mut a], sql, &[count.to_owned()]);
    }
}
