//! Several servers on one store: which of them a client asks makes no difference.

use anabranch_conformance::{Fault, Proxy, Seen};

use crate::support::{ALL, DATABASE, TABLE, Yard, insert, insert_many, numbered};

const COUNT: &str = "SELECT count(*) FROM t";

#[test]
fn what_is_pushed_through_one_is_pulled_through_the_other() {
    let yard = Yard::new();
    let Some([first, second]) = yard.two_more() else { return };
    let mut a = yard.client_at("a", &first.url(DATABASE));
    let mut b = yard.client_at("b", &second.url(DATABASE));
    a.execute(TABLE);
    a.sync();
    let mut bodies = Vec::new();
    for n in 0..10 {
        let (writer, reader) = if n % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        writer.sync();
        bodies.push(n.to_string());
        writer.execute(&insert(&n.to_string()));
        writer.sync();
        reader.sync();
        assert_eq!(reader.rows(ALL), numbered(&bodies));
    }
    yard.roll_over();
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&bodies));
}

#[test]
fn two_that_push_through_two_servers_at_once_come_together() {
    let yard = Yard::new();
    let Some([first, second]) = yard.two_more() else { return };
    let mut a = yard.client_at("a", &first.url(DATABASE));
    a.execute(TABLE);
    a.sync();
    let mut b = yard.client_at("b", &second.url(DATABASE));
    b.sync();
    a.execute(&insert("from a"));
    b.execute(&insert("from b"));
    // The second server knows the log as it was before the first one appended.
    a.sync();
    b.sync();
    yard.settle(&mut [&mut b, &mut a], ALL, &numbered(&["from a", "from b"]));
}

#[test]
fn a_transaction_whose_parts_meet_several_servers_is_led_back_to_the_first() {
    let yard = Yard::new();
    let Some([first, second]) = yard.two_more() else { return };
    let proxy = Proxy::start(first.address());
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    a.execute(TABLE);
    a.execute(&insert_many(400, 4000));
    let elsewhere = second.address();
    proxy.script(move |seen: &Seen| match seen.number {
        number if seen.is_push() && number > 1 => Fault::Elsewhere(elsewhere),
        _ => Fault::None,
    });
    a.try_sync().unwrap();
    let pushes = proxy.take_log();
    let pushes: Vec<u16> =
        pushes.iter().filter(|e| e.path.contains("/sync/")).map(|e| e.status).collect();
    assert!(pushes.len() >= 4, "{pushes:?}");
    assert_eq!(pushes[0], 200);
    assert!(pushes[1..].iter().all(|status| *status == 307), "{pushes:?}");
    proxy.calm();
    yard.settle(&mut [&mut a], COUNT, &["400".to_owned()]);
}

/// The server that has the first part dies: the other one cannot lead there any more.
#[test]
fn a_transaction_whose_server_died_begins_anew_at_the_other() {
    let yard = Yard::new();
    let Some([mut first, second]) = yard.two_more() else { return };
    let proxy = Proxy::start(first.address());
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    a.execute(TABLE);
    a.execute(&insert_many(400, 4000));
    let elsewhere = second.address();
    let (tell, told) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut hook = Some(move || {
        tell.send(()).unwrap();
        wait.recv().unwrap();
    });
    proxy.script(move |_| match hook.take() {
        Some(hook) => Fault::then(hook),
        None => Fault::Elsewhere(elsewhere),
    });
    let pushing = std::thread::spawn(move || {
        let done = a.try_sync();
        (a, done)
    });
    told.recv().unwrap();
    first.kill();
    go.send(()).unwrap();
    let (mut a, _) = pushing.join().unwrap();
    // A sync later at the latest.
    a.sync();
    yard.settle(&mut [&mut a], COUNT, &["400".to_owned()]);
}
