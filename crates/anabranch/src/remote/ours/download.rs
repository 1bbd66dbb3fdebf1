//! A download that survives interruptions.
//!
//! What comes goes into an [`Arrival`]. Where the connection breaks, the rest is asked for, with the
//! tag of the first answer: if other bytes lead there by now, everything begins anew. As soon as the
//! pages can be read the rest is left to a task of its own, which ends with the download, with an
//! error that the reader gets, or when nobody reads any more.

use anabranch_format::{DatabaseId, Lsn};
use anabranch_store::{Arrival, Counter, Fetched, Position, Progress, Step, StoreError};
use backon::ExponentialBackoff;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_MATCH, RANGE};
use reqwest::{Response, StatusCode};

use super::answer;
use crate::remote::http::{self, Ask, Connection, pauses};
use crate::remote::server_error::ServerError;

/// Bytes that are gathered before they are written; at most one portion of the connection's more.
const BLOCK_BYTES: usize = 256 * 1024;
/// How often everything begins anew because other bytes lead there.
const RESTARTS_MAX: u32 = 4;

/// What is downloaded, to where.
pub(super) struct Wanted<'a> {
    pub(super) connection: &'a Connection,
    pub(super) database: &'a DatabaseId,
    pub(super) scratch: &'a std::path::Path,
    pub(super) from: Lsn,
    pub(super) to: &'a Position,
}

impl Wanted<'_> {
    fn arrival(&self) -> Arrival {
        let location = &self.connection.location;
        Arrival::new(location, self.database, self.scratch, self.from, self.to)
    }
}

/// Downloads what leads from one position to another; the last of it may still be coming when this
/// returns.
pub(super) async fn download(
    wanted: &Wanted<'_>,
    progress: &Progress,
) -> Result<Fetched, StoreError> {
    let mut restarts = 0..RESTARTS_MAX;
    loop {
        let mut download = Download::new(wanted, progress);
        match download.until_readable().await {
            Ok(()) => return download.hand_out().await,
            Err(Stop::Changed) if restarts.next().is_some() => {}
            Err(e) => return Err(e.error(&wanted.connection.location)),
        }
    }
}

/// Why a download does not go on.
enum Stop {
    /// Other bytes lead there by now.
    Changed,
    Failed(StoreError),
}

impl Stop {
    fn error(self, location: &str) -> StoreError {
        match self {
            Stop::Changed => StoreError::Unsettled { location: location.to_owned() },
            Stop::Failed(e) => e,
        }
    }
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Stop::Failed(e)
    }
}

struct Download {
    connection: Connection,
    ask: Ask,
    /// Not there only while it is being written to.
    arrival: Option<Arrival>,
    /// Came, and is not written yet.
    block: Vec<u8>,
    response: Option<Response>,
    tag: Option<HeaderValue>,
    progress: Progress,
    counter: Option<Counter>,
    pauses: ExponentialBackoff,
}

impl Download {
    fn new(wanted: &Wanted<'_>, progress: &Progress) -> Self {
        let ask = Ask::get("log/delta")
            .with("database", wanted.database)
            .with("after", wanted.from)
            .with("upto", wanted.to.lsn);
        Download {
            connection: wanted.connection.clone(),
            ask,
            arrival: Some(wanted.arrival()),
            block: Vec::new(),
            response: None,
            tag: None,
            progress: progress.clone(),
            counter: None,
            pauses: pauses(),
        }
    }

    fn arrival(&mut self) -> Result<&mut Arrival, StoreError> {
        self.arrival.as_mut().ok_or(StoreError::Interrupted)
    }

    async fn until_readable(&mut self) -> Result<(), Stop> {
        while !self.arrival()?.is_readable() {
            self.step().await?;
        }
        Ok(())
    }

    async fn hand_out(mut self) -> Result<Fetched, StoreError> {
        let arrival = self.arrival()?;
        let readable = arrival.hand_out()?;
        if !arrival.is_complete() {
            tokio::spawn(self.rest());
        }
        // Even its beginning may wait for what comes.
        readable.fetched().await
    }

    /// Brings the rest for whoever reads.
    async fn rest(mut self) {
        let stopped = loop {
            match self.arrival() {
                Ok(arrival) if arrival.is_complete() || arrival.is_abandoned() => return,
                Ok(_) => {}
                Err(e) => break e,
            }
            if let Err(e) = self.step().await {
                break e.error(&self.connection.location);
            }
        };
        if let Some(arrival) = self.arrival {
            arrival.fail(stopped);
        }
    }

    /// Takes the next portion, from a connection that is made anew if need be.
    async fn step(&mut self) -> Result<(), Stop> {
        let mut response = match self.response.take() {
            Some(response) => response,
            None => self.open().await?,
        };
        match http::next_part(&mut response).await {
            Ok(Some(part)) => {
                self.response = Some(response);
                // It goes on: the next interruption has all its repeats.
                self.pauses = pauses();
                if let Some(counter) = &self.counter {
                    counter.add(part.len() as u64);
                }
                if self.block.is_empty() && self.arrival()?.is_in_memory() {
                    return Ok(self.arrival()?.write(&part)?);
                }
                self.block.extend_from_slice(&part);
                // The first bytes tell how many there are, the last ones end it.
                let arrival = self.arrival()?;
                let left = arrival.total().map(|total| total - arrival.received());
                let waiting = self.block.len() as u64;
                if self.block.len() >= BLOCK_BYTES || left.is_none_or(|left| left <= waiting) {
                    self.write().await?;
                }
                Ok(())
            }
            Ok(None) => {
                self.write().await?;
                if self.arrival()?.is_complete() {
                    return Ok(());
                }
                let what = "it ends before everything is there".to_owned();
                self.again(ServerError::Protocol { what }).await
            }
            Err(e) => {
                self.write().await?;
                self.again(e).await
            }
        }
    }

    /// The connection broke: a pause, if it is not over.
    async fn again(&mut self, e: ServerError) -> Result<(), Stop> {
        let Some(pause) = self.pauses.next() else {
            return Err(e.at(&self.connection.location).into());
        };
        tracing::debug!(error = %e, "a download was cut off and goes on");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Asks for what is not here yet.
    async fn open(&mut self) -> Result<Response, Stop> {
        let start = self.arrival()?.received();
        let mut ask = self.ask.clone();
        if let Some(tag) = self.tag.as_ref().filter(|_| start > 0) {
            ask.headers.insert(IF_MATCH, tag.clone());
            let range = HeaderValue::from_str(&format!("bytes={start}-"));
            ask.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let asked = self.connection.ask(&ask).await;
        let response = asked.map_err(|fault| fault.error.at(&self.connection.location))?;
        if response.status() == StatusCode::PRECONDITION_FAILED {
            return Err(Stop::Changed);
        }
        let accepted = answer::accepted(response).await;
        let response = accepted.map_err(|e| e.store_error(&self.connection))?;
        if start > 0 && !continues(&response, start) {
            return Err(Stop::Changed);
        }
        self.tag = response.headers().get(ETAG).cloned();
        if self.counter.is_none() {
            let total = response.content_length();
            self.counter = Some(self.progress.step(Step::Downloading, total));
        }
        Ok(response)
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        let mut arrival = self.arrival.take().ok_or(StoreError::Interrupted)?;
        let written = tokio::task::spawn_blocking(move || {
            let written = arrival.write(&block);
            block.clear();
            (arrival, block, written)
        });
        let (arrival, block, written) = written.await.map_err(|_| StoreError::Interrupted)?;
        (self.arrival, self.block) = (Some(arrival), block);
        written
    }
}

/// Whether the answer begins with byte `start`.
fn continues(response: &Response, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    response.status() == StatusCode::PARTIAL_CONTENT
        && first.is_some_and(|first| first.parse() == Ok(start))
}
