//! The dialect as its clients meet it, and random interleavings of them.

mod client;
mod healing;
mod random;
mod world;

use bytes::Bytes;
use client::{Client, Failed, Info};
use hyper::{Method, StatusCode};
use world::World;

use super::{export, frame};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, marker TEXT, filler BLOB)";

fn insert(marker: &str, rows: u32, bytes: u32) -> String {
    let row = |n: u32| {
        format!("INSERT INTO t(marker, filler) VALUES('{marker}-{n}', randomblob({bytes}));")
    };
    format!("BEGIN; {} COMMIT;", (0..rows).map(row).collect::<String>())
}

/// A client that has pushed a table.
async fn started(world: &World) -> Client {
    let mut client = Client::new(world, "a", 1);
    client.sync(world).await.unwrap();
    client.run(TABLE);
    client.settle(world).await.unwrap();
    client
}

async fn joined(world: &World, name: &str) -> Client {
    let mut client = Client::new(world, name, u64::from(name.as_bytes()[0]));
    client.settle(world).await.unwrap();
    client
}

async fn all_equal(world: &World, clients: &mut [&mut Client]) -> Vec<String> {
    for client in clients.iter_mut() {
        client.settle(world).await.unwrap();
    }
    let (head, pages) = world.state().await;
    let path = world.dir.path().join("state.db");
    std::fs::write(&path, pages.concat()).unwrap();
    let rows = world::rows(&path);
    world::remove(&path, &["", "-wal", "-shm"]);
    for client in clients {
        client.settle(world).await.unwrap();
        assert_eq!(client.rows(), rows);
        assert_eq!(Some(client.sum()), head.newest.as_ref().map(|newest| newest.sum.1));
    }
    rows
}

#[tokio::test]
async fn what_one_client_pushes_another_pulls() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    for round in 0..5 {
        a.run(&insert(&format!("a{round}"), 3, 100));
        a.settle(&world).await.unwrap();
        b.settle(&world).await.unwrap();
        b.run(&insert(&format!("b{round}"), 1, 9000));
        b.settle(&world).await.unwrap();
        a.settle(&world).await.unwrap();
    }
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 20);
}

#[tokio::test]
async fn many_transactions_in_one_request_are_one_append() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let before = world.log().await.history(100).await.unwrap().len();
    for round in 0..40 {
        a.run(&insert(&format!("a{round}"), 1, 10));
    }
    assert!(a.wal_frames() < 100);
    a.settle(&world).await.unwrap();
    let history = world.log().await.history(100).await.unwrap();
    assert_eq!(history.len(), before + 1);
    assert_eq!(history[0].metadata.transactions, Some(40));
}

/// Syncs `client`, which is killed again and again; `other` meanwhile sees one of two numbers of rows.
async fn sync_through_kills(
    world: &World,
    client: &mut Client,
    other: &mut Client,
    rows: [usize; 2],
) {
    client.faults.kill_after = 3;
    let mut killed = 0;
    loop {
        match client.sync(world).await {
            Ok(_) => break,
            Err(Failed::Killed) => {
                killed += 1;
                other.settle(world).await.unwrap();
                assert!(rows.contains(&other.rows().len()), "{}", other.rows().len());
            }
            Err(failed) => panic!("{failed:?}"),
        }
        assert!(killed < 1000);
    }
    client.faults = client::Faults::default();
}

#[tokio::test]
async fn a_transaction_of_many_requests_is_whole_or_not_there() {
    let world = World::new(2);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    a.run(&insert("large", 600, 2000));
    assert!(a.wal_frames() > 256);
    sync_through_kills(&world, &mut a, &mut b, [0, 600]).await;
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 600);
}

#[tokio::test]
async fn replicas_of_both_kinds_share_a_database() {
    let world = World::new(1);
    let mut a = started(&world).await;
    world.replica_runs(&insert("replica", 50, 3000)).await;
    a.settle(&world).await.unwrap();
    a.run(&insert("a", 2, 10));
    a.settle(&world).await.unwrap();
    world
        .replica_runs("UPDATE t SET filler = 'x' WHERE id % 2 = 0; CREATE INDEX i ON t(marker)")
        .await;
    let mut b = joined(&world, "b").await;
    b.run(&insert("b", 2, 10));
    b.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await.len(), 54);
}

#[tokio::test]
async fn a_client_begins_with_the_image_of_a_large_database() {
    let world = World::new(1);
    world.replica_runs(&format!("{TABLE}; {}", insert("replica", 400, 4000))).await;
    assert_eq!(world.get("/info").await.json()["current_generation"], 3);
    let mut a = joined(&world, "a").await;
    assert_eq!(a.info(), Info { generation: 3, durable: 0 });
    a.run(&insert("a", 1, 10));
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut a]).await.len(), 401);
}

#[tokio::test]
async fn diverged_clients_conflict_for_ever_and_lose_nothing_of_others() {
    let world = World::without_healing(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    a.run(&insert("a", 1, 10));
    b.run(&insert("b", 1, 10));
    a.settle(&world).await.unwrap();
    for _ in 0..3 {
        assert_eq!(b.sync(&world).await, Err(Failed::Conflict));
    }
    a.run(&insert("more", 1, 10));
    a.settle(&world).await.unwrap();
    assert_eq!(b.sync(&world).await, Err(Failed::Conflict));
    b.reset();
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await, ["a-0", "more-0"]);
}

#[tokio::test]
async fn the_same_change_of_two_clients_is_not_taken_for_one() {
    let world = World::without_healing(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    let same = "INSERT INTO t(marker) VALUES('order')";
    a.run(same);
    b.run(same);
    a.settle(&world).await.unwrap();
    assert_eq!(b.sync(&world).await, Err(Failed::Conflict), "not pulled by anybody");
    // Once it was pulled, it may have been pulled by a client that died before it saved that.
    let _ = joined(&world, "c").await;
    b.sync(&world).await.unwrap();
}

#[tokio::test]
async fn a_file_that_stock_sqlite_opened_is_refused_and_harms_nobody() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    b.opened_by_stock_sqlite();
    // As many frames as were checkpointed, and more: it pushes from the middle of a new WAL.
    for n in 0..a.wal_frames() + 3 {
        b.run(&insert(&format!("lost{n}"), 1, 10));
    }
    assert_eq!(b.sync(&world).await, Err(Failed::Conflict));
    a.run(&insert("a", 1, 10));
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut a]).await, ["a-0"]);
}

#[tokio::test]
async fn a_rollover_leads_everybody_who_has_pushed_into_the_next_generation() {
    let world = World::without_healing(1);
    let mut a = started(&world).await;
    let mut b = joined(&world, "b").await;
    a.run(&insert("a", 1, 10));
    b.run(&insert("b", 1, 10));
    a.settle(&world).await.unwrap();
    let rolled = world.rollover().await;
    assert_eq!(rolled["generation"], 3);
    assert_eq!(b.sync(&world).await, Err(Failed::Conflict), "it lags with writes of its own");
    a.settle(&world).await.unwrap();
    assert_eq!(a.info(), Info { generation: 3, durable: 0 });
    a.run(&insert("more", 1, 10));
    a.settle(&world).await.unwrap();
    b.reset();
    assert_eq!(all_equal(&world, &mut [&mut a, &mut b]).await, ["a-0", "more-0"]);
}

#[tokio::test]
async fn a_repeat_in_an_old_generation_is_recognised() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let start = a.info().durable;
    a.run(&insert("a", 1, 10));
    let frames = a.wal().1;
    let (from, to) = (start as usize, frames.len());
    let path = format!("/sync/1/{}/{}", start + 1, to + 1);
    let body = frames.part(from, to).bytes().clone();
    let push = || world.ask(0, &Method::POST, &path, body.clone());
    assert_eq!(push().await.json()["max_frame_no"], to);
    world.rollover().await;
    world.restart(0);
    let repeated = push().await.json();
    assert_eq!((&repeated["status"], &repeated["generation"]), (&"ok".into(), &1.into()));
    assert_eq!(all_equal(&world, &mut [&mut a]).await, ["a-0"]);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_words() {
    let world = World::new(1);
    let a = started(&world).await;
    a.run(&insert("a", 1, 10));
    let frame = a.wal().1.part(0, 1).bytes().clone();
    let mut zero = frame.to_vec();
    zero[..4].fill(0);
    let next = a.info().durable + 1;
    for (path, body) in [
        (format!("/sync/1/{next}/{next}"), frame.clone()),
        (format!("/sync/1/0/{next}"), frame.clone()),
        (format!("/sync/1/{next}/{}", next + 2), frame.clone()),
        (format!("/sync/1/{next}/{}", next + 1), Bytes::from(zero)),
        (format!("/sync/x/{next}/{}", next + 1), frame.clone()),
        (format!("/sync/1/{next}/99999999999"), frame.clone()),
    ] {
        let answer = world.ask(0, &Method::POST, &path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
    }
    let gap = format!("/sync/1/{}/{}", next + 5, next + 6);
    let answer = world.ask(0, &Method::POST, &gap, frame.clone()).await.json();
    assert_eq!((&answer["status"], &answer["max_frame_no"]), (&"ok".into(), &(next - 1).into()));
    let other = "/sync/9/1/2".to_owned();
    let answer = world.ask(0, &Method::POST, &other, frame).await.json();
    assert_eq!(answer["status"], "conflict");
    assert_eq!(world.get("/sync/1/0/5").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/sync/9/1/5").await.json()["generation"], 1, "no frames of another");
    assert_eq!(world.get("/export/2").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/elsewhere/export/3").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/elsewhere/info").await.json()["current_generation"], 1);
}

#[tokio::test]
async fn the_empty_database_is_one_page_that_sqlite_takes() {
    let world = World::new(1);
    let a = joined(&world, "a").await;
    assert_eq!(std::fs::metadata(&a.path).unwrap().len(), 4096);
    assert!(a.rows().is_empty());
    let mode: String = rusqlite::Connection::open(&a.path)
        .unwrap()
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn who_is_too_far_behind_crosses_a_bridge() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let mut far = joined(&world, "far").await;
    let log = world.log().await;
    for round in 0..3 {
        a.run(&insert(&format!("a{round}"), 200, 3000));
        a.settle(&world).await.unwrap();
        world.rollover().await;
        a.settle(&world).await.unwrap();
    }
    for _ in 0..2 {
        a.run(&insert("last", 1, 10));
        a.settle(&world).await.unwrap();
        let now = anabranch_format::Micros(i64::MAX / 2);
        log.compact(now, std::time::Duration::ZERO, &anabranch_store::Progress::none())
            .await
            .unwrap();
    }
    assert_eq!(all_equal(&world, &mut [&mut a]).await.len(), 602);
    let before = a.info().generation;
    // Its generations are gone, and so is the base of the current one: a new one begins.
    assert_eq!(all_equal(&world, &mut [&mut far, &mut a]).await.len(), 602);
    assert_eq!(far.info(), Info { generation: before + 2, durable: 0 });
    let bridge = world.get(&format!("/sync/{}/1/2000", before + 1)).await;
    let pages = world.state().await.1.len();
    assert!(pages > 300);
    assert_eq!(bridge.body.len(), pages * frame::FRAME_BYTES);
    far.run(&insert("far", 1, 10));
    far.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut far, &mut a]).await.len(), 603);
}

#[tokio::test]
async fn pages_of_another_size_are_refused_in_words() {
    let world = World::new(1);
    let small = anabranch_format::PageSize::MIN;
    let mut page = vec![7u8; small.bytes()];
    page[..16].copy_from_slice(anabranch_format::SQLITE_MAGIC);
    let spool = anabranch_store::Spool::from_bytes(Vec::new());
    let mut encoder =
        anabranch_format::DeltaEncoder::new(spool, small, anabranch_format::Lsn::ZERO).unwrap();
    encoder.page(world::pgno(1), &page).unwrap();
    let encoded = encoder.finish(1).unwrap();
    let new = anabranch_store::NewSegment {
        page_size: small,
        frames: encoded.frames,
        body: encoded.sink,
        sum: (anabranch_format::DbChecksum::EMPTY, world::sum(&[page])),
        ..world::delta(&[], &[export::empty_database().to_vec()], Default::default()).unwrap()
    };
    let log = world.log().await;
    let head = anabranch_store::Head::empty();
    log.append(&head, new, &anabranch_store::Progress::none()).await.unwrap();
    for path in ["/info", "/export/1", "/sync/1/1/2"] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.json()["error"].as_str().unwrap().contains("512"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_push_session_is_found_by_its_baton_at_its_server_or_begun_anew() {
    let world = World::new(2);
    let mut a = started(&world).await;
    let first = a.info().durable + 1;
    a.run(&insert("large", 600, 2000));
    let frames = a.wal().1;
    let part = |from: u32, to: u32, baton: &str| {
        let path = format!("/sync/1/{from}/{to}{baton}");
        (path, frames.part(from as usize - 1, to as usize - 1).bytes().clone())
    };
    let post = |server: usize, (path, body): (String, Bytes)| {
        let world = &world;
        async move { world.ask(server, &Method::POST, &path, body).await }
    };
    let begun = post(0, part(first, first + 128, "")).await.json();
    assert_eq!(begun["max_frame_no"], first + 127);
    let baton = format!("/{}", begun["baton"].as_str().unwrap());
    // Another server sends the client to the one that has the session.
    let second = part(first + 128, first + 140, &baton);
    let elsewhere = post(1, second.clone()).await;
    assert_eq!(elsewhere.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(elsewhere.location.unwrap(), format!("http://localhost:0{}", second.0));
    // After a lost answer the client comes without the baton, and repeats some of it.
    let again = post(0, part(first + 100, first + 140, "")).await.json();
    assert_eq!((&again["status"], &again["max_frame_no"]), (&"ok".into(), &(first + 139).into()));
    // Nobody else sees any of it, and a gap is filled from where the frames end.
    assert_eq!(
        world.get(&format!("/sync/1/{first}/{}", first + 9)).await.json()["max_frame_no"],
        first - 1
    );
    let gap = post(0, part(first + 150, first + 160, &baton)).await.json();
    assert_eq!(gap["max_frame_no"], first + 139);
    // The server is killed: the client starts its transaction over.
    world.restart(0);
    let forgotten = post(0, part(first + 140, first + 150, &baton)).await.json();
    assert_eq!(
        (&forgotten["status"], &forgotten["max_frame_no"]),
        (&"ok".into(), &(first - 1).into())
    );
    // So does one that stayed away for too long.
    let begun = post(0, part(first, first + 128, "")).await.json();
    assert_eq!(begun["max_frame_no"], first + 127);
    for _ in 0..5 {
        world.get("/info").await;
    }
    let late = post(0, part(first + 128, first + 140, "")).await.json();
    assert_eq!(late["max_frame_no"], first - 1);
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut a]).await.len(), 600);
}

#[tokio::test]
async fn a_transaction_that_no_sqlite_makes_is_refused_and_leaves_nothing() {
    let world = World::new(1);
    let mut a = started(&world).await;
    let next = a.info().durable;
    a.run(&insert("a", 1, 10));
    let (header, frames) = a.wal();
    let forge = |commit: u32, repeat: bool| {
        let mut writer = anabranch_format::WalWriter::new(Vec::new(), header.unwrap()).unwrap();
        for frame in frames.part(0, next as usize).iter() {
            writer.frame(frame.pgno(), frame.header.commit_size, frame.page()).unwrap();
        }
        let page = frames.get(0).page();
        for _ in 0..if repeat { 2 } else { 0 } {
            writer.frame(world::pgno(2), 0, page).unwrap();
        }
        writer.frame(world::pgno(2), commit, page).unwrap();
        Bytes::from(writer.into_inner()).slice(32 + next as usize * frame::FRAME_BYTES..)
    };
    let size = u32::try_from(world.state().await.1.len()).unwrap();
    for forged in
        [forge(u32::MAX, false), forge(size + 1, false), forge(1, false), forge(size, true)]
    {
        let count = u32::try_from(forged.len() / frame::FRAME_BYTES).unwrap();
        let path = format!("/sync/1/{}/{}", next + 1, next + 1 + count);
        let answer = world.ask(0, &Method::POST, &path, forged).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
    a.settle(&world).await.unwrap();
    assert_eq!(all_equal(&world, &mut [&mut a]).await, ["a-0"]);
}
