//! Parts of a lineage: frames of a libSQL client that are not in the log, and what was learned when
//! their rows were merged into it.
//!
//! ```text
//! +------------------+----------------+----------------+------------------+
//! | header           | keys           | journal        | frames           |
//! | skippable frame  | zstd, JSON     | zstd, a JSON   | zstd, WAL frames |
//! | JSON             |                | object a line  | without a header |
//! +------------------+----------------+----------------+------------------+
//! ```
//! The header states the length of each section, packed and unpacked; no more is unpacked than it
//! states, and it states no more than the bounds here.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use crate::compress::{Compressor, Unpacker};
use crate::lsn::Lsn;
use crate::metadata::{DatabaseId, LineageId, MetadataError, Micros};
use crate::wal::read_up_to;

/// Magic of the skippable frame: another than that of the log's objects.
const PART_MAGIC: u32 = 0x184D_2A52;
const PART_VERSION: u32 = 1;
/// No header is longer than this many bytes.
const PART_HEADER_BYTES_MAX: usize = 64 * 1024;
/// What a part may hold of each section, unpacked: keys are held in memory when they are read.
pub const PART_BYTES_MAX: [u64; 3] = [256 << 20, 4 << 30, 4 << 30];

/// What leads a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    /// Version of this header.
    #[serde(rename = "anabranch")]
    pub version: u32,
    /// The database.
    #[serde(rename = "db")]
    pub database: DatabaseId,
    /// The client's WAL.
    #[serde(rename = "wal")]
    pub lineage: LineageId,
    /// The number that serves as a generation of the client alone.
    #[serde(rename = "gen")]
    pub number: u32,
    /// The last frame that the WAL shares with the log: generation, number, position.
    pub fork: (u32, u32, Lsn),
    /// First and last frame of the part.
    pub frames: (u32, u32),
    /// The state of the log that the client's own frames started from: its position, its size in
    /// pages, and the first of these frames. This part continues earlier ones if that is not its own
    /// first.
    pub base: (Lsn, u32, u32),
    /// Whether the WAL's checksums are over big-endian words.
    #[serde(default)]
    pub big_endian: bool,
    /// The WAL's checksum after the last frame.
    pub checksum: (u32, u32),
    /// Database size in pages after the last frame, as the client has it.
    pub pages: u32,
    /// The client's schema cookie, if it changed the schema since the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u32>,
    /// When it was merged.
    pub time: Micros,
    /// Rows that did not end as the client wrote them: lines of the journal.
    #[serde(default)]
    pub conflicts: u64,
    /// Lengths of the sections, packed and unpacked.
    pub sections: [(u64, u64); 3],
}

/// A section on its way.
pub struct SectionWriter<W: Write> {
    packer: Compressor<Counted<W>>,
    plain: u64,
}

struct Counted<W> {
    sink: W,
    bytes: u64,
}

impl<W: Write> std::fmt::Debug for SectionWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SectionWriter").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.sink.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl<W: Write> SectionWriter<W> {
    /// Begins a section.
    pub fn new(sink: W) -> Self {
        SectionWriter { packer: Compressor::fast(Counted { sink, bytes: 0 }), plain: 0 }
    }

    /// Ends it: the sink, and the lengths for the header.
    pub fn finish(self) -> io::Result<(W, (u64, u64))> {
        let counted = self.packer.finish()?;
        Ok((counted.sink, (counted.bytes, self.plain)))
    }
}

impl<W: Write> Write for SectionWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.packer.write(data)?;
        self.plain += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartHeader {
    /// Version that this crate writes.
    pub const VERSION: u32 = PART_VERSION;

    /// The skippable frame that leads the part.
    pub fn encode(&self) -> Result<Vec<u8>, MetadataError> {
        self.check()?;
        let json = serde_json::to_vec(self).map_err(|e| MetadataError::Malformed(e.to_string()))?;
        let len = u32::try_from(json.len()).ok().filter(|_| json.len() <= PART_HEADER_BYTES_MAX);
        let len = len.ok_or(MetadataError::TooLong(json.len() as u64))?;
        let mut frame = PART_MAGIC.to_le_bytes().to_vec();
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&json);
        Ok(frame)
    }

    /// Reads the header; leaves the source at the first section.
    pub fn decode(source: &mut impl Read) -> Result<Self, MetadataError> {
        let mut head = [0; 8];
        let read = read_up_to(source, &mut head)?;
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (magic, len) = head.split_at(4);
        if read < 8 || number(magic) != PART_MAGIC {
            return Err(MetadataError::NotAnObject { found: number(magic) });
        }
        let len = number(len) as usize;
        if len > PART_HEADER_BYTES_MAX {
            return Err(MetadataError::TooLong(len as u64));
        }
        let mut json = vec![0; len];
        if read_up_to(source, &mut json)? < len {
            return Err(MetadataError::Truncated);
        }
        let malformed = |e: serde_json::Error| MetadataError::Malformed(e.to_string());
        let header: PartHeader = serde_json::from_slice(&json).map_err(malformed)?;
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), MetadataError> {
        let malformed = |what: &str| Err(MetadataError::Malformed(what.to_owned()));
        if self.version == 0 || self.version > PART_VERSION {
            return Err(MetadataError::Version(self.version));
        }
        let (first, last) = self.frames;
        if first == 0 || last < first || self.base.2 > first || self.fork.1 >= first {
            return malformed("frames that run backwards");
        }
        if self.number == 0 || self.pages == 0 || self.fork.0 == 0 {
            return malformed("a generation 0, or a database of no pages");
        }
        let fits = self.sections.iter().zip(PART_BYTES_MAX).all(|((_, plain), max)| *plain <= max);
        if fits { Ok(()) } else { malformed("a section that is too long") }
    }
}

/// Reads the section that `source` stands at, of these packed and unpacked lengths, to `sink`.
/// Leaves the source at the next one.
pub fn read_section<R: BufRead>(
    source: &mut R,
    (packed, plain): (u64, u64),
    sink: &mut impl Write,
) -> io::Result<()> {
    if (packed, plain) == (0, 0) {
        return Ok(());
    }
    let mut packed = source.take(packed);
    let mut unpacked = Unpacker::new(&mut packed, plain)?;
    let read = io::copy(&mut unpacked, sink)?;
    drop(unpacked);
    if read < plain {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    skip(&mut packed)
}

/// Passes over the section that `source` stands at.
pub fn skip_section<R: Read>(source: &mut R, (packed, _): (u64, u64)) -> io::Result<()> {
    skip(&mut source.take(packed))
}

fn skip<R: Read>(source: &mut io::Take<R>) -> io::Result<()> {
    let left = source.limit();
    if io::copy(source, &mut io::sink())? < left {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(sections: [&[u8]; 3]) -> Vec<u8> {
        let (mut body, mut lengths) = (Vec::new(), [(0, 0); 3]);
        for (section, length) in sections.into_iter().zip(&mut lengths) {
            let mut writer = SectionWriter::new(body);
            writer.write_all(section).unwrap();
            (body, *length) = writer.finish().unwrap();
        }
        let header = PartHeader {
            version: PART_VERSION,
            database: "0123".parse().unwrap(),
            lineage: "aa-bb".parse().unwrap(),
            number: 2,
            fork: (1, 4, Lsn::new(4)),
            frames: (5, 7),
            base: (Lsn::new(4), 8, 5),
            big_endian: false,
            checksum: (1, u32::MAX),
            pages: 9,
            cookie: None,
            time: Micros(-5),
            conflicts: 0,
            sections: lengths,
        };
        [header.encode().unwrap(), body].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
        let mut source = bytes;
        let header = PartHeader::decode(&mut source)?;
        let mut sections = Vec::new();
        for lengths in header.sections {
            let mut section = Vec::new();
            read_section(&mut source, lengths, &mut section)?;
            sections.push(section);
        }
        Ok(sections)
    }

    proptest! {
        #[test]
        fn parts_read_back_and_damage_is_an_error(
            sections: [Vec<u8>; 3],
            at: prop::sample::Index,
            cut: bool,
        ) {
            let bytes = part([&sections[0], &sections[1], &sections[2]]);
            prop_assert_eq!(read(&bytes).unwrap(), sections.to_vec());
            let mut source = &bytes[..];
            let header = PartHeader::decode(&mut source).unwrap();
            skip_section(&mut source, header.sections[0]).unwrap();
            let mut second = Vec::new();
            read_section(&mut source, header.sections[1], &mut second).unwrap();
            prop_assert_eq!(&second, &sections[1]);
            let mut damaged = bytes.clone();
            if cut { damaged.truncate(at.index(bytes.len())) } else { damaged[at.index(bytes.len())] ^= 1 }
            // In the header a digit may become another; nothing panics, and no section is wrong.
            if let Ok(found) = read(&damaged) {
                prop_assert_eq!(found, sections.to_vec());
            }
        }
    }
}
