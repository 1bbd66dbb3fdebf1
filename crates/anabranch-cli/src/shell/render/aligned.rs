//! Rows in columns of one width.
//!
//! Widths come from the next [`ROWS_AHEAD`] rows, or [`BYTES_AHEAD`] of text. Where later rows need
//! wider columns, a line is drawn and the columns get wider from there on: nothing is cut but blobs,
//! and memory stays bounded.

use std::io::{self, Write};

use anabranch_hrana::Value;
use unicode_width::UnicodeWidthStr;

use crate::shell::clean::clean;
use crate::shell::literal::hex;

/// So many rows are looked at before the first of them is written.
const ROWS_AHEAD: usize = 1000;
/// Or so much text.
const BYTES_AHEAD: usize = 1 << 20;
/// So many bytes of a blob are shown.
const BLOB_BYTES_MAX: usize = 32;
/// Where tabs lead to.
const TAB: usize = 8;

/// What is drawn around columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Lines of the box-drawing characters.
    Lines,
    /// Lines of `-`, `|` and `+`.
    Ascii,
    /// Two spaces.
    None,
    /// `|`, as Markdown has tables.
    Markdown,
}

/// A value on its way, in its lines.
struct Cell {
    lines: Vec<String>,
    is_number: bool,
}

/// Where a horizontal line is drawn.
#[derive(Clone, Copy)]
enum Rule {
    Top,
    Middle,
    Bottom,
}

pub(super) struct Aligned {
    border: Border,
    header: Option<Vec<Cell>>,
    widths: Vec<usize>,
    waiting: Vec<Vec<Cell>>,
    bytes: usize,
    begun: bool,
}

impl Aligned {
    pub(super) fn new(border: Border, columns: &[String], header: bool) -> Self {
        let cells: Vec<Cell> = columns.iter().map(|column| cell_of(border, column)).collect();
        let widths = if header || border == Border::Markdown {
            cells.iter().map(Cell::width).collect()
        } else {
            vec![0; columns.len()]
        };
        // Without a header it is no table for Markdown.
        let header = (header || border == Border::Markdown).then_some(cells);
        Aligned { border, header, widths, waiting: Vec::new(), bytes: 0, begun: false }
    }

    pub(super) fn row(&mut self, out: &mut dyn Write, row: &[Value], null: &str) -> io::Result<()> {
        let cells: Vec<Cell> = row.iter().map(|value| self.cell(value, null)).collect();
        self.bytes += cells.iter().flat_map(|cell| &cell.lines).map(String::len).sum::<usize>();
        self.waiting.push(cells);
        if self.waiting.len() >= ROWS_AHEAD || self.bytes >= BYTES_AHEAD {
            self.write_waiting(out)?;
        }
        Ok(())
    }

    /// Writes what waits, and the end.
    pub(super) fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.write_waiting(out)?;
        self.rule(out, Rule::Bottom)
    }

    fn cell(&self, value: &Value, null: &str) -> Cell {
        match value {
            Value::Blob(bytes) if bytes.len() > BLOB_BYTES_MAX => {
                let start = hex(&bytes[..BLOB_BYTES_MAX]);
                cell_of(self.border, &format!("x'{start}'... ({} bytes)", bytes.len()))
            }
            Value::Integer(_) | Value::Float(_) => {
                Cell { is_number: true, ..cell_of(self.border, &super::text(value, null)) }
            }
            value => cell_of(self.border, &super::text(value, null)),
        }
    }

    fn write_waiting(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let mut grown = false;
        for (cell, width) in rows.iter().flat_map(|row| row.iter().zip(0..)) {
            if let Some(known) = self.widths.get_mut(width)
                && *known < cell.width()
            {
                *known = cell.width();
                grown = true;
            }
        }
        if !self.begun {
            self.begun = true;
            self.rule(out, Rule::Top)?;
            if let Some(header) = self.header.take() {
                self.line(out, &header)?;
                self.rule(out, Rule::Middle)?;
            }
        } else if grown && self.border != Border::Markdown {
            self.rule(out, Rule::Middle)?;
        }
        rows.iter().try_for_each(|row| self.line(out, row))
    }

    /// One row, in as many lines as it takes.
    fn line(&self, out: &mut dyn Write, row: &[Cell]) -> io::Result<()> {
        let height = row.iter().map(|cell| cell.lines.len()).max().unwrap_or(1);
        let (left, between, right) = match self.border {
            Border::Lines => ("│ ", " │ ", " │"),
            Border::Ascii | Border::Markdown => ("| ", " | ", " |"),
            Border::None => ("", "  ", ""),
        };
        for line in 0..height {
            let mut text = left.to_owned();
            for (i, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
                if i > 0 {
                    text += between;
                }
                let shown = cell.lines.get(line).map_or("", String::as_str);
                let space = " ".repeat(width.saturating_sub(shown.width()));
                if cell.is_number {
                    text += &space;
                    text += shown;
                } else {
                    text += shown;
                    text += &space;
                }
            }
            text += right;
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    fn rule(&self, out: &mut dyn Write, rule: Rule) -> io::Result<()> {
        let (left, line, between, right) = match (self.border, rule) {
            (Border::Lines, Rule::Top) => ("┌", "─", "┬", "┐"),
            (Border::Lines, Rule::Middle) => ("├", "─", "┼", "┤"),
            (Border::Lines, Rule::Bottom) => ("└", "─", "┴", "┘"),
            (Border::Ascii, _) => ("+", "-", "+", "+"),
            (Border::Markdown, Rule::Middle) => ("|", "-", "|", "|"),
            (Border::None, Rule::Middle) => ("", "-", "  ", ""),
            (Border::Markdown | Border::None, _) => return Ok(()),
        };
        let margin = if self.border == Border::None { 0 } else { 2 };
        let parts: Vec<String> = self.widths.iter().map(|w| line.repeat(w + margin)).collect();
        writeln!(out, "{left}{}{right}", parts.join(between))
    }
}

impl Cell {
    fn width(&self) -> usize {
        self.lines.iter().map(|line| line.width()).max().unwrap_or(0)
    }
}

fn cell_of(border: Border, text: &str) -> Cell {
    let text = clean(text);
    let lines = if border == Border::Markdown {
        vec![
            text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', "<br>").replace('\t', " "),
        ]
    } else {
        text.split('\n').map(without_tabs).collect()
    };
    Cell { lines, is_number: false }
}

fn without_tabs(line: &str) -> String {
    let mut parts = line.split('\t');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += &" ".repeat(TAB - text.width() % TAB);
        text += part;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(border: Border, rows: &[Vec<Value>]) -> String {
        let columns = ["id", "v"].map(str::to_owned);
        let mut aligned = Aligned::new(border, &columns, true);
        let mut out = Vec::new();
        for row in rows {
            aligned.row(&mut out, row, "NULL").unwrap();
        }
        aligned.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(s: &str) -> Value {
        Value::Text(s.to_owned())
    }

    #[test]
    fn columns_are_as_wide_as_what_is_shown() {
        let rows =
            [vec![Value::Integer(5), text("漢字\n\u{1b}x")], vec![Value::Null, text("a|b\tc")]];
        assert_eq!(
            drawn(Border::Lines, &rows),
            "┌──────┬───────────┐\n\
             │ id   │ v         │\n\
             ├──────┼───────────┤\n\
             │    5 │ 漢字      │\n\
             │      │ ^[x       │\n\
             │ NULL │ a|b     c │\n\
             └──────┴───────────┘\n"
        );
        assert_eq!(
            drawn(Border::Ascii, &rows[..1]),
            "+----+------+\n| id | v    |\n+----+------+\n|  5 | 漢字 |\n|    | ^[x  |\n+----+------+\n"
        );
        assert_eq!(drawn(Border::None, &rows[..1]), "id  v\n--  ----\n 5  漢字\n    ^[x\n");
        assert_eq!(
            drawn(Border::Markdown, &rows[1..]),
            "| id   | v      |\n|------|--------|\n| NULL | a\\|b c |\n"
        );
    }

    #[test]
    fn memory_is_bounded_and_columns_get_wider_on_the_way() {
        let mut rows = vec![vec![Value::Integer(1), text("x")]; ROWS_AHEAD];
        rows.push(vec![Value::Integer(1), text("wider")]);
        let all = drawn(Border::Ascii, &rows);
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines[2 + ROWS_AHEAD], "|  1 | x |");
        assert_eq!(lines[3 + ROWS_AHEAD..], ["+----+-------+", "|  1 | wider |", "+----+-------+"]);

        let mut aligned = Aligned::new(Border::Ascii, &["v".to_owned()], true);
        let (mut out, large) = (Vec::new(), "y".repeat(BYTES_AHEAD));
        aligned.row(&mut out, &[text(&large)], "").unwrap();
        assert!(aligned.waiting.is_empty() && out.len() > BYTES_AHEAD);
    }

    #[test]
    fn long_blobs_are_cut() {
        let blob = Value::Blob(vec![7; 100].into());
        assert!(drawn(Border::None, &[vec![blob, Value::Null]]).contains("07'... (100 bytes)"));
    }
}
