//! A root: a folder or bucket (or a prefix in one) that holds databases.
//!
//! Owns the names: create-only objects `names/{name}/{seq}.json`, each naming a database id; the
//! highest number counts. A database exists once its floor object does, which is written before the
//! name, so that "has a floor" is the sign of its presence ever after.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_format::{DatabaseId, Lsn};
use bytes::Bytes;
use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{Damage, StoreError};
use crate::folder::Folder;
use crate::keys::{self, Keys};
use crate::location::{self, Location, Place, Scheme};
use crate::log::Log;
use crate::name::DatabaseName;
use crate::objects::{Objects, is_refusal, lack_of_space};

/// How long a connection may take to be made: longer means "offline".
const CONNECT_TIMEOUT: &str = "5 seconds";
/// How long one request may take, its body included.
const REQUEST_TIMEOUT: &str = "120 seconds";
/// How long, and how often, the client itself repeats a request that a store could not serve.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES_MAX: usize = 5;
/// No name object is longer.
const NAME_OBJECT_BYTES_MAX: u64 = 4096;
/// Length of a secret that those who use a root share.
pub const SECRET_BYTES: usize = 32;
/// A name is given to a new database at most this often while others do the same.
const NAME_ROUNDS_MAX: u32 = 16;

/// Settings of a store that are not part of its address.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Endpoint of an S3-compatible service, if not the provider's own. Everything else comes from
    /// the customary environment variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
    pub endpoint: Option<String>,
    /// Directory for temporary files: what is fetched or built lies there for a moment, up to the
    /// size of the database.
    pub scratch: PathBuf,
}

impl StoreOptions {
    /// Temporary files in `scratch`, all else from the environment.
    #[must_use]
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        StoreOptions { endpoint: None, scratch: scratch.into() }
    }
}

/// What kind of store a root is on: it decides how large objects are put.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind {
    /// A local folder, resolved. Large objects are staged and linked.
    Folder(PathBuf),
    /// Memory. Large objects are staged and copied.
    Memory,
    /// A bucket. Large objects are a body and a small object that names it.
    Bucket,
}

/// A folder or bucket that holds databases. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    objects: Objects,
}

/// What became of giving a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The name is the database's now.
    Created,
    /// The name belongs to another database already.
    Taken(DatabaseId),
}

#[derive(Serialize, Deserialize)]
struct NameObject {
    database: DatabaseId,
}

impl Root {
    /// Opens the root at `location`. A folder must exist ([`StoreError::Gone`] otherwise); a bucket
    /// is not asked yet.
    pub async fn open(location: &Location, options: &StoreOptions) -> Result<Root, StoreError> {
        let shown = location.to_string();
        match &location.place {
            Place::Folder(path) => {
                let (path, at) = (path.clone(), shown.clone());
                let folder = tokio::task::spawn_blocking(move || open_folder(&path, &at))
                    .await
                    .map_err(|_| StoreError::Interrupted)??;
                let kind = StoreKind::Folder(folder.root().to_path_buf());
                Ok(Root { objects: Objects::new(Arc::new(folder), kind, shown, options) })
            }
            Place::Bucket { scheme, bucket, prefix } => {
                let store =
                    bucket_store(*scheme, bucket, prefix, options).map_err(|e| match e {
                        Unusable::Endpoint { endpoint, why } => {
                            StoreError::Endpoint { endpoint, why }
                        }
                        Unusable::Settings(e) => {
                            StoreError::Settings { location: shown.clone(), source: Box::new(e) }
                        }
                    })?;
                Ok(Root { objects: Objects::new(store, StoreKind::Bucket, shown, options) })
            }
        }
    }

    /// Like [`Root::open`], but makes a folder that is not there yet, with its parents.
    pub async fn create(location: &Location, options: &StoreOptions) -> Result<Root, StoreError> {
        if let Some(path) = location.is_folder() {
            let (path, at) = (path.to_path_buf(), location.to_string());
            tokio::task::spawn_blocking(move || {
                std::fs::create_dir_all(&path).map_err(|e| folder_error(e, &at))
            })
            .await
            .map_err(|_| StoreError::Interrupted)??;
        }
        Root::open(location, options).await
    }

    /// A new, empty root in memory, for tests.
    #[must_use]
    pub fn memory(options: &StoreOptions) -> Root {
        Root::with_store(Arc::new(InMemory::new()), StoreKind::Memory, options)
    }

    /// A root on any store, for tests that inject faults.
    #[must_use]
    pub fn with_store(
        store: Arc<dyn ObjectStore>,
        kind: StoreKind,
        options: &StoreOptions,
    ) -> Root {
        let shown = store.to_string();
        Root { objects: Objects::new(store, kind, shown, options) }
    }

    /// The place, as people know it; credentials left out.
    #[must_use]
    pub fn location(&self) -> &str {
        self.objects.location()
    }

    /// Makes sure that the store creates an object only if it is absent when told so: the one
    /// thing that keeps two writers apart. Two creates of one new key, the second of which must
    /// fail; the key is deleted again.
    pub async fn verify_conditional_put(&self) -> Result<(), StoreError> {
        let key = format!("probe/{}", uuid::Uuid::new_v4().simple());
        let first = self.objects.create(&key, Bytes::from_static(b"1")).await;
        let second = match &first {
            Ok(_) => self.objects.create(&key, Bytes::from_static(b"2")).await,
            Err(_) => Ok(false),
        };
        // Nobody is harmed by a probe that stays.
        let _ = self.objects.delete(&key).await;
        match (first, second) {
            (Ok(true), Ok(false)) => Ok(()),
            (Ok(_), Ok(_)) => {
                Err(StoreError::ConditionIgnored { location: self.location().to_owned() })
            }
            (Err(e), _) | (_, Err(e)) => Err(unsupported(e)),
        }
    }

    /// The database that has the name `name`, if one has. One that was deleted has it no more.
    pub async fn find(&self, name: &DatabaseName) -> Result<Option<DatabaseId>, StoreError> {
        match self.find_even_deleted(name).await? {
            Some(id) if self.is_deleted(name, &id).await? => Ok(None),
            found => Ok(found),
        }
    }

    /// The database that had the name `name` last. For who knows its id: the log itself tells
    /// whether it was deleted.
    pub async fn find_even_deleted(
        &self,
        name: &DatabaseName,
    ) -> Result<Option<DatabaseId>, StoreError> {
        Ok(self.newest_name(name).await?.map(|(_, id)| id))
    }

    async fn newest_name(
        &self,
        name: &DatabaseName,
    ) -> Result<Option<(u32, DatabaseId)>, StoreError> {
        let listed = self.objects.list(&keys::names(name)).await?;
        let Some(seq) = listed.iter().filter_map(|o| keys::parse_name(&o.key)).max() else {
            self.objects.check_root().await?;
            return Ok(None);
        };
        let key = keys::name(name, seq);
        let bytes = self.objects.read_small(&key, NAME_OBJECT_BYTES_MAX).await?;
        let bytes = bytes.ok_or_else(|| self.objects.missing(&key))?;
        let object: NameObject = serde_json::from_slice(&bytes).map_err(|e| {
            self.objects.corrupt(&key, Damage::Contradiction(format!("malformed JSON: {e}")))
        })?;
        Ok(Some((seq, object.database)))
    }

    /// Gives `name` to the new database `id`, unless another that is not deleted has it. Once this
    /// returns `Created` the database exists, with an empty log. Repeating it is harmless.
    pub async fn name(&self, name: &DatabaseName, id: &DatabaseId) -> Result<Named, StoreError> {
        for _ in 0..NAME_ROUNDS_MAX {
            let seq = match self.newest_name(name).await? {
                Some((_, found)) if found == *id => return Ok(Named::Created),
                Some((seq, found)) if !self.is_deleted(name, &found).await? => {
                    let _ = seq;
                    return Ok(Named::Taken(found));
                }
                Some((seq, _)) => seq.checked_add(1).ok_or_else(|| self.objects.unsettled())?,
                None => 1,
            };
            self.objects.ensure(&Keys::new(id).floor(Lsn::ZERO), Bytes::new()).await?;
            let object = NameObject { database: id.clone() };
            let json = serde_json::to_vec(&object).expect("an id is plain text");
            // Ours or not, the next round reads what stands there.
            self.objects.ensure(&keys::name(name, seq), json.into()).await?;
        }
        Err(self.objects.unsettled())
    }

    /// A secret that all who use this root share, under `server/{name}`: drawn by whoever asks
    /// first, the same ever after. `name` is a constant of the program.
    pub async fn secret(&self, name: &str) -> Result<[u8; SECRET_BYTES], StoreError> {
        let key = keys::of_servers(name);
        let limit = SECRET_BYTES as u64;
        if self.objects.size(&key).await?.is_none() {
            let drawn = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()];
            // Ours or not, what stands there counts.
            self.objects.create(&key, Bytes::from(drawn.concat())).await?;
        }
        let bytes = self.objects.read_small(&key, limit).await?;
        let bytes = bytes.ok_or_else(|| self.objects.missing(&key))?;
        <[u8; SECRET_BYTES]>::try_from(&bytes[..]).map_err(|_| {
            let found = format!("{} bytes instead of {SECRET_BYTES}", bytes.len());
            self.objects.corrupt(&key, Damage::Contradiction(found))
        })
    }

    async fn is_deleted(&self, name: &DatabaseName, id: &DatabaseId) -> Result<bool, StoreError> {
        match self.log(name, id).floor().await {
            Ok(_) => Ok(false),
            Err(StoreError::Deleted { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// The log of the database `id`, which is known here as `name`. Asks nobody yet.
    #[must_use]
    pub fn log(&self, name: &DatabaseName, id: &DatabaseId) -> Log {
        Log::new(self.objects.clone(), name.clone(), id.clone())
    }
}

/// A store that does not know conditional writes says so in many ways.
fn unsupported(e: StoreError) -> StoreError {
    match e {
        StoreError::Failed { location, source, .. } => {
            StoreError::ConditionUnsupported { location, source }
        }
        other => other,
    }
}

fn open_folder(path: &std::path::Path, shown: &str) -> Result<Folder, StoreError> {
    let found = std::fs::metadata(path).map_err(|e| folder_error(e, shown))?;
    if !found.is_dir() {
        return Err(StoreError::NotAFolder { location: shown.to_owned() });
    }
    Folder::open(path)
        .map_err(|e| StoreError::Settings { location: shown.to_owned(), source: Box::new(e) })
}

fn folder_error(e: std::io::Error, shown: &str) -> StoreError {
    let location = shown.to_owned();
    let key = || "the folder".to_owned();
    let kind = e.kind();
    let boxed = |e| Box::new(object_store::Error::Generic { store: "folder", source: Box::new(e) });
    if let Some(why) = lack_of_space(kind) {
        return StoreError::NoSpace { location, key: key(), why, source: boxed(e) };
    }
    match kind {
        _ if is_refusal(kind) => StoreError::Refused { location, key: key(), source: boxed(e) },
        // A file lies there, or on the way.
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => StoreError::NotAFolder { location },
        ErrorKind::NotFound => StoreError::Gone { location, what: "no such folder".to_owned() },
        _ => StoreError::Gone { location, what: e.to_string() },
    }
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
    }
}

/// Why a bucket's client cannot be made.
enum Unusable {
    Endpoint { endpoint: String, why: String },
    Settings(object_store::Error),
}

impl From<object_store::Error> for Unusable {
    fn from(e: object_store::Error) -> Self {
        Unusable::Settings(e)
    }
}

/// The clients take any text for an endpoint, and panic at the first request.
fn check_endpoint(endpoint: Option<String>) -> Result<Option<String>, Unusable> {
    let Some(text) = endpoint else { return Ok(None) };
    let refuse = |why: &str| {
        Err(Unusable::Endpoint { endpoint: location::redacted(&text), why: why.to_owned() })
    };
    let url = match Url::parse(&text) {
        Ok(url) => url,
        Err(e) => return refuse(&e.to_string()),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("it begins neither with https:// nor with http://");
    }
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return refuse("it is not just a host and a path");
    }
    Ok(Some(text))
}

fn bucket_store(
    scheme: Scheme,
    bucket: &str,
    prefix: &str,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, Unusable> {
    let store: Arc<dyn ObjectStore> = match scheme {
        Scheme::S3 => Arc::new(s3(bucket, options)?),
        Scheme::Google => Arc::new(google(bucket)?),
        Scheme::Azure => Arc::new(azure(bucket, options)?),
    };
    if prefix.is_empty() { Ok(store) } else { Ok(Arc::new(PrefixStore::new(store, prefix))) }
}

fn s3(bucket: &str, options: &StoreOptions) -> Result<object_store::aws::AmazonS3, Unusable> {
    let client = |key| AmazonS3ConfigKey::Client(key);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry())
        .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let mut endpoint = options.endpoint.clone();
    for key in [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint] {
        endpoint = endpoint.or_else(|| builder.get_config_value(&key));
    }
    if let Some(endpoint) = check_endpoint(endpoint)? {
        builder = builder.with_allow_http(is_plain(&endpoint));
        // The one that goes before all others, also before those of the environment.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    Ok(builder.build()?)
}

fn is_plain(endpoint: &str) -> bool {
    endpoint.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"))
}

fn google(bucket: &str) -> Result<object_store::gcp::GoogleCloudStorage, Unusable> {
    let client = |key| GoogleConfigKey::Client(key);
    let builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry())
        .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    check_endpoint(builder.get_config_value(&GoogleConfigKey::BaseUrl))?;
    Ok(builder.build()?)
}

fn azure(
    container: &str,
    options: &StoreOptions,
) -> Result<object_store::azure::MicrosoftAzure, Unusable> {
    let client = |key| AzureConfigKey::Client(key);
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retry())
        .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_config(client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let of_environment = || builder.get_config_value(&AzureConfigKey::Endpoint);
    if let Some(endpoint) = check_endpoint(options.endpoint.clone().or_else(of_environment))? {
        builder = builder.with_allow_http(is_plain(&endpoint)).with_endpoint(endpoint);
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_drawn_once() {
        let root = Root::memory(&StoreOptions::new("/nowhere"));
        let first = root.secret("a").await.unwrap();
        assert_eq!(root.secret("a").await.unwrap(), first);
        assert_ne!(root.secret("b").await.unwrap(), first);
        let key = keys::of_servers("c");
        root.objects.create(&key, Bytes::from_static(b"short")).await.unwrap();
        assert!(root.secret("c").await.unwrap_err().is_corrupt());
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_its_credentials() {
        for good in ["http://127.0.0.1:9000", "https://minio.example", "HTTP://host/path"] {
            assert!(check_endpoint(Some(good.into())).is_ok_and(|e| e.as_deref() == Some(good)));
        }
        assert!(check_endpoint(None).is_ok_and(|e| e.is_none()));
        let bad = ["", "nonsense", "minio:9000", "s3://host", "http://", "https://h/x?y", "/a"];
        for text in bad.into_iter().chain(["ftp://me:secret@host"]) {
            let Err(Unusable::Endpoint { endpoint, why }) = check_endpoint(Some(text.into()))
            else {
                panic!("{text} is accepted")
            };
            assert!(!endpoint.contains("secret") && !why.is_empty(), "{endpoint}: {why}");
        }
    }
}
