//! zstd settings, and streams that hold to a limit.

use std::io::{self, BufRead, Read, Write};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

/// The largest window that is accepted when reading: 8 MiB, which RFC 8878 asks every decoder to
/// support and recommends encoders not to exceed. A merge holds one window for each object it
/// reads, so a larger one would let an object of a few bytes claim a lot of memory.
pub const WINDOW_LOG_MAX: u32 = 23;

// The levels were chosen by measurement, on pages of rows of JSON-like text of random words. The
// yardstick is the same pages without any WAL headers through `zstd -3`, and an object, metadata
// and all, is to stay within 1.1 of it.
//
// | pages | body at level 2 | 3 | 5 | 12 | 19 |
// |---|---|---|---|---|---|
// | 1 | 1.02, 0.05 ms | 1.02, 0.06 ms | 1.01, 0.08 ms | 0.99, 0.18 ms | 1.00, 0.36 ms |
// | 4 | 1.03, 0.10 ms | 1.02, 0.14 ms | 1.01, 0.3 ms | 0.99, 0.43 ms | 0.98, 2.1 ms |
// | 50 | 1.06, 1.2 ms | 1.01, 1.1 ms | 0.97, 3.0 ms | 0.95, 14 ms | 0.91, 50 ms |
// | 700 | 1.05, 19 ms | 1.01, 25 ms | 0.99, 42 ms | 1.01, 270 ms | 0.90, 1.6 s |
// | 8,000 | 1.05, 192 ms | 1.02, 264 ms | 0.99, 490 ms | | |

/// Bodies up to this length are compressed harder: there the metadata, which is not compressed,
/// weighs most, and it takes less than a millisecond. Levels above 12 take several times as long
/// for a hundredth.
const SMALL_BODY_BYTES: usize = 32 * 1024;
const SMALL_BODY_LEVEL: i32 = 12;

/// Bodies up to this length are compressed a little harder than longer ones.
const MEDIUM_BODY_BYTES: usize = 512 * 1024;
const MEDIUM_BODY_LEVEL: i32 = 3;

/// Longer ones are bound by the speed of one core: level 3 takes a third longer for three hundredths.
const CHUNK_LEVEL: i32 = 2;

/// For bodies that are made while a client waits, of many versions of the same few pages: there any
/// level finds nearly all there is to find. Of 128 frames, 527 KB, of inserts of single rows:
/// level -5 makes 20.6 KB in 0.31 ms, -1 16.3 KB in 0.39 ms, 1 13.7 KB in 0.51 ms, 3 13.6 KB in
/// 0.69 ms.
const FAST_LEVEL: i32 = -1;

/// A longer body is a row of zstd frames of this much content each, which can be unpacked side by
/// side. It costs less than a hundredth more bytes than one frame, at frames of 1 MiB twice that.
const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// The most content that a frame may have for [`FrameSplitter`](crate::FrameSplitter) to hand it
/// out: what its receiver will allocate.
pub const FRAME_CONTENT_MAX: usize = 4 * 1024 * 1024;

/// Compresses a stream of unknown length in frames that state their content's length; small bodies
/// harder. Holds one chunk in memory, beside what a [`ChunkPacker`] holds.
pub(crate) struct Compressor<W: Write> {
    sink: W,
    chunk: Vec<u8>,
    /// A chunk has ended, so that the body is long.
    long: bool,
    /// For the chunks of long bodies, once there is one.
    here: Option<ChunkCompressor>,
    /// Takes the chunks of long bodies instead.
    packer: Option<Box<dyn ChunkPacker + Send>>,
    /// One level for all lengths, instead of one that fits the length.
    level: Option<i32>,
}

/// Compresses the chunks of a long body for a [`DeltaEncoder`](crate::DeltaEncoder) while that goes
/// on, on threads that this crate does not start. Each chunk becomes what a [`ChunkCompressor`]
/// makes of it; they come back in order.
pub trait ChunkPacker {
    /// Takes a chunk; answers an earlier one, compressed, if no more may wait.
    fn push(&mut self, chunk: Vec<u8>) -> io::Result<Option<Vec<u8>>>;

    /// The oldest chunk that was not answered yet, compressed; `None` if none is left.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Memory for the next chunk.
    fn spare(&mut self) -> Vec<u8>;
}

/// Compresses chunks of a long body, one by one.
pub struct ChunkCompressor(zstd::bulk::Compressor<'static>);

impl std::fmt::Debug for ChunkCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkCompressor")
    }
}

impl ChunkCompressor {
    /// One that compresses as long bodies are.
    pub fn new() -> io::Result<Self> {
        Self::with(CHUNK_LEVEL)
    }

    fn with(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        Ok(ChunkCompressor(compressor))
    }

    /// One frame that holds `chunk`.
    pub fn compress(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(chunk)
    }
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(sink: W) -> Self {
        let (chunk, here, packer) = (Vec::new(), None, None);
        Compressor { sink, chunk, long: false, here, packer, level: None }
    }

    /// Spends as little time as possible; a compaction will spend more.
    pub(crate) fn fast(sink: W) -> Self {
        Compressor { level: Some(FAST_LEVEL), ..Compressor::new(sink) }
    }

    /// From now on `packer` compresses the chunks of a long body.
    pub(crate) fn pack_with(&mut self, packer: Box<dyn ChunkPacker + Send>) {
        self.packer = Some(packer);
    }

    /// Ends the compression and gives back the sink.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.long && self.level.is_none() && self.chunk.len() <= MEDIUM_BODY_BYTES {
            let level = match self.chunk.len() {
                0..=SMALL_BODY_BYTES => SMALL_BODY_LEVEL,
                _ => MEDIUM_BODY_LEVEL,
            };
            let mut encoder = Encoder::new(self.sink, level)?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(self.chunk.len() as u64))?;
            encoder.write_all(&self.chunk)?;
            return encoder.finish();
        }
        if !self.long {
            // One chunk is not worth threads.
            self.packer = None;
        }
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        if let Some(packer) = &mut self.packer {
            while let Some(packed) = packer.next()? {
                self.sink.write_all(&packed)?;
            }
        }
        Ok(self.sink)
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        self.long = true;
        if let Some(packer) = &mut self.packer {
            let spare = packer.spare();
            let packed = packer.push(std::mem::replace(&mut self.chunk, spare))?;
            return packed.map_or(Ok(()), |packed| self.sink.write_all(&packed));
        }
        let compressor = match &mut self.here {
            Some(compressor) => compressor,
            none => none.insert(ChunkCompressor::with(self.level.unwrap_or(CHUNK_LEVEL))?),
        };
        let packed = compressor.compress(&self.chunk)?;
        self.chunk.clear();
        self.sink.write_all(&packed)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES {
            self.end_chunk()?;
        }
        let take = data.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&data[..take]);
        Ok(take)
    }

    /// Does nothing: a chunk that is cut short would compress worse.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Remembers whether it was the source itself that failed, and not what stands in it.
#[derive(Debug)]
pub(crate) struct Watched<R> {
    source: R,
    failed: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buf);
        self.failed |= read.is_err();
        read
    }
}

impl<R: BufRead> BufRead for Watched<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let filled = self.source.fill_buf();
        self.failed |= filled.is_err();
        filled
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
    }
}

/// Unpacks everything that is read: any number of zstd frames, windows up to [`WINDOW_LOG_MAX`],
/// no more bytes in all than it is told, since a few bytes of zstd can unpack to gigabytes.
///
/// What is wrong with the bytes is told by the kinds `InvalidData` and `UnexpectedEof`; an error of
/// the source keeps its own kind.
pub(crate) struct Unpacker<R: BufRead> {
    source: Packed<R>,
    left: u64,
}

enum Packed<R: BufRead> {
    Zstd(Box<Decoder<'static, Watched<R>>>),
    /// Somebody else has unpacked it.
    Plain(R),
}

impl<R: BufRead> Unpacker<R> {
    /// Unpacks `source` to at most `limit` bytes.
    pub(crate) fn new(source: R, limit: u64) -> io::Result<Self> {
        let mut decoder = Decoder::with_buffer(Watched { source, failed: false })?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(Unpacker { source: Packed::Zstd(Box::new(decoder)), left: limit })
    }

    /// Passes on what is unpacked already, at most `limit` bytes.
    pub(crate) fn plain(source: R, limit: u64) -> Self {
        Unpacker { source: Packed::Plain(source), left: limit }
    }
}

impl<R: BufRead> Read for Unpacker<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // One byte more than is left tells "exactly used up" from "too long".
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX);
        let take = buf.len().min(most);
        let n = match &mut self.source {
            Packed::Plain(source) => source.read(&mut buf[..take])?,
            Packed::Zstd(decoder) => {
                decoder.get_mut().failed = false;
                let read = decoder.read(&mut buf[..take]);
                read.map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => e,
                    _ if decoder.get_ref().failed => e,
                    _ => io::Error::new(io::ErrorKind::InvalidData, e),
                })?
            }
        };
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "unpacks to more than its metadata states")
        })?;
        Ok(n)
    }
}

/// Whether an error that was met while unpacking tells of damaged bytes, not of a failing source.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests;
