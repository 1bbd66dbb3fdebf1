//! SQL at the server: the official library as a remote client and as an embedded replica that writes
//! there, a plain client where the wire itself matters, and all of them while servers die.

mod crash;
mod embedded;
mod remote;
mod servers;
mod transactions;
mod values;
mod wire;
mod writer;

use anabranch_conformance::Ended;
use libsql::{Builder, Connection, Rows, Value as Cell};

use crate::support::Yard;

/// How our program ends if nobody answers it.
const OFFLINE: i32 = 4;

/// A connection of the official library that has no file.
async fn remote(url: &str, token: &str) -> Connection {
    // Without a file there is nothing else that the database must be kept for.
    let database = Builder::new_remote(url.to_owned(), token.to_owned());
    let http = hyper::client::HttpConnector::new();
    database.connector(http).build().await.unwrap().connect().unwrap()
}

/// As [`remote`], for the scenario's database.
async fn remote_at(yard: &Yard) -> Connection {
    remote(&yard.url(), &yard.token()).await
}

/// Rows of a query, their columns joined by `|`, as stock `sqlite3` prints them.
async fn lines(conn: &Connection, sql: &str) -> Vec<String> {
    let rows = conn.query(sql, ()).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    collect(rows).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn collect(mut rows: Rows) -> libsql::Result<Vec<String>> {
    let mut lines = Vec::new();
    while let Some(row) = rows.next().await? {
        let cells: Vec<String> = (0..row.column_count())
            .map(|i| row.get_value(i).map(cell))
            .collect::<Result<_, _>>()?;
        lines.push(cells.join("|"));
    }
    Ok(lines)
}

fn cell(value: Cell) -> String {
    match value {
        Cell::Null => String::new(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => text,
        Cell::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The text of the error that something ended with.
#[track_caller]
fn error<T>(result: libsql::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.to_string(),
    }
}

/// Whether a run of our program ended well; else it found nobody there, as it must say. However many
/// others write, it gets its turn.
#[track_caller]
fn through(ended: &Ended) -> bool {
    assert!([0, OFFLINE].contains(&ended.code), "{ended:?}");
    ended.code == 0
}
