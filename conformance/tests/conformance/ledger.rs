//! What random courses write down of what they were told, and judge by in the end.

use std::collections::BTreeSet;

use anabranch_conformance::rows;

/// A table for the rows of transactions, and a counter of them.
pub(crate) const SCHEMA: &str =
    "CREATE TABLE part(token TEXT, number INTEGER, of INTEGER, filler TEXT);
    CREATE INDEX by_token ON part(token);
    CREATE TABLE counter(n INTEGER);
    INSERT INTO counter VALUES (0);";

/// A number from the environment.
pub(crate) fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

/// `CONFORMANCE_ROUNDS`: how long.
pub(crate) fn rounds() -> u64 {
    from_environment("CONFORMANCE_ROUNDS", 120)
}

/// `CONFORMANCE_SEED`: which course.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    from_environment("CONFORMANCE_SEED", now.map_or(1, |now| now.as_secs() % 1_000_000))
}

/// What must be there, and what may be.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The server merges: rows of all, but of a row that several changed one version.
    pub(crate) heals: bool,
    pub(crate) acknowledged: BTreeSet<String>,
    pub(crate) unknown: BTreeSet<String>,
    /// What was said not to be done.
    pub(crate) refused: BTreeSet<String>,
}

impl Ledger {
    /// Takes over what another one has.
    pub(crate) fn take(&mut self, other: Ledger) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
    }

    /// Compares with what a fresh clone holds.
    pub(crate) fn judge(&self, db: &std::path::Path) {
        let torn = rows(
            db,
            "SELECT token, count(*), count(DISTINCT number), min(of), max(of) FROM part \
             GROUP BY token HAVING count(*) != max(of) OR count(DISTINCT number) != max(of)",
        );
        assert!(torn.is_empty(), "torn or doubled: {torn:?}");
        let there: BTreeSet<String> =
            rows(db, "SELECT DISTINCT token FROM part").into_iter().collect();
        let lost: Vec<_> = self.acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let done: Vec<_> = self.refused.intersection(&there).collect();
        assert!(done.is_empty(), "refused and done: {done:?}");
        let known: BTreeSet<String> = self.acknowledged.union(&self.unknown).cloned().collect();
        let strange: Vec<_> = there.difference(&known).collect();
        assert!(strange.is_empty(), "nobody wrote {strange:?}");
        if !self.heals {
            // Those that merge leave the counter alone.
            let merges = |token: &str| token.starts_with("ours") || token.starts_with("offline");
            let counted = there.iter().filter(|token| !merges(token)).count();
            assert_eq!(rows(db, "SELECT n FROM counter"), [counted.to_string()]);
        }
    }
}
