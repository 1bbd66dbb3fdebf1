//! One statement, with what is bound to it.

use serde::{Deserialize, Serialize};

use crate::Value;
use crate::wire::null_default;

/// One statement: its text, or the number of a text that was stored before, and its arguments.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stmt {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The number of a stored text, instead of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_id: Option<i32>,
    /// Bound by position.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
    /// Bound by name.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub named_args: Vec<NamedArg>,
    /// Whether the client wants rows. Servers send them in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub want_rows: Option<bool>,
}

impl Stmt {
    /// The statement `sql`, without arguments.
    pub fn new(sql: impl Into<String>) -> Self {
        Stmt { sql: Some(sql.into()), ..Stmt::default() }
    }
}

/// An argument that is bound by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedArg {
    /// The name, with or without the character that leads it in the text.
    pub name: String,
    /// The value.
    pub value: Value,
}
