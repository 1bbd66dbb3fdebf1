//! One SQL value.
//!
//! | SQLite | JSON |
//! |---|---|
//! | NULL | `{"type":"null"}` |
//! | INTEGER | `{"type":"integer","value":"-5"}`: a decimal string, for JavaScript's sake |
//! | REAL | `{"type":"float","value":1.5}` |
//! | TEXT | `{"type":"text","value":"…"}` |
//! | BLOB | `{"type":"blob","base64":"AQID"}`: written without padding, read with or without |

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::display::Base64Display;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{self, Serialize, SerializeMap as _, Serializer};

/// How blobs are written and read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One SQL value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// NULL.
    #[default]
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL. Infinities have no form in JSON: writing one fails.
    Float(f64),
    /// TEXT.
    Text(String),
    /// BLOB.
    Blob(Bytes),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = if matches!(self, Value::Null) { 1 } else { 2 };
        let mut map = serializer.serialize_map(Some(members))?;
        match self {
            Value::Null => map.serialize_entry("type", "null")?,
            Value::Integer(n) => {
                map.serialize_entry("type", "integer")?;
                map.serialize_entry("value", &Shown(n))?;
            }
            Value::Float(n) if !n.is_finite() => {
                return Err(ser::Error::custom(format!("{n} has no form in JSON")));
            }
            Value::Float(n) => {
                map.serialize_entry("type", "float")?;
                map.serialize_entry("value", n)?;
            }
            Value::Text(text) => {
                map.serialize_entry("type", "text")?;
                map.serialize_entry("value", text)?;
            }
            Value::Blob(bytes) => {
                map.serialize_entry("type", "blob")?;
                map.serialize_entry("base64", &Shown(&Base64Display::new(bytes, &BASE64)))?;
            }
        }
        map.end()
    }
}

/// Written as the string that it shows, without one being made.
struct Shown<'a, T>(&'a T);

impl<T: fmt::Display> Serialize for Shown<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Null,
    Integer,
    Float,
    Text,
    Blob,
}

/// The members of a value, in whatever order they come.
#[derive(serde::Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    value: Option<Scalar>,
    #[serde(borrow)]
    base64: Option<Cow<'a, str>>,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Raw::deserialize(deserializer)?;
        match (raw.kind, raw.value, raw.base64) {
            (Kind::Null, _, _) => Ok(Value::Null),
            (Kind::Integer, Some(Scalar::Text(text)), _) => text
                .parse()
                .map(Value::Integer)
                .map_err(|_| de::Error::custom("an integer is not a decimal 64-bit number")),
            (Kind::Integer, _, _) => {
                Err(de::Error::custom("an integer needs 'value', a decimal string"))
            }
            (Kind::Float, Some(Scalar::Number(n)), _) => Ok(Value::Float(n)),
            (Kind::Float, _, _) => Err(de::Error::custom("a float needs 'value', a number")),
            (Kind::Text, Some(Scalar::Text(text)), _) => Ok(Value::Text(text)),
            (Kind::Text, _, _) => Err(de::Error::custom("a text needs 'value', a string")),
            (Kind::Blob, _, Some(text)) => BASE64
                .decode(text.as_bytes())
                .map(|bytes| Value::Blob(bytes.into()))
                .map_err(|e| de::Error::custom(format!("a blob is no base64: {e}"))),
            (Kind::Blob, _, None) => Err(de::Error::custom("a blob needs 'base64', a string")),
        }
    }
}

enum Scalar {
    Text(String),
    Number(f64),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n))
    }

    #[expect(clippy::cast_precision_loss, reason = "a float that was written without a point")]
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "a float that was written without a point")]
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n as f64))
    }
}
