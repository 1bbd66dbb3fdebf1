use proptest::prelude::*;

use super::codec::{Kind, Vector};
use super::{DIMS_MAX, half};

const KINDS: [Kind; 6] = [Kind::F32, Kind::F64, Kind::Bit, Kind::F8, Kind::F16, Kind::B16];

#[test]
fn every_half_goes_there_and_back() {
    for bits in 0..=u16::MAX {
        let value = half::from_f16(bits);
        if !value.is_nan() {
            assert_eq!(half::to_f16(value), bits);
        }
        assert_eq!(half::to_b16(half::from_b16(bits)), bits);
    }
}

#[test]
fn halves_are_rounded_to_the_nearest() {
    for (value, bits) in [
        (65504.0, 0x7bff),
        (65519.0, 0x7bff),
        (65520.0, 0x7c00),
        (f32::NEG_INFINITY, 0xfc00),
        (5.960_464_5e-8, 0x0001),
        (1e-9, 0x0000),
        (-0.0, 0x8000),
        (6.103_515_6e-5, 0x0400),
        (1.000_488_3, 0x3c00),
        (1.001_464_8, 0x3c02),
    ] {
        assert_eq!(half::to_f16(value), bits, "{value}");
    }
    assert_eq!(half::to_f16(f32::NAN), 0x7e00);
}

#[test]
fn no_more_elements_than_allowed() {
    let long = |dims: usize| format!("[{}1]", "1,".repeat(dims - 1));
    assert_eq!(Vector::from_text(long(DIMS_MAX).as_bytes(), Kind::F32).unwrap().dims(), DIMS_MAX);
    assert!(Vector::from_text(long(DIMS_MAX + 1).as_bytes(), Kind::F32).is_err());
    assert!(Vector::from_blob(&vec![0; DIMS_MAX * 4]).is_ok());
    assert!(Vector::from_blob(&vec![0; DIMS_MAX * 4 + 4]).is_err());
    let mut bits = vec![0; DIMS_MAX / 8 + 3];
    let last = bits.len() - 1;
    bits[last] = 3;
    bits[last - 1] = 8;
    assert!(Vector::from_blob(&bits).is_err());
    assert!(Vector::from_text(format!("[{}]", "1".repeat(2000)).as_bytes(), Kind::F32).is_err());
}

fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![-1e6_f32..1e6, Just(0.0), any::<f32>().prop_filter("finite", |x| x.is_finite())]
}

proptest! {
    #[test]
    fn blobs_give_back_what_they_were_made_of(elements in prop::collection::vec(finite(), 0..40)) {
        for kind in KINDS {
            let vector = Vector::F32(elements.clone()).convert(kind);
            prop_assert_eq!(vector.dims(), elements.len());
            let read = Vector::from_blob(&vector.to_blob()).unwrap();
            prop_assert_eq!(read.kind(), kind);
            prop_assert_eq!(read.to_blob(), vector.to_blob());
            prop_assert_eq!(read, vector);
        }
    }

    #[test]
    fn six_digits_of_each_element_are_extracted(elements in prop::collection::vec(finite(), 0..40)) {
        let text = Vector::F32(elements.clone()).to_text();
        let Ok(Vector::F64(read)) = Vector::from_text(text.as_bytes(), Kind::F64) else {
            panic!("{text}");
        };
        prop_assert_eq!(read.len(), elements.len());
        for (read, element) in read.iter().zip(&elements) {
            let element = f64::from(*element);
            prop_assert!((read - element).abs() <= element.abs() * 5.1e-6, "{} {}", read, element);
        }
        // What has six digits comes out as it went in.
        let again = Vector::from_text(text.as_bytes(), Kind::F64).unwrap().to_text();
        prop_assert_eq!(again, text);
    }

    #[test]
    fn any_blob_is_read_or_refused(blob in prop::collection::vec(any::<u8>(), 0..40), last in 0_u8..8) {
        let mut blob = blob;
        if blob.len() % 2 == 1 && let Some(end) = blob.last_mut() {
            *end = last;
        }
        if let Ok(vector) = Vector::from_blob(&blob) {
            let _ = (vector.to_text(), super::distance::cos(&vector, &vector));
            for kind in KINDS {
                prop_assert_eq!(vector.clone().convert(kind).dims(), vector.dims());
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\], 0-9.eE+a\\x00-]{0,30}") {
        let _ = Vector::from_text(text.as_bytes(), Kind::F32);
    }
}
