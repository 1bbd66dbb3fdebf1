//! Vectors in blobs and texts.
//!
//! A blob of even length has floats of 4 bytes. One of odd length ends with a byte for its type:
//!
//! | type | before that byte |
//! |---|---|
//! | 1 | floats of 4 bytes |
//! | 2 | floats of 8 bytes |
//! | 3 | bits, the lowest first; a zero byte if their length is even; the number of bits, from the last byte but one on, that are none |
//! | 4 | a byte for each element; zeros up to a multiple of 4; step and smallest value, as floats of 4 bytes; a zero byte; the number of the zeros before |
//! | 5, 6 | floats of 2 bytes: half precision, upper half of single precision |
//!
//! All numbers are little-endian.

use super::half;
use super::number;
use super::{DIMS_MAX, VectorError};

/// What a vector consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F64,
    Bit,
    F8,
    F16,
    B16,
}

impl Kind {
    /// The byte that ends a blob.
    pub(super) fn byte(self) -> u8 {
        match self {
            Kind::F32 => 1,
            Kind::F64 => 2,
            Kind::Bit => 3,
            Kind::F8 => 4,
            Kind::F16 => 5,
            Kind::B16 => 6,
        }
    }
}

/// A vector in memory, in the form of its kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Vector {
    F32(Vec<f32>),
    F64(Vec<f64>),
    /// The bits, and how many of them are elements.
    Bit(Vec<u8>, usize),
    F8 {
        steps: Vec<u8>,
        alpha: f32,
        shift: f32,
    },
    F16(Vec<u16>),
    B16(Vec<u16>),
}

impl Vector {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Vector::F32(_) => Kind::F32,
            Vector::F64(_) => Kind::F64,
            Vector::Bit(..) => Kind::Bit,
            Vector::F8 { .. } => Kind::F8,
            Vector::F16(_) => Kind::F16,
            Vector::B16(_) => Kind::B16,
        }
    }

    pub(super) fn dims(&self) -> usize {
        match self {
            Vector::F32(elements) => elements.len(),
            Vector::F64(elements) => elements.len(),
            Vector::Bit(_, dims) => *dims,
            Vector::F8 { steps, .. } => steps.len(),
            Vector::F16(elements) | Vector::B16(elements) => elements.len(),
        }
    }

    /// Reads `[1, 2, 3]`; blanks are passed over, also within numbers.
    pub(super) fn from_text(text: &[u8], hint: Kind) -> Result<Self, VectorError> {
        // As in libSQL, a NUL ends the text.
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut bytes = text.iter().copied().filter(|byte| !is_blank(*byte));
        if bytes.next() != Some(b'[') {
            return Err(error("must start with '['"));
        }
        let mut elements = Vec::new();
        let mut number = Vec::new();
        loop {
            match bytes.next() {
                None => return Err(error("must end with ']'")),
                Some(b']') if elements.is_empty() && number.is_empty() => break,
                Some(end @ (b',' | b']')) => {
                    elements.push(element(&number, elements.len())?);
                    number.clear();
                    if end == b']' {
                        break;
                    }
                }
                Some(byte) if number.len() < NUMBER_BYTES => number.push(byte),
                Some(_) => {
                    return Err(error(&format!(
                        "float string length exceeded {} characters: '{}'",
                        NUMBER_BYTES - 1,
                        String::from_utf8_lossy(&number)
                    )));
                }
            }
        }
        if bytes.next().is_some() {
            return Err(error("non-space symbols after closing ']' are forbidden"));
        }
        Ok(match hint {
            Kind::F64 => Vector::F64(elements),
            _ => Vector::F32(elements.into_iter().map(narrow).collect()),
        })
    }

    /// Reads a blob.
    pub(super) fn from_blob(blob: &[u8]) -> Result<Self, VectorError> {
        let (kind, data) = match blob.split_last() {
            Some((kind, data)) if blob.len() % 2 == 1 => (*kind, data),
            _ => (Kind::F32.byte(), blob),
        };
        let vector = match kind {
            1 => Vector::F32(chunks(data, "float32", f32::from_le_bytes)?),
            2 => Vector::F64(chunks(data, "float64", f64::from_le_bytes)?),
            3 => bits(data)?,
            4 => steps(data)?,
            5 => Vector::F16(chunks(data, "float16", u16::from_le_bytes)?),
            6 => Vector::B16(chunks(data, "floatb16", u16::from_le_bytes)?),
            other => return Err(error(&format!("unexpected binary type: {other}"))),
        };
        Ok(vector)
    }

    /// As a blob.
    pub(super) fn to_blob(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Vector::F32(elements) => {
                // The only kind without a byte for its type.
                return elements.iter().flat_map(|element| element.to_le_bytes()).collect();
            }
            Vector::F64(elements) => {
                out.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
            }
            Vector::F16(elements) | Vector::B16(elements) => {
                out.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
            }
            Vector::Bit(bits, dims) => {
                out.extend_from_slice(bits);
                if out.len().is_multiple_of(2) {
                    out.push(0);
                }
                out.push(small((out.len() + 1) * 8 - dims));
            }
            Vector::F8 { steps, alpha, shift } => {
                let padded = steps.len().next_multiple_of(4);
                out.extend_from_slice(steps);
                out.resize(padded, 0);
                out.extend(alpha.to_le_bytes());
                out.extend(shift.to_le_bytes());
                out.push(0);
                out.push(small(padded - steps.len()));
            }
        }
        out.push(self.kind().byte());
        out
    }

    /// As text.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::from("[");
        let mut push = |value: f64| {
            if out.len() > 1 {
                out.push(',');
            }
            number::push(&mut out, value);
        };
        match self {
            Vector::F64(elements) => elements.iter().for_each(|element| push(*element)),
            other => other.singles().for_each(|element| push(f64::from(element))),
        }
        out.push(']');
        out
    }

    /// The elements as single precision.
    pub(super) fn singles(&self) -> Box<dyn Iterator<Item = f32> + '_> {
        match self {
            Vector::F32(elements) => Box::new(elements.iter().copied()),
            Vector::F64(elements) => Box::new(elements.iter().copied().map(narrow)),
            Vector::Bit(bits, dims) => Box::new(
                (0..*dims).map(|at| if bits[at / 8] >> (at % 8) & 1 == 1 { 1.0 } else { -1.0 }),
            ),
            Vector::F8 { steps, alpha, shift } => {
                Box::new(steps.iter().map(move |step| alpha * f32::from(*step) + shift))
            }
            Vector::F16(elements) => Box::new(elements.iter().copied().map(half::from_f16)),
            Vector::B16(elements) => Box::new(elements.iter().copied().map(half::from_b16)),
        }
    }

    /// As another kind.
    pub(super) fn convert(self, kind: Kind) -> Self {
        if self.kind() == kind {
            return self;
        }
        match kind {
            Kind::F32 => Vector::F32(self.singles().collect()),
            Kind::F64 => Vector::F64(self.singles().map(f64::from).collect()),
            Kind::F16 => Vector::F16(self.singles().map(half::to_f16).collect()),
            Kind::B16 => Vector::B16(self.singles().map(half::to_b16).collect()),
            Kind::Bit => self.signs(),
            Kind::F8 => self.quantized(),
        }
    }

    fn signs(&self) -> Self {
        let dims = self.dims();
        let mut bits = vec![0; dims.div_ceil(8)];
        let mut set = |at: usize, positive: bool| bits[at / 8] |= u8::from(positive) << (at % 8);
        match self {
            // A double may be too small for single precision and still be positive.
            Vector::F64(all) => all.iter().enumerate().for_each(|(at, one)| set(at, *one > 0.0)),
            other => other.singles().enumerate().for_each(|(at, one)| set(at, one > 0.0)),
        }
        Vector::Bit(bits, dims)
    }

    fn quantized(&self) -> Self {
        let mut range: Option<(f32, f32)> = None;
        for one in self.singles() {
            range = Some(
                range.map_or((one, one), |(low, high)| (smaller(low, one), larger(high, one))),
            );
        }
        let (shift, high) = range.unwrap_or((0.0, 0.0));
        let alpha = (high - shift) / 255.0;
        let step = |one: f64| nearest(narrow((one - f64::from(shift)) / f64::from(alpha)));
        let steps = match self {
            Vector::F64(all) => all.iter().map(|one| step(*one)).collect(),
            other => other.singles().map(|one| nearest((one - shift) / alpha)).collect(),
        };
        Vector::F8 { steps, alpha, shift }
    }
}

/// Bytes of a number in a text.
const NUMBER_BYTES: usize = 1025;

fn error(message: &str) -> VectorError {
    VectorError(format!("vector: {message}"))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0d)
}

fn element(number: &[u8], at: usize) -> Result<f64, VectorError> {
    let Some(value) = number::parse(number) else {
        let shown = String::from_utf8_lossy(number);
        return Err(error(&format!("invalid float at position {at}: '{shown}'")));
    };
    if at >= DIMS_MAX {
        return Err(error(&format!("max size exceeded {DIMS_MAX}")));
    }
    Ok(value)
}

fn check_dims(dims: usize) -> Result<(), VectorError> {
    if dims > DIMS_MAX {
        return Err(error(&format!("max size exceeded: {dims} > {DIMS_MAX}")));
    }
    Ok(())
}

fn chunks<const N: usize, T>(
    data: &[u8],
    name: &str,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, VectorError> {
    let (chunks, rest) = data.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(error(&format!(
            "{name} vector blob length must be divisible by {N} (excluding 'type'-byte): length={}",
            data.len()
        )));
    }
    check_dims(chunks.len())?;
    Ok(chunks.iter().copied().map(read).collect())
}

fn bits(data: &[u8]) -> Result<Vector, VectorError> {
    let malformed = || {
        error(&format!(
            "float1bit vector blob length must be divisible by 2 and not be empty (excluding \
             'type'-byte): length={}",
            data.len()
        ))
    };
    let trailing = usize::from(*data.last().ok_or_else(malformed)?);
    if !data.len().is_multiple_of(2) {
        return Err(malformed());
    }
    let dims = (data.len() * 8)
        .checked_sub(trailing)
        .filter(|dims| dims.div_ceil(8) < data.len())
        .ok_or_else(|| error("float1bit vector blob has a wrong number of trailing bits"))?;
    check_dims(dims)?;
    Ok(Vector::Bit(data[..dims.div_ceil(8)].to_vec(), dims))
}

fn steps(data: &[u8]) -> Result<Vector, VectorError> {
    if data.len() < 2 || !data.len().is_multiple_of(2) {
        return Err(error(&format!(
            "float8 vector blob length must be divisible by 2 and has at least 2 bytes (excluding \
             'type'-byte): length={}",
            data.len()
        )));
    }
    let (content, meta) = data.split_at(data.len() - 2);
    let malformed = || error("float8 vector blob has a wrong number of trailing bytes");
    let (rest, shift) = content.split_last_chunk::<4>().ok_or_else(malformed)?;
    let (padded, alpha) = rest.split_last_chunk::<4>().ok_or_else(malformed)?;
    let dims = padded.len().checked_sub(usize::from(meta[1])).ok_or_else(malformed)?;
    if dims.next_multiple_of(4) != padded.len() {
        return Err(malformed());
    }
    check_dims(dims)?;
    Ok(Vector::F8 {
        steps: padded[..dims].to_vec(),
        alpha: f32::from_le_bytes(*alpha),
        shift: f32::from_le_bytes(*shift),
    })
}

/// A count of at most some bits or bytes.
fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "single precision is what is asked for")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// The smaller one; the second if either is not a number, as comparisons in C have it.
fn smaller(left: f32, right: f32) -> f32 {
    if left < right { left } else { right }
}

fn larger(left: f32, right: f32) -> f32 {
    if left > right { left } else { right }
}

/// Nearest step from 0 to 255; 0 for what is not a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and the value is within the range"
)]
fn nearest(step: f32) -> u8 {
    (f64::from(step.clamp(0.0, 255.0)) + 0.5) as u8
}
