//! A copy of the file as it was, kept beside it before something else takes its place.
//!
//! The copy is of one view, so that what is kept is exactly what is replaced: whoever replaces the
//! file does so in the transaction of that view. It is written under a temporary name, and gets its
//! own, `FILE.before-repair-1` and so on, complete and durable.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anabranch_format::Pgno;
use anabranch_sqlite::View;
use tempfile::NamedTempFile;

use crate::error::Error;
use crate::image::{create_part, folder_of, refuse_existing, sync_folder};
use crate::sidecar::beside;

const BUFFER_BYTES: usize = 1 << 20;

/// A copy that has no name yet; dropped, it is gone.
pub(crate) struct Kept {
    file: NamedTempFile,
    target: PathBuf,
}

impl Kept {
    /// Copies the database at `db` as `view` shows it.
    pub(crate) fn copy(view: &View<'_>, db: &Path) -> Result<Self, Error> {
        let target = free_name(db)?;
        let file = create_part(&target)?;
        let failed = |source| Error::Copying { path: db.to_owned(), source };
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file.as_file());
        let mut page = vec![0; view.page_one().page_size.bytes()];
        for pgno in (1..=view.db_size()).filter_map(Pgno::new) {
            view.page(pgno, &mut page)?;
            out.write_all(&page).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        drop(out);
        file.as_file().sync_all().map_err(failed)?;
        Ok(Kept { file, target })
    }

    /// Gives the copy its name, durably, and answers it.
    pub(crate) fn keep(self) -> Result<PathBuf, Error> {
        let Kept { file, target } = self;
        let failed =
            |e: tempfile::PersistError| Error::Copying { path: target.clone(), source: e.error };
        file.persist_noclobber(&target).map_err(failed)?;
        sync_folder(folder_of(&target))?;
        Ok(target)
    }
}

fn free_name(db: &Path) -> Result<PathBuf, Error> {
    let mut number = 1u64;
    loop {
        let target = beside(db, &format!(".before-repair-{number}"));
        match refuse_existing(&target) {
            Ok(()) => return Ok(target),
            Err(Error::TargetExists { .. } | Error::LeftBehind { .. }) => number += 1,
            Err(e) => return Err(e),
        }
    }
}
