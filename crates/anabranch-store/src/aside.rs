//! What a server keeps beside the log for libSQL clients whose frames left it.
//!
//! Such a client's frames never become frames of the log; their rows are merged into it instead. The
//! frames themselves are kept here, under the client's WAL ([`LineageId`]), with what was learned
//! while they were merged. Objects are created once and never change. Which of them count the log
//! alone decides: a part belongs to the segment at the position in its name if that segment came of
//! the push in its name, and means nothing otherwise. So a program that is killed between the two
//! leaves nothing but a few bytes, which retention takes.
//!
//! | name below `db/{id}/heal/{lineage}/` | what it is |
//! |---|---|
//! | `p{position}-{push}` | a part: frames, and the segment that they were merged into |
//! | `b{frame}` | frames that lead the client from that frame to where everybody goes on |
//! | `f{position}-{generation}{frame}` | nothing: the WAL was proven to hold the log's frames of a generation up to this one, when the log ended at the position |
//! | `….{n}-{hash}` | continues an object longer than 8 MiB; written before it |
//!
//! Pieces are named by what is in them, and the object that they continue names them: two programs that
//! write it at once, or one that was killed and comes to another content later, never mix theirs.
//!
//! A lineage goes part by part, the oldest first, and the rest after that: without its oldest part it is
//! none any more, whereas without its newest it would end before what its client was told.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use anabranch_format::{LineageId, Lsn, Micros, PushId, content_hash};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::error::StoreError;
use crate::fault::crash_point;
use crate::log::Log;
use crate::objects::Listed;
use crate::progress::{Progress, Step};
use crate::spool::{SMALL_BYTES_MAX, Spool, SpoolReader};

/// The first bytes of an object: what it is, and how many objects continue it.
const MAGIC: &[u8; 8] = b"anabheal";
const LEAD_BYTES: usize = 12;
/// After that: of each object that continues it, the hash that its name ends with.
const HASH_BYTES: usize = 8;
/// No object is longer than this many times 8 MiB, 512 GiB: frames that lead a client on may be the
/// whole database. Their names are held in memory, 8 bytes each.
const PIECES_MAX: u32 = 64 * 1024;
/// Lineages that are deleted at a time.
const LINEAGES_AT_ONCE: usize = 8;
/// Announcements of servers go once there is one that is newer by a day.
const ANNOUNCEMENTS_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Objects up to this length are held in memory while they are read.
const MEMORY_BYTES_MAX: u64 = 1024 * 1024;

/// Names an object of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AsideName {
    /// A part that was to be merged into the segment that begins at this position, by this push.
    Part(Lsn, PushId),
    /// Frames that follow this one of the client.
    After(u32),
    /// Says that the WAL holds the log's frames of this generation up to this one. Kept when the log
    /// ended at the position.
    Proven(Lsn, u32, u32),
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Whose it is.
    pub lineage: LineageId,
    /// Which.
    pub name: AsideName,
    /// When the store received it.
    pub modified: Micros,
}

impl AsideName {
    fn file(&self) -> String {
        match self {
            AsideName::Part(lsn, push) => format!("p{lsn}-{push}"),
            AsideName::After(frame) => format!("b{frame:08x}"),
            AsideName::Proven(lsn, generation, frame) => {
                format!("f{lsn}-{generation:08x}{frame:08x}")
            }
        }
    }

    /// The object that a file is, or continues.
    fn of(file: &str) -> Option<Self> {
        Self::parse(file.split_once('.').map_or(file, |(name, _)| name))
    }

    fn parse(file: &str) -> Option<Self> {
        match file.split_at_checked(1)? {
            ("p", rest) => {
                let (lsn, push) = rest.split_once('-').filter(|(lsn, _)| lsn.len() == 16)?;
                Some(AsideName::Part(lsn.parse().ok()?, push.parse().ok()?))
            }
            ("b", rest) if rest.len() == 8 => hex(rest).map(AsideName::After),
            ("f", rest) => {
                let (lsn, place) = rest.split_once('-').filter(|(lsn, _)| lsn.len() == 16)?;
                let (generation, frame) =
                    place.split_at_checked(8).filter(|(_, f)| f.len() == 8)?;
                Some(AsideName::Proven(lsn.parse().ok()?, hex(generation)?, hex(frame)?))
            }
            _ => None,
        }
    }
}

fn hex(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// A lineage's directory below that of all: its id's parts are directories, so that all lineages of
/// one kind can be listed.
fn directory(lineage: &str) -> String {
    lineage.replace('-', "/")
}

impl Log {
    fn aside_key(&self, lineage: &LineageId, name: &AsideName) -> String {
        format!("{}/{}/{}", self.keys.asides(), directory(lineage.as_str()), name.file())
    }

    fn parse_aside(&self, listed: &Listed) -> Option<Aside> {
        let below = listed.key.strip_prefix(&self.keys.asides())?.strip_prefix('/')?;
        let (lineage, file) = below.rsplit_once('/')?;
        let (lineage, name) = (lineage.replace('/', "-").parse().ok()?, AsideName::parse(file)?);
        Some(Aside { lineage, name, modified: listed.modified })
    }

    /// Keeps `body` under this name. Once this returns it is there, durably; if an object has the
    /// name already, that one stays.
    pub async fn put_aside(
        &self,
        lineage: &LineageId,
        name: &AsideName,
        body: &SpoolReader,
    ) -> Result<(), StoreError> {
        let key = self.aside_key(lineage, name);
        let more = u32::try_from(body.len() / SMALL_BYTES_MAX).unwrap_or(u32::MAX);
        if more > PIECES_MAX {
            return Err(self.contradiction(&key, format!("{} bytes are too many", body.len())));
        }
        let mut whole = MAGIC.to_vec();
        whole.extend_from_slice(&more.to_le_bytes());
        let (mut rest, mut first) = self.next_piece(body.rewound()).await?;
        for n in 1..=more {
            let piece;
            (rest, piece) = self.next_piece(rest).await?;
            let hash = content_hash(&piece);
            whole.extend_from_slice(&hash.to_le_bytes());
            self.objects.ensure(&piece_key(&key, n, hash), piece.into()).await?;
        }
        if more > 0 {
            crash_point!("aside::between-pieces");
        }
        whole.append(&mut first);
        self.objects.ensure(&key, Bytes::from(whole)).await
    }

    async fn next_piece(
        &self,
        mut from: SpoolReader,
    ) -> Result<(SpoolReader, Vec<u8>), StoreError> {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            (&mut from).take(SMALL_BYTES_MAX).read_to_end(&mut piece).map(|_| (from, piece))
        });
        let read = read.await.map_err(|_| StoreError::Interrupted)?;
        read.map_err(|e| self.objects.scratch_failed(e))
    }

    /// Reads an object that [`Log::put_aside`] keeps; `None` if there is none.
    pub async fn aside(
        &self,
        lineage: &LineageId,
        name: &AsideName,
    ) -> Result<Option<SpoolReader>, StoreError> {
        let key = self.aside_key(lineage, name);
        let counter = Progress::none().step(Step::Downloading, None);
        let opened = self.objects.open(&key, MEMORY_BYTES_MAX, &counter).await?;
        let Some((mut first, _)) = opened else { return Ok(None) };
        let mut lead = [0; LEAD_BYTES];
        let read = tokio::task::spawn_blocking(move || {
            first.read_exact(&mut lead).map(|()| (first, lead))
        });
        let read = read.await.map_err(|_| StoreError::Interrupted)?;
        let (first, lead) = read
            .map_err(|e| self.contradiction(&key, format!("its beginning cannot be read: {e}")))?;
        let (magic, more) = lead.split_at(MAGIC.len());
        let more = u32::from_le_bytes([more[0], more[1], more[2], more[3]]);
        if magic != MAGIC || more > PIECES_MAX {
            return Err(self.contradiction(&key, "it is no object of this kind".to_owned()));
        }
        if more == 0 {
            return Ok(Some(first.rest()));
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut first = first;
            let mut hashes = vec![0; more as usize * HASH_BYTES];
            first.read_exact(&mut hashes).map(|()| (first, hashes))
        });
        let read = read.await.map_err(|_| StoreError::Interrupted)?;
        let (first, hashes) = read
            .map_err(|e| self.contradiction(&key, format!("its beginning cannot be read: {e}")))?;
        let mut spool = Spool::new(self.objects.scratch());
        let mut piece = first.rest();
        for (n, hash) in (1..).zip(hashes.as_chunks::<HASH_BYTES>().0) {
            spool = self.join(spool, piece).await?;
            let key = piece_key(&key, n, u64::from_le_bytes(*hash));
            let opened = self.objects.open(&key, MEMORY_BYTES_MAX, &counter).await?;
            piece = opened.ok_or_else(|| self.objects.missing(&key))?.0;
        }
        Ok(Some(self.join(spool, piece).await?.finish()))
    }

    async fn join(&self, mut spool: Spool, mut piece: SpoolReader) -> Result<Spool, StoreError> {
        let joined = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match piece.read(&mut buffer)? {
                    0 => return Ok(spool),
                    n => spool.write_all(&buffer[..n])?,
                }
            }
        });
        let joined = joined.await.map_err(|_| StoreError::Interrupted)?;
        joined.map_err(|e: std::io::Error| self.objects.scratch_failed(e))
    }

    /// The objects of all lineages whose ids begin with `prefix`, whole parts between dashes; all if
    /// it is empty. Sorted by lineage, then name. Asked after the call began.
    pub async fn asides(&self, prefix: &str) -> Result<Vec<Aside>, StoreError> {
        let mut below = self.keys.asides();
        if !prefix.is_empty() {
            below = format!("{below}/{}", directory(prefix));
        }
        let listed = self.objects.list(&below).await?;
        let mut found: Vec<Aside> = listed.iter().filter_map(|o| self.parse_aside(o)).collect();
        found.sort_unstable_by(|a, b| (&a.lineage, &a.name).cmp(&(&b.lineage, &b.name)));
        Ok(found)
    }

    /// Deletes everything of a lineage. Stopped halfway, nothing of it counts any more.
    pub async fn delete_asides(&self, lineage: &LineageId) -> Result<u64, StoreError> {
        let below = format!("{}/{}", self.keys.asides(), directory(lineage.as_str()));
        let listed = self.objects.list(&below).await?;
        self.delete_lineage(&listed).await?;
        Ok(listed.len() as u64)
    }

    /// Deletes all that is listed of some lineages.
    pub(crate) async fn delete_lineages(&self, lineages: &[Vec<Listed>]) -> Result<(), StoreError> {
        // Owned, so that the future may move between threads.
        futures::stream::iter(lineages.to_vec())
            .map(|listed| async move { self.delete_lineage(&listed).await })
            .buffer_unordered(LINEAGES_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    async fn delete_lineage(&self, listed: &[Listed]) -> Result<(), StoreError> {
        let part = |listed: &Listed| {
            let (_, file) = listed.key.rsplit_once('/')?;
            let AsideName::Part(lsn, _) = AsideName::parse(file)? else { return None };
            Some((lsn, listed.key.clone()))
        };
        let mut parts: Vec<(Lsn, String)> = listed.iter().filter_map(part).collect();
        parts.sort_unstable();
        for (_, key) in parts {
            // One after the other: what counts must go before what rests on it.
            self.objects.delete(&key).await?;
            crash_point!("aside::between-deletes");
        }
        let keys: Vec<String> = listed.iter().map(|o| o.key.clone()).collect();
        self.objects.delete_all(&keys).await
    }

    /// Tells other servers that this one, `server`, is serving frames.
    pub async fn announce_serving(&self, server: &str) -> Result<(), StoreError> {
        let key = format!("{}/{server}", self.keys.serving());
        self.objects.replace(&key, Bytes::from_static(b"{}")).await
    }

    /// The servers that have said that they are serving frames, each with the time of the store when
    /// it said so last.
    pub async fn serving(&self) -> Result<Vec<(String, Micros)>, StoreError> {
        let listed = self.objects.list(&self.keys.serving()).await?;
        let name = |key: &str| key.rsplit_once('/').map_or(key, |(_, name)| name).to_owned();
        Ok(listed.iter().map(|o| (name(&o.key), o.modified)).collect())
    }

    /// What servers said so long ago that it means nothing any more, by the newest that was said.
    pub(crate) async fn old_announcements(&self) -> Result<Vec<Listed>, StoreError> {
        let mut listed = self.objects.list(&self.keys.serving()).await?;
        let newest = listed.iter().map(|o| o.modified.0).max().unwrap_or_default();
        listed.retain(|o| newest.saturating_sub(o.modified.0) > ANNOUNCEMENTS_MICROS);
        Ok(listed)
    }

    /// The objects of each lineage none of whose parts begins at `kept` or later. One that is being
    /// written counts by the pieces of it that are there.
    pub(crate) async fn expired_asides(&self, kept: Lsn) -> Result<Vec<Vec<Listed>>, StoreError> {
        let mut lineages: BTreeMap<String, (Lsn, Vec<Listed>)> = BTreeMap::new();
        for listed in self.objects.list(&self.keys.asides()).await? {
            let Some((lineage, file)) = listed.key.rsplit_once('/') else { continue };
            let (newest, objects) = lineages.entry(lineage.to_owned()).or_default();
            if let Some(AsideName::Part(lsn, _) | AsideName::Proven(lsn, ..)) = AsideName::of(file)
            {
                *newest = (*newest).max(lsn);
            }
            objects.push(listed);
        }
        let expired = lineages.into_values().filter(|(newest, _)| *newest < kept);
        Ok(expired.map(|(_, objects)| objects).collect())
    }
}

/// The object that continues the one at `key`.
fn piece_key(key: &str, n: u32, hash: u64) -> String {
    format!("{key}.{n}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::{Root, StoreOptions};

    #[test]
    fn names_read_back_and_others_are_none() {
        let names = [
            AsideName::Part(Lsn::new(0x1234), "ab-cd".parse().unwrap()),
            AsideName::After(u32::MAX),
            AsideName::Proven(Lsn::new(7), 31, 4),
        ];
        for name in names {
            assert_eq!(AsideName::parse(&name.file()), Some(name));
        }
        for bad in [
            "",
            "p",
            "p12-ab",
            "b12",
            "bzzzzzzzz",
            "p0000000000000001-A",
            "b00000001.1",
            "f0000000000000007-1",
            "f0000000000000007-0000000100000002x",
            "f0000000000000007-+000000100000002",
        ] {
            assert_eq!(AsideName::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn long_and_short_objects_read_back_and_are_listed_by_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::memory(&StoreOptions::new(scratch.path()));
        let log = root.log(&"default".parse().unwrap(), &"0123".parse().unwrap());
        let (a, b): (LineageId, LineageId) = ("aa-01".parse().unwrap(), "bb-02".parse().unwrap());
        for (name, len) in [
            (AsideName::After(7), 0usize),
            (AsideName::Part(Lsn::new(5), "x".parse().unwrap()), 20 << 20),
        ] {
            let data: Vec<u8> = (0..=250).cycle().take(len).collect();
            let body = Spool::from_bytes(data.clone()).finish();
            log.put_aside(&a, &name, &body).await.unwrap();
            log.put_aside(&a, &name, &body).await.unwrap();
            let mut read = Vec::new();
            log.aside(&a, &name).await.unwrap().unwrap().read_to_end(&mut read).unwrap();
            assert!(read == data);
        }
        log.put_aside(&b, &AsideName::After(1), &Spool::from_bytes(vec![1]).finish())
            .await
            .unwrap();
        assert!(log.aside(&b, &AsideName::After(2)).await.unwrap().is_none());
        assert_eq!(log.asides("aa").await.unwrap().len(), 2);
        assert_eq!(log.asides("").await.unwrap().len(), 3);
        // The object of 20 MiB lies in three; the other lineage has no part at all.
        assert_eq!(expired(&log, 5).await, 1);
        assert_eq!(expired(&log, 6).await, 5);
        assert_eq!(log.delete_asides(&a).await.unwrap(), 4);
        assert_eq!(log.asides("").await.unwrap().len(), 1);
    }

    async fn expired(log: &Log, kept: u64) -> usize {
        log.expired_asides(Lsn::new(kept)).await.unwrap().concat().len()
    }

    fn part(lsn: u64) -> AsideName {
        AsideName::Part(Lsn::new(lsn), "x".parse().unwrap())
    }

    /// Three pieces, each another.
    fn long(seed: u8) -> Vec<u8> {
        (0..=250u8).cycle().take(20 << 20).map(|byte| byte ^ seed).collect()
    }

    #[tokio::test]
    async fn pieces_of_another_content_that_were_left_are_not_mixed_in() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::memory(&StoreOptions::new(scratch.path()));
        let log = root.log(&"default".parse().unwrap(), &"0123".parse().unwrap());
        let lineage: LineageId = "aa-01".parse().unwrap();
        let name = AsideName::After(7);
        let key = log.aside_key(&lineage, &name);
        log.put_aside(&lineage, &name, &Spool::from_bytes(long(1)).finish()).await.unwrap();
        // As if it had been killed before the object itself.
        log.objects.delete(&key).await.unwrap();
        log.put_aside(&lineage, &name, &Spool::from_bytes(long(2)).finish()).await.unwrap();
        let mut read = Vec::new();
        log.aside(&lineage, &name).await.unwrap().unwrap().read_to_end(&mut read).unwrap();
        assert!(read == long(2));
    }

    #[tokio::test]
    async fn retention_leaves_the_pieces_of_a_part_that_is_being_written() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::memory(&StoreOptions::new(scratch.path()));
        let log = root.log(&"default".parse().unwrap(), &"0123".parse().unwrap());
        let lineage: LineageId = "aa-01".parse().unwrap();
        log.put_aside(&lineage, &part(5), &Spool::from_bytes(long(1)).finish()).await.unwrap();
        log.objects.delete(&log.aside_key(&lineage, &part(5))).await.unwrap();
        assert_eq!(expired(&log, 5).await, 0);
        assert_eq!(expired(&log, 6).await, 2);
    }
}
