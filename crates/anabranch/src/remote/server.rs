//! Servers: which dialect one speaks, and how that is found out.
//!
//! Nobody says beforehand what is behind a URL. The first request of ours is the probe: an answer in
//! our form, an error included, settles it; one in another form ("no such page", say) means that our
//! dialect is not spoken, and the next one is tried. What was found is remembered in the sidecar, so
//! that no later operation asks; it is found out again once it does not fit any more.

use super::libsql::LibsqlPlace;
use super::ours::{OursPlace, Spoken};
use super::server_error::ServerError;
use super::{Dialect, Opening, Place, ServerUrl, of_store};
use crate::error::Error;

/// Opens the database at `url`, with the dialect that is remembered or that the server turns out to
/// speak.
pub(super) async fn place(url: ServerUrl, how: &Opening<'_>) -> Result<Box<dyn Place>, Error> {
    let remote = url.to_string();
    if how.dialect == Some(Dialect::Libsql) {
        return Ok(libsql(url, how)?);
    }
    let ours = OursPlace::new(url.clone(), how);
    if how.dialect == Some(Dialect::Anabranch) {
        return Ok(Box::new(ours));
    }
    match ours.probe().await.map_err(|e| of_store(&remote, e))? {
        Spoken::Ours => Ok(Box::new(ours)),
        // Not ours, but somebody who wants to know who asks.
        Spoken::Other { status: 401 } => {
            let given = how.options.auth_token.is_some();
            Err(of_store(&remote, ServerError::Unauthorized { given }.at(&remote)))
        }
        Spoken::Other { .. } => {
            let place = libsql(url, how)?;
            match place.is_spoken().await.map_err(|e| of_store(&remote, e))? {
                true => Ok(place),
                false => Err(Error::NoDialect { remote }),
            }
        }
    }
}

fn libsql(url: ServerUrl, how: &Opening<'_>) -> Result<Box<LibsqlPlace>, Error> {
    let remote = url.to_string();
    LibsqlPlace::new(url, how).map(Box::new).map_err(|e| of_store(&remote, e))
}
