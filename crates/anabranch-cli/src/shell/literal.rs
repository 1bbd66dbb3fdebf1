//! Values and names as SQL text that any SQLite reads back exactly.

use std::fmt::Write as _;

use anabranch_hrana::Value;

/// Numbers of at most so many digits are read back exactly by every SQLite.
const DIGITS_SHORT_MAX: usize = 15;

/// A name as SQL: always quoted.
pub(crate) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as SQL.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => float(*x),
        Value::Text(text) => text_literal(text),
        Value::Blob(bytes) => format!("X'{}'", hex(bytes)),
    }
}

/// SQLite's own way of reading numbers may miss the last bit of the shortest text for a number; with
/// 20 digits it cannot.
pub(crate) fn float(x: f64) -> String {
    if x.is_nan() {
        return "NULL".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "9.0e+999" } else { "-9.0e+999" }.to_owned();
    }
    let short = format!("{x:?}");
    let mantissa = short.split('e').next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    if digits <= DIGITS_SHORT_MAX { short } else { format!("{x:.19e}") }
}

/// Text as SQL. A carriage return before a newline would be lost by programs that read line by line,
/// NUL would end the statement for some: such text is written otherwise.
pub(crate) fn text_literal(text: &str) -> String {
    if text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        return format!("CAST(X'{}' AS TEXT)", hex(text.as_bytes()));
    }
    if !text.contains('\r') {
        return quoted(text);
    }
    let mut stand_in = "\\r".to_owned();
    let mut n = 0;
    while text.contains(&stand_in) {
        n += 1;
        stand_in = format!("\\r{n}");
    }
    format!("replace({},'{stand_in}',char(13))", quoted(&text.replace('\r', &stand_in)))
}

/// Bytes that are stored as text, UTF-8 or not.
pub(crate) fn text_bytes_literal(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text_literal(text),
        Err(_) => format!("CAST(X'{}' AS TEXT)", hex(bytes)),
    }
}

/// In single quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that `hex` wrote; `None` if it did not.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::types::ValueRef;

    use super::*;

    fn read_back(conn: &Connection, value: &Value) -> Value {
        conn.query_row(&format!("SELECT {}", literal(value)), [], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => Value::Integer(n),
                ValueRef::Real(x) => Value::Float(x),
                ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).unwrap()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec().into()),
            })
        })
        .unwrap()
    }

    #[test]
    fn what_is_hard_to_write_is_read_back() {
        let conn = Connection::open_in_memory().unwrap();
        let text = |s: &str| Value::Text(s.to_owned());
        for value in [
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Float(f64::INFINITY),
            Value::Float(f64::NEG_INFINITY),
            Value::Float(f64::MAX),
            Value::Float(f64::MIN_POSITIVE),
            Value::Float(0.1 + 0.2),
            Value::Float(1e22),
            Value::Float(-5.0),
            text(""),
            text("it's\n\"new\"\r\n\\r \\r1"),
            text("\0a\u{1b}"),
            Value::Blob(vec![0, 255].into()),
            Value::Blob(Vec::new().into()),
        ] {
            assert_eq!(read_back(&conn, &value), value, "{}", literal(&value));
        }
        assert_eq!(unhex(&hex(b"\0\xffa")).unwrap(), b"\0\xffa");
        assert_eq!((unhex("0"), unhex("zz")), (None, None));
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
    }

    proptest! {
        #[test]
        fn every_text_is_read_back(text in any::<String>()) {
            let conn = Connection::open_in_memory().unwrap();
            let value = Value::Text(text);
            prop_assert_eq!(read_back(&conn, &value), value);
        }

        #[test]
        fn every_float_is_read_back_bit_by_bit(bits in any::<u64>()) {
            let x = f64::from_bits(bits);
            prop_assume!(!x.is_nan());
            let conn = Connection::open_in_memory().unwrap();
            match read_back(&conn, &Value::Float(x)) {
                Value::Float(y) => prop_assert_eq!(x.to_bits(), y.to_bits(), "{}", float(x)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
