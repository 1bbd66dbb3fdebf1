//! libSQL's vector functions: pure functions over blobs and texts, without an index.
//!
//! | function | answers |
//! |---|---|
//! | `vector32(x)`, `vector(x)` | 4 bytes for each element |
//! | `vector64(x)` | 8 bytes for each element |
//! | `vector16(x)`, `vectorb16(x)` | 2 bytes: half precision, and the upper half of single precision |
//! | `vector8(x)` | 1 byte: steps between the smallest and the largest element |
//! | `vector1bit(x)` | 1 bit: whether the element is positive |
//! | `vector_extract(x)` | the elements as text: `[1,2.5]`, six digits each |
//! | `vector_distance_cos(x, y)` | 1 − cosine of the angle; of `vector1bit`, how many elements differ |
//! | `vector_distance_l2(x, y)` | Euclidean distance; not of `vector1bit` |
//!
//! `x` is a text such as `[1,2,3]`, or a blob that one of these functions made. Results are those of
//! libSQL to the last bit, so that a vector written there is read here and the other
//! way round. A vector has [`DIMS_MAX`] elements at most, which bounds all memory used here.
//!
//! `libsql_vector_idx` exists only to say that there are no vector indexes: a schema made elsewhere may
//! call it.

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSqlOutput, Type, ValueRef};

mod codec;
mod distance;
mod half;
mod number;

use codec::{Kind, Vector};

/// Elements of a vector at most.
pub const DIMS_MAX: usize = 65_536;

/// Why a vector function failed, in libSQL's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VectorError(String);

impl std::fmt::Display for VectorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for VectorError {}

impl From<VectorError> for rusqlite::Error {
    fn from(error: VectorError) -> Self {
        rusqlite::Error::UserFunctionError(Box::new(error))
    }
}

/// Registers the functions on a connection.
pub fn register(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, kind) in [
        ("vector", Kind::F32),
        ("vector32", Kind::F32),
        ("vector64", Kind::F64),
        ("vector16", Kind::F16),
        ("vectorb16", Kind::B16),
        ("vector8", Kind::F8),
        ("vector1bit", Kind::Bit),
    ] {
        conn.create_scalar_function(name, 1, flags, move |context| {
            // Text is read with the precision of the result, if that is double.
            let hint = if kind == Kind::F64 { Kind::F64 } else { Kind::F32 };
            Ok(argument(context, 0, hint)?.convert(kind).to_blob())
        })?;
    }
    conn.create_scalar_function("vector_extract", 1, flags, |context| {
        Ok(argument(context, 0, Kind::F32)?.to_text())
    })?;
    conn.create_scalar_function("vector_distance_cos", 2, flags, |context| {
        let (left, right) = pair(context)?;
        Ok(number(distance::cos(&left, &right)))
    })?;
    conn.create_scalar_function("vector_distance_l2", 2, flags, |context| {
        let (left, right) = pair(context)?;
        Ok(number(distance::l2(&left, &right)?))
    })?;
    conn.create_scalar_function("libsql_vector_idx", -1, flags, |_| {
        Err::<i64, _>(VectorError(crate::guard::no_vector_index("libsql_vector_idx")).into())
    })
}

fn number(value: f32) -> ToSqlOutput<'static> {
    // SQLite makes NULL of what is not a number.
    ToSqlOutput::Owned(rusqlite::types::Value::Real(f64::from(value)))
}

fn argument(context: &Context<'_>, index: usize, hint: Kind) -> Result<Vector, VectorError> {
    match context.get_raw(index) {
        ValueRef::Text(text) => Vector::from_text(text, hint),
        ValueRef::Blob(blob) => Vector::from_blob(blob),
        other => Err(VectorError(format!(
            "vector: unexpected value type: got {}, expected TEXT or BLOB",
            match other.data_type() {
                Type::Integer => "INTEGER",
                Type::Real => "FLOAT",
                _ => "NULL",
            }
        ))),
    }
}

fn pair(context: &Context<'_>) -> Result<(Vector, Vector), VectorError> {
    let left = argument(context, 0, Kind::F32)?;
    let right = argument(context, 1, Kind::F32)?;
    if left.kind() != right.kind() {
        return Err(VectorError(format!(
            "vector_distance: vectors must have the same type: {} != {}",
            left.kind().byte(),
            right.kind().byte()
        )));
    }
    if left.dims() != right.dims() {
        return Err(VectorError(format!(
            "vector_distance: vectors must have the same length: {} != {}",
            left.dims(),
            right.dims()
        )));
    }
    Ok((left, right))
}

#[cfg(test)]
mod tests;
