//! Compresses the chunks of a long body beside the one who fills them.
//!
//! Chunks go round the threads, and what they make is passed on in the order of the chunks: the same
//! bytes as without threads. At most one chunk for each thread is under way. The threads end with
//! the value.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::chunk_compressor;

/// Two: to fill chunks takes half as long as to compress them.
const THREADS: usize = 2;

struct Job {
    chunk: Vec<u8>,
    answer: SyncSender<Done>,
}

/// What was made of a chunk; its memory goes back, to be filled again.
struct Done {
    packed: io::Result<Vec<u8>>,
    chunk: Vec<u8>,
}

pub(super) struct Beside {
    threads: Vec<Sender<Job>>,
    turn: usize,
    /// Answers in the order of the chunks.
    waiting: VecDeque<Receiver<Done>>,
    /// Memory of chunks that are done.
    spare: Vec<Vec<u8>>,
}

impl Beside {
    /// Starts threads that compress at `level`.
    pub(super) fn start(level: i32) -> io::Result<Self> {
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (sender, jobs) = channel::<Job>();
            let thread = std::thread::Builder::new().name("anabranch-pack".to_owned());
            let mut compressor = chunk_compressor(level)?;
            thread.spawn(move || {
                for Job { chunk, answer } in jobs {
                    let packed = compressor.compress(&chunk);
                    // Nobody waits for an answer any more if the body was given up.
                    let _ = answer.send(Done { packed, chunk });
                }
            })?;
            threads.push(sender);
        }
        Ok(Beside { threads, turn: 0, waiting: VecDeque::new(), spare: Vec::new() })
    }

    /// Hands over a chunk; answers an earlier one, compressed, if as many as there are threads are
    /// under way.
    pub(super) fn push(&mut self, chunk: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        let ready = if self.waiting.len() < THREADS { None } else { self.next()? };
        let (answer, receiver) = sync_channel(1);
        // A thread that is gone does not answer, which is seen when its answer is due.
        let _ = self.threads[self.turn].send(Job { chunk, answer });
        self.turn = (self.turn + 1) % THREADS;
        self.waiting.push_back(receiver);
        Ok(ready)
    }

    /// The oldest chunk that is under way, compressed; `None` if none is left.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(answer) = self.waiting.pop_front() else { return Ok(None) };
        let gone = |_| io::Error::other("a thread that compresses is gone");
        let Done { packed, mut chunk } = answer.recv().map_err(gone)?;
        chunk.clear();
        self.spare.push(chunk);
        packed.map(Some)
    }

    /// Memory for the next chunk.
    pub(super) fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}
