//! SQL by clients that have no copy of the database: over HTTP and WebSocket.
//!
//! | module | what it is |
//! |---|---|
//! | `serve` | the endpoints; errors and headers as these clients want them |
//! | `http` | pipelines and cursors |
//! | `ws` | WebSockets |
//! | `streams`, `baton` | streams between the requests of their clients, and the tickets for them |
//! | `texts`, `sink`, `room` | stored SQL; results of cursors; memory for bodies |
//! | `stream` | a client's connection and its transaction |

mod baton;
mod http;
mod room;
mod serve;
mod sink;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod texts;
mod ws;

pub(crate) use serve::{
    Service, allow_origins, error_response, is_socket, needs_no_token, no_access, serve,
};
