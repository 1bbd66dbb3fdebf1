//! How errors name a place, and where its temporary files go: what reading objects needs to know of
//! where they come from.

use std::path::Path;
use std::sync::Arc;

use anabranch_format::SnapshotError;

use crate::error::{Damage, StoreError};

/// A place, for errors and temporary files. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context(Arc<(String, std::path::PathBuf)>);

impl Context {
    pub(crate) fn new(location: impl Into<String>, scratch: &Path) -> Self {
        Context(Arc::new((location.into(), scratch.to_owned())))
    }

    pub(crate) fn location(&self) -> &str {
        &self.0.0
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.0.1
    }

    pub(crate) fn corrupt(&self, key: &str, damage: impl Into<Damage>) -> StoreError {
        StoreError::Corrupt {
            location: self.location().to_owned(),
            key: key.to_owned(),
            source: Box::new(damage.into()),
        }
    }

    /// The object at `key` cannot be read: it is damaged, unless the error behind that says already
    /// what failed, as where its bytes are still on their way.
    pub(crate) fn damaged(&self, key: &str, damage: Damage) -> StoreError {
        let damage = match damage {
            Damage::Pages(e) => match StoreError::from_pages(e) {
                Ok(named) => return named,
                Err(e) => Damage::Pages(e),
            },
            Damage::Snapshot(SnapshotError::Io(e)) => match e.downcast::<StoreError>() {
                Ok(named) => return named,
                Err(e) => Damage::Snapshot(SnapshotError::Io(e)),
            },
            damage => damage,
        };
        self.corrupt(key, damage)
    }

    pub(crate) fn contradiction(&self, key: &str, text: impl Into<String>) -> StoreError {
        self.corrupt(key, Damage::Contradiction(text.into()))
    }

    pub(crate) fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing { location: self.location().to_owned(), key: key.to_owned() }
    }

    pub(crate) fn scratch_failed(&self, source: std::io::Error) -> StoreError {
        StoreError::Scratch { directory: self.scratch().to_path_buf(), source }
    }
}
