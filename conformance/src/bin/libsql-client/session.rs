//! One database, opened by the library, and what can be done with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_conformance::read_position;
use libsql::{Builder, Connection, Database, EncryptionContext, EncryptionKey, Value as Cell};
use serde_json::{Value, json};

use crate::connector::{Counted, Traffic};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What is open.
#[derive(Default)]
pub(crate) struct Session {
    path: PathBuf,
    database: Option<Database>,
    connection: Option<Connection>,
    traffic: Arc<Traffic>,
}

impl Session {
    /// Does what the command says.
    pub(crate) async fn obey(&mut self, command: &Value) -> Result<Value> {
        let text = |name: &str| command[name].as_str().unwrap_or_default();
        match text("do") {
            "open" => self.open(command).await,
            "execute" => {
                let changed = self.connection()?.execute(text("sql"), ()).await?;
                Ok(json!({ "changed": changed }))
            }
            "batch" => {
                self.connection()?.execute_batch(text("sql")).await?;
                Ok(json!({}))
            }
            "repeat" => {
                let times = command["times"].as_i64().unwrap_or_default();
                let statement = self.connection()?.prepare(text("sql")).await?;
                for turn in 1..=times {
                    statement.reset();
                    statement.execute([turn]).await?;
                }
                Ok(json!({ "times": times }))
            }
            "query" => self.query(text("sql")).await,
            "sync" => {
                let done = self.database()?.sync().await?;
                Ok(json!({ "frames_synced": done.frames_synced() }))
            }
            "position" => Ok(match read_position(&self.path)? {
                Some(at) => json!({ "generation": at.generation, "frame": at.frame }),
                None => Value::Null,
            }),
            "traffic" => Ok(json!({
                "requests": self.traffic.requests.load(Ordering::Relaxed),
                "sent": self.traffic.sent.load(Ordering::Relaxed),
                "received": self.traffic.received.load(Ordering::Relaxed),
            })),
            "close" => {
                self.connection = None;
                self.database = None;
                Ok(json!({}))
            }
            other => Err(format!("unknown command {other:?}").into()),
        }
    }

    async fn open(&mut self, command: &Value) -> Result<Value> {
        let text = |name: &str| command[name].as_str().map(str::to_owned);
        self.path = text("path").ok_or("no path")?.into();
        let url = text("url").ok_or("no url")?;
        let token = text("token").unwrap_or_default();
        let key =
            text("key").map(|key| EncryptionContext { key: EncryptionKey::Base64Encoded(key) });
        let connector = Counted::new(Arc::clone(&self.traffic));
        self.connection = None;
        let database = if command["remote_writes"] == true {
            let mut builder =
                Builder::new_remote_replica(&self.path, url, token).connector(connector);
            if let Some(key) = key {
                builder = builder.remote_encryption(key);
            }
            builder.build().await?
        } else {
            let mut builder =
                Builder::new_synced_database(&self.path, url, token).connector(connector);
            if let Some(key) = key {
                builder = builder.remote_encryption(key);
            }
            if let Some(batch) = command["batch"].as_u64() {
                builder = builder.set_push_batch_size(u32::try_from(batch)?);
            }
            builder.build().await?
        };
        let database = self.database.insert(database);
        self.connection = Some(database.connect()?);
        Ok(json!({}))
    }

    async fn query(&self, sql: &str) -> Result<Value> {
        let mut rows = self.connection()?.query(sql, ()).await?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next().await? {
            let cells: Vec<String> = (0..row.column_count())
                .map(|column| row.get_value(column).map(as_sqlite3_prints))
                .collect::<libsql::Result<_>>()?;
            lines.push(cells.join("|"));
        }
        Ok(json!({ "rows": lines }))
    }

    fn database(&self) -> Result<&Database> {
        Ok(self.database.as_ref().ok_or("no database is open")?)
    }

    fn connection(&self) -> Result<&Connection> {
        Ok(self.connection.as_ref().ok_or("no database is open")?)
    }
}

fn as_sqlite3_prints(cell: Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => format!("{number:?}"),
        Cell::Text(text) => text,
        Cell::Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}
