//! Compresses a long body on two threads, beside the one that fills it.
//!
//! Chunks go round the threads, and what they make is passed on in the order of the chunks: the same
//! bytes as without threads. At most one chunk for each thread is under way. The threads start with
//! the first chunk and end with the value.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anabranch_format::{ChunkCompressor, ChunkPacker};

/// Two: to fill chunks takes half as long as to compress them.
const THREADS: usize = 2;

#[derive(Debug)]
struct Job {
    chunk: Vec<u8>,
    answer: SyncSender<Done>,
}

/// What was made of a chunk; its memory goes back, to be filled again.
#[derive(Debug)]
struct Done {
    packed: io::Result<Vec<u8>>,
    chunk: Vec<u8>,
}

/// Threads that compress a long body; none before the first chunk.
#[derive(Debug, Default)]
pub struct PackThreads {
    threads: Vec<Sender<Job>>,
    turn: usize,
    /// Answers in the order of the chunks.
    waiting: VecDeque<Receiver<Done>>,
    /// Memory of chunks that are done.
    spare: Vec<Vec<u8>>,
}

impl PackThreads {
    fn start(&mut self) -> io::Result<()> {
        while self.threads.len() < THREADS {
            let (sender, jobs) = channel::<Job>();
            let thread = std::thread::Builder::new().name("anabranch-pack".to_owned());
            let mut compressor = ChunkCompressor::new()?;
            thread.spawn(move || {
                for Job { chunk, answer } in jobs {
                    let packed = compressor.compress(&chunk);
                    // Nobody waits for an answer any more if the body was given up.
                    let _ = answer.send(Done { packed, chunk });
                }
            })?;
            self.threads.push(sender);
        }
        Ok(())
    }
}

impl ChunkPacker for PackThreads {
    fn push(&mut self, chunk: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        self.start()?;
        let ready = if self.waiting.len() < THREADS { None } else { self.next()? };
        let (answer, receiver) = sync_channel(1);
        // A thread that is gone does not answer, which is seen when its answer is due.
        let _ = self.threads[self.turn].send(Job { chunk, answer });
        self.turn = (self.turn + 1) % THREADS;
        self.waiting.push_back(receiver);
        Ok(ready)
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(answer) = self.waiting.pop_front() else { return Ok(None) };
        let gone = |_| io::Error::other("a thread that compresses is gone");
        let Done { packed, mut chunk } = answer.recv().map_err(gone)?;
        chunk.clear();
        self.spare.push(chunk);
        packed.map(Some)
    }

    fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use anabranch_format::{DeltaEncoder, Lsn, PageSize, Pgno};

    use super::*;

    /// A body of so many pages that compress a little.
    fn body(pages: u32, packer: Option<PackThreads>) -> Vec<u8> {
        let size = PageSize::DEFAULT;
        let mut encoder = DeltaEncoder::new(Vec::new(), size, Lsn::new(1)).unwrap();
        if let Some(packer) = packer {
            encoder = encoder.packed_by(Box::new(packer));
        }
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b"abcdefghijklmnopqrstuvwxyz      "[(state >> 59) as usize]
        };
        for pgno in (1..=pages).filter_map(Pgno::new) {
            let page: Vec<u8> = std::iter::repeat_with(&mut next).take(size.bytes()).collect();
            encoder.page(pgno, &page).unwrap();
        }
        encoder.finish(pages).unwrap().sink
    }

    #[test]
    fn threads_make_the_same_bytes() {
        // Short, one chunk, and many; 509 frames fill a chunk but for some bytes.
        for pages in [3, 400, 509, 510, 3000] {
            let threads = Some(PackThreads::default());
            assert!(body(pages, threads) == body(pages, None), "{pages} pages");
        }
    }
}
