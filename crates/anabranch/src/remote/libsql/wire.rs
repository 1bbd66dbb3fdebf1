//! The four requests of the protocol, and what their answers mean.
//!
//! Everything that comes is bounded and checked for its form here; what frames and images hold is
//! checked by those who read them.

use std::path::Path;

use anabranch_store::Counter;
use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::error::{FrameFault, LibsqlError};
use super::http::{self, Answered, Body, Failed, Http, Request, said_in, unreachable};
use super::pages::{Export, ExportWriter};
use super::spot::Spot;
use super::{BATCH_FRAMES, FRAME_BYTES, PAGE_BYTES};
use crate::remote::ServerUrl;
use crate::replica::Options;

/// The longest JSON answer that is read; they have four short fields.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// The longest baton that is sent back: it becomes part of a path.
const BATON_BYTES_MAX: usize = 4096;

/// So much of an image is written at once.
const GATHERED_BYTES: usize = 1 << 20;

/// A database on a server, by its requests.
pub(super) struct Wire {
    http: Http,
}

/// What a pull brought.
#[derive(Debug)]
pub(super) enum Pulled {
    /// Frames, one or more, whole ones.
    Frames(Bytes),
    /// There is no such frame (yet).
    End {
        /// The server's generation.
        generation: u32,
        /// Its newest frame, where it says so.
        newest: Option<u32>,
    },
}

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct PushAnswer {
    pub(super) status: String,
    pub(super) generation: u32,
    #[serde(rename = "max_frame_no")]
    pub(super) newest: u32,
    #[serde(default)]
    pub(super) baton: Option<String>,
}

#[derive(Deserialize)]
struct Info {
    current_generation: u32,
}

#[derive(Deserialize)]
struct EndAnswer {
    generation: u32,
    #[serde(default)]
    max_frame_no: Option<u64>,
}

/// Frames of one push request.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) generation: u32,
    /// First frame, and the one after the last.
    pub(super) frames: (u32, u32),
    pub(super) baton: Option<String>,
    pub(super) body: Bytes,
}

impl Wire {
    pub(super) fn new(url: ServerUrl, options: &Options) -> Result<Self, LibsqlError> {
        Ok(Wire { http: Http::new(url, options)? })
    }

    /// The database's own URL.
    pub(super) fn url(&self) -> &ServerUrl {
        self.http.database_url()
    }

    /// The server's current generation.
    pub(super) async fn info(&self) -> Result<u32, LibsqlError> {
        let request = Request::get(self.http.url("info"));
        let answer = self.ask(&request, JSON_BYTES_MAX).await?;
        if !answer.status.is_success() {
            return Err(refusal(&request, answer.status, answer.body.bytes()));
        }
        let info: Info = json(&request, &answer.body)?;
        match info.current_generation {
            0 => Err(malformed(&request, "generation 0, but they are counted from 1")),
            generation => Ok(generation),
        }
    }

    /// Downloads the base of a generation into an anonymous file in `folder`.
    pub(super) async fn export(
        &self,
        generation: u32,
        folder: &Path,
        counter: &Counter,
    ) -> Result<Export, LibsqlError> {
        let request = self.export_request(generation);
        let mut response = self.open_export(&request, generation).await?;
        let mut writer = ExportWriter::new(generation, folder)?;
        let mut gathered = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(&request, e))? {
            counter.add(chunk.len() as u64);
            gathered.extend_from_slice(&chunk);
            if gathered.len() >= GATHERED_BYTES {
                let part = gathered.split().freeze();
                writer = off_thread(move || writer.write(&part)).await?;
            }
        }
        off_thread(move || writer.write(&gathered)?.finish()).await
    }

    /// Whether the base of a generation is a database without content. Reads its first page only.
    pub(super) async fn base_is_empty(&self, generation: u32) -> Result<bool, LibsqlError> {
        let request = self.export_request(generation);
        let mut response = self.open_export(&request, generation).await?;
        match http::body(&mut response, PAGE_BYTES).await {
            Ok(Body::TooLong) => Ok(false),
            Ok(Body::Whole(page)) => Export::is_empty_page(generation, &page),
            Err(source) => Err(unreachable(&request, source)),
        }
    }

    fn export_request(&self, generation: u32) -> Request {
        let url = self.http.url(&format!("export/{generation}"));
        Request { time_max: None, ..Request::get(url) }
    }

    async fn open_export(
        &self,
        request: &Request,
        generation: u32,
    ) -> Result<Response, LibsqlError> {
        let mut response = self.http.open(request).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let body = http::body(&mut response, JSON_BYTES_MAX).await;
        let body = body.map_err(|e| unreachable(request, e))?;
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                LibsqlError::GenerationGone { generation, said: said_in(body.bytes()) }
            }
            _ => refusal(request, status, body.bytes()),
        })
    }

    /// Asks for frames from `first` on, `count` at most.
    pub(super) async fn pull(&self, first: Spot, count: u32) -> Result<Pulled, LibsqlError> {
        debug_assert!((1..=BATCH_FRAMES).contains(&count), "a request has a bounded answer");
        let end = first.after(count).ok_or(LibsqlError::Exhausted(first))?.frame;
        let path = format!("sync/{}/{}/{end}", first.generation, first.frame);
        let request = Request { expects_500: true, ..Request::get(self.http.url(&path)) };
        let answer = self.ask(&request, count as usize * FRAME_BYTES).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => {
                return end_of_frames(&request, answer.status, answer.body.bytes());
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let (generation, said) = (first.generation, said_in(answer.body.bytes()));
                return Err(LibsqlError::GenerationGone { generation, said });
            }
            status => return Err(refusal(&request, status, answer.body.bytes())),
        }
        let Body::Whole(body) = answer.body else {
            return Err(malformed(&request, "more frames than were asked for"));
        };
        if body.is_empty() || !body.len().is_multiple_of(FRAME_BYTES) {
            return Err(LibsqlError::Frames { at: first, what: FrameFault::Length(body.len()) });
        }
        Ok(Pulled::Frames(body.into()))
    }

    /// Sends a part of a push. The second answer is whether an earlier attempt of it may have been
    /// carried out.
    pub(super) async fn push(&self, batch: Batch) -> Result<(PushAnswer, bool), Failed> {
        let (start, end) = batch.frames;
        let mut url = self.http.url(&format!("sync/{}/{start}/{end}", batch.generation));
        if let Some(baton) = &batch.baton
            && let Ok(mut path) = url.path_segments_mut()
        {
            path.push(baton);
        }
        let request = Request::post(url, batch.body);
        let Answered { status, body, arrived } = self.http.ask(&request, JSON_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(Failed { error: refusal(&request, status, body.bytes()), arrived });
        }
        let carried_out = |error| Failed { error, arrived: true };
        let answer: PushAnswer = json(&request, &body).map_err(carried_out)?;
        if answer.baton.as_ref().is_some_and(|baton| baton.len() > BATON_BYTES_MAX) {
            return Err(carried_out(malformed(&request, "a baton that is too long")));
        }
        Ok((answer, arrived))
    }

    async fn ask(&self, request: &Request, bytes_max: usize) -> Result<Answered, LibsqlError> {
        self.http.ask(request, bytes_max).await.map_err(|failed| failed.error)
    }
}

/// "No such frame": a refusal that states the generation.
fn end_of_frames(
    request: &Request,
    status: StatusCode,
    body: &[u8],
) -> Result<Pulled, LibsqlError> {
    match serde_json::from_slice::<EndAnswer>(body) {
        Ok(end) => Ok(Pulled::End {
            generation: end.generation,
            newest: end.max_frame_no.and_then(|newest| u32::try_from(newest).ok()),
        }),
        Err(_) => {
            let (request, status) = (request.name(), status.as_u16());
            Err(LibsqlError::Status { request, status, said: said_in(body) })
        }
    }
}

fn json<T: for<'de> Deserialize<'de>>(request: &Request, body: &Body) -> Result<T, LibsqlError> {
    match body {
        Body::Whole(body) => {
            serde_json::from_slice(body).map_err(|e| malformed(request, &e.to_string()))
        }
        Body::TooLong => Err(malformed(request, "a JSON answer that is too long")),
    }
}

fn malformed(request: &Request, what: &str) -> LibsqlError {
    LibsqlError::Malformed { request: request.name(), what: what.to_owned() }
}

/// The typed error for a status that is none of the protocol's.
fn refusal(request: &Request, status: StatusCode, body: &[u8]) -> LibsqlError {
    let (request, said) = (request.name(), said_in(body));
    let code = status.as_u16();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            LibsqlError::Denied { request, status: code, said }
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            LibsqlError::NoDatabase { request, status: code, said }
        }
        _ => LibsqlError::Status { request, status: code, said },
    }
}

/// Runs work on files on a thread of its own.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LibsqlError> + Send + 'static,
) -> Result<T, LibsqlError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LibsqlError::Interrupted))
}
