//! Pages out of chunks of a snapshot that are at hand, packed.
//!
//! Of each chunk perhaps a single page is wanted, but a chunk can only be unpacked as a whole; so two
//! threads unpack, and the pages are taken in the order of the chunks. Beyond the chunk that is read
//! [`BYTES_AHEAD`] of content at most is under way, or one chunk, and as much packed. The threads start
//! with the second chunk and end with the reader.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anabranch_format::{
    ChunkUnpacker, DeltaError, Layout, PageSet, PageSource, Pgno, SnapshotError,
};

use crate::context::Context;
use crate::error::{Damage, StoreError};
use crate::spool::SpoolReader;

const THREADS: usize = 2;
/// Content that is being unpacked or waits to be read: four chunks for each thread, of those of
/// databases up to 64 GiB.
const BYTES_AHEAD: usize = 2 * 1024 * 1024;

/// A chunk in the spool.
pub(crate) struct Packed {
    pub(crate) chunk: u64,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

type Unpacked = Result<Vec<u8>, Failed>;

/// Why a chunk is not there.
enum Failed {
    /// The spool, or the threads.
    Here(io::Error),
    Damaged(SnapshotError),
}

struct Job {
    chunk: u64,
    packed: Vec<u8>,
    /// Where the content goes: that of a chunk that was read.
    content: Vec<u8>,
    answer: SyncSender<Unpacked>,
}

/// Chunks that are unpacked ahead, in order.
pub(crate) struct Unpacking {
    layout: Layout,
    packed: SpoolReader,
    index: std::vec::IntoIter<Packed>,
    threads: Vec<Sender<Job>>,
    turn: usize,
    /// Answers in the order of the chunks.
    waiting: VecDeque<(u64, Receiver<Unpacked>)>,
    bytes_ahead: usize,
    /// The chunk that is read, and its content.
    chunk: Option<u64>,
    content: Vec<u8>,
}

impl Unpacking {
    pub(crate) fn new(layout: Layout, packed: SpoolReader, index: Vec<Packed>) -> Self {
        Unpacking {
            layout,
            packed,
            index: index.into_iter(),
            threads: Vec::new(),
            turn: 0,
            waiting: VecDeque::new(),
            bytes_ahead: 0,
            chunk: None,
            content: Vec::new(),
        }
    }

    fn start(&mut self) -> io::Result<()> {
        while self.threads.len() < THREADS {
            let (sender, jobs) = channel::<Job>();
            let thread = std::thread::Builder::new().name("anabranch-chunks".to_owned());
            let mut unpacker = ChunkUnpacker::new(self.layout)?;
            thread.spawn(move || {
                for Job { chunk, packed, mut content, answer } in jobs {
                    let unpacked = unpacker.unpack(chunk, &packed, &mut content);
                    // Nobody waits for an answer any more if the reader is gone.
                    let _ = answer.send(unpacked.map(|()| content).map_err(Failed::Damaged));
                }
            })?;
            self.threads.push(sender);
        }
        Ok(())
    }

    /// Hands out chunks until enough is under way. `content` is memory for one of them.
    fn hand_out(&mut self, mut content: Vec<u8>) -> io::Result<()> {
        while let Some(Packed { chunk, at, len }) = self.index.as_slice().first() {
            let (chunk, length) = (*chunk, self.layout.chunk_len(*chunk));
            if !self.waiting.is_empty() && self.bytes_ahead + length > BYTES_AHEAD {
                break;
            }
            let mut packed = Vec::new();
            self.packed.part(*at, *len).read_to_end(&mut packed)?;
            self.index.next();
            let (answer, receiver) = sync_channel(1);
            let content = std::mem::take(&mut content);
            // A thread that is gone does not answer, which is seen when its answer is due.
            let _ = self.threads[self.turn].send(Job { chunk, packed, content, answer });
            self.turn = (self.turn + 1) % self.threads.len();
            self.waiting.push_back((chunk, receiver));
            self.bytes_ahead += length;
        }
        Ok(())
    }

    /// The content of `chunk`, which is the one that was read last or the next; `None` if it is neither.
    fn content(&mut self, chunk: u64) -> Result<Option<&[u8]>, Failed> {
        if self.chunk != Some(chunk) {
            self.start().map_err(Failed::Here)?;
            let used = std::mem::take(&mut self.content);
            self.hand_out(used).map_err(Failed::Here)?;
            let Some((next, answer)) = self.waiting.pop_front() else { return Ok(None) };
            self.bytes_ahead -= self.layout.chunk_len(next);
            let gone = |_| Failed::Here(io::Error::other("a thread that unpacks is gone"));
            self.content = answer.recv().map_err(gone)??;
            self.chunk = Some(next);
        }
        Ok((self.chunk == Some(chunk)).then_some(&self.content))
    }
}

/// The wanted pages of chunks that are at hand.
pub(crate) struct ChunkPages {
    pub(crate) context: Context,
    /// The snapshot.
    pub(crate) key: String,
    pub(crate) layout: Layout,
    /// All chunks that the pages lie in.
    pub(crate) chunks: Unpacking,
    pub(crate) wanted: Arc<PageSet>,
    pub(crate) after: u32,
    pub(crate) size: u32,
    pub(crate) lock_page: Pgno,
}

impl ChunkPages {
    fn failed(context: &Context, key: &str, failed: Failed) -> StoreError {
        match failed {
            Failed::Here(e) => context.scratch_failed(e),
            Failed::Damaged(e) => context.corrupt(key, Damage::Snapshot(e)),
        }
    }
}

impl PageSource for ChunkPages {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let next = self.wanted.next_after(self.after);
        let next = match next {
            Some(pgno) if pgno == self.lock_page => self.wanted.next_after(pgno.get()),
            next => next,
        };
        let Some(pgno) = next.filter(|pgno| pgno.get() <= self.size) else { return Ok(None) };
        self.after = pgno.get();
        let Some((chunk, place)) = self.layout.locate(pgno) else { return Ok(None) };
        let (context, key) = (&self.context, &self.key);
        match self.chunks.content(chunk) {
            Ok(Some(content)) => page.copy_from_slice(&content[place]),
            Ok(None) => {
                let text = format!("chunk {chunk} of it was not fetched");
                return Err(context.contradiction(key, text).into_pages_error());
            }
            Err(e) => return Err(Self::failed(context, key, e).into_pages_error()),
        }
        Ok(Some(pgno))
    }
}
