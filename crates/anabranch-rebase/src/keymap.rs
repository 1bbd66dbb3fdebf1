//! Keys that were renumbered. Whoever still knows a row under its old key (a program that wrote
//! while the rebase ran, a client whose push was merged on its behalf) says later "row 5" of what the
//! result calls row 7; with the map its later changes find their row.

/// A row that got another key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MovedKey {
    /// The table, as the local side names it.
    pub table: String,
    /// Its rowid there.
    pub from: i64,
    /// Its rowid in the result.
    pub to: i64,
}

/// Old keys and new ones: what an earlier rebase of the same local side renumbered. Given to
/// the next rebase, which looks old keys up in it and adds its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyMap {
    /// In no order; no (table, from) twice.
    pub moved: Vec<MovedKey>,
}
