//! Servers that are killed (SIGKILL) at any moment while everybody writes: programs by SQL, an official
//! client with its file, a replica of ours. The oracle is what was acknowledged.
//!
//! In the end each acknowledged transaction is there, whole and once; one without an answer is there once
//! or not at all; one that was said not to be done is not there. All files hold the same pages. A reader
//! looks on meanwhile: it never sees less than what was acknowledged before it asked, by whichever server,
//! and what it has seen is never undone.
//!
//! `CONFORMANCE_KILLS` and `CONFORMANCE_SEED` choose length and course.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use anabranch_conformance::{Chance, Failure, PATIENCE, Server, Sql, sqlite};

use super::through;
use super::writer::{COUNTING, Outcome, Writer};
use crate::ledger::{Ledger, SCHEMA, from_environment, seed};
use crate::support::{DATABASE, Yard};

/// How often a client with a file may fail in a row when nothing is killed any more.
const LAST_TRIES: usize = 12;

#[test]
fn killed_under_all_kinds_of_writers() {
    run(1);
}

#[test]
fn two_servers_killed_under_all_kinds_of_writers() {
    run(2);
}

/// What the parties of a run share.
struct Stage {
    urls: Vec<String>,
    /// Locked while a server is dead.
    servers: Vec<Mutex<Server>>,
    progress: Mutex<Progress>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Transactions acknowledged, of any party.
    acknowledged: u64,
    /// Those of them that the counter counts.
    counted: u64,
    stop: bool,
}

impl Stage {
    fn note(&self, change: impl FnOnce(&mut Progress)) {
        // What a party that failed has left is as good as any.
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_all();
    }

    fn goes_on(&self) -> bool {
        !self.progress.lock().unwrap().stop
    }

    /// Awaits so many further acknowledgements, of whatever party.
    fn await_more(&self, further: u64) {
        let progress = self.progress.lock().unwrap();
        let goal = progress.acknowledged + further;
        let waits = |p: &mut Progress| p.acknowledged < goal && !p.stop;
        let (progress, timeout) = self.more.wait_timeout_while(progress, PATIENCE, waits).unwrap();
        let stopped = progress.stop;
        drop(progress);
        assert!(!timeout.timed_out(), "nothing is acknowledged any more");
        assert!(!stopped, "a party gave up");
    }

    /// Awaits that a server which died is there again.
    fn await_server(&self, number: usize) {
        drop(self.servers[number].lock().unwrap());
    }
}

/// Stops all when one ends, well or badly, so that nobody waits for it.
struct Ends<'a>(&'a Stage);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.note(|progress| progress.stop = true);
    }
}

fn run(servers: usize) {
    let seed = seed();
    let kills = from_environment("CONFORMANCE_KILLS", 6);
    println!("CONFORMANCE_SEED={seed} CONFORMANCE_KILLS={kills}");
    let yard = Yard::new();
    let Some(both) = yard.two_more_with(&["--read-fresh"]) else { return };
    yard.sql().script(SCHEMA).unwrap();
    yard.sql().script(COUNTING).unwrap();
    let stage = Stage {
        urls: both.iter().take(servers).map(|server| server.url(DATABASE)).collect(),
        servers: both.into_iter().take(servers).map(Mutex::new).collect(),
        progress: Mutex::default(),
        more: Condvar::new(),
    };
    let mut official = Official::new(&yard, &stage.urls[0]);
    let mut ours = OurReplica::new(&yard, &stage.urls[servers - 1]);
    let mut all = Ledger::default();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let stage = &stage;
                scope.spawn(move || write(stage, number, seed))
            })
            .collect();
        scope.spawn(|| read(&stage));
        scope.spawn(|| official.run(&stage, Chance::new(seed ^ 0x0ff1)));
        scope.spawn(|| ours.run(&stage, Chance::new(seed ^ 0x0042)));
        {
            let _ends = Ends(&stage);
            let mut chance = Chance::new(seed);
            for _ in 0..kills {
                stage.await_more(2 + chance.below(30) as u64);
                stage.servers[chance.below(servers)].lock().unwrap().restart();
            }
            stage.await_more(10);
        }
        for writer in writers {
            all.take(writer.join().unwrap());
        }
    });
    official.finish();
    ours.finish();
    // Each has now seen what the other sent last.
    official.finish();
    ours.finish();
    for ledger in [&mut official.ledger, &mut ours.ledger] {
        all.take(std::mem::take(ledger));
    }
    println!(
        "{} acknowledged, {} unknown, {} taken away",
        all.acknowledged.len(),
        all.unknown.len(),
        all.refused.len()
    );
    let fresh = yard.db("judged");
    yard.ours().unwrap().clone_to(&fresh);
    all.judge(&fresh);
    let count = anabranch_conformance::rows(&fresh, "SELECT n FROM counter");
    let replicas = vec![official.client.db().to_owned(), ours.db.clone(), fresh];
    yard.judge(replicas, "SELECT n FROM counter", &count);
}

fn write(stage: &Stage, number: usize, seed: u64) -> Ledger {
    let _ends = Ends(stage);
    let mut chance = Chance::new(seed ^ (number as u64 + 1) << 40);
    let mut at = number % stage.urls.len();
    let mut writer = Writer::new(&format!("writer{number}"), &stage.urls[at], chance.bits());
    while stage.goes_on() {
        if chance.percent(10) {
            at = chance.below(stage.urls.len());
            writer.go_to(&stage.urls[at]);
        }
        match writer.turn() {
            Outcome::Acknowledged => stage.note(|progress| {
                progress.acknowledged += 1;
                progress.counted += 1;
            }),
            Outcome::Unknown => stage.await_server(at),
            Outcome::TakenAway => {}
        }
    }
    writer.ledger
}

/// Looks on.
fn read(stage: &Stage) {
    let _ends = Ends(stage);
    let consistent = "SELECT n, n = (SELECT count(DISTINCT token) FROM part WHERE token LIKE 'writer%') \
                      FROM counter";
    let (mut turn, mut seen) = (0, 0);
    while stage.goes_on() {
        turn += 1;
        let at = turn % stage.urls.len();
        let before = stage.progress.lock().unwrap().counted;
        let mut sql = Sql::new(&stage.urls[at], None);
        match sql.rows(consistent) {
            Ok(rows) => {
                let (n, whole) = rows[0].split_once('|').unwrap();
                assert_eq!(whole, "1", "a state between transactions: {rows:?}");
                let n: u64 = n.parse().unwrap();
                assert!(n >= before, "{before} were acknowledged, {n} are seen");
                assert!(n >= seen, "{seen} were seen, now {n}");
                seen = n;
            }
            Err(failure) if failure.is_unknown() => stage.await_server(at),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// The official client, which writes to its file and syncs.
struct Official {
    client: anabranch_conformance::Client,
    written: usize,
    waiting: Vec<String>,
    ledger: Ledger,
}

impl Official {
    fn new(yard: &Yard, url: &str) -> Self {
        let mut client = yard.client_at("offline", url);
        client.sync();
        Official { client, written: 0, waiting: Vec::new(), ledger: Ledger::default() }
    }

    fn run(&mut self, stage: &Stage, mut chance: Chance) {
        let _ends = Ends(stage);
        while stage.goes_on() {
            for _ in 0..chance.below(3) {
                let token = format!("offline-{}", self.written);
                self.written += 1;
                self.client.batch(&format!("BEGIN; {}; COMMIT", two_parts(&token)));
                self.waiting.push(token);
            }
            match self.sync() {
                Some(through) => stage.note(|progress| progress.acknowledged += through),
                None => stage.await_server(0),
            }
        }
    }

    /// One sync of the library; answers how many transactions it brought through.
    fn sync(&mut self) -> Option<u64> {
        match self.client.try_sync() {
            Ok(0) => None,
            Ok(_) => {
                let through = self.waiting.len() as u64;
                self.ledger.acknowledged.extend(self.waiting.drain(..));
                Some(through)
            }
            Err(Failure::Died(words)) => panic!("the client died: {words}"),
            Err(Failure::Error(text)) if text.contains("conflict") => panic!("{text}"),
            Err(Failure::Error(text)) => {
                println!("the official client, interrupted: {text}");
                None
            }
        }
    }

    /// Pushes what is left, and pulls.
    fn finish(&mut self) {
        let mut through = 0;
        for _ in 0..LAST_TRIES {
            through = self.sync().map_or(0, |_| through + 1);
            if through == 2 {
                return;
            }
        }
        panic!("the official client does not come through");
    }
}

/// Our replica, written by stock SQLite.
struct OurReplica {
    ours: anabranch_conformance::Ours,
    db: std::path::PathBuf,
    written: usize,
    waiting: Vec<String>,
    ledger: Ledger,
}

impl OurReplica {
    fn new(yard: &Yard, url: &str) -> Self {
        let ours = anabranch_conformance::Ours::new(url, None);
        let db = yard.db("mine");
        ours.clone_to(&db);
        OurReplica { ours, db, written: 0, waiting: Vec::new(), ledger: Ledger::default() }
    }

    fn run(&mut self, stage: &Stage, mut chance: Chance) {
        let _ends = Ends(stage);
        while stage.goes_on() {
            for _ in 0..chance.below(3) {
                let token = format!("ours-{}", self.written);
                self.written += 1;
                sqlite(&self.db, &format!("BEGIN; {}; COMMIT", two_parts(&token)));
                self.waiting.push(token);
            }
            match self.sync() {
                Some(through) => stage.note(|progress| progress.acknowledged += through),
                None => stage.await_server(stage.urls.len() - 1),
            }
        }
    }

    fn sync(&mut self) -> Option<u64> {
        if !through(&self.ours.try_sync(&self.db)) {
            return None;
        }
        let through = self.waiting.len() as u64;
        self.ledger.acknowledged.extend(self.waiting.drain(..));
        Some(through)
    }

    fn finish(&mut self) {
        assert!(self.sync().is_some(), "our replica does not come through");
    }
}

fn two_parts(token: &str) -> String {
    format!(
        "INSERT INTO part VALUES ('{token}', 1, 2, 'x'), ('{token}', 2, 2, hex(randomblob(400)))"
    )
}
