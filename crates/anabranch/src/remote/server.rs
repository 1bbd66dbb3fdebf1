//! Servers: which dialect one speaks, and how that is found out.
//!
//! Nobody says beforehand what is behind a URL. The first request of ours is the probe: an answer in
//! our form, an error included, settles it; one in another form ("no such page", say) means that our
//! dialect is not spoken, and the next one is tried. What was found is remembered in the sidecar, so
//! that no later operation asks; it is found out again once it does not fit any more.

use super::{Dialect, Opening, Place, ServerUrl};
use crate::error::Error;

/// Opens the database at `url`, with the dialect that is remembered or that the server turns out to
/// speak.
pub(super) async fn place(url: ServerUrl, how: &Opening<'_>) -> Result<Box<dyn Place>, Error> {
    match how.dialect {
        // Each dialect is a module beside this one, whose places and logs stand behind the traits.
        None | Some(Dialect::Anabranch | Dialect::Libsql) => {
            Err(Error::NoDialect { remote: url.to_string() })
        }
    }
}
