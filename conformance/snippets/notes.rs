//! Notes in a local file, in step with `anabranch serve`: `libsql = "0.9"` in Cargo.toml.

use libsql::Builder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: notes http://127.0.0.1:8080/notes")?;
    let db = Builder::new_synced_database("notes-rust.db", url, String::new()).build().await?;
    let conn = db.connect()?;
    db.sync().await?; // Fetches what is new there,
    conn.execute("CREATE TABLE IF NOT EXISTS note(body TEXT)", ()).await?;
    conn.execute("INSERT INTO note VALUES ('from Rust')", ()).await?;
    db.sync().await?; // or sends what is new here.
    let mut rows = conn.query("SELECT body FROM note", ()).await?;
    while let Some(row) = rows.next().await? {
        println!("{}", row.get::<String>(0)?);
    }
    Ok(())
}
