//! The first columns of a record: the key of a table WITHOUT ROWID.

use super::Odd;
use super::btree::{At, Reader, cell_alone, varint};
use crate::cell::Cell;

/// A key, with the header of its record, is at most this long.
const BYTES_MAX: u64 = 1 << 20;

/// The first `columns` values of the record in a cell.
pub(super) fn key(reader: &Reader, cell: &[u8], at: &At, columns: usize) -> Result<Vec<Cell>, Odd> {
    // The header is rarely longer than what lies on the page; nine bytes tell its length.
    let start = reader.payload(cell, at, 9)?;
    let mut place = 0;
    let header_bytes = varint(&start, &mut place).ok_or(Odd::GiveUp)?;
    let header = reader.payload(cell, at, bounded(header_bytes)?)?;
    let mut kinds = Vec::with_capacity(columns.min(header.len()));
    let mut end = header_bytes;
    for _ in 0..columns {
        let kind = varint(&header, &mut place).ok_or(Odd::GiveUp)?;
        end = end.checked_add(length(kind)?).ok_or(Odd::GiveUp)?;
        kinds.push(kind);
    }
    let payload = reader.payload(cell, at, bounded(end)?)?;
    let mut place = bounded(header_bytes)?;
    let mut values = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let until = place + bounded(length(kind)?)?;
        values.push(value(kind, payload.get(place..until).ok_or(Odd::GiveUp)?)?);
        place = until;
    }
    Ok(values)
}

/// Where things are in the cell of an index that stands alone.
pub(super) fn at(cell: &[u8], reader: &Reader) -> Result<At, Odd> {
    cell_alone(cell, reader.usable())
}

/// About how much memory a value takes.
pub(super) fn bytes(value: &Cell) -> usize {
    let apart = match value {
        Cell::Text(bytes) | Cell::Blob(bytes) => bytes.len(),
        _ => 0,
    };
    size_of::<Cell>() + apart
}

fn bounded(bytes: u64) -> Result<usize, Odd> {
    if bytes > BYTES_MAX {
        return Err(Odd::GiveUp);
    }
    usize::try_from(bytes).map_err(|_| Odd::GiveUp)
}

/// Bytes of a value of this kind.
fn length(kind: u64) -> Result<u64, Odd> {
    Ok(match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return Err(Odd::GiveUp),
        _ => (kind - 12) / 2,
    })
}

fn value(kind: u64, bytes: &[u8]) -> Result<Cell, Odd> {
    Ok(match kind {
        0 => Cell::Null,
        8 => Cell::Integer(0),
        9 => Cell::Integer(1),
        1..=6 => {
            let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
            let start = if negative { -1i64 } else { 0 };
            Cell::Integer(bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte)))
        }
        7 => {
            let bits = bytes.try_into().map_err(|_| Odd::GiveUp)?;
            Cell::Real(f64::from_bits(u64::from_be_bytes(bits)))
        }
        _ if kind.is_multiple_of(2) => Cell::Blob(bytes.to_vec()),
        _ => Cell::Text(bytes.to_vec()),
    })
}
