//! Clients that wrote past a conflict.

use super::client::{Client, Failed, Faults, Info};
use super::world::World;
use super::{all_equal, insert, joined, started};

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
}
