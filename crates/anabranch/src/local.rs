//! What can be told of a replica from its own files.

use std::path::Path;
use std::time::Duration;

use anabranch_format::PageSize;
use anabranch_sqlite::{How, LiveFile};

use crate::error::Error;
use crate::remote::Dialect;
use crate::report::{RemoteStatus, Status};
use crate::rows::Counted;
use crate::session::{LocalChanges, Session};
use crate::state::{Intent, Phase};

/// Creates an empty database at `path`, where nothing may be yet.
pub(crate) fn create_empty(path: &Path, busy: Duration) -> Result<(), Error> {
    LiveFile::create_empty(path, PageSize::DEFAULT, busy)?;
    Ok(())
}

/// The local part of a status.
pub(crate) struct StatusParts {
    changes: LocalChanges,
    unfinished: Option<String>,
}

impl StatusParts {
    pub(crate) fn of(session: &Session) -> Result<Self, Error> {
        let intents = session.sidecar.intents()?;
        let unfinished = match intents.first() {
            _ if session.state.phase == Phase::Publishing => {
                Some("publishing was interrupted; the next sync goes on".to_owned())
            }
            Some((_, Intent::Push(_))) => {
                Some("a push waits for the remote to tell whether it arrived".to_owned())
            }
            Some((_, Intent::Pull(_) | Intent::Rebase(_))) => {
                Some("a pull was interrupted; the next sync finds out how far it came".to_owned())
            }
            None => None,
        };
        Ok(StatusParts { changes: session.local_changes()?, unfinished })
    }

    pub(crate) fn status(
        self,
        session: &Session,
        remote_status: RemoteStatus,
        dialect: Option<Dialect>,
        counted: Option<Counted>,
    ) -> Status {
        let state = &session.state;
        let (tables, tables_skipped) = match counted {
            Some((tables, skipped)) => (Some(tables), skipped),
            None => (None, Vec::new()),
        };
        Status {
            file: session.db.clone(),
            remote: session.remote_name(),
            dialect: Dialect::name(dialect.or(state.dialect)),
            database: state.database.to_string(),
            replica: state.replica.clone(),
            position: state.base.lsn(),
            last_sync: state.settled_at,
            pages: self.changes.size,
            page_size: state.page_size.get(),
            local_pages: self.changes.pages,
            found_by: describe(&self.changes.how),
            tables,
            tables_skipped,
            remote_status,
            unfinished: self.unfinished,
            notes: Vec::new(),
        }
    }
}

fn describe(how: &How) -> String {
    match how {
        How::Chain { frames } => format!("{frames} frames of the -wal since the last look"),
        How::Watched => "what was seen to be written since the last look".to_owned(),
        How::Scan(reason) => format!("a scan of the whole file ({reason})"),
        _ => String::new(),
    }
}
