//! A lexical look at SQL texts, without a connection.
//!
//! Texts are looked at, never rebuilt: names of result columns come from the text as it was received.
//! What is said here decides about order and waiting (does a statement begin a transaction, does it
//! write), never about what is allowed: that is the guard's, which sees what SQLite compiled. A text
//! that is read wrongly here at worst waits for nothing or is refused by SQLite.
//!
//! Everything is one pass over the text, without allocation.

use std::borrow::Cow;
use std::ops::Range;

mod token;

pub use token::is_blank;
use token::{Kind, Token, Tokens};

/// What kind of statement a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// `BEGIN`.
    Begin(Mode),
    /// `COMMIT` or `END`.
    Commit,
    /// `ROLLBACK` of the whole transaction.
    Rollback,
    /// `ROLLBACK TO` a savepoint: the transaction stays open.
    RollbackTo,
    /// `SAVEPOINT`: outside a transaction it begins one.
    Savepoint,
    /// `RELEASE`: of the outermost savepoint it commits.
    Release,
    /// Reads at most: `SELECT`, `VALUES`, `EXPLAIN`, `WITH … SELECT`.
    Read,
    /// May write: everything else that has a name of its own.
    Write,
    /// Only SQLite can tell: `PRAGMA`, and what is no statement at all.
    Unknown,
}

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The lock is taken with the first write.
    Deferred,
    /// The write lock is taken at once.
    Immediate,
    /// In WAL mode the same as `Immediate`.
    Exclusive,
    /// `BEGIN READONLY`, an extension of the libSQL clients, and `BEGIN TRANSACTION READONLY`, which
    /// SQLite reads as the name of the transaction. Runs as `Deferred`.
    ReadOnly,
}

/// What a statement does to rows, for the counts in its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// `INSERT` or `REPLACE`.
    Insert,
    /// `UPDATE` or `DELETE`.
    Other,
    /// Not a statement about rows.
    None,
}

/// The class of the first statement of `sql`.
#[must_use]
pub fn class(sql: &str) -> Class {
    let mut tokens = Tokens::new(sql).skip_semicolons();
    let Some(first) = tokens.next() else { return Class::Unknown };
    if first.kind != Kind::Word {
        return Class::Unknown;
    }
    let is = |word: &str| first.text.eq_ignore_ascii_case(word);
    if is("SELECT") || is("VALUES") || is("EXPLAIN") {
        Class::Read
    } else if is("BEGIN") {
        Class::Begin(mode(tokens))
    } else if is("COMMIT") || is("END") {
        Class::Commit
    } else if is("ROLLBACK") {
        rollback(tokens)
    } else if is("SAVEPOINT") {
        Class::Savepoint
    } else if is("RELEASE") {
        Class::Release
    } else if is("WITH") {
        match main_of_with(tokens) {
            Some((_, false)) => Class::Read,
            Some((_, true)) => Class::Write,
            None => Class::Unknown,
        }
    } else if WRITES.iter().any(|word| is(word)) {
        Class::Write
    } else {
        Class::Unknown
    }
}

/// First words of statements that may write.
const WRITES: [&str; 12] = [
    "INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE",
    "VACUUM", "ATTACH", "DETACH",
];

/// What the first statement of `sql` does to rows.
pub(crate) fn changes(sql: &str) -> Changes {
    let mut tokens = Tokens::new(sql).skip_semicolons();
    let Some(first) = tokens.next() else { return Changes::None };
    let word = if first.text.eq_ignore_ascii_case("WITH") {
        match main_of_with(tokens) {
            Some((word, true)) => word,
            _ => return Changes::None,
        }
    } else {
        first.text
    };
    if word.eq_ignore_ascii_case("INSERT") || word.eq_ignore_ascii_case("REPLACE") {
        Changes::Insert
    } else if word.eq_ignore_ascii_case("UPDATE") || word.eq_ignore_ascii_case("DELETE") {
        Changes::Other
    } else {
        Changes::None
    }
}

/// Whether the first statement of `sql` begins with `word`.
pub(crate) fn begins_with(sql: &str, word: &str) -> bool {
    Tokens::new(sql)
        .skip_semicolons()
        .next()
        .is_some_and(|first| first.kind == Kind::Word && first.text.eq_ignore_ascii_case(word))
}

/// The first statement of `sql`, without blanks, comments and semicolons around it, and what follows.
/// The statement is empty if there is none.
///
/// A trigger's body belongs to its statement.
#[must_use]
pub fn split(sql: &str) -> (&str, &str) {
    let (statement, rest) = split_at(sql);
    (&sql[statement], &sql[rest..])
}

/// The same as places in the text.
pub(crate) fn split_at(sql: &str) -> (Range<usize>, usize) {
    let mut tokens = Tokens::new(sql).skip_semicolons();
    let mut state = Ending::default();
    let mut range: Option<Range<usize>> = None;
    while let Some(token) = tokens.next() {
        if token.kind == Kind::Semicolon && state.semicolon() {
            let statement = range.unwrap_or(token.start..token.start);
            return (statement, tokens.position());
        }
        state.token(&token);
        let end = token.start + token.text.len();
        range = Some(range.map_or(token.start..end, |range| range.start..end));
    }
    (range.unwrap_or(sql.len()..sql.len()), sql.len())
}

/// The one statement of `sql`; `Err` says how many there are instead: none, or more than one.
pub(crate) fn single(sql: &str) -> Result<Range<usize>, Count> {
    let (statement, rest) = split_at(sql);
    if statement.is_empty() {
        return Err(Count::None);
    }
    if split_at(&sql[rest..]).0.is_empty() { Ok(statement) } else { Err(Count::Many) }
}

/// Not exactly one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    None,
    Many,
}

/// `sql` as SQLite understands it: `BEGIN READONLY`, which only libSQL knows, becomes
/// `BEGIN DEFERRED`. All else stays as it is, to the byte.
#[must_use]
pub fn plain(sql: &str) -> Cow<'_, str> {
    let mut tokens = Tokens::new(sql).skip_semicolons();
    if !tokens.next().is_some_and(|token| token.is_word("BEGIN")) {
        return Cow::Borrowed(sql);
    }
    match tokens.next() {
        Some(word) if word.is_word("READONLY") => {
            let end = word.start + word.text.len();
            Cow::Owned(format!("{}DEFERRED{}", &sql[..word.start], &sql[end..]))
        }
        _ => Cow::Borrowed(sql),
    }
}

/// The mode of a `BEGIN`, whose other words `tokens` has.
fn mode(mut tokens: Tokens<'_>) -> Mode {
    let Some(mut word) = tokens.next() else { return Mode::Deferred };
    if word.is_word("TRANSACTION") {
        match tokens.next() {
            Some(name) => word = name,
            None => return Mode::Deferred,
        }
        return if word.is_word("READONLY") { Mode::ReadOnly } else { Mode::Deferred };
    }
    if word.is_word("IMMEDIATE") {
        Mode::Immediate
    } else if word.is_word("EXCLUSIVE") {
        Mode::Exclusive
    } else if word.is_word("READONLY") {
        Mode::ReadOnly
    } else {
        Mode::Deferred
    }
}

/// `ROLLBACK [TRANSACTION [name]] [TO …]`.
fn rollback(tokens: Tokens<'_>) -> Class {
    for token in tokens {
        if token.is_word("TO") {
            return Class::RollbackTo;
        }
        if token.kind != Kind::Word {
            break;
        }
    }
    Class::Rollback
}

/// The word that begins what a `WITH` is for, and whether it writes. It follows a closing parenthesis
/// on the outermost level: nothing else that may stand there is one of these words.
fn main_of_with(tokens: Tokens<'_>) -> Option<(&str, bool)> {
    let mut depth = 0_usize;
    let mut after_table = false;
    for token in tokens {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon => return None,
            Kind::Word if depth == 0 && after_table => {
                if token.is_word("SELECT") || token.is_word("VALUES") {
                    return Some((token.text, false));
                }
                if ["INSERT", "REPLACE", "UPDATE", "DELETE"].iter().any(|w| token.is_word(w)) {
                    return Some((token.text, true));
                }
            }
            _ => {}
        }
        after_table = token.kind == Kind::Close && depth == 0;
    }
    None
}

/// Where a statement ends: at a semicolon, unless it creates a trigger; then after `; END ;`.
#[derive(Debug, Default)]
struct Ending {
    step: Step,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Step {
    #[default]
    Start,
    /// After `EXPLAIN`, `QUERY`, `PLAN`.
    Explain,
    /// After `CREATE`, `TEMP`, `TEMPORARY`.
    Create,
    /// In the body of a trigger.
    Trigger,
    /// In the body, after a semicolon.
    TriggerSemicolon,
    /// In the body, after a semicolon and `END`.
    TriggerEnd,
    /// Any other statement.
    Plain,
}

impl Ending {
    /// Whether the statement ends at this semicolon.
    fn semicolon(&mut self) -> bool {
        match self.step {
            Step::Trigger | Step::TriggerSemicolon => {
                self.step = Step::TriggerSemicolon;
                false
            }
            _ => true,
        }
    }

    fn token(&mut self, token: &Token<'_>) {
        if token.kind == Kind::Semicolon {
            return;
        }
        self.step = match self.step {
            Step::Start if token.is_word("EXPLAIN") => Step::Explain,
            Step::Explain if token.is_word("QUERY") || token.is_word("PLAN") => Step::Explain,
            Step::Start | Step::Explain if token.is_word("CREATE") => Step::Create,
            Step::Create if token.is_word("TEMP") || token.is_word("TEMPORARY") => Step::Create,
            Step::Create if token.is_word("TRIGGER") => Step::Trigger,
            Step::TriggerSemicolon if token.is_word("END") => Step::TriggerEnd,
            Step::Trigger | Step::TriggerSemicolon | Step::TriggerEnd => Step::Trigger,
            _ => Step::Plain,
        };
    }
}

#[cfg(test)]
mod tests;
