//! One rule each, in plain SQL.

use super::*;
use crate::conflict::{ConflictKind, Decision, Value};
use crate::rules::{InsertRule, Policy, TableRules};

mod support;

use support::{Case, Done};

mod keys;
mod oracle;
mod policies;
mod property;
mod references;
mod unique;
mod without_base;
