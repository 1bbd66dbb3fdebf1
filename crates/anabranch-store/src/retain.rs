//! Retention: deleting what nobody needs any more.
//!
//! The new floor is a snapshot that is old enough (everything younger than `retain` can still be
//! restored: the snapshot lies before it) and has a newer verified snapshot after it. The floor
//! object is written *first*; from then on nobody believes anything about keys below it, and only
//! then are they deleted. Stopped halfway, the next run goes on: it deletes below the floor that
//! counts, not below the one it would choose.
//!
//! The last segment before the floor stays: a replica that stands exactly there reads it as its
//! anchor. Time decides only how much is kept, never whether something is right: and a clock that
//! runs ahead of the store's is not believed.

use std::time::Duration;

use anabranch_format::{Lsn, Micros};
use bytes::Bytes;

use crate::compact::CompactReport;
use crate::error::StoreError;
use crate::fault::crash_point;
use crate::folder;
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
        if floor > old {
            self.objects.create(&self.keys.floor(floor), Bytes::new()).await?;
            crash_point!("retain::after-floor");
        }
        let kept =
            if floor == Lsn::ZERO { floor } else { self.writers_at(floor).await?.anchor.first };
        let garbage = self.garbage(floor, kept).await?;
        let total = garbage.iter().map(|o| o.bytes).sum();
        let counter = progress.step(Step::Deleting, Some(total));
        self.delete_garbage(&garbage, &counter).await?;
        self.sweep(kept).await;
        let objects_deleted = garbage.len() as u64;
        Ok(CompactReport { floor, objects_deleted, bytes_deleted: total, ..Default::default() })
    }

    /// On a folder: what killed writers left beside the log's keys. Best effort.
    async fn sweep(&self, kept: Lsn) {
        let StoreKind::Folder(root) = self.objects.kind() else { return };
        let (root, log) = (root.clone(), self.keys.log());
        let is_dead = move |key: &str| Keys::parse_segment(key).is_some_and(|first| first < kept);
        let swept = tokio::task::spawn_blocking(move || folder::sweep(&root, &log, &is_dead)).await;
        match swept {
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
        let mut garbage = Vec::new();
        if floor > Lsn::ZERO {
            let before = Lsn::new(kept.get().saturating_sub(1));
            let segments = self.segments_between(Lsn::ZERO, before).await?;
            garbage.extend(segments.into_iter().map(|(_, listed)| listed));
            let below = |key: &str| {
                Keys::parse_delta(key)
                    .map(|d| d.0)
                    .or_else(|| Keys::parse_snapshot(key))
                    .or_else(|| Keys::parse_writers(key))
                    .or_else(|| Keys::parse_floor(key))
                    .is_some_and(|lsn| lsn < floor)
            };
            let keys = &self.keys;
            for prefix in [keys.deltas(), keys.snapshots(), keys.writers_tables(), keys.floors()] {
                let listed = self.objects.list(&prefix).await?;
                garbage.extend(listed.into_iter().filter(|o| below(&o.key)));
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
