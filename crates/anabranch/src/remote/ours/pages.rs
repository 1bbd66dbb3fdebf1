//! Single pages of an earlier state: `POST log/pages`.
//!
//! Asked for in batches, so that neither side's request or answer grows without bound; each answer is a
//! delta's body, spooled as it comes, and asked for again if the connection breaks. A server that does
//! not know the request says so: then the whole database is fetched instead.

use std::io::{BufReader, Write};
use std::path::Path;

use anabranch_format::{DeltaError, DeltaReader, Kind, Metadata, PageSource, Pgno};
use anabranch_store::{Counter, Progress, Spool, SpoolReader, Step, StoreError};
use reqwest::{Method, Response, StatusCode};

use super::Ours;
use super::answer::{self, NoAnswer};
use crate::remote::http::{self, Ask, Upload, pauses};
use crate::remote::server_error::ServerError;
use crate::remote::{BaseAt, BasePages};

/// So many pages are asked for at once: as many as a server takes.
const PAGES_MAX: usize = 65_536;
/// Bytes that are gathered before they are written.
const BLOCK_BYTES: usize = 256 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;
/// No answer is longer than this share more than its pages: what does not compress takes a little more.
const OVERHEAD_PERCENT: u64 = 2;
const OVERHEAD_BYTES: u64 = 64 * 1024;

/// Asks for the pages; `None` if the server does not know how to answer that.
pub(super) async fn pages(
    ours: &Ours,
    wanted: &BaseAt<'_>,
    progress: &Progress,
) -> Result<Option<BasePages>, StoreError> {
    let counter = progress.step(Step::Downloading, None);
    let numbers: Vec<u32> = wanted.pages.iter().map(Pgno::get).collect();
    let mut batches = Vec::new();
    for batch in numbers.chunks(PAGES_MAX) {
        match one_batch(ours, wanted, batch, &counter).await? {
            Some(body) => batches.push(Batch { body, pages: batch.len() as u64 }),
            None => return Ok(None),
        }
    }
    batches.reverse();
    let shape = Shape { like: shape(ours, wanted) };
    Ok(Some(Box::new(Batches { left: batches, shape, open: None })))
}

/// One answer.
struct Batch {
    body: SpoolReader,
    pages: u64,
}

/// The metadata of all answers, but for the number of pages.
struct Shape {
    like: Metadata,
}

fn shape(ours: &Ours, wanted: &BaseAt<'_>) -> Metadata {
    let (database, lsn) = (ours.database.clone(), (wanted.lsn, wanted.lsn));
    let writer = "server".parse().expect("letters are an id");
    Metadata {
        // No growth: any pages may come.
        pages: (wanted.size, wanted.size),
        ..Metadata::new(Kind::Delta, database, writer, lsn, wanted.page_size)
    }
}

/// The pages of one answer after the other.
struct Batches {
    /// The next one last.
    left: Vec<Batch>,
    shape: Shape,
    open: Option<DeltaReader<BufReader<SpoolReader>>>,
}

impl PageSource for Batches {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(pgno) = open.next_page(page)?
            {
                return Ok(Some(pgno));
            }
            let Some(Batch { body, pages }) = self.left.pop() else { return Ok(None) };
            let metadata = Metadata { frames: Some(pages), ..self.shape.like.clone() };
            let body = BufReader::with_capacity(BUFFER_BYTES, body);
            self.open = Some(DeltaReader::new(body, &metadata)?);
        }
    }
}

async fn one_batch(
    ours: &Ours,
    wanted: &BaseAt<'_>,
    batch: &[u32],
    counter: &Counter,
) -> Result<Option<SpoolReader>, StoreError> {
    let location = &ours.connection.location;
    let list: Vec<u8> = batch.iter().flat_map(|pgno| pgno.to_be_bytes()).collect();
    let mut ask =
        Ask::new(Method::POST, "log/pages").with("database", &ours.database).with("at", wanted.lsn);
    ask.upload = Some(Upload {
        head: bytes::Bytes::new(),
        body: Spool::from_bytes(list).finish(),
        counter: Progress::none().step(Step::Uploading, None),
    });
    let limit = (batch.len() as u64).saturating_mul(u64::from(wanted.page_size.get()));
    let limit = limit.saturating_add(limit / 100 * OVERHEAD_PERCENT).saturating_add(OVERHEAD_BYTES);
    let mut pauses = pauses();
    loop {
        let asked = ours.connection.ask(&ask).await.map_err(|fault| fault.error.at(location))?;
        let response = match answer::accepted(asked).await {
            Ok(response) => response,
            Err(NoAnswer::Refused(refusal)) if is_unknown(refusal.status, &refusal.code) => {
                return Ok(None);
            }
            Err(e) => return Err(e.store_error(&ours.connection)),
        };
        match take(response, limit, &ours.scratch, counter).await {
            Ok(body) => return Ok(Some(body)),
            Err(Cut::Disk(e)) => return Err(e),
            Err(Cut::Connection(e)) => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(e.at(location)),
            },
        }
    }
}

/// Whether this is how a server answers that does not know the request.
fn is_unknown(status: StatusCode, code: &str) -> bool {
    (status == StatusCode::NOT_FOUND && code == "no-endpoint")
        || (status == StatusCode::METHOD_NOT_ALLOWED && code == "method")
}

/// Why an answer did not come to its end.
enum Cut {
    Connection(ServerError),
    Disk(StoreError),
}

/// Spools an answer.
async fn take(
    mut response: Response,
    limit: u64,
    scratch: &Path,
    counter: &Counter,
) -> Result<SpoolReader, Cut> {
    let announced = response.content_length();
    let mut spool = Spool::new(scratch);
    let mut block = Vec::new();
    let mut received = 0;
    loop {
        let part = http::next_part(&mut response).await.map_err(Cut::Connection)?;
        let ended = part.is_none();
        if let Some(part) = part {
            received += part.len() as u64;
            counter.add(part.len() as u64);
            block.extend_from_slice(&part);
        }
        if received > limit {
            let what = format!("it is longer than {limit} bytes");
            return Err(Cut::Connection(ServerError::Protocol { what }));
        }
        if block.len() >= BLOCK_BYTES || ended {
            let writing = std::mem::take(&mut block);
            let failed =
                |source| Cut::Disk(StoreError::Scratch { directory: scratch.to_owned(), source });
            let written = tokio::task::spawn_blocking(move || {
                let written = spool.write_all(&writing);
                (spool, written)
            });
            let (back, written) = written.await.map_err(|_| Cut::Disk(StoreError::Interrupted))?;
            spool = back;
            written.map_err(failed)?;
        }
        if ended {
            break;
        }
    }
    if announced.is_some_and(|announced| announced != received) {
        let what = "it ends before everything is there".to_owned();
        return Err(Cut::Connection(ServerError::Protocol { what }));
    }
    Ok(spool.finish())
}
