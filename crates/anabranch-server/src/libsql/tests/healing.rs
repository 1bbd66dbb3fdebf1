//! Clients that wrote past a conflict.

use std::time::Duration;

use anabranch_store::{Aside, AsideName, Progress};
use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::client::{Client, Failed, Info};
use super::world::{self, World};
use crate::entropy;

use super::{TABLE, all_equal, frame, insert, joined, started};

/// Two clients of a table, of which the first has pushed something that the other has not pulled.
async fn diverged(world: &World, theirs: &str) -> (Client, Client) {
    let mut a = started(world).await;
    let b = joined(world, "b").await;
    a.run(&insert("a", 2, 10));
    b.run(theirs);
    a.settle(world).await.unwrap();
    (a, b)
}

async fn conflicts(world: &World) -> Vec<serde_json::Value> {
    let answer = world.get("/admin/v1/databases/default/conflicts").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["conflicts"].as_array().unwrap().clone()
}

#[tokio::test]
async fn diverged_clients_are_merged_and_come_together() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    for round in 0..4 {
        a.run(&insert(&format!("a{round}"), 2, 10));
        b.run(&insert(&format!("b{round}"), 3, 10));
        a.settle(&world).await.unwrap();
        let before = b.info();
        assert!(b.sync(&world).await.unwrap() > 0);
        assert_eq!(b.info().generation, before.generation + 1);
        assert_eq!(b.info().durable, b.wal_frames());
        b.settle(&world).await.unwrap();
        assert_eq!(b.info(), Info { generation: before.generation + 3, durable: 0 });
        a.settle(&world).await.unwrap();
        assert_eq!(a.info(), b.info());
    }
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 20);
    let current = world.get("/info").await.json()["current_generation"].as_u64();
    assert_eq!(current, Some(13));
    let c = joined(&world, "c").await;
    assert_eq!(c.rows().len(), 20);
    assert!(conflicts(&world).await.iter().all(|row| row["kind"] == "insert-insert"));
}

#[tokio::test]
async fn what_is_written_before_the_pull_and_after_the_passage_is_merged_too() {
    let world = World::new(1);
    let (mut a, mut b) = diverged(&world, &insert("b", 1, 10)).await;
    b.sync(&world).await.unwrap();
    let number = b.info().generation;
    // The row has another key in the log by now: its owner still knows it by the old one.
    b.run("UPDATE t SET filler = 'mine' WHERE marker = 'b-0'");
    b.run(&insert("before", 2, 10));
    a.settle(&world).await.unwrap();
    a.run(&insert("between", 2, 10));
    a.settle(&world).await.unwrap();
    b.sync(&world).await.unwrap();
    assert_eq!((b.info().generation, b.info().durable), (number, b.wal_frames()));
    // Over the passage, but no further.
    b.faults.kill_after = 1;
    assert_eq!(b.sync(&world).await, Err(Failed::Killed));
    b.faults.kill_after = 0;
    let start = b.info().durable + 1;
    let path = format!("/sync/{number}/{start}/{}", start + 128);
    let passage = world.get(&path).await.body;
    b.insert(&passage);
    b.run(&insert("after", 2, 10));
    // It died before it saved that it had come over: it pushes the passage back.
    b.sync(&world).await.unwrap();
    assert_eq!((b.info().generation, b.info().durable), (number, b.wal_frames()));
    let rows = all_equal(&world, &mut [&mut b, &mut a]).await;
    assert_eq!(rows.len(), 9);
    let mine = "SELECT marker FROM t WHERE filler = 'mine'";
    let found: String = world::open(&b.path).query_row(mine, [], |row| row.get(0)).unwrap();
    assert_eq!(found, "b-0");
    // All in one generation of its own.
    assert_eq!(world.get("/info").await.json()["current_generation"], number + 2);
}

#[tokio::test]
async fn a_repeat_is_known_by_any_server_in_either_numbering() {
    let world = World::new(2);
    let (mut a, b) = diverged(&world, &insert("b", 400, 2000)).await;
    b.run(&insert("more", 3, 10));
    let (start, frames) = (b.info().durable + 1, b.wal().1);
    let end = u32::try_from(frames.len()).unwrap() + 1;
    let body = frames.part(start as usize - 1, frames.len()).bytes().clone();
    let mut answers = Vec::new();
    for (server, generation) in [(0, 1), (1, 1), (0, 1), (1, 2), (0, 2)] {
        let path = format!("/sync/{generation}/{start}/{end}");
        answers.push(world.ask(server, &Method::POST, &path, body.clone()).await.json());
        world.restart(1 - server);
    }
    for answer in answers {
        assert_eq!(answer["status"], "ok");
        assert_eq!(
            (&answer["generation"], &answer["max_frame_no"]),
            (&2.into(), &(end - 1).into())
        );
    }
    let mut b = b;
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 405);
    assert_eq!(b.info().generation, 4);
}

#[tokio::test]
async fn the_same_row_of_two_clients_is_two_rows() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    let same = "INSERT INTO t(marker) VALUES('order')";
    a.run(same);
    b.run(same);
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await, ["order", "order"]);
}

#[tokio::test]
async fn a_schema_that_both_changed_is_refused_before_anything_is_promised() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    a.run("CREATE TABLE u(x); INSERT INTO u VALUES (1)");
    b.run("CREATE TABLE u(y TEXT, z); INSERT INTO u VALUES ('b', 2)");
    a.settle(&world).await.unwrap();
    let before = world.state().await.0.lsn();
    for _ in 0..2 {
        assert_eq!(b.sync(&world).await, Err(Failed::Conflict));
    }
    assert_eq!(world.state().await.0.lsn(), before, "nothing was appended");
    assert!(
        world.get("/admin/v1/databases/default/lineages").await.json()["lineages"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    // What one of them changed is carried over.
    let mut c = joined(&world, "c").await;
    a.run(&insert("a", 2, 10));
    a.settle(&world).await.unwrap();
    c.run("ALTER TABLE t ADD COLUMN extra; UPDATE t SET extra = 7; CREATE INDEX i ON t(marker)");
    c.run(&insert("c", 1, 10));
    assert_eq!(all_equal(&world, &mut [&mut c, &mut a]).await.len(), 3);
}

#[tokio::test]
async fn rows_that_did_not_end_as_written_are_in_the_journal() {
    let world = World::new(1);
    let mut a = started(&world).await;
    a.run(&insert("x", 2, 10));
    a.settle(&world).await.unwrap();
    let mut b = joined(&world, "b").await;
    a.run("UPDATE t SET marker = 'of a' WHERE id = 1");
    b.run("UPDATE t SET marker = 'of b' WHERE id = 1");
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await, ["of b", "x-1"]);
    let found = conflicts(&world).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let row = &found[0];
    assert_eq!((&row["table"], &row["kind"]), (&"t".into(), &"update-update".into()));
    assert_eq!(row["local"]["marker"], "of b");
    assert_eq!(row["remote"]["marker"], "of a");
    let told = world.get("/admin/v1/databases/default/lineages").await.json();
    let lineage = &told["lineages"][0];
    assert_eq!((&lineage["parts"], &lineage["conflicts"]), (&1.into(), &1.into()));
    let path = format!(
        "/admin/v1/databases/default/conflicts?lineage={}",
        lineage["lineage"].as_str().unwrap()
    );
    assert_eq!(world.get(&path).await.json()["conflicts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_whose_lineage_was_dropped_gets_the_whole_database() {
    let world = World::new(1);
    let (mut a, mut b) = diverged(&world, &insert("b", 3, 10)).await;
    b.sync(&world).await.unwrap();
    b.run(&insert("more", 1, 10));
    b.sync(&world).await.unwrap();
    let told = world.get("/admin/v1/databases/default/lineages").await.json();
    let id = told["lineages"][0]["lineage"].as_str().unwrap();
    let path = format!("/admin/v1/databases/default/lineages/{id}");
    assert_eq!(world.ask(0, &Method::DELETE, &path, Bytes::new()).await.status, StatusCode::OK);
    assert_eq!(
        world.ask(0, &Method::DELETE, &path, Bytes::new()).await.status,
        StatusCode::NOT_FOUND
    );
    let start = b.info().durable + 1;
    let path = format!("/sync/{}/{start}/{}", b.info().generation, start + 128);
    let image = world.get(&path).await.body.len() / frame::FRAME_BYTES;
    assert_eq!(image, world.state().await.1.len());
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await.len(), 6);
}

#[tokio::test]
async fn who_stopped_on_the_way_and_wrote_is_merged() {
    let world = World::new(1);
    let (mut a, mut b) = diverged(&world, &insert("b", 1, 10)).await;
    b.settle(&world).await.unwrap();
    // To frame 0 of the owner's generation, where nothing is to be had.
    a.pull_until(&world, Info { generation: 2, durable: 0 }).await;
    a.run(&insert("walker", 2, 10));
    b.run(&insert("more", 1, 10));
    b.settle(&world).await.unwrap();
    assert_eq!(world.get("/sync/2/1/129").await.status, StatusCode::BAD_REQUEST);
    a.sync(&world).await.unwrap();
    assert_eq!(a.info(), Info { generation: 5, durable: a.wal_frames() });
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 6);
}

#[tokio::test]
async fn a_transaction_of_many_requests_is_merged_whole() {
    let world = World::new(2);
    let (mut a, mut b) = diverged(&world, &insert("large", 600, 2000)).await;
    super::sync_through_kills(&world, &mut b, &mut a, [2, 602]).await;
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 602);
}

#[tokio::test]
async fn a_file_that_stock_sqlite_opened_is_not_healed() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    b.opened_by_stock_sqlite();
    for n in 0..a.wal_frames() + 3 {
        b.run(&insert(&format!("lost{n}"), 1, 10));
    }
    a.run(&insert("a", 2, 10));
    a.settle(&world).await.unwrap();
    assert_eq!(b.sync(&world).await, Err(Failed::Conflict));
    assert_eq!(all_equal(&world, &mut [&mut a]).await, ["a-0", "a-1"]);
}

#[tokio::test]
async fn a_table_made_on_an_empty_database_by_two_is_one() {
    let world = World::new(1);
    let mut a = Client::new(&world, "a", 1);
    let mut b = Client::new(&world, "b", 2);
    for client in [&mut a, &mut b] {
        client.sync(&world).await.unwrap();
        client.run(TABLE);
    }
    a.run(&insert("a", 1, 10));
    b.run(&insert("b", 2, 10));
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await.len(), 3);
}

#[tokio::test]
async fn the_start_of_a_transaction_that_was_forgotten_is_begun_again() {
    let world = World::new(1);
    let (mut a, mut b) = diverged(&world, &insert("large", 600, 2000)).await;
    let (generation, start) = (b.info().generation, b.info().durable + 1);
    let frames = b.wal().1;
    let push = async |first: u32| {
        let from = first as usize - 1;
        let body = frames.part(from, from + 128).bytes().clone();
        let path = format!("/sync/{generation}/{first}/{}", first + 128);
        world.ask(0, &Method::POST, &path, body).await.json()
    };
    assert_eq!(push(start).await["max_frame_no"], start + 127);
    world.restart(0);
    // Its library forgets the baton, too, and goes back to where it is told.
    let mut first = start + 128;
    for _ in 0..3 {
        let told = push(first).await;
        assert_eq!(told["status"], "ok", "{told}");
        first = u32::try_from(told["max_frame_no"].as_u64().unwrap()).unwrap() + 1;
        if first == start {
            break;
        }
    }
    assert_eq!(first, start);
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await.len(), 602);
}

#[tokio::test]
async fn what_retention_has_left_of_a_lineage_leads_nobody_on() {
    let world = World::new(1);
    let (mut a, mut b) = diverged(&world, &insert("b", 1, 10)).await;
    b.sync(&world).await.unwrap();
    b.run(&insert("more", 30, 2000));
    b.sync(&world).await.unwrap();
    let log = world.log().await;
    let listed = log.asides("").await.unwrap();
    let is_part = |aside: &&Aside| matches!(aside.name, AsideName::Part(..));
    let oldest = listed.iter().find(is_part).unwrap();
    let body = log.aside(&oldest.lineage, &oldest.name).await.unwrap().unwrap();
    for round in 0..3 {
        a.run(&insert(&format!("later{round}"), 1, 10));
        a.settle(&world).await.unwrap();
        log.compact(entropy::now(), Duration::ZERO, &Progress::none()).await.unwrap();
    }
    assert!(log.asides("").await.unwrap().is_empty());
    // As if it had been stopped halfway. The server has the lineage at hand.
    log.put_aside(&oldest.lineage, &oldest.name, &body).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut b, &mut a]).await.len(), 36);
}
