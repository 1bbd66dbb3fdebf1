//! Retention: deleting what nobody needs any more.
//!
//! The new floor is a snapshot that is old enough (everything younger than `retain` can still be
//! restored: the snapshot lies before it) and has a newer verified snapshot after it. The floor
//! object is written *first*; from then on nobody believes anything about keys below it, and only
//! then are they deleted. Stopped halfway, the next run goes on: it deletes below the floor that
//! counts, not below the one it would choose.
//!
//! The last segment before the floor stays: a replica that stands exactly there reads it as its
//! anchor. It is read before anything is deleted, and so is the floor: neither a table nor an
//! answer to a put is taken at its word where objects are deleted for ever. Time decides only how much is kept, never whether something is right: and a clock that
//! runs ahead of the store's is not believed.

use std::time::Duration;

use anabranch_format::{Kind, Lsn, Micros};
use bytes::Bytes;

use crate::compact::CompactReport;
use crate::error::StoreError;
use crate::fault::crash_point;
use crate::folder;
use crate::head::Anchor;
use crate::keys::{Keys, Target};
use crate::log::Log;
use crate::objects::Listed;
use crate::progress::{Counter, Progress, Step};
use crate::root::StoreKind;

impl Log {
    /// Raises the floor as far as `retain` allows and deletes what lies below it.
    pub(crate) async fn retain(
        &self,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Result<CompactReport, StoreError> {
        let old = self.floor().await?;
        let floor = self.choose_floor(old, now, retain).await?;
        let kept = match self.oldest_kept(floor, floor > old).await {
            Ok(kept) => kept,
            // Somebody else is at it.
            Err(_) if self.floor().await? > floor => return Err(self.objects.unsettled()),
            Err(e) => return Err(e),
        };
        if floor > Lsn::ZERO {
            // Also if it is there already: whoever wrote it may have been killed before it was
            // durable.
            self.objects.ensure(&self.keys.floor(floor), Bytes::new()).await?;
        }
        if floor > old {
            crash_point!("retain::after-floor");
        }
        if self.floor().await? < floor {
            return Err(self.objects.missing(&self.keys.floor(floor)));
        }
        let garbage = self.garbage(floor, kept).await?;
        let lineages =
            if floor > Lsn::ZERO { self.expired_asides(kept).await? } else { Vec::new() };
        let bytes = |listed: &[Listed]| listed.iter().map(|o| o.bytes).sum::<u64>();
        let of_lineages: u64 = lineages.iter().map(|listed| bytes(listed)).sum();
        let total = bytes(&garbage) + of_lineages;
        let counter = progress.step(Step::Deleting, Some(total));
        self.delete_garbage(&garbage, &counter).await?;
        self.delete_lineages(&lineages).await?;
        counter.add(of_lineages);
        self.sweep(floor, kept).await;
        let objects_deleted = (garbage.len() + lineages.iter().map(Vec::len).sum::<usize>()) as u64;
        Ok(CompactReport { floor, objects_deleted, bytes_deleted: total, ..Default::default() })
    }

    /// The first position of the segment that ends at `floor`, the oldest that stays, as the log
    /// has it. A `new` floor must have a snapshot of the same state.
    async fn oldest_kept(&self, floor: Lsn, new: bool) -> Result<Lsn, StoreError> {
        if floor == Lsn::ZERO {
            return Ok(floor);
        }
        // Below the floor nothing else will tell what became of pushes.
        let anchor = self.ensure_writers(floor).await?.anchor;
        let key = self.keys.segment(anchor.first);
        let segment = self.segment(anchor.first).await?;
        let segment = segment.ok_or_else(|| self.objects.missing(&key))?.metadata;
        if Anchor::of(&segment) != anchor || anchor.last != floor {
            return Err(self.contradiction(&key, format!("it does not end at {floor}")));
        }
        if new {
            let key = self.keys.snapshot(floor);
            let snapshot = self.objects.metadata(&key).await?;
            let snapshot = snapshot.ok_or_else(|| self.objects.missing(&key))?.metadata;
            self.check_identity(&key, &snapshot, Kind::Snapshot)?;
            if (snapshot.pages.1, snapshot.sum.1) != (segment.pages.1, segment.sum.1) {
                let text = format!("it is not the state of the log at {floor}");
                return Err(self.contradiction(&key, text));
            }
        }
        Ok(anchor.first)
    }

    /// On a folder: what killed writers left beside the keys. Best effort.
    async fn sweep(&self, floor: Lsn, kept: Lsn) {
        let StoreKind::Folder(root) = self.objects.kind() else { return };
        let (root, keys) = (root.clone(), self.keys.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let stages = keys.stages() + "/";
            let is_dead = |key: &str| match Target::parse(key) {
                Some(target) if key.starts_with(&stages) => {
                    let taken = folder::path_of(&root, &keys.target_key(&target));
                    target.is_below(floor, kept) || taken.exists()
                }
                _ => is_below(key, floor) || Keys::parse_segment(key).is_some_and(|f| f < kept),
            };
            folder::sweep(&root, keys.all(), &is_dead)
        });
        match swept.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(files)) => tracing::debug!(files, "swept what killed writers left"),
            Ok(Err(e)) => tracing::debug!(error = %e, "sweeping stopped; the next one goes on"),
        }
    }

    async fn choose_floor(
        &self,
        old: Lsn,
        now: Micros,
        retain: Duration,
    ) -> Result<Lsn, StoreError> {
        let listed = self.objects.list(&self.keys.snapshots()).await?;
        let mut snapshots: Vec<(Lsn, Micros)> = listed
            .iter()
            .filter_map(|o| Some((Keys::parse_snapshot(&o.key)?, o.modified)))
            .collect();
        snapshots.sort_unstable();
        // The newest is the second of the two that must remain.
        let Some((_, newest)) = snapshots.pop() else { return Ok(old) };
        let retain = i64::try_from(retain.as_micros()).unwrap_or(i64::MAX);
        let cutoff = now.min(newest).0.saturating_sub(retain);
        // A snapshot is younger than the state in it: one that is old enough holds one that is.
        let old_enough = snapshots.iter().filter(|(_, made)| made.0 <= cutoff);
        Ok(old_enough.map(|(lsn, _)| *lsn).max().unwrap_or(old).max(old))
    }

    /// What may be deleted once `floor` counts; `kept` begins the oldest segment that stays.
    async fn garbage(&self, floor: Lsn, kept: Lsn) -> Result<Vec<Listed>, StoreError> {
        let mut garbage = self.old_announcements().await?;
        if floor > Lsn::ZERO {
            let before = Lsn::new(kept.get().saturating_sub(1));
            let segments = self.segments_between(Lsn::ZERO, before).await?;
            garbage.extend(segments.into_iter().map(|(_, listed)| listed));
            let keys = &self.keys;
            for prefix in [keys.deltas(), keys.snapshots(), keys.writers_tables(), keys.floors()] {
                let listed = self.objects.list(&prefix).await?;
                garbage.extend(listed.into_iter().filter(|o| is_below(&o.key, floor)));
            }
        }
        for prefix in [self.keys.bodies(), self.keys.stages()] {
            for listed in self.objects.list(&prefix).await? {
                if self.is_orphan(&listed.key, floor, kept).await? {
                    garbage.push(listed);
                }
            }
        }
        Ok(garbage)
    }

    /// Whether nobody can commit the body or stage at `key` any more, and nobody has.
    async fn is_orphan(&self, key: &str, floor: Lsn, kept: Lsn) -> Result<bool, StoreError> {
        let Some(target) = Target::parse(key) else { return Ok(false) };
        if target.is_below(floor, kept) {
            return Ok(true);
        }
        let Some(found) = self.objects.metadata(&self.keys.target_key(&target)).await? else {
            return Ok(false);
        };
        let named = found.metadata.body.and_then(|name| self.keys.resolve_body(&name));
        Ok(named.as_deref() != Some(key))
    }

    async fn delete_garbage(
        &self,
        garbage: &[Listed],
        counter: &Counter,
    ) -> Result<(), StoreError> {
        let half = garbage.len() / 2;
        for (index, part) in [&garbage[..half], &garbage[half..]].into_iter().enumerate() {
            if index == 1 {
                crash_point!("retain::midway");
            }
            let keys: Vec<String> = part.iter().map(|o| o.key.clone()).collect();
            self.objects.delete_all(&keys).await?;
            counter.add(part.iter().map(|o| o.bytes).sum());
        }
        Ok(())
    }
}

/// Whether the delta, snapshot, table or floor at `key` is of no use once `floor` counts.
fn is_below(key: &str, floor: Lsn) -> bool {
    Keys::parse_delta(key)
        .map(|(from, _)| from)
        .or_else(|| Keys::parse_snapshot(key))
        .or_else(|| Keys::parse_writers(key))
        .or_else(|| Keys::parse_floor(key))
        .is_some_and(|lsn| lsn < floor)
}
