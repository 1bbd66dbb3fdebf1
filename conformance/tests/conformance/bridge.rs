//! History that retention has dropped: clients of long ago are led over, not turned away.

use anabranch_conformance::{Client, Fault, Opening, Seen};

use crate::support::{DATABASE, TABLE, Yard, insert, insert_many};

const COUNT: &str = "SELECT count(*) FROM t";

/// A server that soon takes nobody any more to be in the middle of what retention dropped: until then
/// it tells clients to wait, since "the end" in the middle of a transaction makes them panic.
fn impatient() -> Yard {
    Yard::with(&["--push-session", "1s"])
}

/// A writer, and a client that stays behind at generation 1.
fn one_stays_behind(yard: &Yard, rows: usize) -> (Client, Client) {
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(rows, 1000));
    a.sync();
    let mut behind = yard.client("behind");
    behind.sync();
    (a, behind)
}

/// Several generations with a row each, and nothing kept of those before the last ones: history is
/// dropped up to a snapshot that has a newer one after it.
fn leave_it_behind(yard: &Yard, a: &mut Client) {
    for n in 0..5 {
        a.execute(&insert(&format!("generation {n}")));
        a.sync();
        yard.roll_over();
        a.sync();
        let path = format!("/admin/v1/databases/{DATABASE}/compact?retain-seconds=0");
        let answer = yard.admin("POST", &path);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let gone = yard.ask("GET", &format!("{}/sync/1/1/129", yard.url()), Vec::new());
    assert_eq!(gone.status, 400, "else this shows nothing");
}

fn walks_over(rows: usize, change: &str, left: usize) {
    let yard = impatient();
    if yard.ours().is_none() {
        return;
    }
    let (mut a, mut behind) = one_stays_behind(&yard, rows);
    a.execute(change);
    a.sync();
    leave_it_behind(&yard, &mut a);
    behind.sync();
    assert_eq!(behind.position(), a.position());
    let mut count = left + 5;
    assert_eq!(behind.rows(COUNT), [count.to_string()]);
    behind.execute(&insert("from long ago"));
    behind.sync();
    a.sync();
    a.execute(&insert("and back"));
    a.sync();
    count += 2;
    yard.settle(&mut [&mut a, &mut behind], COUNT, &[count.to_string()]);
}

#[test]
fn a_client_of_an_expired_generation_is_led_over() {
    walks_over(100, "UPDATE t SET body = 'x' WHERE id % 2", 100);
}

#[test]
fn the_way_leads_to_a_smaller_database() {
    walks_over(800, "DELETE FROM t WHERE id > 5", 5);
}

#[test]
fn the_way_leads_to_a_larger_database() {
    walks_over(5, &insert_many(800, 4000), 805);
}

#[test]
fn a_database_that_was_vacuumed_meanwhile() {
    let yard = impatient();
    let Some(ours) = yard.ours() else { return };
    let (mut a, mut behind) = one_stays_behind(&yard, 800);
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    anabranch_conformance::sqlite(&replica, "DELETE FROM t WHERE id > 5; VACUUM");
    ours.sync(&replica);
    a.sync();
    leave_it_behind(&yard, &mut a);
    behind.sync();
    behind.execute(&insert("from long ago"));
    behind.sync();
    yard.settle(&mut [&mut a, &mut behind], COUNT, &["11".to_owned()]);
}

#[test]
fn a_client_killed_on_the_way_over_goes_on() {
    for n in 1..12 {
        let yard = impatient();
        if yard.ours().is_none() {
            return;
        }
        let proxy = yard.proxy();
        let (mut a, behind) = one_stays_behind(&yard, 300);
        behind.kill();
        leave_it_behind(&yard, &mut a);
        let mut behind = yard.client_at("behind", &proxy.url(DATABASE));
        let killer = behind.killer();
        proxy.nth(n, Seen::is_pull, move || Fault::after(move || killer.kill()));
        let through = behind.try_sync();
        proxy.calm();
        if through.is_ok() {
            assert!(n > 5, "the way is longer than {n} requests");
            return;
        }
        let mut behind = yard.client_at("behind", &yard.url());
        behind.sync();
        behind.execute(&insert("from long ago"));
        behind.sync();
        yard.settle(&mut [&mut a, &mut behind], COUNT, &["306".to_owned()]);
    }
}

#[test]
fn writes_that_wait_at_an_expired_position_are_a_loud_conflict_and_stay_in_the_file() {
    let yard = impatient();
    if yard.ours().is_none() {
        return;
    }
    let (mut a, mut behind) = one_stays_behind(&yard, 20);
    behind.execute(&insert("waiting"));
    leave_it_behind(&yard, &mut a);
    for _ in 0..3 {
        let error = behind.try_sync().unwrap_err().error();
        assert!(error.contains("conflict"), "{error}");
    }
    assert_eq!(behind.rows(COUNT), ["21"]);
    yard.settle(&mut [&mut a], COUNT, &["25".to_owned()]);
}

#[test]
fn a_new_client_needs_no_way_over() {
    let yard = impatient();
    if yard.ours().is_none() {
        return;
    }
    let (mut a, _behind) = one_stays_behind(&yard, 20);
    leave_it_behind(&yard, &mut a);
    let proxy = yard.proxy();
    let mut new = yard.unopened("new");
    new.open(&proxy.url(DATABASE), &Opening::default()).unwrap();
    new.sync();
    let asked = proxy.take_log();
    let paths: Vec<&str> = asked.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths[0], "/app/info");
    assert_eq!(paths[1], format!("/app/export/{}", yard.generation()));
    assert!(paths.len() <= 4, "{paths:?}");
    yard.settle(&mut [&mut a, &mut new], COUNT, &["25".to_owned()]);
}

#[test]
fn our_replica_with_writes_that_wait_at_an_expired_position_says_that_their_base_is_gone() {
    let yard = impatient();
    let Some(ours) = yard.ours() else { return };
    let (mut a, _behind) = one_stays_behind(&yard, 20);
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    anabranch_conformance::sqlite(&replica, &insert("waiting"));
    leave_it_behind(&yard, &mut a);
    for _ in 0..2 {
        let ended = ours.try_sync(&replica);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains("\"base-gone\""), "{ended:?}");
    }
    assert_eq!(anabranch_conformance::sqlite(&replica, COUNT), "21");
    yard.settle(&mut [&mut a], COUNT, &["25".to_owned()]);
}
