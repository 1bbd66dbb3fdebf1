//! Stored SQL: texts that a client keeps on the server under numbers of its own; and what a request
//! must be like.

use std::collections::HashMap;

use anabranch_hrana::{Batch, Error, Stmt};

/// Texts that are kept for a stream over HTTP, or a connection over WebSocket.
const TEXTS_MAX: usize = 256;
/// No text that is kept is longer.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// The stored texts that one batch names are together no longer: a few bytes name a long text.
const NAMED_BYTES_MAX: usize = 16 << 20;

/// What a client does against the protocol: the request as a whole fails, and the stream with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misuse(pub(super) String);

/// The texts, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Texts(HashMap<i32, String>);

impl Texts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps `sql` under `id`.
    pub(super) fn store(&mut self, id: i32, sql: String) -> Result<Result<(), Error>, Misuse> {
        if self.0.contains_key(&id) {
            return Err(Misuse(format!("a text is stored under {id} already")));
        }
        if sql.len() > TEXT_BYTES_MAX {
            let message = format!("a text of more than {TEXT_BYTES_MAX} bytes is not stored");
            return Ok(Err(Error::new("SQL_STORE_TOO_LARGE", message)));
        }
        if self.0.len() >= TEXTS_MAX {
            let message = format!("more than {TEXTS_MAX} texts are not stored");
            return Ok(Err(Error::new("SQL_STORE_TOO_MANY", message)));
        }
        self.0.insert(id, sql);
        Ok(Ok(()))
    }

    /// Forgets the text under `id`, if there is one.
    pub(super) fn close(&mut self, id: i32) {
        self.0.remove(&id);
    }

    /// The text that a request means.
    pub(super) fn text(&self, sql: Option<String>, id: Option<i32>) -> Result<String, Misuse> {
        match (sql, id) {
            (Some(sql), None) => Ok(sql),
            (None, Some(id)) => self.0.get(&id).cloned().ok_or_else(|| unknown(id)),
            (None, None) => Err(Misuse("a statement needs 'sql' or 'sql_id'".to_owned())),
            (Some(_), Some(_)) => Err(Misuse("a statement has both 'sql' and 'sql_id'".to_owned())),
        }
    }

    /// The statement with its text in place.
    pub(super) fn stmt(&self, mut stmt: Stmt) -> Result<Stmt, Misuse> {
        stmt.sql = Some(self.text(stmt.sql.take(), stmt.sql_id.take())?);
        Ok(stmt)
    }

    /// The batch with all texts in place.
    pub(super) fn batch(&self, mut batch: Batch) -> Result<Batch, Misuse> {
        let mut named = 0;
        for step in &mut batch.steps {
            let stored = step.stmt.sql.is_none();
            let text = self.text(step.stmt.sql.take(), step.stmt.sql_id.take())?;
            named += if stored { text.len() } else { 0 };
            if named > NAMED_BYTES_MAX {
                return Err(Misuse(format!(
                    "the stored texts of a batch are longer than {NAMED_BYTES_MAX} bytes together"
                )));
            }
            step.stmt.sql = Some(text);
        }
        Ok(batch)
    }
}

fn unknown(id: i32) -> Misuse {
    Misuse(format!("no text is stored under {id}"))
}

/// Checks the conditions of a batch.
pub(super) fn check_batch(batch: &Batch, version: u8) -> Result<(), Misuse> {
    batch.check_conditions(version >= 3).map_err(|e| Misuse(e.to_string()))
}

#[cfg(test)]
mod tests {
    use anabranch_hrana::BatchStep;

    use super::*;

    #[test]
    fn texts_are_kept_within_limits() {
        let mut texts = Texts::default();
        let code = |stored: Result<Result<(), Error>, Misuse>| stored.unwrap().unwrap_err().code;
        assert_eq!(texts.store(-1, "x".repeat(TEXT_BYTES_MAX)), Ok(Ok(())));
        let long = texts.store(0, "x".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(code(long), "SQL_STORE_TOO_LARGE");
        for id in 1..256 {
            assert_eq!(texts.store(id, "SELECT 1".into()), Ok(Ok(())));
        }
        assert_eq!(code(texts.store(300, String::new())), "SQL_STORE_TOO_MANY");
        assert!(texts.store(7, "again".into()).is_err());
        texts.close(7);
        texts.close(7);
        assert_eq!(texts.store(7, "again".into()), Ok(Ok(())));
        assert_eq!(texts.text(None, Some(7)).unwrap(), "again");
    }

    #[test]
    fn a_statement_has_a_text_or_names_one() {
        let texts = Texts::default();
        assert_eq!(texts.text(Some("a".into()), None).unwrap(), "a");
        for (sql, id) in [(None, None), (Some("a".into()), Some(1)), (None, Some(1))] {
            assert!(texts.text(sql, id).is_err());
        }
    }

    #[test]
    fn few_bytes_do_not_name_endless_text() {
        let mut texts = Texts::default();
        texts.store(1, "x".repeat(TEXT_BYTES_MAX)).unwrap().unwrap();
        let stmt = Stmt { sql_id: Some(1), ..Stmt::default() };
        let step = BatchStep { condition: None, stmt };
        let batch = |steps: usize| Batch { steps: vec![step.clone(); steps] };
        assert_eq!(texts.batch(batch(256)).unwrap().steps.len(), 256);
        assert!(texts.batch(batch(257)).is_err());
    }
}
