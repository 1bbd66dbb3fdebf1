//! Unpacks a long body on two threads, in order.
//!
//! Long bodies are rows of zstd frames of bounded content, which know nothing of one another. Who
//! reads finds the frames and hands them round; the threads unpack; what they made is passed on in
//! the order of the frames. Beyond the one that is read next at most [`BYTES_AHEAD`] of content, and as
//! much packed, is under way.
//! The threads end with the reader, or with the process.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anabranch_format::{
    FrameInfo, FrameSplitter, FrameUnpacker, PackedFrame, ZSTD_HEADER_BYTES_MAX,
};

use crate::spool::SpoolReader;

const THREADS: usize = 2;
/// Content that is being unpacked or waits to be read: two frames of the length that we write, one
/// for each thread.
const BYTES_AHEAD: usize = 4 * 1024 * 1024;
const FRAMES_AHEAD: usize = 64;
/// Memory that is kept to be written to again, in contents of a frame.
const SPARE_MAX: usize = 2;
/// Shorter bodies are not worth two threads.
const BODY_BYTES_MIN: u64 = 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

struct Job {
    frame: PackedFrame,
    /// The parts of the content that are wanted, ascending; `None`: all of it.
    parts: Option<Parts>,
    /// Where the content goes: what was read of an earlier frame, since new memory costs time.
    content: Vec<u8>,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

type Parts = Vec<Range<usize>>;

/// Tells which parts are wanted, ascending, of so many bytes from an offset in the content of the body.
pub(crate) type Pick = Box<dyn FnMut(u64, usize) -> Parts + Send>;

/// The content of a body, unpacked ahead; or parts of it, one after another.
pub(crate) struct SideBySide {
    pick: Option<Pick>,
    /// Bytes of content that were handed out or passed over.
    offset: u64,
    frames: FrameSplitter<BufReader<SpoolReader>>,
    threads: Vec<Sender<Job>>,
    turn: usize,
    /// Answers in the order of the frames, each with the length of its content.
    waiting: VecDeque<(usize, Receiver<io::Result<Vec<u8>>>)>,
    bytes_ahead: usize,
    /// No frame is left, or none can be found any more.
    ended: bool,
    content: Vec<u8>,
    at: usize,
    /// What was read, to be written to again.
    spare: Vec<Vec<u8>>,
}

impl SideBySide {
    /// Whether `body` is long, and made of frames that can be unpacked side by side.
    pub(crate) fn suits(body: &SpoolReader) -> io::Result<bool> {
        let first = first_frame(body)?;
        let small = first.is_some_and(|info| info.content_if_small().is_some());
        Ok(small && body.len() >= BODY_BYTES_MIN)
    }

    /// Starts the threads.
    pub(crate) fn start(body: SpoolReader) -> io::Result<Self> {
        Self::start_picking(body, None)
    }

    /// Starts the threads. Of what `pick` leaves out the frames are not unpacked, nor the ends of frames:
    /// so nothing tells whether those that are are damaged.
    pub(crate) fn start_picking(body: SpoolReader, pick: Option<Pick>) -> io::Result<Self> {
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (sender, jobs) = channel::<Job>();
            let thread = std::thread::Builder::new().name("anabranch-zstd".to_owned());
            let mut unpacker = FrameUnpacker::new()?;
            thread.spawn(move || {
                let mut start = Vec::new();
                for Job { frame, parts, mut content, answer } in jobs {
                    let unpacked = match parts {
                        None => unpacker.unpack(&frame, &mut content),
                        Some(parts) => {
                            pick_from(&mut unpacker, &frame, &parts, &mut start, &mut content)
                        }
                    };
                    // Nobody waits for an answer any more if the reader is gone.
                    let _ = answer.send(unpacked.map(|()| content));
                }
            })?;
            threads.push(sender);
        }
        let frames = FrameSplitter::new(BufReader::with_capacity(BUFFER_BYTES, body));
        Ok(SideBySide {
            pick,
            offset: 0,
            frames,
            threads,
            turn: 0,
            waiting: VecDeque::new(),
            bytes_ahead: 0,
            ended: false,
            content: Vec::new(),
            at: 0,
            spare: Vec::new(),
        })
    }

    /// Hands out frames until enough is under way.
    fn hand_out(&mut self) {
        while !self.ended
            && self.waiting.len() < FRAMES_AHEAD
            && (self.waiting.is_empty() || self.bytes_ahead < BYTES_AHEAD)
        {
            let (answer, receiver) = sync_channel(1);
            let length = match self.frames.next_frame() {
                Ok(Some(frame)) => {
                    let length = frame.content_len();
                    let parts = self.pick.as_mut().map(|pick| pick(self.offset, length));
                    self.offset += length as u64;
                    if parts.as_ref().is_some_and(Vec::is_empty) {
                        continue;
                    }
                    // A thread that is gone does not answer, which its reader will see.
                    let content = self.spare.pop().unwrap_or_default();
                    let _ = self.threads[self.turn].send(Job { frame, parts, content, answer });
                    self.turn = (self.turn + 1) % self.threads.len();
                    length
                }
                Ok(None) => {
                    self.ended = true;
                    return;
                }
                Err(e) => {
                    self.ended = true;
                    // There is room for one.
                    let _ = answer.send(Err(e));
                    0
                }
            };
            self.bytes_ahead += length;
            self.waiting.push_back((length, receiver));
        }
    }
}

/// Puts parts of the content of `frame` into `content`; `start` is memory for what lies before the end of
/// the last.
fn pick_from(
    unpacker: &mut FrameUnpacker,
    frame: &PackedFrame,
    parts: &[Range<usize>],
    start: &mut Vec<u8>,
    content: &mut Vec<u8>,
) -> io::Result<()> {
    let end = parts.last().map_or(0, |part| part.end);
    if start.len() < end {
        start.resize(end, 0);
    }
    unpacker.unpack_start(frame, &mut start[..end])?;
    content.clear();
    for part in parts {
        content.extend_from_slice(&start[part.clone()]);
    }
    Ok(())
}

impl BufRead for SideBySide {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.content.len() {
            // What was read is written to again at once.
            let used = std::mem::take(&mut self.content);
            self.at = 0;
            if self.spare.len() < SPARE_MAX && used.capacity() > 0 {
                self.spare.push(used);
            }
            self.hand_out();
            let Some((length, answer)) = self.waiting.pop_front() else { return Ok(&[]) };
            self.bytes_ahead -= length;
            // Neither thread shall wait until this one has been read.
            self.hand_out();
            let gone = |_| io::Error::other("a thread that unpacks is gone");
            self.content = match answer.recv().map_err(gone).flatten() {
                Ok(content) => content,
                Err(e) => {
                    // Nothing after it counts.
                    self.ended = true;
                    self.waiting.clear();
                    return Err(e);
                }
            };
        }
        Ok(&self.content[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for SideBySide {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let take = available.len().min(buf.len());
        buf[..take].copy_from_slice(&available[..take]);
        self.consume(take);
        Ok(take)
    }
}

/// What the header of the first zstd frame of `body` states; `None` if it is no such header.
pub(crate) fn first_frame(body: &SpoolReader) -> io::Result<Option<FrameInfo>> {
    let mut start = Vec::with_capacity(ZSTD_HEADER_BYTES_MAX);
    body.rewound().take(ZSTD_HEADER_BYTES_MAX as u64).read_to_end(&mut start)?;
    Ok(FrameInfo::decode(&start))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 7u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56).to_le_bytes()[0]
        })
        .take(len)
        .collect()
    }

    fn body(chunks: &[&[u8]]) -> Vec<u8> {
        let mut packer = zstd::bulk::Compressor::new(1).unwrap();
        packer.include_checksum(true).unwrap();
        chunks.iter().flat_map(|chunk| packer.compress(chunk).unwrap()).collect()
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let reader = SpoolReader::from_bytes(Bytes::from(bytes));
        assert!(SideBySide::suits(&reader)?);
        let mut out = Vec::new();
        SideBySide::start(reader)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn content_comes_in_the_order_of_its_frames() {
        let data = noise(30 << 20);
        let chunks: Vec<&[u8]> = data.chunks(1_300_007).collect();
        assert!(read(body(&chunks)).unwrap() == data);
        let many: Vec<&[u8]> = data[..3 << 20].chunks(1009).collect();
        assert!(read(body(&many)).unwrap() == data[..3 << 20]);
    }

    #[test]
    fn what_lies_before_damage_is_read_and_then_the_error_comes() {
        let data = noise(6 << 20);
        let chunks: Vec<&[u8]> = data.chunks(1 << 20).collect();
        let good = body(&chunks);
        let mut flipped = good.clone();
        let at = good.len() - 100_000;
        flipped[at] ^= 1;
        for (bad, kind) in [
            (flipped, io::ErrorKind::InvalidData),
            (good[..at].to_vec(), io::ErrorKind::UnexpectedEof),
            ([&good[..], b"junk"].concat(), io::ErrorKind::InvalidData),
        ] {
            let mut reader = SideBySide::start(SpoolReader::from_bytes(Bytes::from(bad))).unwrap();
            let mut out = Vec::new();
            let error = reader.read_to_end(&mut out).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(out.len() >= 5 << 20 && out == data[..out.len()]);
        }
    }

    #[test]
    fn parts_of_the_content_come_without_the_rest() {
        let data = noise(30 << 20);
        let chunks: Vec<&[u8]> = data.chunks(1_300_007).collect();
        // Across an end of a frame, of one byte, and far from one another.
        let wanted =
            [5..90_000, 1_300_000..1_300_010, 1_300_010..1_300_011, 20_000_000..23_000_000];
        let all = wanted.clone();
        let pick = move |at: u64, len: usize| -> Parts {
            let at = usize::try_from(at).unwrap();
            let cut = |part: &Range<usize>| part.start.max(at)..part.end.min(at + len);
            let inside = all.iter().map(cut).filter(|part| part.start < part.end);
            inside.map(|part| part.start - at..part.end - at).collect()
        };
        let reader = SpoolReader::from_bytes(Bytes::from(body(&chunks)));
        let mut out = Vec::new();
        let mut picked = SideBySide::start_picking(reader, Some(Box::new(pick))).unwrap();
        picked.read_to_end(&mut out).unwrap();
        let expected: Vec<u8> = wanted.into_iter().flat_map(|part| data[part].to_vec()).collect();
        assert!(out == expected);
    }

    #[test]
    fn a_reader_that_is_dropped_early_leaves_nothing_behind() {
        let data = noise(20 << 20);
        let chunks: Vec<&[u8]> = data.chunks(1 << 20).collect();
        let reader = SpoolReader::from_bytes(Bytes::from(body(&chunks)));
        let mut side_by_side = SideBySide::start(reader).unwrap();
        let mut first = [0; 10];
        side_by_side.read_exact(&mut first).unwrap();
        assert_eq!(first, data[..10]);
        drop(side_by_side);
    }
}
