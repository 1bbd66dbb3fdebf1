//! Where work that blocks is done.
//!
//! One look at a folder takes microseconds; handing it to a thread that may block, and waking up
//! again, takes as long as several. An append is a dozen looks. So what consists of many, and waits
//! for nothing else, is done as a whole on one such thread ([`at_once`]), where each of its parts
//! finds that it may block ([`blocking`]). On any other store the parts wait for the network, and
//! nothing changes.
//!
//! Such work ends only by itself: who stops waiting for it does not stop it.

use std::cell::Cell;
use std::time::Duration;

use crate::error::StoreError;
use crate::root::StoreKind;

thread_local! {
    /// Whether this thread is inside [`at_once`].
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that may block, until it is dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        MAY_BLOCK.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        MAY_BLOCK.set(false);
    }
}

/// Runs what blocks: here if this thread may, else on one that may. `None`: the program is stopping,
/// or `work` panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if MAY_BLOCK.get() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// Does `work`, of a store of this kind, at once on a thread that may block, if that is a folder.
pub(crate) async fn at_once<T, F>(
    kind: &StoreKind,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    if !matches!(kind, StoreKind::Folder(_)) || MAY_BLOCK.get() {
        return Ok(work().await);
    }
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let (_inside, _span) = (Inside::enter(), span.entered());
        futures::executor::block_on(work())
    });
    done.await.map_err(|e| match e.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StoreError::Interrupted,
    })
}

/// Waits, on whatever thread this is.
pub(crate) async fn pause(time: Duration) {
    if MAY_BLOCK.get() {
        std::thread::sleep(time);
    } else {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_parts_of_what_is_done_at_once_run_on_one_thread() {
        let here = std::thread::current().id();
        let parts = || async {
            let first = blocking(|| std::thread::current().id()).await;
            pause(Duration::from_millis(1)).await;
            (first, blocking(|| std::thread::current().id()).await)
        };
        let folder = StoreKind::Folder("/".into());
        let nested = move || async move {
            let inner = at_once(&StoreKind::Folder("/".into()), parts).await;
            (inner.ok(), std::thread::current().id())
        };
        let (inner, outer) = at_once(&folder, nested).await.unwrap();
        assert_eq!(inner, Some((Some(outer), Some(outer))));
        assert_ne!(outer, here);
        assert_eq!(
            at_once(&StoreKind::Bucket, || async { std::thread::current().id() }).await.unwrap(),
            here
        );
        assert!(!MAY_BLOCK.get());
    }

    #[tokio::test]
    async fn a_panic_leaves_no_mark_on_the_thread() {
        let failed = tokio::spawn(async {
            let folder = StoreKind::Folder("/".into());
            at_once(&folder, || async { panic!("as told") }).await
        });
        assert!(failed.await.unwrap_err().is_panic());
        let marked = tokio::task::spawn_blocking(|| MAY_BLOCK.get()).await.unwrap();
        assert!(!marked);
    }
}
