//! SIGKILL at random moments, while an application writes and both replicas sync.
//!
//! One side writes at a time, so that no sync may fail but by the kill. A kill comes a random short
//! time after the start: time only chooses the moment, nothing waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::oracle::{Ledger, assert_in_step, assert_rows, cloned_rows, published};
use crate::world::{App, Ended, Rng, World, rounds, seed};

/// Kills of each kind in one phase.
const KILLS: u64 = 40;

/// What the application does between two rows: it must not fill the memory.
const PAUSE: Duration = Duration::from_millis(3);

/// An application that writes one row after the other until it is told to stop.
struct Writing {
    stop: Arc<AtomicBool>,
    /// All rows with smaller ids are committed.
    committed: Arc<AtomicU64>,
    thread: JoinHandle<Ledger>,
}

impl Writing {
    fn start(world: &World, db: &str, mut ledger: Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(ledger.live.len() as u64));
        let mut app = App::open(&world.path(db));
        let (told, done) = (Arc::clone(&stop), Arc::clone(&committed));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                app.run(&ledger.adding(1));
                done.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
            }
            ledger
        });
        Writing { stop, committed, thread }
    }

    fn committed(&self) -> BTreeSet<u64> {
        (0..self.committed.load(Ordering::SeqCst)).collect()
    }

    fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Starts the program and kills it after a random part of `typical`. Answers how it ended.
fn kill(world: &World, command: &[&str], rng: &mut Rng, typical: Duration) -> Ended {
    let mut child = world.spawn("", command);
    let micros = u64::try_from(typical.as_micros()).unwrap();
    std::thread::sleep(Duration::from_micros(rng.below(micros + micros / 4)));
    // SIGKILL; it may have ended already.
    let _ = child.kill();
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(ended.died() || ended.code == Some(0), "{command:?}: {ended:?}");
    ended
}

/// Runs the command to its end and answers how long it took.
fn complete(world: &World, command: &[&str]) -> Duration {
    let began = Instant::now();
    world.ok(command);
    began.elapsed()
}

#[test]
fn nothing_is_lost_or_doubled_whenever_sync_is_killed() {
    let (world, mut ledger) = published("");
    let mut rng = Rng::new(seed(), "kills");
    let mut killed = 0;
    for round in 0..rounds(4) {
        println!("CRASH_SEED={} round {round}", seed());
        let (writer, reader) = if round % 2 == 0 { ("a.db", "b.db") } else { ("b.db", "a.db") };
        let writing = Writing::start(&world, writer, ledger);
        let mut typical = complete(&world, &["sync", writer]);
        for turn in 0..KILLS {
            killed += u64::from(kill(&world, &["sync", writer], &mut rng, typical).died());
            killed += u64::from(kill(&world, &["sync", reader], &mut rng, typical).died());
            if rng.chance(3) {
                let before = writing.committed();
                typical = complete(&world, &["sync", writer]);
                complete(&world, &["sync", reader]);
                // I1, I4b: what was there before is out; nothing that was never written is.
                let clone = format!("clone-{round}-{turn}.db");
                let found = cloned_rows(&world, &clone);
                // A long run would fill the memory that they lie in.
                world.forget(&clone);
                assert!(before.is_subset(&found), "I4b: {:?}", before.difference(&found));
                let mut written = writing.committed();
                // One more may be committed that has not been counted.
                written.insert(written.len() as u64);
                assert!(found.is_subset(&written), "{:?}", found.difference(&written));
            }
        }
        ledger = writing.stop();
        for replica in [writer, reader] {
            complete(&world, &["sync", replica]);
        }
        assert_rows(&world.path(reader), &ledger.live);
    }
    assert!(killed > 0, "no kill hit a running program");
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

#[test]
fn a_clone_or_an_init_that_is_killed_anywhere_can_be_repeated() {
    let mut rng = Rng::new(seed(), "kills of clone and init");
    for round in 0..rounds(6) {
        println!("CRASH_SEED={} round {round}", seed());
        let world = World::new();
        let mut ledger = Ledger::default();
        world.stock("a.db", &format!("{} {}", crate::oracle::SCHEMA, ledger.adding(300)));
        let init = ["init", "a.db", "--remote", "remote"];
        kill(&world, &init, &mut rng, Duration::from_millis(60));
        let again = world.run(init);
        assert!(again.code == Some(0) || again.error() == "already-a-replica", "{again:?}");
        complete(&world, &["sync", "a.db"]);
        let clone = ["clone", "remote", "b.db"];
        kill(&world, &clone, &mut rng, Duration::from_millis(40));
        let again = world.run(clone);
        assert!(again.code == Some(0) || again.error() == "target-exists", "{again:?}");
        complete(&world, &["sync", "b.db"]);
        ledger.acknowledge();
        assert_in_step(&world, &["a.db", "b.db"], &ledger);
    }
}
