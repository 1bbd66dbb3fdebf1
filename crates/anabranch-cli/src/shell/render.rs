//! How rows are shown.
//!
//! Every form is written row by row. Those that need the widths of columns (`box`, `table`, `column`,
//! `markdown`) look at [`aligned`]'s next rows first, so memory does not grow with the result.

mod aligned;

use std::io::{self, Write};

use anabranch_hrana::Value;

use super::backend::Sink;
use super::clean::clean;
use super::literal::{hex, literal, name};
use aligned::{Aligned, Border};

/// A form in which rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// A table drawn with lines
    Box,
    /// The same with - and |
    Table,
    /// Columns, aligned
    Column,
    /// A line for each value
    Line,
    /// Values with | between
    List,
    /// As spreadsheets read it
    Csv,
    /// Values with tabs between
    Tabs,
    /// A JSON array of objects
    Json,
    /// A table for Markdown
    Markdown,
    /// INSERT statements
    Insert,
    /// SQL literals
    Quote,
}

impl Mode {
    /// All, with their names.
    pub(super) const ALL: [(&'static str, Mode); 11] = [
        ("box", Mode::Box),
        ("table", Mode::Table),
        ("column", Mode::Column),
        ("line", Mode::Line),
        ("list", Mode::List),
        ("csv", Mode::Csv),
        ("tabs", Mode::Tabs),
        ("json", Mode::Json),
        ("markdown", Mode::Markdown),
        ("insert", Mode::Insert),
        ("quote", Mode::Quote),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    fn border(self) -> Option<Border> {
        match self {
            Mode::Box => Some(Border::Lines),
            Mode::Table => Some(Border::Ascii),
            Mode::Column => Some(Border::None),
            Mode::Markdown => Some(Border::Markdown),
            _ => None,
        }
    }
}

/// What the user has set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    /// `None`: as is usual for the form.
    pub(super) headers: Option<bool>,
    /// `None`: as is usual for the form.
    pub(super) null: Option<String>,
    pub(super) separator: String,
    /// Where `insert` inserts.
    pub(super) insert_into: String,
}

impl Settings {
    pub(super) fn new(mode: Mode) -> Self {
        Settings {
            mode,
            headers: None,
            null: None,
            separator: "|".to_owned(),
            insert_into: "table".to_owned(),
        }
    }

    fn headers(&self) -> bool {
        self.headers.unwrap_or(self.mode.border().is_some())
    }

    fn null(&self) -> &str {
        let usual = match self.mode {
            Mode::Box | Mode::Table | Mode::Column | Mode::Line | Mode::Markdown => "NULL",
            _ => "",
        };
        self.null.as_deref().unwrap_or(usual)
    }
}

/// Shows what one statement answers.
pub(super) struct Renderer<'a> {
    out: &'a mut dyn Write,
    settings: &'a Settings,
    columns: Vec<String>,
    /// The statement answers rows.
    begun: bool,
    rows: u64,
    aligned: Option<Aligned>,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(out: &'a mut dyn Write, settings: &'a Settings) -> Self {
        Renderer { out, settings, columns: Vec::new(), begun: false, rows: 0, aligned: None }
    }

    /// Writes what comes after the last row. Without this call the output is visibly cut.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(aligned) = &mut self.aligned {
            aligned.finish(self.out)?;
        }
        if self.begun && self.settings.mode == Mode::Json {
            let start = if self.rows == 0 { "[" } else { "" };
            writeln!(self.out, "{start}]")?;
        }
        Ok(())
    }

    fn separated(
        &mut self,
        separator: &str,
        texts: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        for (i, text) in texts.enumerate() {
            if i > 0 {
                self.out.write_all(separator.as_bytes())?;
            }
            self.out.write_all(text.as_bytes())?;
        }
        writeln!(self.out)
    }

    fn json(&mut self, row: &[Value]) -> io::Result<()> {
        self.out.write_all(if self.rows == 0 { b"[{" } else { b",\n{" })?;
        for (i, (column, value)) in self.columns.iter().zip(row).enumerate() {
            if i > 0 {
                self.out.write_all(b",")?;
            }
            serde_json::to_writer(&mut *self.out, column)?;
            self.out.write_all(b":")?;
            serde_json::to_writer(&mut *self.out, &json(value))?;
        }
        self.out.write_all(b"}")
    }

    fn line(&mut self, row: &[Value]) -> io::Result<()> {
        let width = self.columns.iter().map(|c| c.chars().count()).max().unwrap_or(0);
        if self.rows > 0 {
            writeln!(self.out)?;
        }
        for (column, value) in self.columns.iter().zip(row) {
            let text = text(value, self.settings.null());
            writeln!(self.out, "{:>width$} = {}", clean(column), clean(&text))?;
        }
        Ok(())
    }

    fn insert(&mut self, row: &[Value]) -> io::Result<()> {
        write!(self.out, "INSERT INTO {}", name(&self.settings.insert_into))?;
        if self.settings.headers() {
            let columns: Vec<String> = self.columns.iter().map(|c| name(c)).collect();
            write!(self.out, "({})", columns.join(","))?;
        }
        let values: Vec<String> = row.iter().map(literal).collect();
        writeln!(self.out, " VALUES({});", values.join(","))
    }
}

impl Sink for Renderer<'_> {
    fn begin(&mut self, columns: &[String]) -> io::Result<()> {
        self.begun = true;
        self.columns = columns.to_vec();
        let settings = self.settings;
        if let Some(border) = settings.mode.border() {
            self.aligned = Some(Aligned::new(border, columns, settings.headers()));
            return Ok(());
        }
        let headers = settings.headers().then(|| columns.to_vec()).into_iter().flatten();
        match settings.mode {
            Mode::Json => self.columns = distinct(columns),
            Mode::List if settings.headers() => self.separated(&settings.separator, headers)?,
            Mode::Tabs if settings.headers() => self.separated("\t", headers)?,
            Mode::Csv if settings.headers() => {
                self.separated(",", headers.map(|column| csv_text(&column)))?;
            }
            Mode::Quote if settings.headers() => {
                self.separated(",", headers.map(|column| super::literal::quoted(&column)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn row(&mut self, row: Vec<Value>) -> io::Result<()> {
        let settings = self.settings;
        let null = settings.null();
        match settings.mode {
            Mode::Json => self.json(&row)?,
            Mode::Line => self.line(&row)?,
            Mode::Insert => self.insert(&row)?,
            Mode::List => {
                self.separated(&settings.separator, row.iter().map(|value| text(value, null)))?;
            }
            Mode::Tabs => self.separated("\t", row.iter().map(|value| text(value, null)))?,
            Mode::Csv => self.separated(",", row.iter().map(|value| csv(value, null)))?,
            Mode::Quote => self.separated(",", row.iter().map(literal))?,
            Mode::Box | Mode::Table | Mode::Column | Mode::Markdown => {
                if let Some(aligned) = &mut self.aligned {
                    aligned.row(self.out, &row, null)?;
                }
            }
        }
        self.rows += 1;
        Ok(())
    }
}

/// A value as text, whole.
fn text(value: &Value, null: &str) -> String {
    match value {
        Value::Null => null.to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) if x.is_infinite() => if *x > 0.0 { "Inf" } else { "-Inf" }.to_owned(),
        Value::Float(x) => format!("{x:?}"),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("x'{}'", hex(bytes)),
    }
}

/// As JSON has it; a blob is `{"hex": "00ff"}`, a number that JSON has not `{"real": "inf"}`.
fn json(value: &Value) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(n) => json!(n),
        Value::Float(x) if x.is_finite() => json!(x),
        Value::Float(x) => json!({ "real": x.to_string() }),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => json!({ "hex": hex(bytes) }),
    }
}

/// NULL is nothing, or what the user set; an empty text is `""`.
fn csv(value: &Value, null: &str) -> String {
    match value {
        Value::Text(text) => csv_text(text),
        other => text(other, null),
    }
}

fn csv_text(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.contains([',', '"', '\n', '\r']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// The names, those that come again with a number.
pub(super) fn distinct(columns: &[String]) -> Vec<String> {
    let mut taken = std::collections::HashSet::new();
    let mut names = Vec::with_capacity(columns.len());
    for column in columns {
        let mut name = column.clone();
        let mut n = 0;
        while !taken.insert(name.clone()) {
            n += 1;
            name = format!("{column}:{n}");
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: Mode, change: impl FnOnce(&mut Settings), rows: Vec<Vec<Value>>) -> String {
        let mut settings = Settings::new(mode);
        change(&mut settings);
        let mut out = Vec::new();
        let mut renderer = Renderer::new(&mut out, &settings);
        renderer.begin(&["id".to_owned(), "v".to_owned()]).unwrap();
        for row in rows {
            renderer.row(row).unwrap();
        }
        renderer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows() -> Vec<Vec<Value>> {
        let text = |s: &str| Value::Text(s.to_owned());
        vec![
            vec![Value::Integer(1), text("it's, \"x\"")],
            vec![Value::Float(2.0), Value::Null],
            vec![Value::Blob(vec![0, 255].into()), text("")],
        ]
    }

    #[test]
    fn forms_for_programs_hold_the_values_as_they_are() {
        let plain = |mode| shown(mode, |_| (), rows());
        assert_eq!(plain(Mode::List), "1|it's, \"x\"\n2.0|\nx'00ff'|\n");
        assert_eq!(plain(Mode::Csv), "1,\"it's, \"\"x\"\"\"\n2.0,\nx'00ff',\"\"\n");
        assert_eq!(
            plain(Mode::Json),
            "[{\"id\":1,\"v\":\"it's, \\\"x\\\"\"},\n{\"id\":2.0,\"v\":null},\n\
             {\"id\":{\"hex\":\"00ff\"},\"v\":\"\"}]\n"
        );
        assert_eq!(shown(Mode::Json, |_| (), Vec::new()), "[]\n");
        assert_eq!(
            shown(Mode::Insert, |s| s.insert_into = "a\"b".into(), rows()),
            "INSERT INTO \"a\"\"b\" VALUES(1,'it''s, \"x\"');\nINSERT INTO \"a\"\"b\" \
             VALUES(2.0,NULL);\nINSERT INTO \"a\"\"b\" VALUES(X'00ff','');\n"
        );
        let with_headers = |s: &mut Settings| {
            s.headers = Some(true);
            s.null = Some("-".into());
        };
        assert_eq!(
            shown(Mode::Tabs, with_headers, rows()),
            "id\tv\n1\tit's, \"x\"\n2.0\t-\nx'00ff'\t\n"
        );
        assert_eq!(shown(Mode::Line, |_| (), rows()[1..2].to_vec()), "id = 2.0\n v = NULL\n");
    }

    #[test]
    fn an_output_that_is_not_finished_is_no_json() {
        let settings = Settings::new(Mode::Json);
        let mut out = Vec::new();
        let mut renderer = Renderer::new(&mut out, &settings);
        renderer.begin(&["a".to_owned()]).unwrap();
        renderer.row(vec![Value::Integer(1)]).unwrap();
        drop(renderer);
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_err());
    }

    #[test]
    fn columns_of_one_name_are_kept_apart() {
        let names = ["a", "a", "a:1", "b"].map(str::to_owned);
        assert_eq!(distinct(&names), ["a", "a:1", "a:1:1", "b"]);
    }
}
