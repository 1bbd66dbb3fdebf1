//! What SQL may ask for: SQLite's authorizer, asked about each thing that a statement compiles to.
//!
//! Texts are not searched for words, with one exception: `VACUUM` compiles without asking. The answers
//! do not depend on who is asking, so a compiled statement may be kept and run with other rights;
//! whether it writes is a matter of running it.
//!
//! | refused | why |
//! |---|---|
//! | ATTACH, DETACH, VACUUM INTO | other files of this machine |
//! | VACUUM | rewrites every page, and so the whole database in the log and in all replicas |
//! | pragmas that are not on the list, or set what only may be read | they belong to the server: journal, locks, memory, files |
//! | `load_extension`, `fts3_tokenizer` | code and addresses from outside |
//! | `sqlite_dbpage`, `dbstat`, and tables made of them | raw pages |
//! | modules other than those of full text search and R-trees | unknown to other programs that open the file |
//! | `libsql_vector_idx`, `vector_top_k` | there are no vector indexes |
//!
//! SQLite itself refuses writes to `sqlite_schema` and to shadow tables: the connection is defensive.
//!
//! The guard also notes what a statement leaves behind in the connection (temporary objects, changed
//! pragmas): what it says of a statement is known only when it is compiled, so such statements are
//! never kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use crate::clock::Clock;

mod pragma;

pub(crate) use pragma::{Effect, OF_CONNECTION};

/// Tables that show the file instead of what is in it.
const RAW_TABLES: [&str; 2] = ["sqlite_dbpage", "dbstat"];

/// Modules that virtual tables may be made of.
const MODULES: [&str; 6] = ["fts3", "fts4", "fts5", "fts5vocab", "rtree", "rtree_i32"];

/// Functions that no statement may call.
const FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// The guard of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// Everything is allowed: the program itself is at work.
    open: AtomicBool,
    seen: Mutex<Seen>,
}

/// What was asked about while one statement was compiled.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// What was refused, as a message.
    pub(crate) refused: Option<String>,
    /// The statement makes temporary objects, or changes them.
    pub(crate) temp: bool,
    /// What a pragma does.
    pub(crate) pragma: Option<Effect>,
}

impl Guard {
    /// Puts a guard before `conn`. It looks at the clock, too: SQLite's progress handler is not called
    /// while views are put into one another.
    pub(crate) fn install(conn: &mut Connection, clock: Clock) -> rusqlite::Result<Self> {
        let (open, seen) = (AtomicBool::new(false), Mutex::default());
        let guard = Guard(Arc::new(Shared { clock, open, seen }));
        let asked = guard.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| asked.answer(&context)))?;
        Ok(guard)
    }

    /// Opens or closes the guard.
    pub(crate) fn set_open(&self, open: bool) {
        self.0.open.store(open, Ordering::Relaxed);
    }

    /// What was asked since the last call.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, context: &AuthContext<'_>) -> Authorization {
        if self.0.open.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        if self.0.clock.is_reached() {
            return Authorization::Deny;
        }
        let refused = match context.action {
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => refuse_table(table_name),
            AuthAction::Function { function_name } => refuse_function(function_name),
            AuthAction::Pragma { pragma_name, pragma_value } => {
                self.pragma(pragma_name, pragma_value, context.database_name)
            }
            AuthAction::CreateVtable { module_name, .. } => refuse_module(module_name),
            AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
            | AuthAction::DropTempIndex { .. }
            | AuthAction::DropTempTable { .. }
            | AuthAction::DropTempTrigger { .. }
            | AuthAction::DropTempView { .. } => {
                self.seen().temp = true;
                None
            }
            AuthAction::Attach { .. } | AuthAction::Unknown { code: ffi::SQLITE_ATTACH, .. } => {
                Some(unsupported("ATTACH: a connection has one database"))
            }
            AuthAction::Detach { .. } | AuthAction::Unknown { code: ffi::SQLITE_DETACH, .. } => {
                Some(unsupported("DETACH: a connection has one database"))
            }
            AuthAction::Unknown { code, .. } => {
                Some(unsupported(&format!("what SQLite calls action {code}")))
            }
            // Reading, writing, and changing the schema of what is in the file: that is what
            // statements are for.
            _ => None,
        };
        match refused {
            None => Authorization::Allow,
            Some(message) => {
                self.seen().refused.get_or_insert(message);
                Authorization::Deny
            }
        }
    }

    fn pragma(&self, name: &str, value: Option<&str>, database: Option<&str>) -> Option<String> {
        match pragma::effect(name, value.is_some()) {
            Ok(effect) => {
                let mut seen = self.seen();
                let is_temp = database.is_some_and(|name| name.eq_ignore_ascii_case("temp"));
                seen.temp |= is_temp && effect != Effect::Read;
                seen.pragma = seen.pragma.max(Some(effect));
                None
            }
            Err(message) => Some(message),
        }
    }
}

fn is_one_of(name: &str, list: &[&str]) -> bool {
    list.iter().any(|one| one.eq_ignore_ascii_case(name))
}

fn refuse_table(name: &str) -> Option<String> {
    is_one_of(name, &RAW_TABLES).then(|| unsupported(&format!("table {name}")))
}

fn refuse_function(name: &str) -> Option<String> {
    if name.eq_ignore_ascii_case("libsql_vector_idx") {
        return Some(no_vector_index(name));
    }
    is_one_of(name, &FUNCTIONS).then(|| unsupported(&format!("function {name}()")))
}

fn refuse_module(name: &str) -> Option<String> {
    if is_one_of(name, &MODULES) {
        return None;
    }
    Some(unsupported(&format!("virtual tables of module {name}; there are {}", MODULES.join(", "))))
}

/// The message of a refusal.
fn unsupported(what: &str) -> String {
    format!("unsupported statement: this server does not allow {what}")
}

/// The message for functions that need a vector index.
pub(crate) fn no_vector_index(name: &str) -> String {
    unsupported(&format!(
        "{name}(): it has no vector indexes; compare with vector_distance_cos() or \
         vector_distance_l2() instead"
    ))
}

/// `VACUUM` compiles without asking.
pub(crate) fn refuse_vacuum() -> String {
    unsupported(
        "VACUUM: it would rewrite every page, in the log and in all replicas; free pages are used \
         again without it",
    )
}
