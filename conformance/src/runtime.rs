//! One asynchronous runtime for the proxies, the mocks and the requests of all tests.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// The runtime, started on first use.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be started")
    })
}

/// Awaits what a test does with an asynchronous library, on the runtime of all.
pub fn block_on<F: Future>(task: F) -> F::Output {
    runtime().block_on(task)
}
