use super::*;

fn p(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

fn sidecar() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    BaseMap::create_tables(&conn).unwrap();
    conn
}

fn entry(n: u64) -> PageEntry {
    PageEntry { shared: PageChecksum(n), keyed: KeyedChecksum(n ^ 0xabcd) }
}

fn stage(map: &BaseMap<'_>, intent: i64, pages: impl IntoIterator<Item = (u32, u64)>) {
    let mut staging = map.stage(intent);
    for (pgno, n) in pages {
        staging.push(p(pgno), entry(n)).unwrap();
    }
    staging.finish().unwrap();
}

fn shared(map: &BaseMap<'_>, pgno: u32) -> Option<u64> {
    map.get(p(pgno)).unwrap().map(|e| e.shared.0)
}

#[test]
fn settled_pages_are_the_base_and_pages_above_the_size_are_gone() {
    let conn = sidecar();
    let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
    stage(&map, 1, (1..=2000).map(|n| (n, u64::from(n))));
    assert_eq!(shared(&map, 5), None, "staged is not settled");
    map.settle(1, 2000).unwrap();
    assert_eq!(map.staged(1).count(), 0);
    for n in [1, 511, 512, 513, 1024, 1025, 2000] {
        assert_eq!(shared(&map, n), Some(u64::from(n)));
    }
    stage(&map, 2, [(1, 77), (600, 78)]);
    map.settle(2, 700).unwrap();
    assert_eq!(shared(&map, 1), Some(77));
    assert_eq!(shared(&map, 600), Some(78));
    assert_eq!(shared(&map, 700), Some(700));
    assert_eq!(shared(&map, 701), None);
    assert_eq!(shared(&map, 2000), None);
    map.settle(3, 512).unwrap();
    assert_eq!((shared(&map, 512), shared(&map, 513)), (Some(512), None));
}

#[test]
fn the_rolling_checksum_is_the_checksum_of_every_page() {
    let conn = sidecar();
    let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
    let first = map.checksum_after(0, DbChecksum::EMPTY, 0, 0).unwrap();
    assert_eq!(first, DbChecksum::EMPTY);
    stage(&map, 1, (1..=900).map(|n| (n, u64::from(n) * 31)));
    let one = map.checksum_after(1, DbChecksum::EMPTY, 0, 900).unwrap();
    map.settle(1, 900).unwrap();
    assert_eq!(map.checksum(900).unwrap(), one);
    stage(&map, 2, [(1, 5), (300, 6)]);
    let two = map.checksum_after(2, one, 900, 300).unwrap();
    map.settle(2, 300).unwrap();
    assert_eq!(map.checksum(300).unwrap(), two);
    assert_ne!(one, two);
}

#[test]
fn staged_pages_are_found_by_number_and_come_back_ascending() {
    let conn = sidecar();
    let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
    let pages: Vec<(u32, u64)> = (0..1500).map(|n| (3 * n + 2, u64::from(n) + 1)).collect();
    stage(&map, 4, pages.clone());
    stage(&map, 5, [(1, 9)]);
    let back: Vec<(u32, u64)> =
        map.staged(4).map(|s| s.unwrap()).map(|(n, e)| (n.get(), e.shared.0)).collect();
    assert_eq!(back, pages);
    assert_eq!(map.staged_page(4, p(3 * 1499 + 2)).unwrap(), Some(entry(1500)));
    assert_eq!(map.staged_page(4, p(3)).unwrap(), None);
    assert_eq!(map.staged_page(4, p(1)).unwrap(), None);
    map.drop_staged(4).unwrap();
    assert_eq!((map.staged(4).count(), map.staged(5).count()), (0, 1));
}

#[test]
fn staging_out_of_order_is_refused() {
    let conn = sidecar();
    let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
    let mut staging = map.stage(1);
    staging.push(p(5), entry(1)).unwrap();
    assert!(matches!(staging.push(p(5), entry(1)), Err(BaseError::Order { .. })));
}

#[test]
fn a_flipped_bit_in_a_row_is_damage_and_not_a_local_change() {
    let conn = sidecar();
    let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
    stage(&map, 1, [(1, 5), (2, 6)]);
    map.settle(1, 2).unwrap();
    stage(&map, 2, [(1, 8)]);
    for table in ["base", "staged"] {
        let row: Vec<u8> =
            conn.query_row(&format!("SELECT entries FROM {table}"), [], |r| r.get(0)).unwrap();
        for at in 0..row.len() {
            let mut bad = row.clone();
            bad[at] ^= 0x10;
            conn.execute(&format!("UPDATE {table} SET entries = ?1"), [&bad]).unwrap();
            let map = BaseMap::new(&conn, 7, PageSize::DEFAULT);
            let found = match table {
                "base" => map.get(p(1)).map(|_| ()),
                _ => map.staged(2).next().unwrap().map(|_| ()),
            };
            assert!(matches!(found, Err(BaseError::Damaged { .. })), "{table} byte {at}");
        }
        conn.execute(&format!("UPDATE {table} SET entries = ?1"), [&row]).unwrap();
    }
    // The rows of another replica, which has another seed, are no base of ours either.
    assert!(BaseMap::new(&conn, 8, PageSize::DEFAULT).get(p(1)).is_err());
}
