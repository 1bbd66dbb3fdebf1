//! What is done beside requests: compaction and retention, one database at a time.

use std::sync::Arc;
use std::time::Duration;

use anabranch_format::Metadata;
use anabranch_store::{CompactReport, Progress, StoreError};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::database::Database;
use crate::entropy;
use crate::error::ApiError;
use crate::params::Params;

/// The parameter of a request to compact: history older than so many seconds goes.
pub(crate) const RETAIN_SECONDS: &str = "retain-seconds";

/// Compacts now, as a request asks. Answers what was done.
pub(crate) async fn compact(database: &Database, params: &Params<'_>) -> Result<Value, ApiError> {
    let retain = params.get(RETAIN_SECONDS)?.map(Duration::from_secs);
    let report = database.housekeeper().compact(database, retain).await?;
    Ok(serde_json::to_value(report).unwrap_or(Value::Null))
}

/// Compacts after appends.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    retain: Duration,
    /// Merging takes processors and disk that requests need too.
    turn: Arc<Semaphore>,
}

impl Housekeeper {
    pub(crate) fn new(retain: Duration) -> Self {
        Housekeeper { retain, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Looks, now and then, whether there is something to compact. Nobody waits for it; a look for
    /// which there is no turn is left to a later append.
    pub(crate) fn after_append(&self, database: &Arc<Database>, won: Metadata) {
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else { return };
        let (log, retain) = (database.log().clone(), self.retain);
        tokio::spawn(async move {
            let done = log.maybe_compact(&won, entropy::now(), retain, &Progress::none()).await;
            if let Some(report) = done {
                tracing::info!(database = %log.name(), ?report, "compacted");
            }
            drop(turn);
        });
    }

    /// Compacts now; `retain` instead of the server's own.
    pub(crate) async fn compact(
        &self,
        database: &Database,
        retain: Option<Duration>,
    ) -> Result<CompactReport, StoreError> {
        let _turn = self.turn.acquire().await.map_err(|_| StoreError::Interrupted)?;
        let retain = retain.unwrap_or(self.retain);
        database.log().compact(entropy::now(), retain, &Progress::none()).await
    }
}
