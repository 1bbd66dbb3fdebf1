//! A model of writers, readers and retention on one log, searched exhaustively: every order of
//! their single steps, on stores that do one step at a time.
//!
//! It shows why the floor is read *after* each put and *after* each probe: leave out either look,
//! and the search finds a push that was acknowledged and is in no log, or a replica that takes a
//! state for the log's that is not. Each segment here has one frame.

#![allow(clippy::unwrap_used)]

use std::collections::{HashSet, VecDeque};

/// The log is followed up to this many segments.
const KEYS: usize = 5;
/// Segments that are ever put.
const PUTS: u8 = 6;
const AGENTS: usize = 2;

/// Which looks at the floor are made.
#[derive(Clone, Copy)]
struct Rules {
    writer_looks: bool,
    reader_looks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Created the key after its position, and has not looked at the floor since.
    Created,
    /// Saw what stands at the next key, and whether the log went on at that moment.
    Probed {
        found: Option<u8>,
        log_went_on: bool,
    },
}

/// A replica: it reads, and it writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Agent {
    position: u8,
    /// The ids of the segments it is made of, as digits.
    content: u32,
    phase: Phase,
    put: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// Id of the segment at each key, from 1.
    keys: [Option<u8>; KEYS + 1],
    floor: u8,
    /// What the log is in truth, for ever: content after each position.
    truth: Vec<u32>,
    agents: [Agent; AGENTS],
    puts: u8,
}

fn extended(content: u32, segment: u8) -> u32 {
    content * 8 + u32::from(segment)
}

impl State {
    fn start() -> Self {
        let agent = Agent { position: 0, content: 0, phase: Phase::Idle, put: 0 };
        State { keys: [None; KEYS + 1], floor: 0, truth: vec![0], agents: [agent; AGENTS], puts: 0 }
    }

    fn head(&self) -> u8 {
        u8::try_from(self.truth.len() - 1).unwrap()
    }

    /// Whatever one step can lead to; an error is a violation.
    fn steps(&self, rules: Rules) -> Result<Vec<State>, String> {
        let mut next = Vec::new();
        for index in 0..AGENTS {
            match self.agents[index].phase {
                Phase::Idle => {
                    next.extend(self.put(index));
                    next.extend(self.probe(index));
                }
                Phase::Created => next.push(self.acknowledge(index, rules)?),
                Phase::Probed { .. } => next.push(self.believe(index, rules)?),
            }
        }
        next.extend(self.raise_floor());
        next.extend(self.delete());
        Ok(next)
    }

    fn put(&self, index: usize) -> Option<State> {
        let agent = self.agents[index];
        let key = usize::from(agent.position) + 1;
        if key > KEYS || self.puts == PUTS || self.keys[key].is_some() {
            return None;
        }
        let mut state = self.clone();
        state.puts += 1;
        state.keys[key] = Some(state.puts);
        if key == state.truth.len() && self.truth.last() == Some(&agent.content) {
            state.truth.push(extended(agent.content, state.puts));
        }
        state.agents[index] = Agent { phase: Phase::Created, put: state.puts, ..agent };
        Some(state)
    }

    fn acknowledge(&self, index: usize, rules: Rules) -> Result<State, String> {
        let agent = self.agents[index];
        let key = usize::from(agent.position) + 1;
        let mut state = self.clone();
        if rules.writer_looks && self.floor > agent.position {
            if state.keys[key] == Some(agent.put) {
                state.keys[key] = None;
            }
            state.agents[index] = self.reloaded();
            return Ok(state);
        }
        let content = extended(agent.content, agent.put);
        if self.truth.get(key) != Some(&content) {
            return Err(format!(
                "acknowledged, but not in the log: segment {} at {key}",
                agent.put
            ));
        }
        let position = agent.position + 1;
        state.agents[index] = Agent { position, content, phase: Phase::Idle, put: 0 };
        Ok(state)
    }

    fn probe(&self, index: usize) -> Option<State> {
        let agent = self.agents[index];
        let found = *self.keys.get(usize::from(agent.position) + 1)?;
        let log_went_on = self.head() > agent.position;
        let mut state = self.clone();
        state.agents[index].phase = Phase::Probed { found, log_went_on };
        Some(state)
    }

    fn believe(&self, index: usize, rules: Rules) -> Result<State, String> {
        let agent = self.agents[index];
        let mut state = self.clone();
        let Phase::Probed { found, log_went_on } = agent.phase else { unreachable!() };
        if rules.reader_looks && self.floor > agent.position {
            state.agents[index] = self.reloaded();
            return Ok(state);
        }
        state.agents[index].phase = Phase::Idle;
        let Some(segment) = found else {
            return if log_went_on {
                Err(format!("takes {} for the head, which is further on", agent.position))
            } else {
                Ok(state)
            };
        };
        let (position, content) = (agent.position + 1, extended(agent.content, segment));
        if self.truth.get(usize::from(position)) != Some(&content) {
            return Err(format!(
                "follows segment {segment} at {position}, which is not in the log"
            ));
        }
        state.agents[index] = Agent { position, content, phase: Phase::Idle, put: 0 };
        Ok(state)
    }

    /// Starts over from the snapshot at the floor.
    fn reloaded(&self) -> Agent {
        let content = self.truth[usize::from(self.floor)];
        Agent { position: self.floor, content, phase: Phase::Idle, put: 0 }
    }

    fn raise_floor(&self) -> Vec<State> {
        let floors = self.floor + 1..=self.head();
        floors.map(|floor| State { floor, ..self.clone() }).collect()
    }

    /// Deletes one key below the floor, in any order.
    fn delete(&self) -> Vec<State> {
        let below = 1..usize::from(self.floor);
        below
            .filter(|key| self.keys[*key].is_some())
            .map(|key| {
                let mut state = self.clone();
                state.keys[key] = None;
                state
            })
            .collect()
    }
}

/// Searches all states; how many there are, or the first violation.
fn search(rules: Rules) -> Result<usize, String> {
    let mut seen = HashSet::from([State::start()]);
    let mut waiting = VecDeque::from([State::start()]);
    while let Some(state) = waiting.pop_front() {
        for next in state.steps(rules)? {
            if seen.insert(next.clone()) {
                waiting.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn i1_with_both_looks_at_the_floor_no_order_of_steps_loses_anything() {
    let states = search(Rules { writer_looks: true, reader_looks: true }).unwrap();
    assert!(states > 10_000, "{states} states are no search");
}

#[test]
fn without_the_writers_look_a_push_is_acknowledged_that_nobody_reads() {
    let found = search(Rules { writer_looks: false, reader_looks: true }).unwrap_err();
    assert!(found.starts_with("acknowledged"), "{found}");
}

#[test]
fn without_the_readers_look_a_replica_takes_an_old_state_for_the_head() {
    let found = search(Rules { writer_looks: true, reader_looks: false }).unwrap_err();
    assert!(found.starts_with("takes") || found.starts_with("follows"), "{found}");
}
