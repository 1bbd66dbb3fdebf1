//! The table of writers: for each replica its last push and where that stands in the log.
//!
//! Kept beside deltas and snapshots for ever, so that a replica that comes back with a push of
//! unknown outcome after its place in the log was cleaned up can still learn what became of it. It
//! is written before the delta or snapshot that ends at the same position, and made from the table
//! before it and the segments since, so any two programs that write one write the same.
//!
//! Nobody but an undecided push needs it: for a fetch a missing or damaged table is no obstacle, and
//! the next compaction makes it anew. What nothing is left of by then (segments below the floor
//! included) is unknown, as if 100,000 others had pushed since.

use std::collections::BTreeMap;
use std::io::Read;

use anabranch_format::{Lsn, Metadata, PushId, WriterId};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::error::{StoreError, causes};
use crate::fetch::Pushed;
use crate::head::Anchor;
use crate::keys::Keys;
use crate::log::Log;
use crate::spool::SMALL_BYTES_MAX;

/// How many writers are remembered; the ones that pushed last.
const WRITERS_MAX: usize = 100_000;
/// No table is longer, unpacked: 100,000 writers with ids of the greatest length fit.
const TABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Metadata of segments read at the same time.
const READS_AT_ONCE: usize = 16;
const LEVEL: i32 = 3;

/// Who pushed last, and where, up to the position `anchor.last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Writers {
    /// The segment that ends where the table ends.
    pub(crate) anchor: Anchor,
    writers: BTreeMap<WriterId, (PushId, Lsn)>,
}

impl Writers {
    pub(crate) fn empty() -> Self {
        Writers { anchor: Anchor::start(), writers: BTreeMap::new() }
    }

    pub(crate) fn pushes(&self) -> impl Iterator<Item = Pushed> + '_ {
        self.writers.iter().map(|(writer, (push, lsn))| Pushed {
            writer: writer.clone(),
            push: push.clone(),
            lsn: *lsn,
        })
    }

    /// What any table keeps to.
    fn check(&self) -> Result<(), String> {
        let Anchor { first, last, .. } = self.anchor;
        if first == Lsn::ZERO || first > last {
            return Err(format!("it names a segment from {first} to {last}"));
        }
        match self.writers.values().find(|(_, lsn)| *lsn > last) {
            Some((push, lsn)) => Err(format!("push {push} at {lsn} is beyond its end, {last}")),
            None => Ok(()),
        }
    }

    /// Takes in the next segment.
    pub(crate) fn add(&mut self, segment: &Metadata) {
        self.anchor = Anchor::of(segment);
        if let Some(push) = &segment.push {
            self.writers.insert(segment.writer.clone(), (push.clone(), segment.lsn.1));
        }
        if self.writers.len() > WRITERS_MAX {
            let oldest = self.writers.iter().min_by_key(|(_, (_, lsn))| *lsn);
            if let Some(writer) = oldest.map(|(writer, _)| writer.clone()) {
                self.writers.remove(&writer);
            }
        }
    }
}

impl Log {
    /// What became of `writer`'s last push: its id and the position after it, according to the
    /// segments and the table of writers. `None`: it is not known here (100,000 others have pushed
    /// since, or it never has).
    pub async fn last_push(&self, writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> {
        // First: the table that ends at the floor is written before the floor is.
        let floor = self.floor().await?;
        let table = self.newest_writers().await?;
        if table.anchor.last < floor {
            return Err(self.objects.missing(&self.keys.writers(floor)));
        }
        let mut found = table.writers.get(writer).cloned();
        for segment in self.segments_since(table.anchor.last, Lsn::MAX).await? {
            if segment.writer == *writer
                && let Some(push) = segment.push
            {
                found = Some((push, segment.lsn.1));
            }
        }
        Ok(found)
    }

    /// The table that ends at `lsn`; it must be there.
    pub(crate) async fn writers_at(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        let key = self.keys.writers(lsn);
        self.read_writers(&key).await?.ok_or_else(|| self.objects.missing(&key))
    }

    /// The newest table; the empty one if there is none. It must be sound: a push that nobody can
    /// decide must not be taken for one that never arrived.
    async fn newest_writers(&self) -> Result<Writers, StoreError> {
        match self.listed_writers().await?.last() {
            Some(lsn) => self.writers_at(*lsn).await,
            None => Ok(Writers::empty()),
        }
    }

    /// Where tables end, ascending.
    async fn listed_writers(&self) -> Result<Vec<Lsn>, StoreError> {
        let listed = self.objects.list(&self.keys.writers_tables()).await?;
        Ok(listed.iter().filter_map(|o| Keys::parse_writers(&o.key)).collect())
    }

    /// Makes sure that a sound table ends at `lsn`, the end of a segment, and gives it.
    pub(crate) async fn ensure_writers(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        let key = self.keys.writers(lsn);
        match self.sound_writers(&key).await {
            Ok(Some(table)) => Ok(table),
            Ok(None) => {
                let table = self.build_writers(lsn).await?;
                // Created or not: whoever else makes it makes the same.
                self.objects.ensure(&key, self.encode(&table)?).await?;
                Ok(table)
            }
            Err(e) if is_damage_of(&e, &key) => {
                let table = self.build_writers(lsn).await?;
                tracing::warn!(%key, error = %causes(&e), "made the table of writers anew");
                self.objects.replace(&key, self.encode(&table)?).await?;
                Ok(table)
            }
            Err(e) => Err(e),
        }
    }

    /// The table at `key`, if the segment that it says it ends with is in the log.
    async fn sound_writers(&self, key: &str) -> Result<Option<Writers>, StoreError> {
        let Some(table) = self.read_writers(key).await? else { return Ok(None) };
        let found = self.segment(table.anchor.first).await?;
        if found.is_some_and(|seen| Anchor::of(&seen.metadata) == table.anchor) {
            return Ok(Some(table));
        }
        let Anchor { first, last, .. } = table.anchor;
        let text = format!("the log has no such segment as it names, from {first} to {last}");
        Err(self.contradiction(key, text))
    }

    /// Makes the table that ends at `lsn` from the newest sound one before, and the segments since.
    async fn build_writers(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        let mut table = self.newest_sound_writers(lsn).await?;
        for segment in self.segments_since(table.anchor.last, lsn).await? {
            if segment.from() != table.anchor.last {
                if segment.lsn.1 > self.floor().await? {
                    let hole = table.anchor.last.next().unwrap_or(Lsn::MAX);
                    return Err(self.objects.missing(&self.keys.segment(hole)));
                }
                // What was before is cleaned up: from here on.
                table = Writers::empty();
            }
            table.add(&segment);
        }
        if table.anchor.last == lsn {
            return Ok(table);
        }
        let text = format!("position {lsn} is no end of a segment");
        Err(self.contradiction(&self.keys.writers(lsn), text))
    }

    /// The newest readable table that ends before `lsn`; the empty one if there is none.
    async fn newest_sound_writers(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        for at in self.listed_writers().await?.into_iter().rev().filter(|at| *at < lsn) {
            let key = self.keys.writers(at);
            match self.read_writers(&key).await {
                Ok(Some(table)) => return Ok(table),
                Ok(None) => {}
                Err(e) if is_damage_of(&e, &key) => {
                    tracing::warn!(%key, error = %causes(&e), "passing over a table of writers");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Writers::empty())
    }

    fn encode(&self, table: &Writers) -> Result<Bytes, StoreError> {
        let json = serde_json::to_vec(table).expect("ids and numbers are plain JSON");
        pack(&json).map(Bytes::from).map_err(|e| self.objects.scratch_failed(e))
    }

    async fn read_writers(&self, key: &str) -> Result<Option<Writers>, StoreError> {
        let bytes = self.objects.read_small(key, SMALL_BYTES_MAX).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let decoded = decode(&bytes).map_err(|text| self.contradiction(key, text))?;
        if Keys::parse_writers(key) != Some(decoded.anchor.last) {
            let text = format!("it ends at {}, not where its name says", decoded.anchor.last);
            return Err(self.contradiction(key, text));
        }
        decoded.check().map_err(|text| self.contradiction(key, text))?;
        Ok(Some(decoded))
    }

    /// Metadata of the segments after `after` up to `to`, in order, as far as a listing shows them.
    pub(crate) async fn segments_since(
        &self,
        after: Lsn,
        to: Lsn,
    ) -> Result<Vec<Metadata>, StoreError> {
        let firsts: Vec<Lsn> =
            self.segments_between(after, to).await?.into_iter().map(|(first, _)| first).collect();
        futures::stream::iter(firsts)
            .map(|first| async move {
                let seen = self.segment(first).await?;
                let missing = || self.objects.missing(&self.keys.segment(first));
                Ok(seen.ok_or_else(missing)?.metadata)
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await
    }
}

fn is_damage_of(e: &StoreError, key: &str) -> bool {
    matches!(e, StoreError::Corrupt { key: damaged, .. } if damaged == key)
}

/// One zstd frame with a checksum of its content.
fn pack(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = zstd::bulk::Compressor::new(LEVEL)?;
    packer.include_checksum(true)?;
    packer.compress(json)
}

fn decode(packed: &[u8]) -> Result<Writers, String> {
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|e| e.to_string())?;
    let mut json = Vec::new();
    decoder.take(TABLE_BYTES_MAX + 1).read_to_end(&mut json).map_err(|e| e.to_string())?;
    if json.len() as u64 > TABLE_BYTES_MAX {
        return Err(format!("it unpacks to more than {TABLE_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(&json).map_err(|e| format!("malformed JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_unpacks_to_too_much_is_refused() {
        let zeros = vec![b' '; 1 << 20];
        let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        for _ in 0..64 {
            std::io::Write::write_all(&mut packed, &zeros).unwrap();
        }
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 100_000);
        assert!(decode(&packed).unwrap_err().contains("unpacks to more"));
        assert!(decode(b"junk").is_err());
    }

    #[test]
    fn a_flipped_bit_in_a_table_is_noticed() {
        let anchor = Anchor { first: Lsn::new(3), last: Lsn::new(7), push: None };
        let pushed = ("w".parse().unwrap(), ("p".parse().unwrap(), Lsn::new(5)));
        let table = Writers { anchor, writers: BTreeMap::from([pushed]) };
        let packed = pack(&serde_json::to_vec(&table).unwrap()).unwrap();
        assert_eq!(decode(&packed).unwrap(), table);
        for bit in 0..packed.len() * 8 {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Some bits of zstd say nothing.
            assert!(decode(&flipped).is_ok_and(|t| t == table) || decode(&flipped).is_err());
        }
    }

    #[test]
    fn a_table_that_contradicts_itself_is_refused() {
        let table = |first, last, lsn| Writers {
            anchor: Anchor { first: Lsn::new(first), last: Lsn::new(last), push: None },
            writers: BTreeMap::from([(
                "w".parse().unwrap(),
                ("p".parse().unwrap(), Lsn::new(lsn)),
            )]),
        };
        assert_eq!(table(3, 7, 7).check(), Ok(()));
        for bad in [table(8, 7, 7), table(0, 7, 7), table(3, 7, 8)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
