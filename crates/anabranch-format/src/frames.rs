//! Whole zstd frames out of a body, without unpacking them.
//!
//! Facts: RFC 8878. A frame is a header, blocks that each state their length, and a checksum; so its
//! end is found by reading three bytes for each block. A body that consists of frames with stated,
//! small contents can be unpacked by several threads at once; this module finds the frames, and
//! leaves threads to others.

use std::io::{self, BufRead, Read};

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::compress::{FRAME_CONTENT_MAX, WINDOW_LOG_MAX};

const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// Sixteen values, for data that decoders skip.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// The longest zstd frame header: magic, descriptor, window, dictionary id, content size.
pub const ZSTD_HEADER_BYTES_MAX: usize = 4 + 1 + 1 + 4 + 8;

/// What the header of a zstd frame states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Bytes that a decoder keeps of what it has unpacked, and so allocates.
    pub window: u64,
    /// Length of the content, if stated.
    pub content: Option<u64>,
    checksum: bool,
}

impl FrameInfo {
    /// Reads a frame header (RFC 8878, section 3.1.1.1); `None` if `start` is no such header.
    #[must_use]
    pub fn decode(start: &[u8]) -> Option<Self> {
        let (magic, rest) = start.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*magic) != FRAME_MAGIC {
            return None;
        }
        let (&descriptor, rest) = rest.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (&window, rest) = rest.split_first()?;
            let base = 1u64 << (10 + (window >> 3));
            (Some(base + base / 8 * u64::from(window & 7)), rest)
        };
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let rest = rest.get(dictionary..)?;
        let width = match descriptor >> 6 {
            0 => usize::from(single_segment),
            more => 1 << more,
        };
        let mut number = [0u8; 8];
        number[..width].copy_from_slice(rest.get(..width)?);
        let content = u64::from_le_bytes(number).checked_add(if width == 2 { 256 } else { 0 })?;
        let content = (width > 0).then_some(content);
        Some(FrameInfo {
            // Without a window of its own it is the whole content.
            window: window.or(content)?,
            content,
            checksum: descriptor & 4 != 0,
        })
    }

    /// The length of the content, if it is stated and small enough to be handed out as a whole.
    #[must_use]
    pub fn content_if_small(&self) -> Option<usize> {
        self.content.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= FRAME_CONTENT_MAX)
    }
}

/// One frame, still packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFrame {
    bytes: Vec<u8>,
    content: usize,
}

impl PackedFrame {
    /// Length of what it unpacks to.
    #[must_use]
    pub fn content_len(&self) -> usize {
        self.content
    }
}

/// Unpacks frames, one after another.
pub struct FrameUnpacker {
    decoder: Decompressor<'static>,
    /// For the starts of frames.
    stream: DCtx<'static>,
}

impl std::fmt::Debug for FrameUnpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameUnpacker").finish_non_exhaustive()
    }
}

impl FrameUnpacker {
    /// Prepares a decoder, which takes windows up to [`WINDOW_LOG_MAX`].
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decompressor::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let mut stream = DCtx::create();
        stream.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(refused)?;
        Ok(FrameUnpacker { decoder, stream })
    }

    /// Puts the content of `frame` into `out`, in place of what was there. Damage is told by the error
    /// kind `InvalidData`; then `out` means nothing.
    pub fn unpack(&mut self, frame: &PackedFrame, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.reserve_exact(frame.content);
        self.decoder
            .decompress_to_buffer(&frame.bytes, out)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // A vector may have room for more than was asked for.
        if out.len() == frame.content {
            Ok(())
        } else {
            Err(damaged("a zstd frame unpacks to another length than it states"))
        }
    }
}

impl FrameUnpacker {
    /// Puts the first bytes of the content of `frame` into `out`, as many as fit, without a look at what
    /// follows, and so at the checksum. Damage is told by the error kind `InvalidData`; then `out` means
    /// nothing.
    pub fn unpack_start(&mut self, frame: &PackedFrame, out: &mut [u8]) -> io::Result<()> {
        self.stream.reset(ResetDirective::SessionOnly).map_err(refused)?;
        let wanted = out.len();
        let (mut input, mut output) = (InBuffer::around(&frame.bytes), OutBuffer::around(out));
        while output.pos() < wanted {
            let before = (input.pos(), output.pos());
            self.stream.decompress_stream(&mut output, &mut input).map_err(refused)?;
            if (input.pos(), output.pos()) == before {
                return Err(damaged("a zstd frame unpacks to less than it states"));
            }
        }
        Ok(())
    }
}

fn refused(code: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}

/// Hands out the frames of a body, one after another. Holds none of them; one has at most
/// [`FRAME_CONTENT_MAX`] bytes, packed and unpacked. Skippable frames are skipped.
#[derive(Debug)]
pub struct FrameSplitter<R> {
    source: R,
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: BufRead> FrameSplitter<R> {
    /// Splits `source`, which stands at the start of a frame.
    pub fn new(source: R) -> Self {
        FrameSplitter { source }
    }

    /// The next frame; `None` at the end. Damage is told by the error kinds `InvalidData` and
    /// `UnexpectedEof`.
    pub fn next_frame(&mut self) -> io::Result<Option<PackedFrame>> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(None);
            }
            let mut magic = [0; 4];
            self.source.read_exact(&mut magic)?;
            match u32::from_le_bytes(magic) {
                FRAME_MAGIC => return self.rest_of_frame(magic).map(Some),
                skippable if skippable & !0xF == SKIPPABLE_MAGIC => self.skip()?,
                _ => return Err(damaged("neither a zstd frame nor its end")),
            }
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The frame that begins with `magic`, which was read.
    fn rest_of_frame(&mut self, magic: [u8; 4]) -> io::Result<PackedFrame> {
        let mut bytes = magic.to_vec();
        // The header's length is known from its first bytes, and no frame is shorter than the
        // shortest header with one block: so it is read byte by byte, never too far.
        let info = loop {
            self.append(&mut bytes, 1)?;
            if let Some(info) = FrameInfo::decode(&bytes) {
                break info;
            }
            if bytes.len() >= ZSTD_HEADER_BYTES_MAX {
                return Err(damaged("a zstd frame header that makes no sense"));
            }
        };
        let content = info
            .content_if_small()
            .ok_or_else(|| damaged("a zstd frame that is longer than those before it may be"))?;
        loop {
            let at = bytes.len();
            self.append(&mut bytes, BLOCK_HEADER_BYTES)?;
            let header = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
            let size = match header >> 1 & 3 {
                // A byte that is repeated.
                1 => 1,
                3 => return Err(damaged("a zstd block of a kind that does not exist")),
                _ => (header >> 3) as usize,
            };
            if bytes.len() + size > FRAME_CONTENT_MAX + FRAME_CONTENT_MAX / 8 {
                return Err(damaged("a zstd frame that is longer than its content"));
            }
            self.append(&mut bytes, size)?;
            if header & 1 == 1 {
                break;
            }
        }
        if info.checksum {
            self.append(&mut bytes, CHECKSUM_BYTES)?;
        }
        Ok(PackedFrame { bytes, content })
    }

    fn append(&mut self, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
        let read = (&mut self.source).take(count as u64).read_to_end(bytes)?;
        if read < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::compress::Compressor;

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(Vec::new());
        compressor.write_all(data).unwrap();
        compressor.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<(usize, Vec<u8>)> {
        let mut splitter = FrameSplitter::new(bytes);
        let (mut frames, mut out, mut content) = (0, Vec::new(), Vec::new());
        let mut unpacker = FrameUnpacker::new()?;
        while let Some(frame) = splitter.next_frame()? {
            frames += 1;
            unpacker.unpack(&frame, &mut content)?;
            for part in [content.len(), content.len() / 3, 0] {
                let mut start = vec![0; part];
                unpacker.unpack_start(&frame, &mut start)?;
                assert!(start == content[..part]);
            }
            out.extend_from_slice(&content);
        }
        Ok((frames, out))
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 60).to_le_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn what_we_pack_comes_apart_into_frames_that_give_it_back() {
        for (len, expected) in [(0usize, 1), (1, 1), (600_000, 1), (2 << 20, 1), (5 << 20, 3)] {
            let data = noise(len);
            let (frames, out) = unpack(&pack(&data)).unwrap();
            assert_eq!((frames, out == data), (expected, true), "{len}");
        }
    }

    #[test]
    fn skippable_frames_between_are_passed_over() {
        let mut bytes = pack(b"one");
        bytes.extend([0x5E, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 9, 9, 9]);
        bytes.extend(pack(b"two"));
        assert_eq!(unpack(&bytes).unwrap(), (2, b"onetwo".to_vec()));
        bytes.extend([0x5E, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 9, 9]);
        assert_eq!(unpack(&bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn frames_that_claim_too_much_are_refused_before_anything_is_allocated() {
        let mut large = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        large.set_pledged_src_size(Some(5 << 20)).unwrap();
        large.write_all(&vec![0; 5 << 20]).unwrap();
        let large = large.finish().unwrap();
        assert_eq!(FrameInfo::decode(&large).unwrap().content, Some(5 << 20));
        assert_eq!(unpack(&large).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut unknown = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        unknown.write_all(b"of unknown length").unwrap();
        let unknown = unknown.finish().unwrap();
        assert_eq!(FrameInfo::decode(&unknown).unwrap().content, None);
        assert_eq!(unpack(&unknown).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn windows_and_lengths_are_read_from_frame_headers() {
        for (level, len, pledged) in [(3, 10_000usize, true), (3, 10_000, false), (19, 300, true)] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
            if pledged {
                encoder.set_pledged_src_size(Some(len as u64)).unwrap();
            }
            encoder.write_all(&vec![7; len]).unwrap();
            let info = FrameInfo::decode(&encoder.finish().unwrap()).unwrap();
            assert_eq!(info.content, pledged.then_some(len as u64));
            assert_eq!(info.window, if pledged { len as u64 } else { 2 << 20 });
        }
        assert_eq!(FrameInfo::decode(b"junk that is no frame"), None);
        assert_eq!(FrameInfo::decode(&[0x28, 0xB5, 0x2F, 0xFD, 0xE0]), None);
    }

    proptest! {
        #[test]
        fn damage_anywhere_is_an_error_or_does_no_harm(at: usize, bit in 0u8..8, cut: bool) {
            let data = noise(3000);
            let mut bytes = pack(&data);
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            match unpack(&bytes) {
                Err(e) => prop_assert!(crate::compress::is_damage(&e)),
                Ok((_, out)) => prop_assert!(out == data || (cut && at == 0)),
            }
        }
    }
}
