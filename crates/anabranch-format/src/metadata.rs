//! The metadata that leads every object of the log, and the ids in it.
//!
//! Each object begins with one zstd *skippable frame* (magic 0x184D2A50, RFC 8878 section 3.1.2)
//! that holds JSON; `zstd -d` ignores it. Field names are short because the smallest pushes are
//! hardly larger than their metadata.
//!
//! What follows the metadata has checksums of its own; the metadata has only the one at its end,
//! the member `check`. Without it a flipped bit in a push id or a page number would be believed.
//!
//! Decides what metadata is plausible by itself ([`Metadata::decode`] refuses the rest, and
//! [`Metadata::encode`] refuses to write it). Does not decide whether it fits its neighbours in the
//! log, or the object's name: that is the store's part.
//!
//! Invariants of what passes:
//! 1. positions do not run backwards, and their count fits a `u64`;
//! 2. there are at most as many frames as positions, and at least one;
//! 3. a change of one transaction has no more frames than the database has pages after it, and no
//!    fewer than the database grew by: a few bytes cannot claim a database of 2^32 pages;
//! 4. a body's name is safe as an object name.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checksum::{DbChecksum, content_hash};
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

/// The most pages a SQLite database can have.
const PAGES_MAX: u32 = 0xffff_fffe;

/// Longest name of a body.
const BODY_NAME_BYTES_MAX: usize = 512;

/// The last member of the JSON, and how long it is with the closing brace.
const CHECK_MEMBER: &str = ",\"check\":\"";
const CHECK_BYTES: usize = CHECK_MEMBER.len() + 8 + 2;

/// Why an object's metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The source failed.
    #[error("reading the metadata failed")]
    Io(#[from] io::Error),
    /// The object does not begin with a skippable frame.
    #[error(
        "not an Anabranch object: it begins with {found:#010x}, not with a skippable zstd frame"
    )]
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
    /// The checksum at its end does not fit: it was damaged.
    #[error("the metadata is damaged: its checksum does not fit")]
    Checksum,
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
    /// Names the WAL of a libSQL client whose frames left the shared log: its frames from there on.
    LineageId
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

/// A segment that holds the rows of a client's frames, merged, instead of the frames themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// The client's WAL.
    #[serde(rename = "wal")]
    pub lineage: LineageId,
    /// The number that serves as a generation of that client alone.
    #[serde(rename = "gen")]
    pub number: u32,
    /// First and last frame of that WAL whose rows were merged.
    #[serde(with = "pair")]
    pub frames: (u32, u32),
}

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
    #[serde(with = "pair")]
    pub lsn: (Lsn, Lsn),
    /// The generation, and the first Lsn that belongs to it; absent in the first generation.
    #[serde(
        rename = "gen",
        default = "first_generation",
        skip_serializing_if = "is_first_generation"
    )]
    pub generation: (u32, Lsn),
    /// In the last segment of a generation: the generation that the next segment begins.
    #[serde(rename = "next_gen", default, skip_serializing_if = "Option::is_none")]
    pub next_generation: Option<u32>,
    /// The push that made the segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushId>,
    /// The replica that wrote the object.
    #[serde(rename = "by")]
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
    #[serde(with = "pair")]
    pub pages: (u32, u32),
    /// Database checksum before and after.
    #[serde(with = "pair_of_sums")]
    pub sum: (DbChecksum, DbChecksum),
    /// How many frames the WAL has; absent if there is one for each Lsn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// How many transactions the WAL has; absent if it is one with pages ascending.
    #[serde(rename = "txns", default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
    /// Of a segment that was merged from a client's frames: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed: Option<Healed>,
    /// Bytes of a chunk of a snapshot, uncompressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// Name of the object that holds the compressed bytes, where they do not follow here: stores
    /// without a conditional upload in parts commit a large body by a small object that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// Two numbers, written as one where they are equal.
mod pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Pair<T> {
        Equal(T),
        Two(T, T),
    }

    pub(super) fn serialize<T, S>(pair: &(T, T), s: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize + Copy + PartialEq,
        S: Serializer,
    {
        let &(a, b) = pair;
        if a == b { Pair::Equal(a) } else { Pair::Two(a, b) }.serialize(s)
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<(T, T), D::Error>
    where
        T: Deserialize<'de> + Copy,
        D: Deserializer<'de>,
    {
        Ok(match Pair::deserialize(d)? {
            Pair::Equal(both) => (both, both),
            Pair::Two(a, b) => (a, b),
        })
    }
}

/// Two checksums in one text, a dash between them.
mod pair_of_sums {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::checksum::{DbChecksum, ParseChecksumError};

    pub(super) fn serialize<S: Serializer>(
        (before, after): &(DbChecksum, DbChecksum),
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{before}-{after}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<(DbChecksum, DbChecksum), D::Error> {
        let text = Cow::<str>::deserialize(d)?;
        let (before, after) =
            text.split_once('-').ok_or(ParseChecksumError).map_err(Error::custom)?;
        let sum = |text: &str| text.parse().map_err(Error::custom);
        Ok((sum(before)?, sum(after)?))
    }
}

const FIRST_GENERATION: (u32, Lsn) = (1, Lsn::new(1));

fn first_generation() -> (u32, Lsn) {
    FIRST_GENERATION
}

fn is_first_generation(generation: &(u32, Lsn)) -> bool {
    *generation == FIRST_GENERATION
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
    /// Of an object of the first generation that states nothing more: no push, no time, and a database
    /// without pages before and after.
    #[must_use]
    pub fn new(
        kind: Kind,
        database: DatabaseId,
        writer: WriterId,
        lsn: (Lsn, Lsn),
        page_size: PageSize,
    ) -> Self {
        Metadata {
            version: FORMAT_VERSION,
            kind,
            database,
            lsn,
            generation: first_generation(),
            next_generation: None,
            push: None,
            writer,
            time: Micros(0),
            clock: None,
            page_size,
            pages: (0, 0),
            sum: (DbChecksum::EMPTY, DbChecksum::EMPTY),
            frames: None,
            transactions: None,
            healed: None,
            chunk: None,
            body: None,
        }
    }

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

    /// The skippable frame that leads the object. Refuses what [`Metadata::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, MetadataError> {
        self.check()?;
        let mut json =
            serde_json::to_vec(self).map_err(|e| MetadataError::Malformed(e.to_string()))?;
        json.pop();
        json.extend_from_slice(check_member(&json).as_bytes());
        let len = match u32::try_from(json.len()) {
            Ok(len) if json.len() <= METADATA_BYTES_MAX => len,
            _ => return Err(MetadataError::TooLong(json.len() as u64)),
        };
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
        // The checksum comes before the version: it ends the metadata of every version, and a
        // damaged version number must not send the user off to look for an update.
        let covered = json.len().saturating_sub(CHECK_BYTES);
        let (covered, check) = json.split_at(covered);
        if !check.starts_with(CHECK_MEMBER.as_bytes()) {
            return Err(MetadataError::Malformed("it does not end with a checksum".to_owned()));
        }
        if check != check_member(covered).as_bytes() {
            return Err(MetadataError::Checksum);
        }
        let Version { anabranch } = serde_json::from_slice(json).map_err(malformed)?;
        if anabranch == 0 || anabranch > FORMAT_VERSION {
            return Err(MetadataError::Version(anabranch));
        }
        let metadata: Metadata = serde_json::from_slice(json).map_err(malformed)?;
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<(), MetadataError> {
        match self.contradiction() {
            Some(what) => Err(MetadataError::Malformed(what.to_owned())),
            None => Ok(()),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let (first, last) = self.lsn;
        if last < first || first == Lsn::ZERO || last == Lsn::MAX {
            return Some("the last Lsn is before the first, or one is out of range");
        }
        if self.generation.0 == 0 || self.generation.1 > last {
            return Some("generation 0, or one that begins after the last Lsn");
        }
        if self.pages.1 == 0 || self.pages.0 > PAGES_MAX || self.pages.1 > PAGES_MAX {
            return Some("a database of no pages, or of more than SQLite allows");
        }
        if self.body.as_deref().is_some_and(|name| !is_object_name(name)) {
            return Some("the name of a body that is not the name of an object");
        }
        if self
            .healed
            .as_ref()
            .is_some_and(|h| h.number == 0 || !(1..=h.frames.1).contains(&h.frames.0))
        {
            return Some("merged frames that are none");
        }
        match self.kind {
            Kind::Snapshot => self.snapshot_contradiction(),
            Kind::Segment | Kind::Delta => self.wal_contradiction(),
        }
    }

    fn snapshot_contradiction(&self) -> Option<&'static str> {
        match self.chunk {
            None => Some("a snapshot without a chunk size"),
            Some(chunk) if chunk < self.page_size.get() || !chunk.is_power_of_two() => {
                Some("a chunk size that is not a power of two of at least one page")
            }
            Some(_) => None,
        }
    }

    fn wal_contradiction(&self) -> Option<&'static str> {
        let frames = self.frame_count();
        if frames == 0 || frames > self.lsn_count() {
            return Some("no frames, or more frames than positions");
        }
        match self.transactions {
            Some(transactions) if transactions == 0 || transactions > frames => {
                return Some("no transactions, or more transactions than frames");
            }
            // Each frame may be of any page, and SQLite's commit frame may repeat one.
            Some(_) => return None,
            None => {}
        }
        let [before, after] =
            [self.pages.0, self.pages.1].map(|n| u64::from(self.page_size.content_pages(n)));
        if frames > after {
            return Some("more frames than the database has pages");
        }
        if after.saturating_sub(before) > frames {
            return Some("fewer frames than the database grew by");
        }
        None
    }
}

/// The member that ends the JSON, with the closing brace: the low 32 bits of the XXH3-64 of
/// `covered`, all that comes before.
fn check_member(covered: &[u8]) -> String {
    format!("{CHECK_MEMBER}{:08x}\"}}", content_hash(covered) & 0xffff_ffff)
}

/// Whether the text can name an object below a root without leaving it: parts of a-z, 0-9, `-`,
/// `_` and `.`, none of them empty, `.` or `..`.
fn is_object_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    name.len() <= BODY_NAME_BYTES_MAX
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(fits))
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
            healed: None,
            chunk: None,
            body: None,
        }
    }

    #[test]
    fn metadata_reads_back_and_is_small() {
        let metadata = Metadata {
            lsn: (Lsn::new(24_583), Lsn::new(24_583)),
            pages: (2561, 2561),
            sum: (DbChecksum(0x0123_4567_89ab_cdef), DbChecksum(77)),
            ..sample()
        };
        let bytes = metadata.encode().unwrap();
        assert_eq!(Metadata::decode(&mut &bytes[..]).unwrap(), metadata);
        assert_eq!(
            std::str::from_utf8(&bytes[8..]).unwrap(),
            "{\"anabranch\":1,\"db\":\"0123456789abcdef0123\",\"lsn\":24583,\
             \"push\":\"00ff00ff00ff00ff\",\"by\":\"a1b2c3d4a1b2c3d4\",\
             \"time\":1795473392123456,\"pages\":2561,\
             \"sum\":\"0123456789abcdef-000000000000004d\",\"check\":\"819b0e83\"}"
        );
        // A push of one page has about 2,000 more.
        assert!(bytes.len() < 215, "{} bytes", bytes.len());
    }

    #[test]
    fn every_member_reads_back() {
        let all = Metadata {
            kind: Kind::Delta,
            lsn: (Lsn::new(5), Lsn::new(1 << 60)),
            generation: (3, Lsn::new(4)),
            next_generation: Some(5),
            clock: Some(Micros(-1)),
            page_size: PageSize::MAX,
            pages: (0, 7),
            frames: Some(7),
            transactions: Some(3),
            healed: Some(Healed { lineage: "00aa".parse().unwrap(), number: 4, frames: (7, 9) }),
            chunk: Some(1 << 20),
            body: Some("body/x.zst".to_owned()),
            ..sample()
        };
        assert_eq!(Metadata::decode(&mut &all.encode().unwrap()[..]).unwrap(), all);
        let empty = Metadata { push: None, ..sample() };
        assert_eq!(Metadata::decode(&mut &empty.encode().unwrap()[..]).unwrap(), empty);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Metadata::decode(&mut &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn every_single_bit_flip_is_an_error() {
        let bytes = sample().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Metadata::decode(&mut &flipped[..]).is_err(), "bit {bit}");
        }
    }

    /// The frame around `json`, with a fitting checksum and nothing else checked.
    fn frame_of(metadata: &Metadata) -> Vec<u8> {
        let mut json = serde_json::to_vec(metadata).unwrap();
        json.pop();
        let member = check_member(&json);
        json.extend_from_slice(member.as_bytes());
        let len = u32::try_from(json.len()).unwrap();
        [&SKIPPABLE_MAGIC.to_le_bytes()[..], &len.to_le_bytes(), &json].concat()
    }

    #[test]
    fn contradictions_and_later_versions_are_refused_in_both_directions() {
        let refused = |change: fn(&mut Metadata)| {
            let mut metadata = sample();
            change(&mut metadata);
            let error = Metadata::decode(&mut &frame_of(&metadata)[..]).unwrap_err();
            assert!(
                matches!(error, MetadataError::Malformed(_) | MetadataError::Version(_)),
                "{error}"
            );
            if !matches!(error, MetadataError::Version(_)) {
                assert!(metadata.encode().is_err(), "{error}");
            }
            error
        };
        assert_eq!(Metadata::decode(&mut &frame_of(&sample())[..]).unwrap(), sample());
        assert!(matches!(refused(|m| m.version = 2), MetadataError::Version(2)));
        refused(|m| m.version = 0);
        refused(|m| m.lsn = (Lsn::new(3), Lsn::new(2)));
        refused(|m| m.lsn = (Lsn::ZERO, Lsn::new(2)));
        refused(|m| m.lsn.1 = Lsn::MAX);
        refused(|m| m.generation = (0, Lsn::new(1)));
        refused(|m| m.generation = (1, Lsn::new(4)));
        refused(|m| m.frames = Some(0));
        refused(|m| m.frames = Some(4));
        refused(|m| m.pages = (1, 0));
        refused(|m| m.pages = (u32::MAX, 3));
        refused(|m| m.pages = (u32::MAX - 1, u32::MAX));
        refused(|m| m.pages = (0, 4));
        refused(|m| m.pages = (2, 2));
        refused(|m| m.transactions = Some(0));
        refused(|m| m.transactions = Some(4));
        refused(|m| m.kind = Kind::Snapshot);
        for chunk in [2048, 4095, 0, 12288] {
            let mut metadata = Metadata { kind: Kind::Snapshot, chunk: Some(4096), ..sample() };
            metadata.encode().unwrap();
            metadata.chunk = Some(chunk);
            metadata.encode().unwrap_err();
        }
    }

    #[test]
    fn a_database_that_grows_past_the_lock_page_needs_no_frame_for_it() {
        let lock = PageSize::MAX.lock_page().get();
        let mut metadata = sample();
        metadata.page_size = PageSize::MAX;
        metadata.pages = (lock - 2, lock + 1);
        metadata.frames = Some(2);
        metadata.encode().unwrap();
        metadata.frames = Some(1);
        metadata.encode().unwrap_err();
    }

    #[test]
    fn the_name_of_a_body_cannot_lead_out_of_the_root() {
        for (name, good) in [
            ("db/0123/body/0000000000000001-ab.zst", true),
            ("x", true),
            ("", false),
            ("/etc/passwd", false),
            ("db/../../x", false),
            ("db/./x", false),
            ("db//x", false),
            ("db/x/", false),
            ("db\\x", false),
            ("db/%2e%2e", false),
            ("db/\0", false),
        ] {
            let metadata = Metadata { body: Some(name.to_owned()), ..sample() };
            assert_eq!(metadata.encode().is_ok(), good, "{name}");
        }
        let long = Metadata { body: Some("x".repeat(513)), ..sample() };
        long.encode().unwrap_err();
    }

    #[test]
    fn members_of_later_minor_versions_are_ignored() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["colour"] = "blue".into();
        let mut json = serde_json::to_vec(&json).unwrap();
        json.pop();
        let member = check_member(&json);
        json.extend_from_slice(member.as_bytes());
        assert_eq!(Metadata::from_json(&json).unwrap(), sample());
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
