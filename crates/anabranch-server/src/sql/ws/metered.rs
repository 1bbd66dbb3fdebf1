//! A connection whose messages cannot fill the memory.
//!
//! The library that reads messages keeps one until it is complete. So what is read is counted: a
//! message may be so long for free; before more of it is read, it needs the room that the longest one
//! would take, and waits for that. Before hello there is none to be had.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::room::{FREE_BYTES, Part, Room};
use crate::config::Limits;

/// Longest message before hello, and about the longest hello.
const STRANGER_BYTES_MAX: u64 = 64 << 10;

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Who sends so much has not said hello.
    BeforeHello,
    /// No room came free.
    NoRoom,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::BeforeHello => "a long message came before hello",
            Refused::NoRoom => "no room for a long message came free",
        })
    }
}

impl std::error::Error for Refused {}

type Waiting = Pin<Box<dyn Future<Output = Option<Part>> + Send>>;

/// The connection.
pub(super) struct Metered<T> {
    inner: T,
    room: Room,
    /// What the longest message may take.
    longest: u64,
    wait: Duration,
    trusted: bool,
    /// Bytes since the last message ended.
    read: u64,
    part: Part,
    waiting: Option<Waiting>,
}

impl<T> Metered<T> {
    pub(super) fn new(inner: T, room: Room, limits: &Limits) -> Self {
        Metered {
            inner,
            room,
            longest: limits.sql_body.max(FREE_BYTES + 1),
            wait: limits.turn,
            trusted: false,
            read: 0,
            part: None,
            waiting: None,
        }
    }

    /// Somebody who may has said hello.
    pub(super) fn trust(&mut self) {
        self.trusted = true;
    }

    /// A message is complete; answers the room that it takes.
    pub(super) fn message_ended(&mut self) -> Part {
        self.read = 0;
        self.part.take()
    }

    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.trusted {
            let refused = || io::Error::other(Refused::BeforeHello);
            return Poll::Ready(if self.read < STRANGER_BYTES_MAX {
                Ok(())
            } else {
                Err(refused())
            });
        }
        if self.read < FREE_BYTES || self.part.is_some() {
            return Poll::Ready(Ok(()));
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            let (room, longest, wait) = (self.room.clone(), self.longest, self.wait);
            Box::pin(async move { room.take(longest, wait).await })
        });
        let part = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.part = part.ok_or_else(|| io::Error::other(Refused::NoRoom))?;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_allowed(cx))?;
        let before = buf.filled().len();
        let done = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        self.read += (buf.filled().len() - before) as u64;
        Poll::Ready(done)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    type Endless = Metered<tokio::io::Repeat>;

    fn metered(room: &Room) -> Endless {
        let limits = Limits { turn: Duration::ZERO, sql_body: 1 << 30, ..Limits::default() };
        Metered::new(tokio::io::repeat(7), room.clone(), &limits)
    }

    /// Reads so much, bit by bit, as messages are read.
    async fn read(io: &mut Endless, bytes: usize) -> Result<(), Refused> {
        let mut part = [0; 8 << 10];
        for _ in 0..bytes / part.len() {
            io.read_exact(&mut part).await.map_err(|e| e.downcast().unwrap())?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_stranger_is_not_listened_to_for_long() {
        let mut io = metered(&Room::new());
        assert_eq!(read(&mut io, 32 << 10).await, Ok(()));
        assert_eq!(read(&mut io, 64 << 10).await, Err(Refused::BeforeHello));
    }

    #[tokio::test]
    async fn long_messages_need_room_and_give_it_back() {
        let room = Room::new();
        let (mut io, mut other) = (metered(&room), metered(&room));
        io.trust();
        other.trust();
        assert_eq!(read(&mut io, 1 << 20).await, Ok(()));
        let part = io.message_ended();
        assert!(part.is_some());
        assert_eq!(read(&mut other, 32 << 10).await, Ok(()));
        assert!(other.message_ended().is_none(), "a short one needs none");
        assert_eq!(read(&mut other, 1 << 20).await, Err(Refused::NoRoom));
        drop(part);
        assert_eq!(read(&mut io, 1 << 20).await, Ok(()));
    }
}
