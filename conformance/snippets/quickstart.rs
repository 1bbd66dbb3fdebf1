//! What the quick start of the Rust client does: no file at all, then a replica that writes at the server.

use libsql::{Builder, params};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("TURSO_DATABASE_URL")?;
    let token = std::env::var("TURSO_AUTH_TOKEN")?;

    let db = Builder::new_remote(url.clone(), token.clone()).build().await?;
    let conn = db.connect()?;
    conn.execute(
        "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)",
        (),
    )
    .await?;
    conn.execute("INSERT INTO users (name) VALUES (?1)", ["remote"]).await?;
    conn.query("SELECT * FROM users WHERE id = ?1", params![1]).await?;

    let db = Builder::new_remote_replica("local.db", url, token).build().await?;
    let conn = db.connect()?;
    db.sync().await?;
    let tx = conn.transaction().await?;
    tx.execute("INSERT INTO users (name) VALUES (?1)", ["transaction"]).await?;
    tx.commit().await?;
    conn.execute("INSERT INTO users (name) VALUES ('replica')", ()).await?;
    let mut rows = conn.query("SELECT * FROM users", ()).await?;
    while let Some(row) = rows.next().await? {
        println!("{}", row.get::<String>(1)?);
    }
    Ok(())
}
