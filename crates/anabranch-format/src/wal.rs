//! SQLite's write-ahead log file: header, frames, salts and the chained checksum.
//!
//! Facts: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>. A WAL is a 32-byte header
//! and then frames of a 24-byte header and one page each. The checksum of a frame covers all frames
//! before it; a *commit frame* carries the database size in pages and ends a transaction.
//!
//! The reader is strict: what does not chain is an error. In a live `-wal` file old frames after the
//! end are normal; callers that read one treat [`WalError::ends_live_wal`] as the end.

use std::io::{self, Read, Write};

use crate::page::{InvalidPageSize, PageSize, Pgno};

/// Length of the header of a WAL file.
pub const WAL_HEADER_BYTES: usize = 32;
/// Length of the header of a frame.
pub const FRAME_HEADER_BYTES: usize = 24;

const MAGIC: u32 = 0x377f_0682;
const FORMAT_VERSION: u32 = 3_007_000;

/// Why bytes are not a WAL, or not the next frame of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The source failed.
    #[error("reading the WAL failed")]
    Io(#[from] io::Error),
    /// Fewer than 32 bytes, or another magic.
    #[error("not a WAL: its first four bytes are {found:#010x}")]
    NotAWal {
        /// The first four bytes, big-endian (0 if there are fewer).
        found: u32,
    },
    /// A format version other than 3007000.
    #[error("WAL format version {0}, expected {FORMAT_VERSION}")]
    FormatVersion(u32),
    /// The header names a page size that SQLite does not know.
    #[error("WAL header")]
    PageSize(#[from] InvalidPageSize),
    /// The header's own checksum does not fit.
    #[error("the checksum of the WAL header is wrong")]
    HeaderChecksum,
    /// The source ends inside a frame.
    #[error("the WAL ends inside frame {frame}")]
    Truncated {
        /// Number of the frame, from 1.
        frame: u64,
    },
    /// The frame was written for another run of this file.
    #[error("frame {frame} carries other salts than the WAL header")]
    Salts {
        /// Number of the frame, from 1.
        frame: u64,
    },
    /// The frame's checksum does not continue the chain.
    #[error("the checksum of frame {frame} is wrong")]
    FrameChecksum {
        /// Number of the frame, from 1.
        frame: u64,
    },
    /// Page number 0.
    #[error("frame {frame} names page 0")]
    PageZero {
        /// Number of the frame, from 1.
        frame: u64,
    },
}

impl WalError {
    /// Whether this is how the valid part of a *live* WAL file ends: SQLite overwrites the file from
    /// its start, so frames of an earlier run may follow, and the last frame may be half written.
    #[must_use]
    pub fn ends_live_wal(&self) -> bool {
        matches!(
            self,
            WalError::Truncated { .. }
                | WalError::Salts { .. }
                | WalError::FrameChecksum { .. }
                | WalError::PageZero { .. }
        )
    }
}

/// Byte order of the words that the checksum is computed over (everything else is big-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumOrder {
    /// Magic 0x377f0682.
    Little,
    /// Magic 0x377f0683.
    Big,
}

/// The two salts of one run of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salts(pub u32, pub u32);

/// The running checksum of a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct WalChecksum(pub u32, pub u32);

impl WalChecksum {
    /// The checksum after `data` as well, whose length must be a multiple of 8.
    #[must_use]
    pub fn extended(self, order: ChecksumOrder, data: &[u8]) -> Self {
        debug_assert!(data.len().is_multiple_of(8), "WAL checksums run over pairs of words");
        let (mut s1, mut s2) = (self.0, self.1);
        let (pairs, _) = data.as_chunks::<8>();
        for &pair in pairs {
            let (x1, x2) = words(order, pair);
            s1 = s1.wrapping_add(x1).wrapping_add(s2);
            s2 = s2.wrapping_add(x2).wrapping_add(s1);
        }
        WalChecksum(s1, s2)
    }
}

impl WalChecksum {
    /// The checksum from which `data` led to this one: [`WalChecksum::extended`] backwards. Each
    /// step of the checksum can be undone, so that the start of a chain can be found from its end.
    #[must_use]
    pub fn rewound(self, order: ChecksumOrder, data: &[u8]) -> Self {
        debug_assert!(data.len().is_multiple_of(8), "WAL checksums run over pairs of words");
        let (mut s1, mut s2) = (self.0, self.1);
        let (pairs, _) = data.as_chunks::<8>();
        for &pair in pairs.iter().rev() {
            let (x1, x2) = words(order, pair);
            s2 = s2.wrapping_sub(x2).wrapping_sub(s1);
            s1 = s1.wrapping_sub(x1).wrapping_sub(s2);
        }
        WalChecksum(s1, s2)
    }
}

fn words(order: ChecksumOrder, [a, b, c, d, e, f, g, h]: [u8; 8]) -> (u32, u32) {
    match order {
        ChecksumOrder::Little => {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        }
        ChecksumOrder::Big => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])),
    }
}

/// So often no WAL was begun anew: its header counts that from 0.
pub const SEQUENCE_MAX: u32 = 1 << 24;

/// The header of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Byte order of checksums.
    pub order: ChecksumOrder,
    /// Page size of the database.
    pub page_size: PageSize,
    /// How often the file was restarted; informative.
    pub checkpoint_seq: u32,
    /// Salts of this run.
    pub salts: Salts,
    /// Checksum of the first 24 bytes: the start of the chain.
    pub checksum: WalChecksum,
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl WalHeader {
    /// A header for a WAL that starts now; its checksum is computed. Checksums are little-endian.
    #[must_use]
    pub fn new(page_size: PageSize, checkpoint_seq: u32, salts: Salts) -> Self {
        let mut header = WalHeader {
            order: ChecksumOrder::Little,
            page_size,
            checkpoint_seq,
            salts,
            checksum: WalChecksum::default(),
        };
        header.checksum = WalChecksum::default().extended(header.order, &header.encode()[..24]);
        header
    }

    /// The header with these salts whose checksum is `checksum`, if there is one. Its checkpoint
    /// sequence is the one thing that is not known, and follows from the checksum; the other half of
    /// the checksum must then come out right, which it does by accident once in 2^32 times. A
    /// sequence that no WAL reaches, from [`SEQUENCE_MAX`] on, is none. (If two chains differ in nothing
    /// but the highest bits of one word, the difference stays in high bits, and leaves fewer than 32
    /// to be wrong.)
    #[must_use]
    pub fn from_checksum(
        order: ChecksumOrder,
        page_size: PageSize,
        salts: Salts,
        checksum: WalChecksum,
    ) -> Option<Self> {
        let mut header = WalHeader { order, page_size, checkpoint_seq: 0, salts, checksum };
        let bytes = header.encode();
        // The sequence is the second word of the second of three pairs.
        let before = WalChecksum::default().extended(order, &bytes[..8]);
        let after = checksum.rewound(order, &bytes[16..24]);
        let word = after.1.wrapping_sub(before.1).wrapping_sub(after.0);
        header.checkpoint_seq = match order {
            ChecksumOrder::Little => word.swap_bytes(),
            ChecksumOrder::Big => word,
        };
        let fits = WalChecksum::default().extended(order, &header.encode()[..24]) == checksum;
        (fits && header.checkpoint_seq < SEQUENCE_MAX).then_some(header)
    }

    /// Reads and checks a header.
    pub fn decode(bytes: &[u8; WAL_HEADER_BYTES]) -> Result<Self, WalError> {
        let order = match word(bytes, 0) {
            MAGIC => ChecksumOrder::Little,
            found if found == MAGIC | 1 => ChecksumOrder::Big,
            found => return Err(WalError::NotAWal { found }),
        };
        if word(bytes, 1) != FORMAT_VERSION {
            return Err(WalError::FormatVersion(word(bytes, 1)));
        }
        let header = WalHeader {
            order,
            page_size: PageSize::new(word(bytes, 2))?,
            checkpoint_seq: word(bytes, 3),
            salts: Salts(word(bytes, 4), word(bytes, 5)),
            checksum: WalChecksum(word(bytes, 6), word(bytes, 7)),
        };
        if WalChecksum::default().extended(order, &bytes[..24]) != header.checksum {
            return Err(WalError::HeaderChecksum);
        }
        Ok(header)
    }

    /// The header as it stands in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_HEADER_BYTES] {
        let magic = match self.order {
            ChecksumOrder::Little => MAGIC,
            ChecksumOrder::Big => MAGIC | 1,
        };
        let words = [
            magic,
            FORMAT_VERSION,
            self.page_size.get(),
            self.checkpoint_seq,
            self.salts.0,
            self.salts.1,
            self.checksum.0,
            self.checksum.1,
        ];
        let mut bytes = [0; WAL_HEADER_BYTES];
        for (slot, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *slot = word.to_be_bytes();
        }
        bytes
    }

    /// Bytes from the start of one frame to the start of the next.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(self.page_size)
    }
}

/// Bytes of one frame: header and page.
#[must_use]
pub fn frame_bytes(page_size: PageSize) -> u64 {
    FRAME_HEADER_BYTES as u64 + u64::from(page_size.get())
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page whose image follows.
    pub pgno: Pgno,
    /// Database size in pages after the transaction, in a commit frame; 0 in any other.
    pub commit_size: u32,
    /// Salts; equal to those of the WAL header in every valid frame.
    pub salts: Salts,
    /// Checksum over all frames up to and including this one.
    pub checksum: WalChecksum,
}

impl FrameHeader {
    /// Reads a frame header; `None` if it names page 0.
    #[must_use]
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        Some(FrameHeader {
            pgno: Pgno::new(word(bytes, 0))?,
            commit_size: word(bytes, 1),
            salts: Salts(word(bytes, 2), word(bytes, 3)),
            checksum: WalChecksum(word(bytes, 4), word(bytes, 5)),
        })
    }

    /// The frame header as it stands in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let words = [
            self.pgno.get(),
            self.commit_size,
            self.salts.0,
            self.salts.1,
            self.checksum.0,
            self.checksum.1,
        ];
        let mut bytes = [0; FRAME_HEADER_BYTES];
        for (slot, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *slot = word.to_be_bytes();
        }
        bytes
    }

    /// Whether this frame ends a transaction.
    #[must_use]
    pub fn is_commit(&self) -> bool {
        self.commit_size != 0
    }
}

/// Reads a WAL frame by frame in constant memory. Strict: see [`WalError::ends_live_wal`].
#[derive(Debug)]
pub struct WalReader<R> {
    source: R,
    header: WalHeader,
    running: WalChecksum,
    frames: u64,
    chained: bool,
}

/// Reads until `buf` is full or the source ends; answers how much was read.
pub(crate) fn read_up_to(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match source.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl<R: Read> WalReader<R> {
    /// Reads and checks the header.
    pub fn new(mut source: R) -> Result<Self, WalError> {
        let mut bytes = [0; WAL_HEADER_BYTES];
        let read = read_up_to(&mut source, &mut bytes)?;
        if read < WAL_HEADER_BYTES {
            let found = if read < 4 { 0 } else { word(&bytes, 0) };
            return Err(WalError::NotAWal { found });
        }
        let header = WalHeader::decode(&bytes)?;
        Ok(WalReader { source, header, running: header.checksum, frames: 0, chained: true })
    }

    /// Leaves out the checksums of the frames, for a caller that checks the pages by other means
    /// before it believes any of them. They take half as long as unpacking.
    #[must_use]
    pub fn unchained(mut self) -> Self {
        self.chained = false;
        self
    }

    /// The header of the file.
    #[must_use]
    pub fn header(&self) -> &WalHeader {
        &self.header
    }

    /// How many frames have been read.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The checksum of the last frame read.
    #[must_use]
    pub fn checksum(&self) -> WalChecksum {
        self.running
    }

    /// Reads the next frame, its page into `page`; `None` at the end of the source.
    ///
    /// # Panics
    /// If `page` is not one page long.
    pub fn next_frame(&mut self, page: &mut [u8]) -> Result<Option<FrameHeader>, WalError> {
        assert_eq!(page.len(), self.header.page_size.bytes(), "the buffer takes one page");
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let frame = self.frames + 1;
        match read_up_to(&mut self.source, &mut bytes)? {
            0 => return Ok(None),
            FRAME_HEADER_BYTES => {}
            _ => return Err(WalError::Truncated { frame }),
        }
        if read_up_to(&mut self.source, page)? < page.len() {
            return Err(WalError::Truncated { frame });
        }
        let header = FrameHeader::decode(&bytes).ok_or(WalError::PageZero { frame })?;
        if header.salts != self.header.salts {
            return Err(WalError::Salts { frame });
        }
        if self.chained {
            let order = self.header.order;
            let running = self.running.extended(order, &bytes[..8]).extended(order, page);
            if running != header.checksum {
                return Err(WalError::FrameChecksum { frame });
            }
        }
        self.running = header.checksum;
        self.frames = frame;
        Ok(Some(header))
    }

    /// Gives back the source.
    pub fn into_inner(self) -> R {
        self.source
    }
}

/// Writes a WAL frame by frame, with valid chained checksums.
#[derive(Debug)]
pub struct WalWriter<W> {
    sink: W,
    header: WalHeader,
    running: WalChecksum,
    frames: u64,
}

impl<W: Write> WalWriter<W> {
    /// Writes the header.
    pub fn new(mut sink: W, header: WalHeader) -> io::Result<Self> {
        sink.write_all(&header.encode())?;
        Ok(WalWriter { sink, header, running: header.checksum, frames: 0 })
    }

    /// Writes one frame; `commit_size` is the database size in pages if it ends a transaction, else 0.
    ///
    /// # Panics
    /// If `page` is not one page long.
    pub fn frame(&mut self, pgno: Pgno, commit_size: u32, page: &[u8]) -> io::Result<()> {
        assert_eq!(page.len(), self.header.page_size.bytes(), "a frame holds one page");
        let mut header = FrameHeader {
            pgno,
            commit_size,
            salts: self.header.salts,
            checksum: WalChecksum::default(),
        };
        let order = self.header.order;
        header.checksum = self.running.extended(order, &header.encode()[..8]).extended(order, page);
        self.sink.write_all(&header.encode())?;
        self.sink.write_all(page)?;
        self.running = header.checksum;
        self.frames += 1;
        Ok(())
    }

    /// How many frames have been written.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// What is written to.
    pub(crate) fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Gives back the sink; nothing is buffered here.
    pub fn into_inner(self) -> W {
        self.sink
    }
}

#[cfg(test)]
mod tests;
