use proptest::prelude::*;

use super::*;

fn compress(data: &[u8], step: usize) -> Vec<u8> {
    let mut compressor = Compressor::new(Vec::new());
    for part in data.chunks(step.max(1)) {
        compressor.write_all(part).unwrap();
    }
    compressor.flush().unwrap();
    compressor.finish().unwrap()
}

fn unpack(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Unpacker::new(bytes, limit)?.read_to_end(&mut out)?;
    Ok(out)
}

/// Bytes that compress a little, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b"abcdefghijklmnopqrstuvwxyz      "[(state >> 59) as usize]
    };
    std::iter::repeat_with(next).take(len).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_length_in_any_steps_reads_back(
        len in prop_oneof![0usize..200, 30_000usize..40_000, 500_000usize..1_200_000],
        step in 1usize..100_000,
        seed: u64,
    ) {
        let data = noise(len, seed);
        prop_assert_eq!(unpack(&compress(&data, step.max(len / 1000)), len as u64).unwrap(), data);
    }
}

#[test]
fn one_byte_more_than_the_limit_is_an_error() {
    for len in [0usize, 1, 1000, 700_000] {
        let packed = compress(&noise(len, 1), 4096);
        assert_eq!(unpack(&packed, len as u64).unwrap().len(), len);
        if len > 0 {
            let error = unpack(&packed, len as u64 - 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
        }
    }
}

/// About 33 KB that unpack to 1 GiB of zeros.
fn bomb() -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut io::repeat(0).take(1 << 30), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_gigabyte_of_zeros_is_cut_at_the_limit() {
    let bomb = bomb();
    assert!(bomb.len() < 200_000, "{} bytes", bomb.len());
    let mut unpacker = Unpacker::new(&bomb[..], 100_000).unwrap();
    let mut buf = [0; 4096];
    let mut got = 0;
    let error = loop {
        match unpacker.read(&mut buf) {
            Ok(n) => got += n,
            Err(e) => break e,
        }
        assert!(got <= 100_000, "{got} bytes passed");
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(got > 90_000, "{got} bytes: the limit is not reached");
}

#[test]
fn a_window_above_the_limit_is_refused_and_one_at_it_is_not() {
    for (log, good) in [(WINDOW_LOG_MAX, true), (WINDOW_LOG_MAX + 1, false)] {
        let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(b"abc").unwrap();
        // A flush before the end keeps zstd from shrinking the window to the content.
        encoder.flush().unwrap();
        let packed = encoder.finish().unwrap();
        match unpack(&packed, 3) {
            Ok(data) => assert!(good && data == b"abc"),
            Err(e) => assert!(!good && is_damage(&e), "{e}"),
        }
    }
}

#[test]
fn what_we_write_keeps_to_the_window_that_we_read() {
    // Longer than the window of any level used, so that a too large window would be stated.
    let data = noise(9 << 20, 3);
    assert_eq!(unpack(&compress(&data, 1 << 16), data.len() as u64).unwrap(), data);
}

#[test]
fn damage_is_told_apart_from_a_failing_source() {
    struct Failing(io::ErrorKind);
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(self.0, "the disk is gone"))
        }
    }
    let data = noise(100_000, 5);
    let packed = compress(&data, 4096);
    for kind in [io::ErrorKind::Other, io::ErrorKind::TimedOut] {
        let source = io::BufReader::new(packed[..9000].chain(Failing(kind)));
        let mut unpacker = Unpacker::new(source, 100_000).unwrap();
        let error = unpacker.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(!is_damage(&error));
    }
    assert!(is_damage(&unpack(&packed[..9000], 100_000).unwrap_err()));
    assert!(is_damage(&unpack(b"no zstd at all", 100_000).unwrap_err()));
    assert!(is_damage(&unpack(&packed, 99_999).unwrap_err()));
}
