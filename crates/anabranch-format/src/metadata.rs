//! The metadata that leads every object of the log, and the ids in it.
//!
//! Each object begins with one zstd *skippable frame* (magic 0x184D2A50, RFC 8878 section 3.1.2)
//! that holds JSON; `zstd -d` ignores it. Field names are short because the smallest pushes are
//! hardly larger than their metadata.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checksum::DbChecksum;
use crate::lsn::Lsn;
use crate::page::PageSize;
use crate::wal::read_up_to;

/// Version of the object format that this crate writes, and the highest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// No metadata is longer than this many bytes.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;

/// Magic of the skippable frame, as a little-endian number.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;

/// Length of the header of a skippable frame: magic and size.
pub const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Why an object's metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The source failed.
    #[error("reading the metadata failed")]
    Io(#[from] io::Error),
    /// The object does not begin with a skippable frame.
    #[error("not an Anabranch object: it begins with {found:#010x}, not with a skippable zstd frame")]
    NotAnObject {
        /// The first four bytes, little-endian (0 if there are fewer).
        found: u32,
    },
    /// The frame claims or needs more than [`METADATA_BYTES_MAX`].
    #[error("metadata of {0} bytes, more than the {METADATA_BYTES_MAX} allowed")]
    TooLong(u64),
    /// The source ends inside the metadata.
    #[error("the object ends inside its metadata")]
    Truncated,
    /// Not the JSON that is expected.
    #[error("the metadata is malformed: {0}")]
    Malformed(String),
    /// Written by a later version of the format.
    #[error("object format {0}; this program reads up to {FORMAT_VERSION}: update it")]
    Version(u32),
}

/// The text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id: expected 1 to 64 characters of a-z, 0-9 and '-'")]
pub struct ParseIdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as text; safe as part of an object name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let fits = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-';
                if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
                    return Err(ParseIdError(text.chars().take(80).collect()));
                }
                Ok($name(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// Names one database for ever; its objects live under it. A database that is deleted and
    /// created again under the same name has another id.
    DatabaseId
}
id! {
    /// Names one replica: whoever appends.
    WriterId
}
id! {
    /// Names one attempt to push, so that a repeat after a lost answer is recognised.
    PushId
}

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One appended object of the log: a WAL of one or more whole transactions.
    #[default]
    Segment,
    /// The state change between two positions: a WAL of one transaction, pages ascending.
    Delta,
    /// The whole database at a position, in independently compressed chunks.
    Snapshot,
}

impl Kind {
    fn is_segment(&self) -> bool {
        *self == Kind::Segment
    }
}

/// Microseconds since 1970-01-01 UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Format version.
    #[serde(rename = "anabranch")]
    pub version: u32,
    /// What the object holds; absent in segments.
    #[serde(default, skip_serializing_if = "Kind::is_segment")]
    pub kind: Kind,
    /// The database the object belongs to.
    #[serde(rename = "db")]
    pub database: DatabaseId,
    /// First and last position. A segment covers the frames `lsn.0 ..= lsn.1`; a delta leads from
    /// the state at `lsn.0 - 1` to that at `lsn.1`; a snapshot has the position twice.
    pub lsn: (Lsn, Lsn),
    /// The generation, and the first Lsn that belongs to it.
    #[serde(rename = "gen")]
    pub generation: (u32, Lsn),
    /// In the last segment of a generation: the generation that the next segment begins.
    #[serde(rename = "next_gen", default, skip_serializing_if = "Option::is_none")]
    pub next_generation: Option<u32>,
    /// The push that made the segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushId>,
    /// The replica that wrote the object.
    pub writer: WriterId,
    /// The log's own time: never decreases from one segment to the next.
    pub time: Micros,
    /// The writer's clock, where it differs from `time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Micros>,
    /// Page size; absent if 4096.
    #[serde(default = "default_page_size", skip_serializing_if = "is_default_page_size")]
    pub page_size: PageSize,
    /// Database size in pages before and after.
    pub pages: (u32, u32),
    /// Database checksum before and after.
    pub sum: (DbChecksum, DbChecksum),
    /// How many frames the WAL has; absent if there is one for each Lsn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// How many transactions the WAL has; absent if it is one with pages ascending.
    #[serde(rename = "txns", default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
    /// Bytes of a chunk of a snapshot, uncompressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// Name of the object that holds the compressed bytes, where they do not follow here: stores
    /// without a conditional upload in parts commit a large body by a small object that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

fn default_page_size() -> PageSize {
    PageSize::DEFAULT
}

// serde hands over a reference.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_default_page_size(size: &PageSize) -> bool {
    *size == PageSize::DEFAULT
}

impl Metadata {
    /// How many Lsns the object covers.
    #[must_use]
    pub fn lsn_count(&self) -> u64 {
        // `decode` refuses metadata whose last Lsn is before the first.
        self.lsn.1.get() - self.lsn.0.get() + 1
    }

    /// How many frames its WAL has (for a segment or delta).
    #[must_use]
    pub fn frame_count(&self) -> u64 {
        self.frames.unwrap_or_else(|| self.lsn_count())
    }

    /// The position before the first: where a delta starts.
    #[must_use]
    pub fn from(&self) -> Lsn {
        Lsn::new(self.lsn.0.get().saturating_sub(1))
    }

    /// The skippable frame that leads the object.
    pub fn encode(&self) -> Result<Vec<u8>, MetadataError> {
        let json = serde_json::to_vec(self).map_err(|e| MetadataError::Malformed(e.to_string()))?;
        if json.len() > METADATA_BYTES_MAX {
            return Err(MetadataError::TooLong(json.len() as u64));
        }
        let len = u32::try_from(json.len()).map_err(|_| MetadataError::TooLong(json.len() as u64))?;
        let mut frame = Vec::with_capacity(SKIPPABLE_HEADER_BYTES + json.len());
        frame.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&json);
        Ok(frame)
    }

    /// Reads the skippable frame at the start of an object and checks what can be checked without
    /// the rest. Leaves the source at the first byte after it; allocates at most
    /// [`METADATA_BYTES_MAX`].
    pub fn decode(source: &mut impl Read) -> Result<Self, MetadataError> {
        let mut head = [0; SKIPPABLE_HEADER_BYTES];
        let read = read_up_to(source, &mut head)?;
        let (magic, len) = head.split_at(4);
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        if read < 4 || number(magic) != SKIPPABLE_MAGIC {
            let found = if read < 4 { 0 } else { number(magic) };
            return Err(MetadataError::NotAnObject { found });
        }
        if read < SKIPPABLE_HEADER_BYTES {
            return Err(MetadataError::Truncated);
        }
        let len = number(len) as usize;
        if len > METADATA_BYTES_MAX {
            return Err(MetadataError::TooLong(len as u64));
        }
        let mut json = vec![0; len];
        if read_up_to(source, &mut json)? < len {
            return Err(MetadataError::Truncated);
        }
        Self::from_json(&json)
    }

    fn from_json(json: &[u8]) -> Result<Self, MetadataError> {
        #[derive(Deserialize)]
        struct Version {
            anabranch: u32,
        }
        let malformed = |e: serde_json::Error| MetadataError::Malformed(e.to_string());
        let Version { anabranch } = serde_json::from_slice(json).map_err(malformed)?;
        if anabranch == 0 || anabranch > FORMAT_VERSION {
            return Err(MetadataError::Version(anabranch));
        }
        let metadata: Metadata = serde_json::from_slice(json).map_err(malformed)?;
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<(), MetadataError> {
        let bad = |what: &str| Err(MetadataError::Malformed(what.to_owned()));
        if self.lsn.1 < self.lsn.0 || self.lsn.0 == Lsn::ZERO || self.lsn.1 == Lsn::MAX {
            return bad("the last Lsn is before the first, or one is out of range");
        }
        if self.pages.1 == 0 {
            return bad("a database of no pages");
        }
        if self.frame_count() == 0 {
            return bad("no frames");
        }
        if self.frame_count() > self.lsn_count() {
            return bad("more frames than positions");
        }
        if let Some(chunk) = self.chunk
            && (chunk < self.page_size.get() || !chunk.is_power_of_two())
        {
            return bad("a chunk size that is not a power of two of at least one page");
        }
        if self.kind == Kind::Snapshot && self.chunk.is_none() {
            return bad("a snapshot without a chunk size");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Metadata {
        Metadata {
            version: FORMAT_VERSION,
            kind: Kind::Segment,
            database: "0123456789abcdef0123".parse().unwrap(),
            lsn: (Lsn::new(1), Lsn::new(3)),
            generation: (1, Lsn::new(1)),
            next_generation: None,
            push: Some("00ff00ff00ff00ff".parse().unwrap()),
            writer: "a1b2c3d4a1b2c3d4".parse().unwrap(),
            time: Micros(1_795_473_392_123_456),
            clock: None,
            page_size: PageSize::DEFAULT,
            pages: (0, 3),
            sum: (DbChecksum::EMPTY, DbChecksum(77)),
            frames: None,
            transactions: None,
            chunk: None,
            body: None,
        }
    }

    #[test]
    fn metadata_reads_back_and_is_small() {
        let metadata = sample();
        let bytes = metadata.encode().unwrap();
        assert_eq!(Metadata::decode(&mut &bytes[..]).unwrap(), metadata);
        assert!(bytes.len() < 260, "{} bytes", bytes.len());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Metadata::decode(&mut &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn contradictions_and_later_versions_are_refused() {
        let refused = |change: fn(&mut Metadata)| {
            let mut metadata = sample();
            change(&mut metadata);
            Metadata::decode(&mut &metadata.encode().unwrap()[..]).unwrap_err()
        };
        assert!(matches!(refused(|m| m.version = 2), MetadataError::Version(2)));
        refused(|m| m.lsn = (Lsn::new(3), Lsn::new(2)));
        refused(|m| m.lsn = (Lsn::ZERO, Lsn::new(2)));
        refused(|m| m.frames = Some(0));
        refused(|m| m.frames = Some(4));
        refused(|m| m.pages = (1, 0));
        refused(|m| m.kind = Kind::Snapshot);
        refused(|m| m.chunk = Some(4095));
    }

    #[test]
    fn an_announced_length_is_not_believed() {
        let mut bytes = SKIPPABLE_MAGIC.to_le_bytes().to_vec();
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Metadata::decode(&mut &bytes[..]), Err(MetadataError::TooLong(_))));
    }

    #[test]
    fn ids_are_safe_in_object_names() {
        for bad in ["", "a/b", "..", "A", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<DatabaseId>().is_err(), "{bad}");
        }
    }
}
