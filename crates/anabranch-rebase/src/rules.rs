//! What is done about conflicts: rules for a database and for single tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::conflict::{Conflict, Row};

/// One of the two sides of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What was written here.
    Local,
    /// What came from the remote.
    Remote,
}

/// Who wins where both sides changed one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The local row: the last to sync wins.
    #[default]
    Local,
    /// The remote's row.
    Remote,
    /// Column by column: a column that one side changed keeps that change; one that both changed
    /// becomes the local one. Where one side deleted the row, as [`Policy::Local`].
    Merge,
    /// Neither: nothing is changed, the caller is told.
    Abort,
}

/// What is done about two rows that were inserted under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InsertRule {
    /// Both stay: the local row gets a new key, also if SQLite did not choose the old one. Only
    /// where the key is the rowid, and does not refer to a row of another table; else the policy.
    Renumber,
    /// The local row.
    Local,
    /// The remote's row.
    Remote,
    /// Neither: nothing is changed, the caller is told.
    Abort,
}

/// The rules of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRules {
    /// Instead of the database's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Instead of: a new key where SQLite chose it, else the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insert: Option<InsertRule>,
}

/// A program's own decisions: asked before the policy.
pub trait Resolve: Send + Sync {
    /// Decides on a row in conflict: which row is to stand in the end (`Some(None)`: no row); `None`
    /// leaves it to the policy. Columns that the row does not name are as they would have been. A
    /// row with another key than the conflict's is refused, and one that violates a constraint. Two
    /// rows of which one gets a new key are no conflict to decide on. It is asked again about a row
    /// that is in conflict in another way as well.
    fn resolve(&self, conflict: &Conflict) -> Option<Option<Row>>;
}

/// The rules of a database.
#[derive(Clone, Default)]
pub struct Rules {
    /// For tables without a policy of their own.
    pub policy: Policy,
    /// What is done about two rows under one key, for tables without a rule of their own; `None`: a new
    /// key where SQLite chose it, else the policy.
    pub insert: Option<InsertRule>,
    /// Tables with rules of their own; names in lower case, since SQLite does not tell cases apart.
    pub tables: BTreeMap<String, TableRules>,
    /// Whose schema it is where both sides changed one object; `None`: that is an error.
    pub take_schema: Option<Side>,
    /// Rows that are equal on both sides in key and all columns are one row, also under a key that
    /// SQLite chose: for a replica that does not know whether its own earlier push is what it meets.
    pub equal_rows_are_one: bool,
    /// A program's own decisions.
    pub resolve: Option<Arc<dyn Resolve>>,
}

impl Rules {
    /// The policy of a table.
    #[must_use]
    pub fn policy_of(&self, table: &str) -> Policy {
        self.of(table).and_then(|rules| rules.policy).unwrap_or(self.policy)
    }

    /// The rule of a table for rows that both sides inserted, if there is one.
    #[must_use]
    pub fn insert_rule_of(&self, table: &str) -> Option<InsertRule> {
        self.of(table).and_then(|rules| rules.insert).or(self.insert)
    }

    /// These rules where nobody has the state any more that both sides started from, so that a row
    /// that differs may have been changed on either side: rows that only one side has stand, and of those that differ the remote's
    /// version, or both where [`InsertRule::Renumber`] says so.
    #[must_use]
    pub fn without_base(self) -> Self {
        let both = |(table, rules): (String, TableRules)| {
            let insert = rules.insert.filter(|rule| *rule == InsertRule::Renumber);
            (table, TableRules { policy: None, insert })
        };
        Rules {
            policy: Policy::Remote,
            insert: Some(InsertRule::Remote),
            tables: self.tables.into_iter().map(both).collect(),
            take_schema: Some(Side::Remote),
            equal_rows_are_one: true,
            resolve: self.resolve,
        }
    }

    fn of(&self, table: &str) -> Option<&TableRules> {
        self.tables.get(&table.to_ascii_lowercase())
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules")
            .field("policy", &self.policy)
            .field("insert", &self.insert)
            .field("tables", &self.tables)
            .field("take_schema", &self.take_schema)
            .field("equal_rows_are_one", &self.equal_rows_are_one)
            .field("resolve", &self.resolve.is_some())
            .finish()
    }
}
