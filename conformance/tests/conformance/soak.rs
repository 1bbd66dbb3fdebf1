//! Random writes, syncs, kills and losses, from a seed, against an oracle that knows what must be there.
//!
//! Each transaction writes some rows that carry its token and adds one to a counter. In the end every
//! token that was acknowledged is there, whole and once; no token is there that nobody wrote; what was
//! neither acknowledged nor refused for good may be there, whole and once, or not at all; and the
//! counter is the number of tokens.
//!
//! Where the server heals nothing, a client that is told of a conflict is at its end, as the official
//! library has it: its files are removed and it begins anew. Where it heals, there is a conflict only
//! if retention took what a client had written on; the counter, which all change, says nothing then. `CONFORMANCE_ROUNDS` and `CONFORMANCE_SEED` choose length and course,
//! `CONFORMANCE_WATCH` judges after every round.

use std::fs;

use anabranch_conformance::{
    Chance, Client, Failure, Fault, Proxy, Seen, checked_image, rows, sqlite,
};

use crate::ledger::{Ledger, SCHEMA, rounds, seed};
use crate::support::{DATABASE, Yard};

/// The statements of one transaction.
fn transaction(token: &str, parts: usize, filler: usize) -> String {
    format!(
        "BEGIN;
         INSERT INTO part WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
             WHERE i < {parts}) SELECT '{token}', i, {parts}, hex(zeroblob({filler})) FROM n;
         UPDATE counter SET n = n + 1;
         COMMIT;"
    )
}

/// Size of a transaction: mostly small, sometimes of several batches.
fn size(chance: &mut Chance) -> (usize, usize) {
    if chance.percent(12) { (100 + chance.below(300), 1900) } else { (1 + chance.below(4), 20) }
}

/// One official client.
pub(crate) struct Official {
    pub(crate) name: String,
    pub(crate) proxy: Proxy,
    running: Option<Client>,
    /// Written here, and neither acknowledged nor given up.
    pub(crate) waiting: Vec<String>,
    written: usize,
}

/// What a sync came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Through,
    Interrupted,
    Conflict,
}

impl Official {
    pub(crate) fn new(yard: &Yard, name: &str) -> Self {
        Official {
            name: name.to_owned(),
            proxy: yard.proxy(),
            running: None,
            waiting: Vec::new(),
            written: 0,
        }
    }

    pub(crate) fn client(&mut self, yard: &Yard) -> &mut Client {
        let (name, url) = (&self.name, self.proxy.url(DATABASE));
        self.running.get_or_insert_with(|| yard.client_at(name, &url))
    }

    pub(crate) fn write(&mut self, yard: &Yard, chance: &mut Chance) {
        self.write_sized(yard, size(chance));
    }

    /// One transaction of so many rows with fillers of so many bytes.
    pub(crate) fn write_sized(&mut self, yard: &Yard, (parts, filler): (usize, usize)) {
        let client = self.client(yard);
        if client.try_rows("SELECT n FROM counter").is_err() {
            // It has begun anew and pulled nothing yet; what interrupts this is another turn's matter.
            let pulled = client.try_sync().is_ok();
            if !pulled || client.try_rows("SELECT n FROM counter").is_err() {
                return;
            }
        }
        let token = format!("{}-{}", self.name, self.written);
        self.written += 1;
        self.client(yard).batch(&transaction(&token, parts, filler));
        self.waiting.push(token);
    }

    pub(crate) fn sync(&mut self, yard: &Yard, ledger: &mut Ledger) -> Outcome {
        let said = self.client(yard).try_sync();
        // Shown if the test fails.
        println!("{} syncs with {:?} waiting: {said:?}", self.name, self.waiting);
        for e in self.proxy.take_log() {
            println!("    {} {} {} {}", e.method, e.path, e.status, e.answer.unwrap_or_default());
        }
        match said {
            // No connection, as the library sees it.
            Ok(0) => Outcome::Interrupted,
            // With something waiting it was a push, and all of it is acknowledged.
            Ok(_) => {
                ledger.acknowledged.extend(self.waiting.drain(..));
                Outcome::Through
            }
            Err(Failure::Died(words)) => {
                assert!(!words.contains("panicked"), "{}: {words}", self.name);
                self.running = None;
                Outcome::Interrupted
            }
            Err(Failure::Error(text)) if text.contains("conflict") => Outcome::Conflict,
            Err(Failure::Error(text))
                if text.contains("lower frame_no") || text.contains("body error") =>
            {
                Outcome::Interrupted
            }
            Err(Failure::Error(text)) => panic!("{}: {text}", self.name),
        }
    }

    /// What the library leaves to a client in conflict.
    fn begin_anew(&mut self, yard: &Yard, ledger: &mut Ledger) {
        self.running = None;
        ledger.unknown.extend(self.waiting.drain(..));
        fs::remove_dir_all(yard.db(&self.name).parent().unwrap()).unwrap();
        self.proxy.calm();
    }

    /// Lets something happen at one of the next requests.
    fn meet_a_fault(&mut self, yard: &Yard, chance: &mut Chance) {
        let at = 1 + chance.below(4);
        let kind = chance.below(6);
        let cut = chance.below(20_000);
        let killer = self.client(yard).killer();
        let any = |_: &Seen| true;
        self.proxy.nth(at, any, move || match kind {
            0 => Fault::Drop,
            1 | 2 => Fault::LoseAnswer,
            3 => Fault::CutAnswer(cut),
            4 => Fault::before(move || killer.kill()),
            _ => Fault::after(move || killer.kill()),
        });
    }
}

/// Our replica among them, written by stock SQLite.
struct OurReplica {
    written: usize,
    waiting: Vec<String>,
}

impl OurReplica {
    fn turn(&mut self, yard: &Yard, chance: &mut Chance, ledger: &mut Ledger) {
        let ours = yard.ours().unwrap();
        let db = yard.db("ours");
        if !db.exists() {
            ours.clone_to(&db);
        }
        if chance.percent(50) {
            let token = format!("ours-{}", self.written);
            self.written += 1;
            let (parts, filler) = size(chance);
            let sql = transaction(&token, parts, filler);
            sqlite(&db, &sql.replace("UPDATE counter SET n = n + 1;", ""));
            self.waiting.push(token);
        }
        if chance.percent(70) {
            let ended = ours.try_sync(&db);
            match ended.code {
                0 => ledger.acknowledged.extend(self.waiting.drain(..)),
                // What both started from is not kept any more.
                3 => {
                    ledger.unknown.extend(self.waiting.drain(..));
                    fs::remove_dir_all(db.parent().unwrap()).unwrap();
                }
                _ => panic!("{ended:?}"),
            }
        }
    }
}

#[test]
fn soak() {
    run(false);
}

#[test]
fn soak_with_healing() {
    run(true);
}

fn run(heals: bool) {
    let seed = seed();
    println!("CONFORMANCE_SEED={seed} CONFORMANCE_ROUNDS={}", rounds());
    let mut chance = Chance::new(seed);
    let mut yard =
        if heals { Yard::with(&["--push-session", "1s"]) } else { Yard::with(&["--heal", "off"]) };
    let mut ledger = Ledger { heals, ..Ledger::default() };
    let mut clients: Vec<Official> =
        ["c0", "c1", "c2"].iter().map(|name| Official::new(&yard, name)).collect();
    clients[0].client(&yard).batch(SCHEMA);
    clients[0].client(&yard).sync();
    let mut ours = OurReplica { written: 0, waiting: Vec::new() };
    let (mut conflicts, mut compacted) = (0, false);
    let watched = std::env::var_os("CONFORMANCE_WATCH").is_some();

    for round in 0..rounds() {
        let turn = chance.below(clients.len());
        match chance.below(100) {
            0..=2 => {
                if let Some(server) = yard.server() {
                    server.restart();
                }
            }
            // Refused while a push is begun.
            3..=6 => drop(yard.try_roll_over()),
            // What is older than the log keeps cannot be healed: then a conflict says so. Half of the
            // courses are without.
            7..=9 if yard.ours().is_some() && (!heals || seed.is_multiple_of(2)) => {
                compacted = true;
                let path = format!("/admin/v1/databases/{DATABASE}/compact?retain-seconds=0");
                assert_eq!(yard.admin("POST", &path).status, 200);
            }
            10..=21 if yard.ours().is_some() => ours.turn(&yard, &mut chance, &mut ledger),
            22..=27 => clients[turn].running = None,
            _ => {
                let client = &mut clients[turn];
                if chance.percent(if heals { 30 } else { 75 }) && client.waiting.is_empty() {
                    // As an application does that would rather not be in conflict.
                    client.sync(&yard, &mut ledger);
                }
                for _ in 0..chance.below(4) {
                    client.write(&yard, &mut chance);
                }
                if chance.percent(40) {
                    client.meet_a_fault(&yard, &mut chance);
                }
                if chance.percent(85) && client.sync(&yard, &mut ledger) == Outcome::Conflict {
                    conflicts += 1;
                    client.begin_anew(&yard, &mut ledger);
                }
                client.proxy.calm();
            }
        }
        if watched {
            look(&yard, round, &ledger, &clients, &ours);
        }
    }

    for client in &mut clients {
        let mut through = 0;
        for _ in 0..12 {
            match client.sync(&yard, &mut ledger) {
                Outcome::Through => through += 1,
                Outcome::Interrupted => through = 0,
                Outcome::Conflict => client.begin_anew(&yard, &mut ledger),
            }
            if through == 2 {
                break;
            }
        }
        assert_eq!(through, 2, "{} does not come through", client.name);
    }
    if yard.ours().is_some() {
        ledger.unknown.extend(ours.waiting.drain(..));
    }
    println!("{} acknowledged, {conflicts} conflicts", ledger.acknowledged.len());
    assert!(!heals || compacted || conflicts == 0, "{conflicts} conflicts");
    judge_all(&yard, &mut clients, &ledger);
}

/// The oracle's judgement in the middle, to find the step that went wrong.
fn look(yard: &Yard, round: u64, ledger: &Ledger, clients: &[Official], ours: &OurReplica) {
    let waiting = clients.iter().flat_map(|client| &client.waiting).chain(&ours.waiting);
    let sofar = Ledger {
        heals: ledger.heals,
        acknowledged: ledger.acknowledged.clone(),
        refused: ledger.refused.clone(),
        unknown: ledger.unknown.iter().chain(waiting).cloned().collect(),
    };
    let mut fresh = yard.client(&format!("look-{round}"));
    fresh.sync();
    println!("round {round}: {:?}", fresh.position());
    fresh.close();
    sofar.judge(fresh.db());
}

/// The oracle's judgement of a fresh clone, and that everybody's pages are the same.
pub(crate) fn judge_all(yard: &Yard, clients: &mut [Official], ledger: &Ledger) {
    let mut fresh = yard.client("judge");
    fresh.sync();
    fresh.close();
    ledger.judge(fresh.db());
    let held = rows(fresh.db(), "SELECT token, number FROM part ORDER BY 1, 2");
    // Syncing once more moves nobody who is through.
    for client in clients.iter_mut() {
        client.client(yard).sync();
        let image = checked_image(client.client(yard).db());
        let difference =
            anabranch_conformance::first_difference(&checked_image(fresh.db()), &image);
        assert_eq!(difference, None, "{}", client.name);
    }
    yard.settle(&mut [], "SELECT token, number FROM part ORDER BY 1, 2", &held);
}

#[test]
fn clients_that_race_lose_nothing_that_was_acknowledged() {
    let seed = seed();
    println!("CONFORMANCE_SEED={seed}");
    let yard = Yard::with(&["--heal", "off"]);
    let mut first = yard.client("first");
    first.batch(SCHEMA);
    first.sync();
    let turns = rounds() / 10;
    let ledgers: Vec<(Official, Ledger)> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..3)
            .map(|number| {
                let yard = &yard;
                scope.spawn(move || {
                    let mut chance = Chance::new(seed ^ (number << 40));
                    let mut client = Official::new(yard, &format!("racer{number}"));
                    let mut ledger = Ledger::default();
                    for _ in 0..turns {
                        if client.waiting.is_empty() {
                            client.sync(yard, &mut ledger);
                        }
                        client.write(yard, &mut chance);
                        if client.sync(yard, &mut ledger) == Outcome::Conflict {
                            client.begin_anew(yard, &mut ledger);
                        }
                    }
                    (client, ledger)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut all = Ledger::default();
    let mut clients = Vec::new();
    for (client, ledger) in ledgers {
        all.take(ledger);
        all.unknown.extend(client.waiting.iter().cloned());
        if client.waiting.is_empty() {
            clients.push(client);
        }
    }
    assert!(!all.acknowledged.is_empty(), "somebody wins each round");
    judge_all(&yard, &mut clients, &all);
}
