//! Rebase: what was changed here is done once more, on top of what was changed elsewhere.
//!
//! Three states of one database come in, each as a connection of SQLite: the *base* B that both
//! sides started from, the *local* state L, and a scratch copy of the *remote* state R. What turns B
//! into L, in schema and rows, is applied to the scratch copy, which thereby becomes the result R'.
//! Nothing else is written; whoever called compares the pages of R' with those of L and R. This crate
//! knows neither logs nor live files.
//!
//! The same code serves a replica (local = its file) and a server that merges what a client pushed
//! past a conflict (local = what that client has).
//!
//! ```text
//! schema          tables, indices, views and triggers of B, L and R: on one side only, on both and
//!                 alike, or in conflict; what of them L changed is done in R, tables before the rows,
//!                 the rest after them
//! fate, state     what becomes of each table, and which table of L is which of R, column by column
//! shadow          virtual tables: their shadow tables are carried whole, or built anew, never
//!                 merged
//! outside         full-text indices over another table's rows follow it
//! lost            rows in what the other side dropped
//! candidates      keys of rows that may differ between B and L: from the leaf pages that differ,
//!                 or, where those are too many, by a walk over both tables in key order
//! content         rows of tables without a key: what only has another rowid did not change
//! keys            rows that both sides inserted under a key that SQLite chose get a new key here,
//!                 and what refers to them follows
//! refused         rows of the remote's that a table made anew does not take
//! rows            each changed row against the remote's: applied, or in conflict and decided
//! unique          what waits for a unique index, or collides on it
//! violations      references that only both changes together break
//! apart           the same, where only the remote has one of the two tables
//! orphans         the same, where this side made the table anew that is referred to
//! ```
//!
//! # Order, and memory
//! Keys are kept in a work database of its own (a temporary file); rows are read again when they
//! are decided on. So memory holds a few rows, the caches of SQLite, and no list that grows with
//! the change but the keys that moved. R itself is kept beside the scratch copy until the end, so that
//! what was written over can still be told and put back. The scratch copy is written in many short transactions without a journal on disk:
//! if anything fails it is thrown away.
//!
//! # Safety
//! The databases may come from anybody: connections here run without triggers and foreign keys,
//! with `trusted_schema` off, `cell_size_check` on, and a bound on the size of a value.

mod apart;
mod candidates;
mod carry;
mod cell;
mod columns;
mod compile;
mod conflict;
mod content;
mod decide;
mod declared;
mod engine;
mod error;
mod fate;
mod find;
mod foreign;
mod here;
mod keymap;
mod keys;
mod layered;
mod lost;
mod modules;
mod narrow;
mod needs;
mod objects;
mod orphans;
mod others;
mod outside;
mod plan;
mod put;
mod rebase;
mod rebuild;
mod refused;
mod rows;
mod rows_of;
mod rules;
mod schema;
mod sequence;
mod shadow;
mod sql;
mod state;
mod strings;
mod table;
mod unique;
mod values;
mod violations;
mod work;

pub use candidates::Changed;
pub use conflict::{Conflict, ConflictKind, Decision, Row, Value};
pub use error::RebaseError;
pub use keymap::{KeyMap, MovedKey};
pub use layered::{Interrupts, Layered, LayeredError};
pub use rebase::{
    BoxError, RowChange, Sides, Summary, TableSummary, changed_rows, prepare, rebase,
};
pub use rules::{InsertRule, Policy, Resolve, Rules, Side, TableRules};
