//! The table of writers: for each replica its last push and where that stands in the log.
//!
//! Kept beside deltas and snapshots for ever, so that a replica that comes back with a push of
//! unknown outcome after its place in the log was cleaned up can still learn what became of it. It
//! is written before the delta or snapshot that ends at the same position, and made from the table
//! before it and the segments since, so any two programs that write one write the same.

use std::collections::BTreeMap;
use std::io::Read;

use anabranch_format::{Lsn, Metadata, PushId, WriterId};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::error::{Damage, StoreError};
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
        let table = self.newest_writers(Lsn::MAX).await?;
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

    /// The newest table that ends at `lsn` or before; the empty one if there is none.
    pub(crate) async fn newest_writers(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        let listed = self.objects.list(&self.keys.writers_tables()).await?;
        let newest =
            listed.iter().filter_map(|o| Keys::parse_writers(&o.key)).filter(|l| *l <= lsn).max();
        match newest {
            Some(lsn) => self.writers_at(lsn).await,
            None => Ok(Writers::empty()),
        }
    }

    /// Makes sure that a table ends at `lsn`, the end of a segment, and gives it.
    pub(crate) async fn ensure_writers(&self, lsn: Lsn) -> Result<Writers, StoreError> {
        let key = self.keys.writers(lsn);
        if let Some(table) = self.read_writers(&key).await? {
            return Ok(table);
        }
        let mut table = self.newest_writers(lsn).await?;
        for segment in self.segments_since(table.anchor.last, lsn).await? {
            if segment.from() != table.anchor.last {
                let hole = table.anchor.last.next().unwrap_or(Lsn::MAX);
                return Err(self.objects.missing(&self.keys.segment(hole)));
            }
            table.add(&segment);
        }
        if table.anchor.last != lsn {
            return Err(self.contradiction(&key, format!("position {lsn} is no end of a segment")));
        }
        let json = serde_json::to_vec(&table).expect("ids and numbers are plain JSON");
        let packed =
            zstd::bulk::compress(&json, LEVEL).map_err(|e| self.objects.scratch_failed(e))?;
        // Created or not: whoever else makes it makes the same.
        self.objects.create(&key, packed.into()).await?;
        Ok(table)
    }

    async fn read_writers(&self, key: &str) -> Result<Option<Writers>, StoreError> {
        let bytes = self.objects.read_small(key, SMALL_BYTES_MAX).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let decoded = decode(&bytes).map_err(|text| self.contradiction(key, text))?;
        if Keys::parse_writers(key) != Some(decoded.anchor.last) {
            let text = format!("it ends at {}, not where its name says", decoded.anchor.last);
            return Err(self.objects.corrupt(key, Damage::Contradiction(text)));
        }
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
}
