//! Keys of the objects of a remote.
//!
//! Positions in keys have 16 hex digits, so that text order is log order. The log's directory is
//! cut into one for each 2^20 positions: file systems and their listings stay quick.

use anabranch_format::{DatabaseId, Lsn};

use crate::name::DatabaseName;

/// Positions covered by one directory of the log, as a power of two.
const SHARD_BITS: u32 = 20;

/// What servers on the root share.
pub(crate) fn of_servers(name: &str) -> String {
    format!("server/{name}")
}

/// Keys under `names/`.
pub(crate) fn names(name: &DatabaseName) -> String {
    format!("names/{name}")
}

pub(crate) fn name(name: &DatabaseName, seq: u32) -> String {
    format!("names/{name}/{seq:08x}.json")
}

/// The sequence number in a key under `names/{name}/`.
pub(crate) fn parse_name(key: &str) -> Option<u32> {
    let text = file_name(key).strip_suffix(".json")?;
    if text.len() == 8 { u32::from_str_radix(text, 16).ok() } else { None }
}

/// The keys of one database.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(id: &DatabaseId) -> Self {
        Keys { prefix: format!("db/{id}") }
    }

    fn under(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    /// Everything of the database.
    pub(crate) fn all(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn log(&self) -> String {
        self.under("log")
    }

    /// The shard directory that holds the segment beginning at `first`.
    pub(crate) fn shard(&self, first: Lsn) -> String {
        self.under(&format!("log/{:011x}", first.get() >> SHARD_BITS))
    }

    /// The first position whose segment lies in the same shard directory as that of `lsn`.
    pub(crate) fn shard_start(lsn: Lsn) -> Lsn {
        Lsn::new(lsn.get() >> SHARD_BITS << SHARD_BITS)
    }

    /// The first and last position whose segments lie in the shard directory `key`.
    pub(crate) fn parse_shard(key: &str) -> Option<(Lsn, Lsn)> {
        let text = file_name(key);
        let shard = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 11)?;
        let start = shard.checked_mul(1 << SHARD_BITS)?;
        Some((Lsn::new(start), Lsn::new(start + ((1 << SHARD_BITS) - 1))))
    }

    pub(crate) fn segment(&self, first: Lsn) -> String {
        format!("{}/{first}.wal.zst", self.shard(first))
    }

    pub(crate) fn parse_segment(key: &str) -> Option<Lsn> {
        parse_lsn(file_name(key).strip_suffix(".wal.zst")?)
    }

    pub(crate) fn deltas(&self) -> String {
        self.under("delta")
    }

    pub(crate) fn delta(&self, from: Lsn, to: Lsn) -> String {
        self.under(&format!("delta/{from}-{to}.wal.zst"))
    }

    pub(crate) fn parse_delta(key: &str) -> Option<(Lsn, Lsn)> {
        let (from, to) = file_name(key).strip_suffix(".wal.zst")?.split_once('-')?;
        let pair = (parse_lsn(from)?, parse_lsn(to)?);
        (pair.0 < pair.1).then_some(pair)
    }

    pub(crate) fn snapshots(&self) -> String {
        self.under("snapshot")
    }

    pub(crate) fn snapshot(&self, lsn: Lsn) -> String {
        self.under(&format!("snapshot/{lsn}.db.zst"))
    }

    pub(crate) fn parse_snapshot(key: &str) -> Option<Lsn> {
        parse_lsn(file_name(key).strip_suffix(".db.zst")?)
    }

    pub(crate) fn writers_tables(&self) -> String {
        self.under("writers")
    }

    pub(crate) fn writers(&self, lsn: Lsn) -> String {
        self.under(&format!("writers/{lsn}.json.zst"))
    }

    pub(crate) fn parse_writers(key: &str) -> Option<Lsn> {
        parse_lsn(file_name(key).strip_suffix(".json.zst")?)
    }

    pub(crate) fn floors(&self) -> String {
        self.under("floor")
    }

    pub(crate) fn floor(&self, lsn: Lsn) -> String {
        self.under(&format!("floor/{lsn}"))
    }

    pub(crate) fn parse_floor(key: &str) -> Option<Lsn> {
        parse_lsn(file_name(key))
    }

    /// What is kept beside the log for libSQL clients.
    pub(crate) fn asides(&self) -> String {
        self.under("heal")
    }

    /// Servers that serve frames, each under its own name.
    pub(crate) fn serving(&self) -> String {
        self.under("serving")
    }

    pub(crate) fn bodies(&self) -> String {
        self.under("body")
    }

    pub(crate) fn stages(&self) -> String {
        self.under("tmp")
    }

    /// A body for the object `target`, as named in its metadata (relative to the database).
    /// `attempt` is unique, so that no attempt touches another's bytes.
    pub(crate) fn body(target: &Target, attempt: &str) -> String {
        format!("body/{target}-{attempt}.zst")
    }

    /// Where an object is staged before it is linked to its own key.
    pub(crate) fn stage(&self, target: &Target, attempt: &str) -> String {
        self.under(&format!("tmp/{target}-{attempt}.zst"))
    }

    /// The full key of a body that metadata names; `None` if the name leads anywhere else.
    pub(crate) fn resolve_body(&self, name: &str) -> Option<String> {
        let file = name.strip_prefix("body/")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        (!file.is_empty() && file.len() < 200 && !file.starts_with('.') && file.bytes().all(plain))
            .then(|| self.under(name))
    }

    pub(crate) fn target_key(&self, target: &Target) -> String {
        match target {
            Target::Segment(first) => self.segment(*first),
            Target::Delta(from, to) => self.delta(*from, *to),
            Target::Snapshot(lsn) => self.snapshot(*lsn),
        }
    }
}

/// The object that a body or stage is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Segment(Lsn),
    Delta(Lsn, Lsn),
    Snapshot(Lsn),
}

impl Target {
    /// Reads the target out of the key of a body or stage.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        let mut parts = file_name(key).split('-');
        match parts.next()? {
            "s" => Some(Target::Snapshot(parse_lsn(parts.next()?)?)),
            "d" => Some(Target::Delta(parse_lsn(parts.next()?)?, parse_lsn(parts.next()?)?)),
            first => Some(Target::Segment(parse_lsn(first)?)),
        }
    }

    /// Whether the target can never be created any more once `floor` is the floor and `kept` the
    /// first position of the oldest segment that is kept.
    pub(crate) fn is_below(&self, floor: Lsn, kept: Lsn) -> bool {
        match *self {
            Target::Segment(first) => first < kept,
            Target::Delta(from, _) => from < floor,
            Target::Snapshot(lsn) => lsn < floor,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Segment(first) => write!(f, "{first}"),
            Target::Delta(from, to) => write!(f, "d-{from}-{to}"),
            Target::Snapshot(lsn) => write!(f, "s-{lsn}"),
        }
    }
}

fn file_name(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

/// Exactly 16 hex digits: the shorter decimal form of people is no key.
fn parse_lsn(text: &str) -> Option<Lsn> {
    if text.len() == 16 { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let keys = Keys::new(&"0123".parse().unwrap());
        let lsn = Lsn::new(0x12_3456_789a);
        assert_eq!(keys.segment(lsn), "db/0123/log/00000012345/000000123456789a.wal.zst");
        assert_eq!(Keys::parse_segment(&keys.segment(lsn)), Some(lsn));
        let (start, end) = Keys::parse_shard(&keys.shard(lsn)).unwrap();
        assert!(start <= lsn && lsn <= end && end.get() - start.get() == (1 << 20) - 1);
        assert_eq!(Keys::parse_delta(&keys.delta(Lsn::new(3), lsn)), Some((Lsn::new(3), lsn)));
        assert_eq!(Keys::parse_snapshot(&keys.snapshot(lsn)), Some(lsn));
        assert_eq!(Keys::parse_writers(&keys.writers(lsn)), Some(lsn));
        assert_eq!(Keys::parse_floor(&keys.floor(lsn)), Some(lsn));
        for target in [Target::Segment(lsn), Target::Delta(Lsn::ZERO, lsn), Target::Snapshot(lsn)] {
            let body = keys.resolve_body(&Keys::body(&target, "abc-def")).unwrap();
            assert_eq!(Target::parse(&body), Some(target));
            assert_eq!(Target::parse(&keys.stage(&target, "x")), Some(target));
        }
    }

    #[test]
    fn a_body_name_cannot_lead_elsewhere() {
        let keys = Keys::new(&"0123".parse().unwrap());
        for bad in ["", "body/", "body/../x", "body/a/b", "log/a", "/body/a", "body/.x"] {
            assert_eq!(keys.resolve_body(bad), None, "{bad}");
        }
    }
}
