//! What the modules of virtual tables can do with rows that come from elsewhere.

use crate::fate::text;
use crate::sql::{Kind, quoted, same_name, tokens, unquoted};
use crate::state::State;

/// What is done with a virtual table that both sides changed.
pub(crate) enum Content {
    /// It has rows of its own in this shadow table, and takes changes of them.
    Rows { shadow: &'static str },
    /// Its rows can be read and written only through its module.
    ByModule,
    /// Its index follows from another table.
    Elsewhere,
    /// Nothing.
    Opaque(String),
}

/// What can be done with a virtual table of the scratch copy.
pub(crate) fn content(now: &State<'_>, name: &str) -> Content {
    let Some(object) = now.objects.table(name) else {
        return Content::Opaque("it is not there".into());
    };
    let module = object.module.as_deref().unwrap_or_default().to_ascii_lowercase();
    let known = ["fts3", "fts4", "fts5", "rtree", "rtree_i32"];
    if !known.contains(&module.as_str()) {
        return Content::Opaque(format!("nothing is known of its module {module}"));
    }
    // Its tokenizer may be the application's.
    if let Err(error) = now.conn.prepare(&format!("SELECT * FROM main.{}", quoted(name))) {
        return Content::Opaque(format!("its module does not work here: {error}"));
    }
    if module.starts_with("rtree") {
        return Content::ByModule;
    }
    let options = options(text(object));
    let option = |name: &str| options.iter().find(|(key, _)| same_name(key, name)).map(|(_, v)| v);
    match option("content").map(String::as_str) {
        Some("") => Content::Opaque("it keeps an index without the rows".into()),
        Some(_) => Content::Elsewhere,
        None if option("compress").is_some() || option("uncompress").is_some() => {
            Content::Opaque("its rows are compressed by the application".into())
        }
        None => Content::Rows { shadow: "_content" },
    }
}

/// What has the rows of a full-text index that has none of its own, and the column that says their
/// numbers. `None`: it has rows of its own, or none at all, or is no such index.
pub(crate) fn over(module: &str, sql: &str) -> Option<(String, String)> {
    let fts5 = same_name(module, "fts5");
    if !fts5 && !same_name(module, "fts4") {
        return None;
    }
    let options = options(sql);
    let option = |name: &str| {
        let found = options.iter().find(|(key, _)| same_name(key, name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    let rowid = option("content_rowid").filter(|_| fts5);
    Some((option("content")?, rowid.unwrap_or_else(|| "rowid".to_owned())))
}

/// The `key = value` among the arguments of a virtual table.
fn options(sql: &str) -> Vec<(String, String)> {
    let all = tokens(sql);
    let Some(open) = all.iter().position(|t| t.sign(b'(')) else { return Vec::new() };
    all[open + 1..]
        .windows(3)
        .filter(|three| three[1].sign(b'='))
        .filter_map(|three| {
            let value = match three[2].kind {
                Kind::Sign(_) => String::new(),
                _ => unquoted(three[2].text),
            };
            Some((three[0].name()?, value))
        })
        .collect()
}
