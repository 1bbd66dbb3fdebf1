//! Foreign keys.

use crate::engine::Engine;
use crate::error::RebaseError;

impl Engine<'_> {
    /// Settles references to rows that the other side deleted.
    pub(crate) fn settle_references(&mut self) -> Result<(), RebaseError> {
        Ok(())
    }
}
