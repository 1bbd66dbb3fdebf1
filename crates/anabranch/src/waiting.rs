//! Waiting for a remote that cannot tell of news by itself.
//!
//! It is asked again and again, ever further apart: soon after something happened more is likely to
//! follow, and a remote where nothing happens costs little. The pauses are jittered, so that many
//! replicas do not ask in step. A file notification, where there is one, only shortens a pause: it
//! may be missed (folders on other machines send none), so that probing goes on beside it.

use std::future::Future;
use std::time::Duration;

use anabranch_store::StoreError;

use crate::entropy;
use crate::notice::Notice;

/// After so many probes that found nothing the whole head is worth a look: that the key after the
/// known one is absent never proves that the log is still there and goes on from it.
const PROBES_BEFORE_HEAD: u32 = 64;

/// No pause is longer: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How far apart a remote is asked for news: the pauses begin with `first` and grow up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// The first pause after something happened.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Probing {
    /// A folder: a look at one name.
    pub const FOLDER: Probing =
        Probing { first: Duration::from_millis(50), max: Duration::from_secs(2) };
    /// A bucket or another machine: each look is a request, which may cost money.
    pub const REMOTE: Probing =
        Probing { first: Duration::from_secs(1), max: Duration::from_secs(30) };
    /// Never.
    pub const NEVER: Probing = Probing { first: Duration::ZERO, max: Duration::ZERO };

    /// At most `max` apart; never, if that is zero.
    #[must_use]
    pub fn at_most(self, max: Duration) -> Self {
        let max = max.min(LONGEST);
        Probing { first: self.first.min(max), max }
    }

    /// Whether it is never asked.
    #[must_use]
    pub fn is_never(&self) -> bool {
        self.max.is_zero()
    }

    /// The pauses, each a little shorter or longer than it should be.
    pub(crate) fn pauses(self) -> Pauses {
        Pauses { next: self.first, max: self.max }
    }
}

/// Growing, jittered pauses.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
}

impl Pauses {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        // From 3/4 to 5/4 of it.
        let eighths = u32::try_from(entropy::seed() % 5).unwrap_or(0) + 6;
        pause * eighths / 8
    }
}

/// Returns once `probe` says that the log may have moved, or is due for a closer look.
pub(crate) async fn by_probing<F>(
    probing: &Probing,
    notice: Option<&Notice>,
    probe: impl Fn() -> F + Send + Sync,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<bool, StoreError>> + Send,
{
    if probing.is_never() {
        return std::future::pending().await;
    }
    let mut pauses = probing.pauses();
    for _ in 0..PROBES_BEFORE_HEAD {
        if probe().await? {
            return Ok(());
        }
        let pause = tokio::time::sleep(pauses.next());
        match notice {
            Some(notice) => {
                tokio::select! { () = pause => {}, () = notice.noticed() => {} }
            }
            None => pause.await,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_no_further() {
        let probing = Probing::REMOTE.at_most(Duration::from_secs(10));
        let mut pauses = probing.pauses();
        let mut full = probing.first;
        for _ in 0..20 {
            let pause = pauses.next();
            assert!(pause >= full * 3 / 4 && pause <= full * 5 / 4, "{pause:?} for {full:?}");
            full = (full * 2).min(probing.max);
        }
        assert_eq!(full, Duration::from_secs(10));
        assert!(Probing::REMOTE.at_most(Duration::MAX).pauses().next() < LONGEST);
        assert!(Probing::FOLDER.at_most(Duration::ZERO).is_never() && Probing::NEVER.is_never());
    }

    #[tokio::test]
    async fn a_wait_ends_with_news_an_error_or_for_a_closer_look() {
        let quick = Probing { first: Duration::from_micros(1), max: Duration::from_micros(2) };
        let probes = AtomicU32::new(0);
        let count = || probes.fetch_add(1, Ordering::Relaxed);
        by_probing(&quick, None, || async { Ok(count() == 3) }).await.unwrap();
        assert_eq!(probes.swap(0, Ordering::Relaxed), 4);
        by_probing(&quick, None, || async { Ok(count() == u32::MAX) }).await.unwrap();
        assert_eq!(probes.swap(0, Ordering::Relaxed), PROBES_BEFORE_HEAD);
        let failed = by_probing(&quick, None, || async { Err(StoreError::Interrupted) }).await;
        assert!(matches!(failed, Err(StoreError::Interrupted)));
        let never = by_probing(&Probing::NEVER, None, || async { Ok(count() == 0) });
        assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
        assert_eq!(probes.load(Ordering::Relaxed), 0, "not one probe");
    }
}
