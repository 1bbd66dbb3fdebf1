//! Floats of 16 bits.

/// Half precision: 1 sign, 5 exponent, 10 mantissa bits; to the nearest, ties to even.
pub(super) fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let mantissa = bits & 0x007f_ffff;
    let exponent = i32::from(low16((bits >> 23) & 0xff)) - 127;
    let magnitude = match exponent {
        128 if mantissa != 0 => 0x7e00,
        16.. => 0x7c00,
        // Below 2^-24 there is at most half of the smallest number.
        i32::MIN..=-26 => 0,
        // Carries of the rounding go into the exponent, as they should, up to infinity.
        -14..=15 => {
            let biased = u32::try_from(exponent + 15).unwrap_or(0);
            rounded((biased << 23) | mantissa, 13)
        }
        // What is shifted out first does not count for the rounding: libSQL has it so.
        _ => {
            let shift = u32::try_from(-exponent - 14).unwrap_or(0);
            rounded((mantissa | 0x0080_0000) >> shift, 13)
        }
    };
    low16(sign | magnitude)
}

/// `bits` without its last `drop` bits, to the nearest, ties to even.
fn rounded(bits: u32, drop: u32) -> u32 {
    let kept = bits >> drop;
    let rest = bits & ((1 << drop) - 1);
    let half = 1 << (drop - 1);
    kept + u32::from(rest > half || (rest == half && kept & 1 == 1))
}

#[expect(clippy::cast_possible_truncation, reason = "what is above the 16 bits is zero")]
fn low16(bits: u32) -> u16 {
    bits as u16
}

/// Back from half precision.
pub(super) fn from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10) & 0x1f;
    let mantissa = u32::from(half & 0x3ff);
    let magnitude = match exponent {
        0 => {
            let tiny = f32::from(half & 0x3ff) * f32::from_bits(0x3380_0000);
            return f32::from_bits(tiny.to_bits() | sign);
        }
        0x1f => 0x7f80_0000 | (mantissa << 13),
        _ => ((exponent + 112) << 23) | (mantissa << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// The upper half of single precision, cut off.
pub(super) fn to_b16(value: f32) -> u16 {
    low16(value.to_bits() >> 16)
}

/// Back from the upper half.
pub(super) fn from_b16(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}
