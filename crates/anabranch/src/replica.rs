//! A replica: a SQLite file that is kept in step with a remote.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_rebase::{Resolve, Rules, Side};
use anabranch_store::{Head, Progress, causes};

use crate::adopt;
use crate::clone;
use crate::error::{Error, ErrorKind};
use crate::image::folder_of;
use crate::init;
use crate::keep::Keep;
use crate::local::{self, StatusParts};
use crate::pull;
use crate::push;
use crate::remote::{self, Connections, Dialect, Opening, Remote, of_store};
use crate::remote_log::RemoteLog;
use crate::repair;
use crate::report::{
    AdoptReport, CloneReport, InitReport, Note, RemoteStatus, RepairReport, Status, VerifyReport,
};
use crate::session::Session;
use crate::sidecar::HandedOn;
use crate::state::{Phase, RemoteText};
use crate::verify;

/// Settings for everything done with a replica or a remote.
#[derive(Clone)]
pub struct Options {
    /// Endpoint of an S3-compatible service, if not the provider's own.
    pub endpoint: Option<String>,
    /// How long to wait for other programs that hold the database, or the replica, locked.
    pub busy_timeout: Duration,
    /// Told about bytes moved.
    pub progress: Progress,
    /// Name of the database at the remote; plain folders and buckets use `default`. On a server the
    /// path of the URL names it.
    pub name: String,
    /// Sent to servers to prove who asks.
    pub auth_token: Option<AuthToken>,
    /// Sent to libSQL servers that keep the database encrypted with a key of the client's own, in
    /// base64.
    pub encryption_key: Option<EncryptionKey>,
    /// Connections to servers: who shares them saves making them anew.
    pub connections: Connections,
    /// What is done where both sides changed a row, instead of what the replica's settings say.
    pub rules: Option<Rules>,
    /// Asked before the rules, for each row that both sides changed.
    pub resolve: Option<Arc<dyn Resolve>>,
    /// Whose side is taken where that cannot be decided row by row: both changed one object of the
    /// schema, or a table that cannot be merged, or the remote does not keep the state any more that
    /// both started from. `None`: that is an error.
    pub take: Option<Take>,
}

/// Whose side is taken where rows do not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Take {
    /// What is here: the local schema or table; the file's whole state where the common one is gone.
    Local,
    /// What the remote has; where the common state is gone the file becomes that, and a copy of it is
    /// kept beside it.
    Remote,
    /// Both, where the common state is gone: see [`Rules::without_base`]. Of schemas in conflict nobody
    /// can take both, that stays an error.
    Union,
}

impl Take {
    /// The side that counts where one of them must.
    pub(crate) fn side(self) -> Option<Side> {
        match self {
            Take::Local => Some(Side::Local),
            Take::Remote => Some(Side::Remote),
            Take::Union => None,
        }
    }
}

impl From<Side> for Take {
    fn from(side: Side) -> Self {
        match side {
            Side::Local => Take::Local,
            Side::Remote => Take::Remote,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("endpoint", &self.endpoint)
            .field("busy_timeout", &self.busy_timeout)
            .field("name", &self.name)
            .field("auth_token", &self.auth_token)
            .field("encryption_key", &self.encryption_key)
            .field("rules", &self.rules)
            .field("resolve", &self.resolve.is_some())
            .field("take", &self.take)
            .finish_non_exhaustive()
    }
}

/// The key, in base64, that a libSQL server needs to read a database it keeps encrypted. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(String);

impl EncryptionKey {
    /// The key itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for EncryptionKey {
    fn from(key: T) -> Self {
        EncryptionKey(key.into())
    }
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncryptionKey")
    }
}

/// A secret that a server knows its clients by. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthToken(String);

impl AuthToken {
    /// The secret itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for AuthToken {
    fn from(secret: T) -> Self {
        AuthToken(secret.into())
    }
}

impl std::fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthToken")
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            endpoint: None,
            busy_timeout: Duration::from_secs(5),
            progress: Progress::none(),
            name: "default".to_owned(),
            auth_token: None,
            encryption_key: None,
            connections: Connections::default(),
            rules: None,
            resolve: None,
            take: None,
        }
    }
}

/// How [`Replica::repair`] settles a replica that cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Make the file what the remote has; the file as it was is kept beside it.
    TakeRemote,
    /// Take the file as it is, as a replica of its own. If it is exactly what this replica was at an
    /// earlier position, it is at that position again, and a sync brings it forward; else what
    /// differs from the last common state becomes local changes.
    Adopt,
    /// Take the values in the file for meant, although they are what they were earlier: what differs
    /// from the last common state becomes local changes.
    Keep,
    /// Build a new sidecar for a file that lost its own, by finding the file's state in the log of
    /// the remote named here.
    Relink {
        /// The remote.
        remote: OsString,
    },
}

/// How often one call goes on after an earlier attempt turned out to have arrived, each followed by
/// what changed since.
pub(crate) const ROUNDS_MAX: usize = 12;

/// A SQLite file that is kept in step with a remote.
///
/// The file belongs to its applications: any SQLite driver may read and write it at any time, also
/// while an operation of this type runs. Each operation takes a lock against others of its kind,
/// does its work, and leaves nothing behind in memory: a `Replica` is a name, not a connection. Only
/// what [`Replica::open`] has read stays open, for the first operation after it.
///
/// Dropping the future of any operation is safe, as is killing the process: the next operation finds
/// out what happened and goes on.
#[derive(Debug, Clone)]
pub struct Replica {
    file: PathBuf,
    options: Options,
    remote: String,
    database: String,
    /// What is open between operations, while the file is watched.
    keep: Option<Arc<Keep>>,
    /// For the first operation.
    opened: HandedOn,
}

/// Runs blocking work on its own thread; a panic there becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::Panicked(e.to_string())),
    }
}

impl Replica {
    /// Publishes the database at `file` to `remote`, which must hold none yet, and makes the file a
    /// replica. Creates the remote's folder if need be; switches the file to WAL mode and says so.
    ///
    /// Run again after an interruption it goes on where it was.
    pub async fn init(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, InitReport), Error> {
        let (session, report) = init::init(file, remote, &options).await?;
        Ok((Self::of(&session, options), report))
    }

    /// As [`Replica::init`], with a new, empty database at `file`, where nothing may be yet.
    pub async fn init_new(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, InitReport), Error> {
        let path = file.to_owned();
        let busy = options.busy_timeout;
        // First, so that a remote that is taken or out of reach leaves no file behind.
        init::ask(file, remote, &options).await?;
        blocking(move || local::create_empty(&path, busy)).await?;
        Self::init(file, remote, options).await
    }

    /// Makes a new replica of the database at `remote`, as the file `file`, where nothing may be yet.
    pub async fn clone_from(
        remote: &OsStr,
        file: &Path,
        options: Options,
    ) -> Result<(Self, CloneReport), Error> {
        let (session, report) = clone::clone(remote, file, &options).await?;
        Ok((Self::of(&session, options), report))
    }

    /// Takes over the file at `file`, a replica that an official libSQL client made, from the same
    /// remote. What that client had not pushed become local changes; the file that it knows its
    /// replica by is put aside, so that only one of both uses it.
    ///
    /// Run again after an interruption it goes on where it was.
    pub async fn adopt(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, AdoptReport), Error> {
        let (session, report) = adopt::adopt(file, remote, &options).await?;
        Ok((Self::of(&session, options), report))
    }

    /// Opens the replica at `file`.
    pub async fn open(file: &Path, options: Options) -> Result<Self, Error> {
        let (path, settings) = (file.to_owned(), options.clone());
        let session = blocking(move || Session::glance(&path, &settings)).await?;
        let replica = Self::of(&session, options);
        Ok(Replica { opened: HandedOn::new(session.sidecar), ..replica })
    }

    fn of(session: &Session, mut options: Options) -> Self {
        options.name.clone_from(&session.state.name);
        Replica {
            file: session.db.clone(),
            remote: session.remote_name(),
            database: session.state.database.to_string(),
            options,
            keep: None,
            opened: HandedOn::default(),
        }
    }

    /// The same replica, for operations that leave something open for the next.
    pub(crate) fn keeping(&self, keep: Arc<Keep>) -> Self {
        Replica { keep: Some(keep), ..self.clone() }
    }

    /// What is open between operations.
    pub(crate) fn keep(&self) -> Option<&Arc<Keep>> {
        self.keep.as_ref()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The database file, as SQLite resolves its name.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The remote, credentials left out.
    #[must_use]
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// The database's id.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The log at the remote: history, restoring, compacting.
    pub async fn remote_log(&self) -> Result<RemoteLog, Error> {
        let (file, options) = (self.file.clone(), self.options.clone());
        let session = blocking(move || Session::glance(&file, &options)).await?;
        RemoteLog::open(&session.state.remote.to_os_string(), self.options.clone()).await
    }

    /// Names another place for the remote: the folder was moved, the bucket renamed. With `check`,
    /// it must hold this very database.
    pub async fn set_remote(&mut self, remote: &OsStr, check: bool) -> Result<(), Error> {
        let session = self.session().await?;
        let text = remote::absolute(remote)?;
        let mut dialect = None;
        if check {
            let scratch = folder_of(&session.db).to_owned();
            let place = remote::place(&text, &Opening::new(&scratch, &self.options)).await?;
            let failed = |e| of_store(place.location(), e);
            let remote = place.log_of(&session.state.database).await?;
            // Its every answer is about this database, or an error.
            remote.head(&session.state.base.anchor).await.map_err(failed)?;
            place.verify().await.map_err(failed)?;
            dialect = remote.dialect();
        }
        let session = blocking(move || {
            let mut session = session;
            session.state.remote = RemoteText::new(&text);
            session.state.dialect = dialect;
            session.sidecar.begin()?;
            session.sidecar.save_state(&session.state)?;
            session.sidecar.commit_durably()?;
            Ok(session)
        })
        .await?;
        self.remote = session.remote_name();
        Ok(())
    }

    pub(crate) async fn session(&self) -> Result<Session, Error> {
        self.session_for(Ok).await
    }

    /// Begins an operation with what is blocking of it.
    pub(crate) async fn session_for(
        &self,
        work: impl FnOnce(Session) -> Result<Session, Error> + Send + 'static,
    ) -> Result<Session, Error> {
        let (file, options, keep) = (self.file.clone(), self.options.clone(), self.keep.clone());
        let opened = self.opened.take();
        blocking(move || work(Session::open(&file, &options, opened, keep)?)).await
    }

    /// Connects, finishes what an earlier operation left undone, and hands both over.
    pub(crate) async fn ready(&self) -> Result<(Session, Arc<dyn Remote>), Error> {
        let session = self.session_for(recover_locally).await?;
        self.connect(session).await
    }

    /// Connects a session that has recovered locally.
    pub(crate) async fn connect(
        &self,
        session: Session,
    ) -> Result<(Session, Arc<dyn Remote>), Error> {
        let kept = self.keep.as_ref().and_then(|keep| keep.remote_of(&session.state));
        let remote = match kept {
            Some(remote) if session.state.phase == Phase::Ready => remote,
            _ => self.connect_anew(&session).await?.into(),
        };
        let session = init::claimed(session).await?;
        let session = remember_dialect(session, remote.dialect()).await?;
        let (line, mut session) = push::recover(session, &*remote).await?;
        session.notes.extend(line.map(|what| Note::Recovered { what }));
        if let Some(keep) = &self.keep {
            keep.keep_remote(Some((&session.state, &remote)));
        }
        Ok((session, remote))
    }

    async fn connect_anew(&self, session: &Session) -> Result<Box<dyn Remote>, Error> {
        let text = session.state.remote.to_os_string();
        let scratch = folder_of(&session.db);
        if session.state.phase == Phase::Publishing {
            return init::claim(session, &text, scratch, &self.options).await;
        }
        let how = Opening::new(scratch, &self.options).speaking(session.state.dialect);
        remote::connect(&text, &session.state.database, &how).await
    }

    /// Forgets what the server was found to speak, so that the next operation finds it out again;
    /// whether there was anything to forget.
    pub(crate) async fn forget_dialect(&self) -> Result<bool, Error> {
        let session = self.session().await?;
        let remembered = session.state.dialect.is_some();
        if let Some(keep) = &self.keep {
            keep.keep_remote(None);
        }
        remember_dialect(session, None).await?;
        Ok(remembered)
    }

    /// Tells where the replica stands. Changes nothing, and does not wait for other operations. With
    /// `tables`, counts changed rows of each table, for which the base is fetched from the remote;
    /// without `ask_remote` it stays local.
    pub async fn status(&self, tables: bool, ask_remote: bool) -> Result<Status, Error> {
        let (file, options) = (self.file.clone(), self.options.clone());
        let (session, parts) = blocking(move || {
            let session = Session::look(&file, &options)?;
            let parts = StatusParts::of(&session)?;
            Ok((session, parts))
        })
        .await?;
        if !ask_remote {
            return Ok(parts.status(&session, RemoteStatus::NotAsked, None, None));
        }
        let text = session.state.remote.to_os_string();
        let scratch = folder_of(&session.db).to_owned();
        let database = &session.state.database;
        let base = session.state.base.lsn();
        let asked = async {
            let how = Opening::new(&scratch, &self.options).speaking(session.state.dialect);
            let remote = remote::connect(&text, database, &how).await?;
            let head = head(&session, &*remote).await?.anchor.last;
            Ok::<_, Error>((head, remote))
        };
        let (head, remote) = match asked.await {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
            // What is here can be told all the same.
            Err(e) => {
                let reason = causes(&e);
                let there = match e.is_offline() {
                    true => RemoteStatus::Offline { reason },
                    false => RemoteStatus::Trouble { reason },
                };
                return Ok(parts.status(&session, there, None, None));
            }
        };
        let counted = match tables {
            true => Some(verify::table_changes(&session, &*remote, &self.options).await?),
            false => None,
        };
        let there = match remote.frames_between(base, head) {
            None | Some(0) => RemoteStatus::UpToDate,
            Some(frames) => RemoteStatus::Ahead { head, frames },
        };
        Ok(parts.status(&session, there, remote.dialect(), counted))
    }

    /// Compares the file with the remote at the replica's position, page by page.
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        let (session, remote) = self.ready().await?;
        verify::verify(session, &*remote, &self.options).await
    }

    /// Settles a replica that cannot go on by itself.
    pub async fn repair(file: &Path, how: Repair, options: Options) -> Result<RepairReport, Error> {
        repair::repair(file, how, &options).await
    }
}

/// Finishes what can be decided from the file alone.
pub(crate) fn recover_locally(mut session: Session) -> Result<Session, Error> {
    adopt::finish(&mut session)?;
    if let Some(what) = pull::recover(&mut session)? {
        session.notes.push(Note::Recovered { what });
    }
    Ok(session)
}

/// Remembers what the remote was found to speak.
async fn remember_dialect(session: Session, dialect: Option<Dialect>) -> Result<Session, Error> {
    if session.state.dialect == dialect {
        return Ok(session);
    }
    blocking(move || {
        let mut session = session;
        session.state.dialect = dialect;
        session.sidecar.begin()?;
        session.sidecar.save_state(&session.state)?;
        session.sidecar.commit_durably()?;
        Ok(session)
    })
    .await
}

/// The end of the remote's log.
pub(crate) async fn head(session: &Session, remote: &dyn Remote) -> Result<Head, Error> {
    let known = &session.state.base.anchor;
    remote.head(known).await.map_err(|e| of_store(&session.remote_name(), e))
}

/// How many pages changed here.
pub(crate) async fn count(session: Session) -> Result<(Session, u64), Error> {
    blocking(move || {
        let changes = session.local_changes()?;
        Ok((session, changes.pages))
    })
    .await
}
