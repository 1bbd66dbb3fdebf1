use anabranch_hrana::{Error, NamedArg, Value};
use anabranch_sql::{Collected, Done, Limits, Session};
use rusqlite::Connection;

/// A session on a database in memory.
pub(crate) fn session() -> Session {
    limited(&Limits::default())
}

/// The same with other limits.
pub(crate) fn limited(limits: &Limits) -> Session {
    Session::new(Connection::open_in_memory().unwrap(), limits).unwrap()
}

/// Runs a statement with arguments by position.
pub(crate) fn run(
    session: &mut Session,
    sql: &str,
    args: &[Value],
) -> Result<(Collected, Done), Error> {
    let mut rows = Collected::default();
    let done = session.execute(sql, args, &[], &mut rows)?;
    Ok((rows, done))
}

/// Runs a statement with arguments by name.
pub(crate) fn run_named(
    session: &mut Session,
    sql: &str,
    args: &[(&str, Value)],
) -> Result<Vec<Vec<Value>>, Error> {
    let named: Vec<NamedArg> = args
        .iter()
        .map(|(name, value)| NamedArg { name: (*name).to_owned(), value: value.clone() })
        .collect();
    let mut rows = Collected::default();
    session.execute(sql, &[], &named, &mut rows)?;
    Ok(rows.rows)
}

/// Runs statements that must succeed.
pub(crate) fn all(session: &mut Session, sql: &[&str]) {
    for sql in sql {
        run(session, sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// The rows of a statement that must succeed.
pub(crate) fn rows(session: &mut Session, sql: &str) -> Vec<Vec<Value>> {
    run(session, sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}")).0.rows
}

/// The one value of a statement that must succeed.
pub(crate) fn value(session: &mut Session, sql: &str) -> Value {
    let mut rows = rows(session, sql);
    assert_eq!(rows.len(), 1, "{sql}");
    rows.remove(0).remove(0)
}

/// The error of a statement that must fail.
pub(crate) fn fails(session: &mut Session, sql: &str) -> Error {
    match run(session, sql, &[]) {
        Ok((rows, _)) => panic!("{sql}: no error, but {rows:?}"),
        Err(error) => error,
    }
}

pub(crate) fn int(n: i64) -> Value {
    Value::Integer(n)
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn blob(bytes: &[u8]) -> Value {
    Value::Blob(bytes.to_vec().into())
}
