//! Random interleavings: clients that are killed, servers that forget, answers that are lost,
//! replicas of another kind, new generations, retention.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_format::Micros;
use anabranch_store::Progress;

use super::client::{Client, Failed, Faults};
use super::world::{Random, World};
use super::{TABLE, all_equal, insert};

/// Rows that refer to others: they must go where those go.
const CHILDREN: &str = "CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES t(id), \
    marker TEXT)";

/// As `insert`, with a child for each row.
fn insert_families(marker: &str, rows: u32, bytes: u32) -> String {
    let row = |n: u32| {
        format!(
            "INSERT INTO t(marker, filler) VALUES('{marker}-{n}', randomblob({bytes})); \
             INSERT INTO child(parent, marker) VALUES(last_insert_rowid(), '{marker}-{n}');"
        )
    };
    format!("BEGIN; {} COMMIT;", (0..rows).map(row).collect::<String>())
}

/// That every child is at its parent.
fn check_families(client: &Client) {
    let file = super::world::open(&client.path);
    let count = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let parents = count("SELECT count(*) FROM t WHERE marker NOT LIKE 'r%'");
    let together =
        "SELECT count(*) FROM child JOIN t ON t.id = parent WHERE t.marker = child.marker";
    assert_eq!((count(together), count("SELECT count(*) FROM child")), (parents, parents));
    drop(file);
    super::world::remove(&client.path, &["-shm"]);
}

/// What became of the rows of a client.
#[derive(Default)]
struct Ledger {
    /// Pushed, and told so.
    acknowledged: BTreeSet<String>,
    /// Committed, and not known to be pushed.
    open: BTreeMap<usize, Vec<String>>,
    /// Refused: they may be there or not, but not twice.
    given_up: BTreeSet<String>,
}

impl Ledger {
    fn pushed(&mut self, client: usize) {
        self.acknowledged.extend(self.open.remove(&client).unwrap_or_default());
    }

    fn refused(&mut self, client: usize) {
        self.given_up.extend(self.open.remove(&client).unwrap_or_default());
    }
}

struct Story {
    seed: u64,
    /// Else a conflict is the end of what a client wrote.
    heal: bool,
    servers: usize,
    faults: Faults,
    rollovers: bool,
    retention: bool,
    steps: u32,
}

impl Story {
    /// Of one server that neither heals nor begins generations.
    fn plain(seed: u64, faults: Faults) -> Self {
        let (heal, rollovers, retention) = (false, false, false);
        Story { seed, heal, servers: 1, faults, rollovers, retention, steps: 60 }
    }
}

/// How many rows were acknowledged, and how many were given up after a conflict.
async fn tell(story: Story) -> (usize, usize) {
    let Story { seed, heal, servers, faults, rollovers, retention, steps } = story;
    let mut random = Random(seed);
    let world = if heal { World::new(servers) } else { World::without_healing(servers) };
    let mut clients: Vec<Client> = ["a", "b", "c"]
        .iter()
        .zip(1u64..)
        .map(|(name, n)| Client::new(&world, name, seed ^ (n << 32)))
        .collect();
    world.replica_runs(&format!("{TABLE}; {CHILDREN}")).await;
    let mut ledger = Ledger::default();
    let mut conflicts = 0;
    for step in 0..steps {
        let index = usize::try_from(random.below(3)).unwrap();
        let client = &mut clients[index];
        client.faults = faults;
        match random.below(20) {
            0 => {
                let marker = format!("r{step}");
                world.replica_runs(&insert(&marker, 2, 3000)).await;
                ledger.acknowledged.extend((0..2).map(|n| format!("{marker}-{n}")));
            }
            1 if rollovers => {
                let status = world.try_rollover().await.status;
                assert!(matches!(status.as_u16(), 200 | 503), "{status}");
            }
            2 if retention => {
                let log = world.log().await;
                log.compact(Micros(i64::MAX / 2), Duration::ZERO, &Progress::none()).await.unwrap();
            }
            3..=9 => {
                if client.sync(&world).await.is_err() {
                    continue;
                }
                let rows = [1, 2, 5, 150, 3, 2, 1, 400][usize::try_from(random.below(8)).unwrap()];
                let marker = format!("{index}x{step}");
                client.run(&insert_families(&marker, rows, 1500));
                if random.one_in(4) {
                    client
                        .run(&format!("UPDATE t SET filler = NULL WHERE marker LIKE '{index}x%'"));
                }
                if random.one_in(6) {
                    client.run("DELETE FROM t WHERE 0; UPDATE t SET filler = randomblob(30) WHERE id % 3 = 0");
                }
                if random.one_in(8) {
                    // Grows the database by pages that are free again at its commit.
                    client.run(&format!(
                        "BEGIN; CREATE TABLE gone(x); \
                         INSERT INTO gone SELECT randomblob(2000) FROM t, t AS u LIMIT {}; \
                         DROP TABLE gone; COMMIT",
                        random.below(200)
                    ));
                }
                if random.one_in(10) {
                    client.run("VACUUM");
                }
                let open = ledger.open.entry(index).or_default();
                open.extend((0..rows).map(|n| format!("{marker}-{n}")));
                // Mostly at once, so that the clients do not only conflict.
                if !random.one_in(4) {
                    outcome(client.sync(&world).await, index, client, &mut ledger, &mut conflicts);
                }
            }
            _ => {
                let had = client.try_info().is_some_and(|info| client.wal_frames() > info);
                let synced = client.sync(&world).await;
                if had || synced.is_err() {
                    outcome(synced, index, client, &mut ledger, &mut conflicts);
                }
            }
        }
    }
    for (index, client) in clients.iter_mut().enumerate() {
        client.faults = Faults::default();
        for _ in 0..100 {
            let had = client.try_info().is_some_and(|info| client.wal_frames() > info);
            let synced = client.sync(&world).await;
            let done = synced == Ok(0) && !had;
            if had || synced.is_err() {
                outcome(synced, index, client, &mut ledger, &mut conflicts);
            }
            if done {
                break;
            }
        }
    }
    let [a, b, c] = &mut clients[..] else { panic!("three clients") };
    let rows = all_equal(&world, &mut [a, b, c]).await;
    check_families(&clients[0]);
    let unique: BTreeSet<&String> = rows.iter().collect();
    assert_eq!(unique.len(), rows.len(), "a row came twice, seed {seed}");
    for row in &ledger.acknowledged {
        assert!(unique.contains(row), "{row} was acknowledged and is lost, seed {seed}");
    }
    for row in rows {
        let known = ledger.acknowledged.contains(&row) || ledger.given_up.contains(&row);
        assert!(known, "{row} is of nobody, seed {seed}");
    }
    assert!(!ledger.acknowledged.is_empty());
    assert!(conflicts == 0 || !heal || retention, "{conflicts} conflicts, seed {seed}");
    (ledger.acknowledged.len(), ledger.given_up.len())
}

fn outcome(
    synced: Result<u32, Failed>,
    index: usize,
    client: &mut Client,
    ledger: &mut Ledger,
    conflicts: &mut u32,
) {
    match synced {
        Ok(_) => ledger.pushed(index),
        Err(Failed::Conflict) => {
            *conflicts += 1;
            ledger.refused(index);
            client.reset();
        }
        // Syncs again some day.
        Err(Failed::Killed | Failed::Lost | Failed::Lower) => {}
        Err(Failed::Refused(status, text)) => {
            assert!(status == 503 || status == 404, "{status} {text}")
        }
    }
}

/// Several stories; more of them with `ANABRANCH_STORIES`.
async fn tell_all(first_seed: u64, story: impl Fn(u64) -> Story) {
    let more = std::env::var("ANABRANCH_STORIES").ok().and_then(|n| n.parse().ok());
    let (mut acknowledged, mut given_up) = (0, 0);
    for seed in first_seed..first_seed + more.unwrap_or(6) {
        let (kept, lost) = tell(story(seed)).await;
        acknowledged += kept;
        given_up += lost;
    }
    assert!(acknowledged > given_up / 2, "mostly conflicts: {acknowledged}, {given_up}");
}

#[tokio::test]
async fn clients_that_are_killed_lose_and_double_nothing() {
    let faults = Faults { kill_before: 12, kill_after: 8, lose_answer: 12, restart_server: 0 };
    tell_all(1000, |seed| Story::plain(seed, faults)).await;
}

#[tokio::test]
async fn two_servers_that_forget_lose_and_double_nothing() {
    let faults = Faults { kill_before: 20, kill_after: 12, lose_answer: 15, restart_server: 8 };
    tell_all(2000, |seed| Story { servers: 2, ..Story::plain(seed, faults) }).await;
}

#[tokio::test]
async fn new_generations_lose_and_double_nothing() {
    let faults = Faults { kill_before: 15, kill_after: 10, lose_answer: 15, restart_server: 15 };
    tell_all(3000, |seed| Story { servers: 2, rollovers: true, ..Story::plain(seed, faults) })
        .await;
}

#[tokio::test]
async fn retention_strands_nobody() {
    let faults = Faults { kill_before: 30, kill_after: 15, lose_answer: 30, restart_server: 15 };
    tell_all(4000, |seed| Story {
        servers: 2,
        rollovers: true,
        retention: true,
        ..Story::plain(seed, faults)
    })
    .await;
}

#[tokio::test]
async fn diverged_clients_that_are_killed_are_healed() {
    let faults = Faults { kill_before: 12, kill_after: 8, lose_answer: 12, restart_server: 0 };
    tell_all(5000, |seed| Story { heal: true, ..Story::plain(seed, faults) }).await;
}

#[tokio::test]
async fn two_servers_that_forget_heal_together() {
    let faults = Faults { kill_before: 20, kill_after: 12, lose_answer: 15, restart_server: 8 };
    tell_all(6000, |seed| Story {
        heal: true,
        servers: 2,
        rollovers: true,
        ..Story::plain(seed, faults)
    })
    .await;
}

#[tokio::test]
async fn retention_does_no_harm_to_healing() {
    let faults = Faults { kill_before: 20, kill_after: 12, lose_answer: 20, restart_server: 15 };
    tell_all(7000, |seed| Story {
        heal: true,
        servers: 2,
        rollovers: true,
        retention: true,
        ..Story::plain(seed, faults)
    })
    .await;
}

/// All at once, on several threads, with a replica of another kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_at_the_same_time_lose_and_double_nothing() {
    let world = World::new(2);
    world.replica_runs(TABLE).await;
    let tells = ["a", "b", "c"].into_iter().zip(0u64..).map(|(name, n)| {
        let world = &world;
        async move {
            let mut client = Client::new(world, name, 77 ^ (n << 20));
            client.faults = Faults { kill_after: 20, lose_answer: 20, ..Faults::default() };
            let mut acknowledged = BTreeSet::new();
            for round in 0..12 {
                if client.sync(world).await.is_err() {
                    continue;
                }
                let marker = format!("{name}{round}");
                client.run(&insert(&marker, 3, 2000));
                loop {
                    match client.sync(world).await {
                        Ok(_) => {
                            acknowledged.extend((0..3).map(|n| format!("{marker}-{n}")));
                            break;
                        }
                        Err(Failed::Conflict) => {
                            client.reset();
                            break;
                        }
                        Err(_) => {}
                    }
                }
                if n == 0 {
                    world.replica_runs(&insert(&format!("r{round}"), 1, 10)).await;
                    acknowledged.insert(format!("r{round}-0"));
                }
            }
            client.faults = Faults::default();
            (client, acknowledged)
        }
    });
    let mut told = futures::future::join_all(tells).await;
    let acknowledged: BTreeSet<String> = told.iter().flat_map(|(_, rows)| rows.clone()).collect();
    for (client, _) in &mut told {
        if client.settle(&world).await == Err(Failed::Conflict) {
            client.reset();
        }
    }
    let mut clients: Vec<&mut Client> = told.iter_mut().map(|(client, _)| client).collect();
    let rows = all_equal(&world, &mut clients[..]).await;
    let unique: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(unique.len(), rows.len(), "a row came twice");
    assert!(acknowledged.is_subset(&unique), "{:?}", acknowledged.difference(&unique));
}
