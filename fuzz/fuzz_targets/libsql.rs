//! Requests in the dialect of the libSQL clients, to a server of its own: any path and body, and frames
//! of one WAL with fitting checksums, pushed in requests that overlap, repeat and leave gaps.
#![no_main]

use anabranch_format::PageSize;
use anabranch_fuzz::{Recipe, runtime, scratch, wal};
use anabranch_server::fuzzing::{Requests, parameters};
use libfuzzer_sys::fuzz_target;

const WAL_HEADER_BYTES: usize = 32;
const FRAME_BYTES: usize = 24 + 4096;

/// Any request, made of the text.
async fn any(server: &Requests, data: &[u8]) {
    let (path, body) = data.split_at(data.iter().position(|b| *b == b'\n').unwrap_or(data.len()));
    let Ok(path) = std::str::from_utf8(path) else { return };
    parameters(path);
    for method in ["GET", "POST"] {
        server.ask(method, &format!("/{path}"), body.to_vec()).await;
        server.ask(method, &format!("/sync/1/{path}"), body.to_vec()).await;
    }
}

/// Pushes parts of one WAL, and pulls: what is served is what was pushed.
async fn pushes(server: &Requests, recipe: &mut Recipe<'_>) {
    let frames: Vec<(u32, u32, u8)> = recipe.frames().into_iter().filter(|f| f.0 > 0).collect();
    let wal = wal(PageSize::DEFAULT, &frames);
    let (count, mut accepted) = (frames.len(), 0);
    for _ in 0..1 + recipe.byte() % 4 {
        let start = usize::from(recipe.byte()) % (count + 1);
        let end = (start + usize::from(recipe.byte()) % (count + 1)).min(count);
        let at = |index: usize| WAL_HEADER_BYTES + index * FRAME_BYTES;
        let mut body = wal[at(start)..at(end)].to_vec();
        if recipe.byte() > 240 {
            let flipped = usize::from(recipe.byte()) * 16;
            body.get_mut(flipped).map(|byte| *byte ^= 1);
        }
        let path = format!("/sync/1/{}/{}", start + 1, end + 1);
        let answer = server.ask("POST", &path, body).await;
        accepted += u32::from(answer.is_some_and(|(status, _)| status == 200));
    }
    let (status, pulled) = server.ask("GET", "/sync/1/1/1000", Vec::new()).await.expect("a path");
    if status == 200 {
        assert!(accepted > 0, "frames out of nowhere");
        let whole = wal[WAL_HEADER_BYTES..].chunks(FRAME_BYTES);
        for (pushed, pulled) in whole.zip(pulled.chunks(FRAME_BYTES)) {
            // A flipped bit that no checksum covers is in no frame that was accepted.
            assert_eq!((&pushed[..8], &pushed[24..]), (&pulled[..8], &pulled[24..]));
        }
        assert!(pulled.len() <= wal.len() - WAL_HEADER_BYTES);
    }
}

fuzz_target!(|data: &[u8]| {
    runtime().block_on(async {
        let server = Requests::new(scratch());
        any(&server, data).await;
        let server = Requests::new(scratch());
        pushes(&server, &mut Recipe(data)).await;
    });
});
