//! Pushing: what is sent, and what the answers mean.

use anabranch_format::{Kind, Lsn, Metadata, PushId};
use anabranch_store::{AppendError, Appended, Head, NewSegment, StoreError};
use reqwest::Response;

use super::Ours;
use super::answer::{self, MetadataAnswer, NoAnswer, Refusal};
use crate::remote::Remote;
use crate::remote::http::{Ask, Fault, is_passing, pause, pauses};
use crate::remote::server_error::ServerError;

impl Ours {
    /// What is sent before a push's pages; the server decides on what it cannot know.
    pub(super) fn proposal(&self, after: Lsn, new: &NewSegment) -> Result<Metadata, AppendError> {
        let full = || AppendError::Invalid("the log is full".to_owned());
        let first = after.next().ok_or_else(full)?;
        let lsn = (first, after.checked_add(new.frames).ok_or_else(full)?);
        let (database, writer) = (self.database.clone(), new.writer.clone());
        Ok(Metadata {
            push: Some(new.push.clone()),
            time: new.now,
            pages: new.pages,
            sum: new.sum,
            ..Metadata::new(Kind::Segment, database, writer, lsn, new.page_size)
        })
    }

    /// Whether the log has gone on after `head`, and who stands there then.
    pub(super) async fn overtaken(
        &self,
        head: &Head,
        push: &PushId,
    ) -> Result<Option<Appended>, StoreError> {
        let after = head.anchor.last;
        if self.head(&head.anchor).await?.lsn() == after {
            return Ok(None);
        }
        let found = self.at_key_after(after).await?;
        Ok(found.map(|metadata| outcome(metadata, push)))
    }

    /// Sends a push until somebody says what became of it.
    pub(super) async fn send(
        &self,
        ask: &Ask,
        after: Lsn,
        push: &PushId,
    ) -> Result<Appended, AppendError> {
        let mut pauses = pauses();
        // An attempt may have arrived without anybody saying so.
        let mut lost = false;
        loop {
            let sent = self.connection.ask_once(ask).await;
            let wait = match &sent {
                Ok(response) if is_passing(response.status()) => {
                    pauses.next().map(|ours| pause(ours, Some(response)))
                }
                Err(fault) if fault.error.is_offline() => pauses.next(),
                _ => None,
            };
            let answered = self.answered(sent, after, push).await;
            let undecided = match answered {
                Ok(outcome) => return Ok(outcome),
                Err(undecided) => undecided,
            };
            lost |= !undecided.is_definite();
            let Some(wait) = wait else {
                return Err(match undecided {
                    AppendError::Store(source) if lost => {
                        AppendError::Unknown { after, source: Box::new(source) }
                    }
                    e if lost && e.is_definite() => {
                        let what = e.to_string();
                        let source = self.failed(ServerError::Protocol { what });
                        AppendError::Unknown { after, source: Box::new(source) }
                    }
                    undecided => undecided,
                });
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn answered(
        &self,
        sent: Result<Response, Fault>,
        after: Lsn,
        push: &PushId,
    ) -> Result<Appended, AppendError> {
        let unknown = |source| AppendError::Unknown { after, source: Box::new(source) };
        let response = sent.map_err(|fault| match fault.unsent {
            true => AppendError::Store(self.failed(fault.error)),
            false => unknown(self.failed(fault.error)),
        })?;
        match answer::read::<MetadataAnswer>(response).await {
            Ok(MetadataAnswer { metadata }) => {
                let metadata = self.checked(metadata).map_err(unknown)?;
                let won = metadata.filter(|m| m.from() == after && m.push.as_ref() == Some(push));
                let what = || "it confirms another push than the one that was sent".to_owned();
                let won = won
                    .ok_or_else(|| unknown(self.failed(ServerError::Protocol { what: what() })))?;
                Ok(Appended::Won(won))
            }
            Err(NoAnswer::Refused(refusal)) => self.refused(refusal, after, push),
            // Whoever does not speak our dialect has not taken a push either.
            Err(e @ NoAnswer::Failed(ServerError::NotOurs { .. })) => {
                Err(AppendError::Store(e.store_error(&self.connection)))
            }
            Err(e) => Err(unknown(e.store_error(&self.connection))),
        }
    }

    fn refused(
        &self,
        refusal: Refusal,
        after: Lsn,
        push: &PushId,
    ) -> Result<Appended, AppendError> {
        match refusal.code.as_str() {
            "behind" => match refusal.metadata(&self.database).filter(|m| m.from() == after) {
                Some(metadata) => Ok(outcome(metadata, push)),
                None => {
                    let what = "it names no segment that came before".to_owned();
                    let source = Box::new(self.failed(ServerError::Protocol { what }));
                    Err(AppendError::Unknown { after, source })
                }
            },
            "below-floor" => {
                let floor = refusal.floor().unwrap_or(Lsn::MAX);
                Err(AppendError::BelowFloor { after, floor })
            }
            "not-at-head" => {
                let what = refusal.message().to_owned();
                Err(AppendError::NotAtHead { head: after, what })
            }
            "invalid" => Err(AppendError::Invalid(refusal.message().to_owned())),
            "unconfirmed" | "bug" => {
                let source = Box::new(refusal.store_error(&self.connection));
                Err(AppendError::Unknown { after, source })
            }
            _ => Err(AppendError::Store(refusal.store_error(&self.connection))),
        }
    }
}

/// Who stands at the place decides.
fn outcome(metadata: Metadata, push: &PushId) -> Appended {
    if metadata.push.as_ref() == Some(push) {
        Appended::Won(metadata)
    } else {
        Appended::Lost(metadata)
    }
}
