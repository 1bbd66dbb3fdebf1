//! Rows, values and conflicts, for people and for programs.

use std::io::{self, Write};

use anabranch::{Conflict, ConflictKind, Decision, Row, Value};
use serde_json::{Map, Value as Json, json};

use crate::human::Paint;

/// So many characters of a text are shown to people.
const CHARS_MAX: usize = 60;
/// So many bytes of a blob are shown to people.
const BYTES_MAX: usize = 16;

/// A value for programs: as JSON has it; a blob is `{"hex": "00ff"}`, a number that JSON has not
/// `{"real": "inf"}`.
pub(crate) fn json_value(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(n) => json!(n),
        Value::Real(x) if x.is_finite() => json!(x),
        Value::Real(x) => json!({ "real": x.to_string() }),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!({ "hex": hex(bytes) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A row for programs: its values by name.
pub(crate) fn json_row(row: &Row) -> Json {
    let values = row.columns.iter().zip(&row.values);
    Json::Object(values.map(|(name, v)| (name.clone(), json_value(v))).collect::<Map<_, _>>())
}

/// What a conflict is, for programs.
pub(crate) fn json_conflict(conflict: &Conflict) -> Map<String, Json> {
    let row = |row: &Option<Row>| row.as_ref().map_or(Json::Null, json_row);
    let (decision, rowid) = match &conflict.decision {
        Decision::Local => ("local", None),
        Decision::Remote => ("remote", None),
        Decision::Merged => ("merged", None),
        Decision::Neither => ("neither", None),
        Decision::Renumbered(to) => ("renumbered", Some(*to)),
    };
    let mut all = Map::new();
    all.insert("table".to_owned(), json!(conflict.table));
    all.insert("key".to_owned(), json_row(&conflict.key));
    all.insert("kind".to_owned(), json!(conflict.kind));
    all.insert("decision".to_owned(), json!(decision));
    if let Some(rowid) = rowid {
        all.insert("rowid".to_owned(), json!(rowid));
    }
    all.insert("base".to_owned(), row(&conflict.base));
    all.insert("local".to_owned(), row(&conflict.local));
    all.insert("remote".to_owned(), row(&conflict.remote));
    if let Some(detail) = &conflict.detail {
        all.insert("detail".to_owned(), json!(detail));
    }
    all
}

/// A value for people, cut where it is long. Nothing in it can move the cursor or colour the screen.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(x) => format!("{x:?}"),
        Value::Text(text) => {
            let cut = text.chars().nth(CHARS_MAX).is_some();
            let shown: String = text.chars().take(CHARS_MAX).collect();
            let shown = shown.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"");
            format!("'{shown}'{}", if cut { "..." } else { "" })
        }
        Value::Blob(bytes) if bytes.len() > BYTES_MAX => {
            format!("x'{}'... ({} bytes)", hex(&bytes[..BYTES_MAX]), bytes.len())
        }
        Value::Blob(bytes) => format!("x'{}'", hex(bytes)),
    }
}

/// A row for people: `id 1, body 'x'`.
pub(crate) fn row(row: &Row) -> String {
    named(row, |_| true)
}

/// Those columns of a row that are `wanted`.
pub(crate) fn named(row: &Row, wanted: impl Fn(&str) -> bool) -> String {
    let values = row.columns.iter().zip(&row.values).filter(|(name, _)| wanted(name));
    let shown: Vec<String> = values.map(|(name, v)| format!("{name} {}", value(v))).collect();
    shown.join(", ")
}

/// The value of a column of a row.
pub(crate) fn of<'r>(row: &'r Row, column: &str) -> Option<&'r Value> {
    row.columns.iter().position(|name| name == column).map(|at| &row.values[at])
}

/// What happened, in words.
pub(crate) fn kind(conflict: &Conflict) -> &'static str {
    match conflict.kind {
        ConflictKind::UpdateUpdate => "changed on both sides",
        ConflictKind::UpdateDelete => "changed here, deleted at the remote",
        ConflictKind::DeleteUpdate => "deleted here, changed at the remote",
        ConflictKind::InsertInsert => "inserted on both sides under one key",
        ConflictKind::Unique => "equal in a unique index to a row of the other side",
        ConflictKind::ForeignKey => "refers to a row that the other side deleted",
        ConflictKind::Check => "violates a constraint of the other side",
        ConflictKind::Dropped => "the other side dropped what it stood in",
    }
}

/// What was decided, in words.
pub(crate) fn decision(conflict: &Conflict) -> String {
    match &conflict.decision {
        Decision::Local => "the local version stands".to_owned(),
        Decision::Remote => "the remote's version stands".to_owned(),
        Decision::Merged => "both were merged".to_owned(),
        Decision::Neither => "neither version stands".to_owned(),
        Decision::Renumbered(to) => format!("both stand, the local one as {to}"),
    }
}

/// Writes a conflict in some lines; `title` comes first.
pub(crate) fn write_conflict(
    out: &mut dyn Write,
    title: &str,
    conflict: &Conflict,
    paint: Paint,
) -> io::Result<()> {
    writeln!(
        out,
        "{title}{}: {}; {}",
        paint.strong(&format!("{}, {}", conflict.table, row(&conflict.key))),
        kind(conflict),
        decision(conflict)
    )?;
    if let Some(detail) = &conflict.detail {
        writeln!(out, "    {detail}")?;
    }
    let versions =
        [("before", &conflict.base), ("here", &conflict.local), ("remote", &conflict.remote)];
    let rows: Vec<&Row> = versions.iter().filter_map(|(_, row)| row.as_ref()).collect();
    let differs = |column: &str| {
        let mut values = rows.iter().map(|row| of(row, column));
        let first = values.next();
        rows.len() == 1 || values.any(|value| Some(value) != first)
    };
    for (name, version) in versions {
        let shown = match version {
            Some(row) => named(row, differs),
            None => paint.faint("no row"),
        };
        writeln!(out, "    {name:<7} {shown}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(values: Vec<Value>) -> Row {
        let names = ["id", "v", "w"].into_iter().take(values.len());
        Row { columns: names.map(str::to_owned).collect(), values }
    }

    #[test]
    fn values_are_shown_so_that_they_cannot_be_mistaken() {
        let text = |s: &str| Value::Text(s.to_owned());
        assert_eq!(value(&Value::Null), "NULL");
        assert_eq!(value(&text("NULL")), "'NULL'");
        assert_eq!(
            (value(&Value::Integer(1)), value(&Value::Real(1.0))),
            ("1".into(), "1.0".into())
        );
        assert_eq!(value(&text("it's\u{1b}[2J\n")), "'it's\\u{1b}[2J\\n'");
        assert!(value(&text(&"é".repeat(61))).ends_with("é'..."));
        assert_eq!(value(&Value::Blob(vec![0, 255])), "x'00ff'");
        assert_eq!(json_value(&Value::Blob(vec![0, 255])), json!({ "hex": "00ff" }));
        assert_eq!(json_value(&Value::Real(f64::INFINITY)), json!({ "real": "inf" }));
        assert_eq!(json_value(&Value::Integer(i64::MAX)), json!(i64::MAX));
    }

    #[test]
    fn of_the_versions_of_a_row_that_is_shown_which_differs() {
        let version =
            |v: &str| row_of(vec![Value::Integer(7), Value::Text(v.to_owned()), Value::Integer(1)]);
        let conflict = Conflict {
            table: "note".to_owned(),
            key: row_of(vec![Value::Integer(7)]),
            kind: ConflictKind::UpdateUpdate,
            base: Some(version("before")),
            local: Some(version("mine")),
            remote: None,
            decision: Decision::Local,
            detail: None,
        };
        let mut out = Vec::new();
        write_conflict(&mut out, "", &conflict, Paint::default()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "note, id 7: changed on both sides; the local version stands\n    before  v 'before'\n    \
             here    v 'mine'\n    remote  no row\n"
        );
        let json = Json::Object(json_conflict(&conflict));
        assert_eq!(json["local"]["v"], "mine");
        assert_eq!((&json["remote"], &json["decision"]), (&Json::Null, &json!("local")));
    }
}
