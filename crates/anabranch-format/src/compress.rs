//! zstd settings, and streams that hold to a limit.

use std::io::{self, BufRead, Read, Write};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

/// The largest window that is accepted when reading (128 MiB, `zstd -d`'s own default).
pub const WINDOW_LOG_MAX: u32 = 27;

/// Bodies up to this length are compressed harder: it takes about a millisecond there, and small
/// pushes are the frequent ones.
const SMALL_BODY_BYTES: usize = 32 * 1024;
const SMALL_BODY_LEVEL: i32 = 19;

/// Bodies up to this length are kept until their end, so that the window fits them.
const BUFFERED_BODY_BYTES: usize = 512 * 1024;
const LEVEL: i32 = 3;

/// Compresses a stream of unknown length; small ones harder.
pub(crate) enum Compressor<W: Write> {
    Waiting { sink: W, buffer: Vec<u8> },
    Streaming(Encoder<'static, W>),
    /// Only while one of the others is being built.
    Moved,
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(sink: W) -> Self {
        Compressor::Waiting { sink, buffer: Vec::new() }
    }

    fn start(&mut self) -> io::Result<()> {
        if let Compressor::Waiting { sink, buffer } = std::mem::replace(self, Compressor::Moved) {
            let mut encoder = Encoder::new(sink, LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.write_all(&buffer)?;
            *self = Compressor::Streaming(encoder);
        }
        Ok(())
    }

    /// Ends the zstd frame and gives back the sink.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Compressor::Streaming(encoder) => encoder.finish(),
            Compressor::Waiting { sink, buffer } => {
                let level =
                    if buffer.len() <= SMALL_BODY_BYTES { SMALL_BODY_LEVEL } else { LEVEL };
                let mut encoder = Encoder::new(sink, level)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(Some(buffer.len() as u64))?;
                encoder.write_all(&buffer)?;
                encoder.finish()
            }
            Compressor::Moved => Err(io::Error::other("an earlier write failed")),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Compressor::Waiting { buffer, .. } = self {
            if buffer.len() + data.len() <= BUFFERED_BODY_BYTES {
                buffer.extend_from_slice(data);
                return Ok(data.len());
            }
            self.start()?;
        }
        match self {
            Compressor::Streaming(encoder) => encoder.write(data),
            _ => Err(io::Error::other("an earlier write failed")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Compressor::Streaming(encoder) => encoder.flush(),
            _ => Ok(()),
        }
    }
}

/// A decoder for everything that is read: any number of zstd frames, windows up to
/// [`WINDOW_LOG_MAX`].
pub(crate) fn decoder<R: BufRead>(source: R) -> io::Result<Decoder<'static, R>> {
    let mut decoder = Decoder::with_buffer(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Fails once the source gives more than `left` bytes: a few bytes of zstd can unpack to gigabytes.
#[derive(Debug)]
pub(crate) struct Limited<R> {
    pub(crate) source: R,
    pub(crate) left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // One byte more than is left tells "exactly used up" from "too long".
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX);
        let take = buf.len().min(most);
        let n = self.source.read(&mut buf[..take])?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "unpacks to more than its metadata states")
        })?;
        Ok(n)
    }
}
