//! Keeps copies of a SQLite database in step.
//!
//! Each copy, a *replica*, is an ordinary SQLite file that any program writes with any SQLite
//! driver, online or offline. [`Replica::sync`] sends what changed and fetches what others changed,
//! through a *remote*: a folder, an S3, GCS or Azure bucket, or a server.
//!
//! ```no_run
//! # async fn example() -> Result<(), anabranch::Error> {
//! use anabranch::{Options, Replica};
//!
//! let (replica, _) =
//!     Replica::clone_from("s3://bucket/app".as_ref(), "app.db".as_ref(), Options::default())
//!         .await?;
//! // ... any program reads and writes app.db, online or not ...
//! let report = replica.sync().await?;
//! println!("at position {}", report.position);
//! # Ok(())
//! # }
//! ```
//!
//! Without an async runtime, [`blocking`] has the same operations.
//!
//! The SQLite that is linked in must have `DBPAGE_VTAB` and `SNAPSHOT` compiled in; the build says
//! how if it has not.

mod adopt;
mod clone;
mod conflicts;
mod crash;
mod deadline;
mod entropy;
mod error;
mod exchange;
mod image;
mod init;
mod journal;
mod keep;
mod kept;
mod layers;
mod local;
mod lock;
mod notice;
mod page_count;
mod page_spool;
mod preview;
mod pull;
mod push;
mod read_ahead;
mod rebase;
mod remote;
mod remote_log;
mod repair;
mod replica;
mod report;
mod rows;
mod session;
mod settings;
mod sidecar;
mod state;
mod transaction_hash;
mod verify;
mod waiting;
mod watch;

pub mod blocking;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use adopt::AdoptError;
pub use anabranch_format::{Lsn, Micros, WriterId};
pub use anabranch_rebase::{
    Conflict, ConflictKind, Decision, InsertRule, Policy, Resolve, Row, RowChange, Rules, Side,
    TableRules, Value,
};
pub use anabranch_sqlite::FileError;
pub use anabranch_store::{At, CompactReport, Progress, ProgressEvent, Step, StoreError};
pub use conflicts::{Resolution, Setting};
pub use error::{Error, ErrorKind};
pub use journal::{ConflictEntry, ConflictFilter};
pub use preview::{Differing, PREVIEW_CONFLICTS_MAX, Preview};
pub use remote::{
    Connections, FrameFault, LibsqlError, MergedConflicts, RETAIN_DEFAULT, ServerError, ServerUrl,
    ServerUrlError, Spot,
};
pub use remote_log::RemoteLog;
pub use replica::{AuthToken, EncryptionKey, Options, Repair, Replica, Take};
pub use report::{
    AdoptReport, CloneReport, HistoryEntry, InitReport, Note, Offline, PullReport, Pulled,
    PushReport, Pushed, Rebased, RemoteStatus, RepairReport, RestoreReport, Status, SyncReport,
    TableChanges, TableRebased, VerifyReport,
};
pub use waiting::Probing;
pub use watch::{Held, WatchEvent, WatchOptions, WatchReport, WatchState};
