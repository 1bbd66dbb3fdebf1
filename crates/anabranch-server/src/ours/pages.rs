//! `POST log/pages`: single pages as they were at an earlier position, for a client that puts its
//! changes on top of others'.
//!
//! The body lists page numbers, the answer is the body of a delta: a WAL of one transaction with exactly
//! these pages, in zstd. It is made in a spool before anything is sent, so that its length is
//! announced. Bounds: [`PAGES_MAX`] numbers, and what the store states for reading them.

use anabranch_format::{DeltaEncoder, DeltaError, Lsn, PageSet, PageSize, PageSource, Pgno};
use anabranch_store::{At, Chain, PagesAt, Progress, Spool, SpoolReader, StoreError};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};

use super::database;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::params::Params;

/// So many pages can be asked for at once.
const PAGES_MAX: usize = 65_536;
/// What is read of the spool at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// Sends the pages that the body lists as they were at `at`.
pub(super) async fn pages(
    call: &Call,
    params: &Params<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    let at: Lsn = params.require("at")?;
    let database = database(call, params).await?;
    let wanted = numbers(body).await?;
    let log = database.log();
    let position = log.position_at(At::Lsn(at)).await?;
    let metadata = position.metadata.filter(|metadata| metadata.lsn.1 == at).ok_or_else(|| {
        let message = format!("position {at} lies inside a segment");
        ApiError::new(StatusCode::CONFLICT, "inside", message)
    })?;
    let (page_size, size) = (metadata.page_size, metadata.pages.1);
    let set = set_of(&wanted, page_size, size)?;
    // The client knows each page by its checksum.
    let found = log.pages_at(at, set, Chain::LeftToReader, &Progress::none()).await?;
    let spool = Spool::new(log.scratch());
    let encoded = tokio::task::spawn_blocking(move || encode(found, spool, page_size, size, at));
    let encoded = encoded.await.map_err(|_| ApiError::busy("the server is about to stop"))??;
    let length = encoded.len();
    let mut response = Response::new(Body::from_stream(stream(encoded)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    Ok(response)
}

/// The numbers that a body lists, 4 bytes each, ascending.
async fn numbers(body: Body) -> Result<Vec<u32>, ApiError> {
    let limit = PAGES_MAX * 4;
    let mut list = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(part) = stream.next().await {
        let cut_off = |_| ApiError::new(StatusCode::BAD_REQUEST, "cut-off", "the body was cut off");
        list.extend_from_slice(&part.map_err(cut_off)?);
        if list.len() > limit {
            return Err(ApiError::too_large(limit as u64));
        }
    }
    let (numbers, rest) = list.as_chunks::<4>();
    let numbers: Vec<u32> = numbers.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
    let ascending = numbers.is_sorted_by(|a, b| a < b);
    if !rest.is_empty() || numbers.is_empty() || !ascending || numbers[0] == 0 {
        let text = "the body lists page numbers: 4 bytes each, big-endian, ascending";
        return Err(ApiError::bad_request(text));
    }
    Ok(numbers)
}

/// The numbers as a set, if all of them are pages of a database of this size.
fn set_of(numbers: &[u32], page_size: PageSize, size: u32) -> Result<PageSet, ApiError> {
    let mut set = PageSet::new(size);
    for pgno in numbers.iter().copied().filter_map(Pgno::new) {
        if pgno.get() > size || pgno == page_size.lock_page() {
            let text = format!("there is no page {pgno} in a database of {size} pages");
            return Err(ApiError::bad_request(text));
        }
        set.insert(pgno);
    }
    Ok(set)
}

fn encode(
    found: PagesAt,
    spool: Spool,
    page_size: PageSize,
    size: u32,
    at: Lsn,
) -> Result<SpoolReader, ApiError> {
    let spooling = |source: std::io::Error| ApiError::from(spool_failed(source));
    let mut pages = found.into_pages();
    let mut encoder = DeltaEncoder::new(spool, page_size, at).map_err(spooling)?;
    let mut page = vec![0; page_size.bytes()];
    while let Some(pgno) = pages.next_page(&mut page).map_err(reading)? {
        encoder.page(pgno, &page).map_err(spooling)?;
    }
    if encoder.is_empty() {
        return Err(ApiError::bad_request("none of these pages is there"));
    }
    Ok(encoder.finish(size).map_err(spooling)?.sink.finish())
}

fn spool_failed(source: std::io::Error) -> StoreError {
    StoreError::Scratch { directory: std::path::PathBuf::new(), source }
}

fn reading(e: DeltaError) -> ApiError {
    match StoreError::from_pages(e) {
        Ok(e) => e.into(),
        Err(e) => spool_failed(std::io::Error::other(e)).into(),
    }
}

/// The bytes of a spool, block by block.
fn stream(
    spool: SpoolReader,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures::stream::try_unfold(spool, |spool| async move {
        let read = tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let (mut spool, mut block) = (spool, Vec::new());
            let read = (&mut spool).take(BLOCK_BYTES as u64).read_to_end(&mut block);
            read.map(|_| (spool, Bytes::from(block)))
        });
        let (spool, block) = read.await.map_err(std::io::Error::other)??;
        Ok((!block.is_empty()).then_some((block, spool)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(list: &[u32]) -> Result<Vec<u32>, ApiError> {
        let bytes: Vec<u8> = list.iter().flat_map(|n| n.to_be_bytes()).collect();
        numbers(Body::from(bytes)).await
    }

    #[tokio::test]
    async fn only_ascending_numbers_are_a_list() {
        assert_eq!(read(&[1, 7, 9]).await.unwrap(), [1, 7, 9]);
        for list in [&[][..], &[0], &[7, 7], &[9, 1]] {
            assert_eq!(read(list).await.unwrap_err().code, "bad-request", "{list:?}");
        }
        assert_eq!(numbers(Body::from("abcde")).await.unwrap_err().code, "bad-request");
        let long = vec![0; PAGES_MAX * 4 + 4];
        assert_eq!(numbers(Body::from(long)).await.unwrap_err().code, "too-large");
    }

    #[test]
    fn pages_that_cannot_be_there_are_refused() {
        let page_size = PageSize::new(65536).unwrap();
        let lock_page = page_size.lock_page().get();
        assert!(set_of(&[1, 20], page_size, 20).is_ok());
        for list in [&[21][..], &[u32::MAX]] {
            assert!(set_of(list, page_size, 20).is_err(), "{list:?}");
        }
        assert!(set_of(&[lock_page], page_size, lock_page + 5).is_err());
    }
}
