//! Random work on two replicas, a random server, random faults: everything arrives exactly once.

use anabranch::Error;
use proptest::prelude::*;

use crate::server::{Fault, Server};
use crate::yard::{SCHEMA, Yard, assert_same, rows, run};

#[derive(Debug, Clone)]
enum Act {
    /// One of the replicas writes; with many pages or few.
    Write {
        second: bool,
        large: bool,
    },
    Sync {
        second: bool,
    },
    Roll,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(second, large)| Act::Write { second, large }),
        5 => any::<bool>().prop_map(|second| Act::Sync { second }),
        1 => Just(Act::Roll),
    ];
    proptest::collection::vec(act, 5..25)
}

fn faulty(seed: u64) -> impl FnMut(&crate::server::Request) -> Fault {
    let mut state = seed | 1;
    move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match state >> 59 {
            0 => Fault::Unheard,
            1 => Fault::Unanswered,
            2 => Fault::Cut,
            3 => Fault::Answer(503, Vec::new(), Vec::new()),
            _ => Fault::None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn replicas_converge_and_nothing_is_lost_or_doubled(
        acts in acts(),
        seed: u64,
        repeats: bool,
        frames_max in 1usize..200,
        rollover in 3usize..400,
    ) {
        let yard = Yard::new(Server::empty());
        {
            let mut state = yard.server.state();
            (state.repeats, state.frames_max, state.rollover) = (repeats, frames_max, rollover);
        }
        let (a, first) = yard.publish("a.db", SCHEMA).unwrap();
        let (b, second) = yard.cloned("b.db");
        yard.server.script(faulty(seed));
        let mut written = 0;
        // Writes go to the replica that has nothing of the other's to fetch: what both sides changed
        // is told, and left to people.
        let mut dirty = [false; 2];
        for act in acts {
            match act {
                Act::Write { second: which, large } => {
                    let me = usize::from(which);
                    if dirty[1 - me] {
                        continue;
                    }
                    let count = if large { 150 } else { 1 };
                    let db = [&a, &b][me];
                    if !dirty[me] {
                        // Everything the other pushed comes first.
                        yard.server.honest();
                        [&first, &second][me].sync().unwrap();
                        yard.server.script(faulty(seed ^ written));
                    }
                    written += count;
                    run(db, &format!(
                        "INSERT INTO t(v) SELECT 'w' || {written} || hex(randomblob(1000)) FROM \
                         (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < \
                         {count}) SELECT n FROM c)"
                    ));
                    dirty[me] = true;
                }
                Act::Sync { second: which } => {
                    let me = usize::from(which);
                    match [&first, &second][me].sync() {
                        Ok(report) if report.offline.is_none() => dirty[me] = false,
                        Ok(_) | Err(Error::Unconfirmed { .. }) => {}
                        Err(error) => prop_assert!(error.is_offline(), "{error:?}"),
                    }
                }
                Act::Roll => yard.server.roll(),
            }
        }
        yard.server.honest();
        for _ in 0..2 {
            let order = if dirty[1] { [&second, &first] } else { [&first, &second] };
            for replica in order {
                let report = replica.sync().unwrap();
                prop_assert_eq!(report.offline, None);
            }
            dirty = [false; 2];
        }
        assert_same(&yard, &[&a, &b]);
        let count = rows(&a).split(' ').count() as u64;
        prop_assert_eq!(count, written + 1);
    }
}
