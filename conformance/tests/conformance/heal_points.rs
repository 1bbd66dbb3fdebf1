//! Servers that die at each named crash point of healing, while official clients that wrote apart push
//! and pull.
//!
//! A course is a row of rounds, each with one point, on one store with three clients. In a round all
//! of them write without having seen the others, the server is started so that it dies at the point,
//! and they sync until it does; then it is started again, perhaps to die once more, or another server
//! on the same store goes on. In the end of a round everybody is through, and each transaction is
//! there, whole and once; in the end of a course all files hold the same pages.
//!
//! A point at which nothing died fails the test by name. `CONFORMANCE_KILLS` and `CONFORMANCE_SEED`
//! choose length and course.

use std::collections::BTreeSet;
use std::time::Instant;

use anabranch_conformance::{Chance, Fault, PATIENCE, Seen, Server};

use crate::ledger::{Ledger, SCHEMA, from_environment, seed};
use crate::soak::{Official, Outcome, judge_all};
use crate::support::{DATABASE, Yard};

/// Where the frames of a client, or what comes of them, become durable.
const PUSH: &[&str] = &[
    "append::after-put",
    "append::before-put",
    "frames::after-append",
    "frames::before-append",
    "frames::kept-aside",
    "heal::after-append",
    "heal::after-part",
    "heal::before-part",
    "heal::proven",
];
/// On the way of a client that was merged to where everybody goes on.
const PULL: &[&str] = &[
    "frames::announced",
    "heal::after-passage",
    "heal::before-passage",
    "heal::before-serving",
    "heal::loading",
];
/// Those of them after which something is there that another server must find.
const ELSEWHERE: (&[&str], &[&str]) = (
    &["frames::kept-aside", "heal::after-append", "heal::after-part", "heal::proven"],
    &["heal::after-passage", "heal::before-serving"],
);
/// Objects that are longer than the store takes at once.
const LARGE: &[&str] = &["aside::between-pieces"];
const DROP: &[&str] = &["aside::between-deletes", "heal::after-drop"];
const RETAIN: &[&str] = &["aside::between-deletes", "retain::after-floor", "retain::midway"];
const ROLLOVER: &[&str] = &["rollover::after-append"];

#[test]
fn killed_at_each_point_of_a_push() {
    Course::run(&[(PUSH, Course::pushes)], false);
}

#[test]
fn killed_at_each_point_of_a_pull() {
    Course::run(&[(PULL, Course::pulls)], false);
}

#[test]
fn killed_at_each_point_while_another_server_goes_on() {
    Course::run(&[(ELSEWHERE.0, Course::pushes), (ELSEWHERE.1, Course::pulls)], true);
}

#[test]
fn killed_between_the_pieces_of_large_objects() {
    Course::run(&[(LARGE, Course::pushes_much), (LARGE, Course::pulls_much)], false);
}

#[test]
fn killed_while_an_administrator_or_retention_takes_what_is_kept() {
    Course::run(
        &[(DROP, Course::drops), (RETAIN, Course::retains), (ROLLOVER, Course::rolls_over)],
        false,
    );
}

/// Nobody waits long for who was in the middle of something.
const ARGS: [&str; 2] = ["--push-session", "1s"];

type Round = fn(&mut Course, &str);

struct Course {
    yard: Yard,
    /// Goes on instead of the one that died.
    second: Option<Server>,
    clients: Vec<Official>,
    ledger: Ledger,
    chance: Chance,
    kills: u64,
    /// Points that are tried for a second death.
    points: Vec<&'static str>,
    reached: BTreeSet<String>,
}

impl Course {
    fn run(rounds: &[(&'static [&'static str], Round)], two: bool) {
        let seed = seed();
        let wanted = from_environment("CONFORMANCE_KILLS", 0);
        println!("CONFORMANCE_SEED={seed} CONFORMANCE_KILLS={wanted}");
        let mut yard = Yard::with(&ARGS);
        if yard.server().is_none() {
            return;
        }
        let mut course = Course::begin(yard, two, seed);
        let mut todo: Vec<(&str, Round)> = Vec::new();
        for (points, round) in rounds {
            course.points.extend(*points);
            todo.extend(points.iter().map(|point| (*point, *round)));
        }
        let mut missed = BTreeSet::new();
        loop {
            let mut order = todo.clone();
            while !order.is_empty() {
                let (point, round) = order.swap_remove(course.chance.below(order.len()));
                println!("-- {point}, after {} kills", course.kills);
                course.reached.clear();
                round(&mut course, point);
                course.end_of_round();
                if !course.reached.contains(point) {
                    missed.insert(point);
                }
            }
            assert!(missed.is_empty(), "never reached: {missed:?}");
            if course.kills >= wanted {
                break;
            }
        }
        println!("{} kills, {} transactions", course.kills, course.ledger.acknowledged.len());
        let Course { yard, mut clients, ledger, .. } = course;
        judge_all(&yard, &mut clients, &ledger);
    }

    fn begin(yard: Yard, two: bool, seed: u64) -> Self {
        let second = two.then(|| yard.two_more_with(&ARGS).unwrap()).map(|[second, _]| second);
        let mut clients: Vec<Official> =
            ["a", "b", "c"].iter().map(|name| Official::new(&yard, name)).collect();
        clients[0].client(&yard).batch(SCHEMA);
        for client in &mut clients {
            client.client(&yard).sync();
        }
        let ledger = Ledger { heals: true, ..Ledger::default() };
        let (points, reached) = (Vec::new(), BTreeSet::new());
        let chance = Chance::new(seed);
        Course { yard, second, clients, ledger, chance, kills: 0, points, reached }
    }

    fn server(&mut self) -> &mut Server {
        self.yard.server().unwrap()
    }

    fn write(&mut self, who: usize) {
        self.clients[who].write(&self.yard, &mut self.chance);
    }

    /// A transaction of several requests.
    fn write_much(&mut self, who: usize) {
        let parts = 150 + self.chance.below(50);
        self.clients[who].write_sized(&self.yard, (parts, 1900));
    }

    fn sync(&mut self, who: usize) -> Outcome {
        let client = &mut self.clients[who];
        let outcome = client.sync(&self.yard, &mut self.ledger);
        assert_ne!(outcome, Outcome::Conflict, "{}", client.name);
        outcome
    }

    /// One sync, until it succeeds.
    fn sync_through(&mut self, who: usize) {
        let begun = Instant::now();
        while self.sync(who) != Outcome::Through {
            assert!(begun.elapsed() < PATIENCE, "{} is stuck", self.clients[who].name);
        }
    }

    /// All write, and none has seen it. One transaction takes several requests; it is the first of its
    /// client if it `leads`.
    fn diverge(&mut self, leads: bool) {
        let much = self.chance.below(self.clients.len());
        if leads {
            self.write_much(much);
        }
        for who in 0..self.clients.len() {
            for _ in 0..=self.chance.below(2) {
                self.write(who);
            }
        }
        if !leads {
            self.write_much(much);
        }
    }

    /// From the next start on the server dies there; sometimes not at once.
    fn arm(&mut self, point: &str, later: bool) {
        let action = if later { "1*off->return" } else { "return" };
        self.server().restart_to_die(&format!("{point}={action}"));
    }

    /// If the server has died at `point`: somebody else goes on.
    fn after_death(&mut self, point: &str) -> bool {
        if !self.server().has_died() {
            return false;
        }
        self.kills += 1;
        self.reached.insert(point.to_owned());
        if let Some(second) = &self.second {
            let address = second.address();
            for client in &self.clients {
                client.proxy.script(move |_| Fault::Elsewhere(address));
            }
        } else {
            self.server().restart();
        }
        true
    }

    /// Everybody syncs, in any order, until the server dies or all are through.
    fn sync_until_death(&mut self, point: &str) {
        let begun = Instant::now();
        let mut through = vec![0; self.clients.len()];
        let mut turns = Vec::new();
        while through.iter().any(|times| *times < 2) {
            assert!(begun.elapsed() < PATIENCE, "somebody is stuck: {through:?}");
            if turns.is_empty() {
                turns = (0..self.clients.len()).filter(|who| through[*who] < 2).collect();
            }
            let who = turns.swap_remove(self.chance.below(turns.len()));
            if self.chance.percent(20) {
                let which = if self.chance.percent(50) { Seen::is_push } else { Seen::is_pull };
                let n = 1 + self.chance.below(2);
                self.clients[who].proxy.nth(n, which, || Fault::LoseAnswer);
            }
            let outcome = self.sync(who);
            self.clients[who].proxy.calm();
            match outcome {
                Outcome::Through => through[who] += 1,
                // Written between push and pull, or before a repeat.
                _ if self.chance.percent(30) && through[who] == 0 => self.write(who),
                _ => {}
            }
            if outcome != Outcome::Through && self.after_death(point) {
                return;
            }
        }
    }

    /// Dies at `point`, and perhaps at further ones before it is left alone.
    fn die(&mut self, point: &str, later: bool) {
        self.arm(point, later);
        self.sync_until_death(point);
        if self.second.is_some() {
            return;
        }
        for _ in 0..self.chance.below(2) {
            let next = self.points[self.chance.below(self.points.len())];
            let later = self.chance.percent(50);
            self.arm(next, later);
            self.sync_until_death(next);
        }
    }

    /// All come through, with what they have written meanwhile, and have all rows.
    fn end_of_round(&mut self) {
        if self.second.is_none() {
            self.server().restart();
        }
        for syncs in [2, 1] {
            for who in 0..self.clients.len() {
                (0..syncs).for_each(|_| self.sync_through(who));
            }
        }
        if self.second.is_some() {
            self.server().restart();
            for client in &self.clients {
                client.proxy.calm();
            }
        }
        let any = self.chance.below(self.clients.len());
        self.ledger.judge(self.clients[any].client(&self.yard).db());
    }

    fn pushes(&mut self, point: &str) {
        // Only of a WAL that nothing was pushed of the store is told how far it was proven.
        let leads = point == "heal::proven" || self.chance.percent(50);
        self.diverge(leads);
        // What is appended first is that of a client that has not diverged. There is one transaction of
        // several requests alone.
        let merges = point.starts_with("heal") && point != "heal::proven";
        let later = point.starts_with("append") || (merges && self.chance.percent(30));
        self.die(point, later);
    }

    /// Two have pushed, and the one that was merged has not pulled.
    fn merged(&mut self) {
        self.sync_through(0);
        self.sync_through(1);
    }

    fn pulls(&mut self, point: &str) {
        self.diverge(false);
        self.merged();
        if self.chance.percent(50) {
            self.write(1);
        }
        self.die(point, false);
    }

    fn write_large(&mut self) {
        self.write(0);
        // All in one transaction: the way on has its pages only if they are in the first part.
        let incompressible = "BEGIN; DELETE FROM part WHERE token = 'large'; INSERT INTO part WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL \
                              SELECT i + 1 FROM n WHERE i < 2300) \
                              SELECT 'large', i, 2300, randomblob(3900) FROM n; COMMIT";
        self.clients[1].client(&self.yard).batch(incompressible);
        self.ledger.acknowledged.insert("large".to_owned());
    }

    fn pushes_much(&mut self, point: &str) {
        self.write_large();
        self.sync_through(0);
        self.die(point, false);
    }

    fn pulls_much(&mut self, point: &str) {
        self.write_large();
        self.merged();
        self.die(point, false);
    }

    /// The admin request, at which the server dies.
    fn ask(&mut self, point: &str, method: &str, path: &str) {
        self.arm(point, false);
        let url = format!("http://{}/admin/v1/databases/{DATABASE}/{path}", self.yard.address());
        let _ = anabranch_conformance::ask(method, &url, &[], Vec::new());
        self.after_death(point);
    }

    fn lineages(&self) -> Vec<String> {
        let path = format!("/admin/v1/databases/{DATABASE}/lineages");
        let told = self.yard.admin("GET", &path).json();
        let told = told["lineages"].as_array().unwrap();
        told.iter().map(|one| one["lineage"].as_str().unwrap().to_owned()).collect()
    }

    fn drops(&mut self, point: &str) {
        self.sync_through(0);
        let before = self.lineages();
        self.diverge(false);
        // So that there is more than one part.
        self.write_much(1);
        self.merged();
        let lineage = self.lineages().into_iter().find(|one| !before.contains(one));
        self.ask(point, "DELETE", &format!("lineages/{}", lineage.expect("one was merged")));
    }

    /// What was merged goes before its client has pulled.
    fn retains(&mut self, point: &str) {
        self.diverge(false);
        self.merged();
        self.sync_through(2);
        self.sync_through(2);
        for _ in 0..2 {
            self.write(0);
            self.sync_through(0);
            self.sync_through(0);
            let path = format!("/admin/v1/databases/{DATABASE}/compact");
            assert_eq!(self.yard.admin("POST", &path).status, 200);
        }
        self.ask(point, "POST", "compact?retain-seconds=0");
    }

    fn rolls_over(&mut self, point: &str) {
        self.diverge(false);
        self.merged();
        self.ask(point, "POST", "rollover");
    }
}
