//! Distances, with the precision and the order of additions of libSQL.

use super::VectorError;
use super::codec::{Vector, narrow};

/// 1 − cosine; of bits, how many differ. The vectors are of one kind and length.
pub(super) fn cos(left: &Vector, right: &Vector) -> f32 {
    match (left, right) {
        (Vector::F64(left), Vector::F64(right)) => {
            let (mut dot, mut norm1, mut norm2) = (0.0, 0.0, 0.0);
            for (a, b) in left.iter().zip(right) {
                dot += a * b;
                norm1 += a * a;
                norm2 += b * b;
            }
            narrow(1.0 - dot / f64::sqrt(norm1 * norm2))
        }
        (Vector::Bit(left, _), Vector::Bit(right, _)) => {
            let differ: u32 = left.iter().zip(right).map(|(a, b)| (a ^ b).count_ones()).sum();
            narrow(f64::from(differ))
        }
        (
            Vector::F8 { steps: left, alpha: alpha1, shift: shift1 },
            Vector::F8 { steps: right, alpha: alpha2, shift: shift2 },
        ) => cos_of_steps((left, *alpha1, *shift1), (right, *alpha2, *shift2)),
        (Vector::F32(left), Vector::F32(right)) => {
            cos_of(left.iter().copied().zip(right.iter().copied()))
        }
        _ => cos_of(left.singles().zip(right.singles())),
    }
}

fn cos_of(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (mut dot, mut norm1, mut norm2) = (0.0_f32, 0.0_f32, 0.0_f32);
    for (a, b) in pairs {
        dot += a * b;
        norm1 += a * a;
        norm2 += b * b;
    }
    finish(dot, norm1, norm2)
}

fn finish(dot: f32, norm1: f32, norm2: f32) -> f32 {
    narrow(1.0 - f64::from(dot) / f64::from(norm1 * norm2).sqrt())
}

/// With sums of whole numbers: (αx + s)(βy + t) = αβ·xy + αt·x + βs·y + st.
#[expect(clippy::cast_precision_loss, reason = "as libSQL has it")]
fn cos_of_steps(
    (left, alpha1, shift1): (&[u8], f32, f32),
    (right, alpha2, shift2): (&[u8], f32, f32),
) -> f32 {
    let (mut sum1, mut sum2, mut squares1, mut squares2, mut products) =
        (0u32, 0u32, 0u32, 0u32, 0u32);
    for (a, b) in left.iter().zip(right) {
        let (a, b) = (u32::from(*a), u32::from(*b));
        sum1 += a;
        sum2 += b;
        // 65,536 squares of 255 at most: these do not overflow.
        squares1 += a * a;
        squares2 += b * b;
        products += a * b;
    }
    let (sum1, sum2, dims) = (sum1 as f32, sum2 as f32, left.len() as f32);
    let dot = alpha1 * alpha2 * products as f32
        + alpha1 * shift2 * sum1
        + alpha2 * shift1 * sum2
        + shift1 * shift2 * dims;
    let norm = |alpha: f32, shift: f32, squares: u32, sum: f32| {
        alpha * alpha * squares as f32 + 2.0 * alpha * shift * sum + shift * shift * dims
    };
    finish(dot, norm(alpha1, shift1, squares1, sum1), norm(alpha2, shift2, squares2, sum2))
}

/// Euclidean distance; not of bits. The vectors are of one kind and length.
pub(super) fn l2(left: &Vector, right: &Vector) -> Result<f32, VectorError> {
    match (left, right) {
        (Vector::Bit(..), _) | (_, Vector::Bit(..)) => Err(VectorError(
            "vector_distance: l2 distance is not supported for float1bit vectors".to_owned(),
        )),
        (Vector::F64(left), Vector::F64(right)) => {
            let sum = left.iter().zip(right).fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b));
            Ok(narrow(sum.sqrt()))
        }
        (Vector::F32(left), Vector::F32(right)) => {
            Ok(l2_of(left.iter().copied().zip(right.iter().copied())))
        }
        _ => Ok(l2_of(left.singles().zip(right.singles()))),
    }
}

fn l2_of(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let sum = pairs.fold(0.0_f32, |sum, (a, b)| sum + (a - b) * (a - b));
    narrow(f64::from(sum).sqrt())
}
