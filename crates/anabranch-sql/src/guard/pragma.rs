//! The pragmas that statements may use.

use super::unsupported;

/// What a pragma does. Later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// Tells something.
    Read,
    /// Changes the connection.
    Connection,
    /// Changes the database.
    Write,
}

/// Pragmas that tell something, with an argument or without.
const TELLING: [&str; 17] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "integrity_check",
    "quick_check",
    "collation_list",
    "compile_options",
    "data_version",
    "function_list",
    "module_list",
    "pragma_list",
    "freelist_count",
];

/// Pragmas that may be read, but not set: they are the server's, or part of how the file is made.
const READ_ONLY: [&str; 18] = [
    "auto_vacuum",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cell_size_check",
    "encoding",
    "ignore_check_constraints",
    "journal_mode",
    "journal_size_limit",
    "locking_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "query_only",
    "schema_version",
    "secure_delete",
    "synchronous",
    "trusted_schema",
];

/// Pragmas that change the connection, and the value that it begins with. Foreign keys are enforced, as
/// the official server has it; all else is as in stock SQLite.
pub(crate) const OF_CONNECTION: [(&str, &str); 7] = [
    ("foreign_keys", "1"),
    ("defer_foreign_keys", "0"),
    ("recursive_triggers", "0"),
    ("case_sensitive_like", "0"),
    ("legacy_alter_table", "0"),
    ("reverse_unordered_selects", "0"),
    ("analysis_limit", "0"),
];

/// Pragmas that change the database if they are given a value.
const OF_DATABASE: [&str; 2] = ["user_version", "application_id"];

/// Pragmas that change the database in any case.
const WRITING: [&str; 2] = ["optimize", "incremental_vacuum"];

/// What the pragma does, or why it is refused.
pub(super) fn effect(name: &str, has_value: bool) -> Result<Effect, String> {
    let is = |list: &[&str]| list.iter().any(|one| one.eq_ignore_ascii_case(name));
    if is(&TELLING) {
        return Ok(Effect::Read);
    }
    if is(&WRITING) {
        return Ok(Effect::Write);
    }
    if OF_CONNECTION.iter().any(|(one, _)| is(&[*one])) {
        // Without a value this one does nothing, but no other tells its state.
        return Ok(if has_value { Effect::Connection } else { Effect::Read });
    }
    if is(&OF_DATABASE) {
        return Ok(if has_value { Effect::Write } else { Effect::Read });
    }
    if is(&READ_ONLY) {
        return if has_value {
            Err(unsupported(&format!("setting PRAGMA {name}; it may be read")))
        } else {
            Ok(Effect::Read)
        };
    }
    Err(unsupported(&format!("PRAGMA {name}")))
}
