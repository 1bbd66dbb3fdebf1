//! Bodies that are taken apart into zstd frames: the bytes as they are, and frames cut out of the
//! input and packed soundly, with the rest of the input behind them.
#![no_main]

use anabranch_format::{FRAME_CONTENT_MAX, FrameSplitter, FrameUnpacker, WINDOW_LOG_MAX};
use anabranch_fuzz::{Recipe, pack};
use libfuzzer_sys::fuzz_target;

/// Small frames may unpack to a lot, many of them to more than the fuzzer may hold.
const BYTES_MAX: usize = 64 << 20;

/// What the frames give, as far as they are sound.
fn split(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut splitter = FrameSplitter::new(bytes);
    let mut unpacker = FrameUnpacker::new().expect("memory takes it");
    let (mut out, mut content) = (Vec::new(), Vec::new());
    loop {
        match splitter.next_frame() {
            Ok(None) => return (out, true),
            Ok(_) if out.len() > BYTES_MAX => return (out, false),
            Err(_) => return (out, false),
            Ok(Some(frame)) => {
                assert!(frame.content_len() <= FRAME_CONTENT_MAX);
                match unpacker.unpack(&frame, &mut content) {
                    Ok(()) => out.extend_from_slice(&content),
                    Err(_) => return (out, false),
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (taken_apart, sound) = split(data);
    if sound {
        // What comes apart well is what unpacking the whole gives.
        let mut decoder = zstd::stream::read::Decoder::new(data).expect("memory takes it");
        decoder.window_log_max(WINDOW_LOG_MAX).expect("a limit can be set");
        let mut whole = Vec::new();
        if std::io::Read::read_to_end(&mut decoder, &mut whole).is_ok() {
            assert!(whole == taken_apart);
        }
    }
    let mut recipe = Recipe(data);
    let mut body = Vec::new();
    let mut content = Vec::new();
    for _ in 0..recipe.byte() % 8 {
        let take = (recipe.number() as usize).min(recipe.0.len());
        let (part, rest) = recipe.0.split_at(take);
        recipe.0 = rest;
        body.extend(pack(part));
        content.extend_from_slice(part);
    }
    assert!(split(&body) == (content.clone(), true), "what was packed comes back");
    body.extend_from_slice(recipe.0);
    let (out, _) = split(&body);
    assert!(out.starts_with(&content), "whatever follows, what was sound is there");
});
