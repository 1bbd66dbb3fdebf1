//! What to send of a push next, and what an answer means. Knows no sockets and no files.
//!
//! A push is one transaction, sent in requests of [`BATCH_FRAMES`]; only the last holds the commit
//! frame. Of each answer the protocol requires that it names the last frame sent:
//! - *lower*: the server does not have all of it (it forgot the session, say). Everything it lacks is
//!   sent again, once for each push;
//! - *higher*: somebody else's frames are there, or an earlier attempt of ours and others after it;
//! - *conflict*: other frames stand there, or the generation is over.
//!
//! For all three, only a look at what stands there tells more: that is the caller's. In particular the
//! official clients' way to go on after a lower number, from that number, is right only if the frames
//! up to it are ours; so this is looked at, too.

use super::BATCH_FRAMES;
use super::error::LibsqlError;
use super::spot::Spot;
use super::wire::PushAnswer;

/// A push under way.
#[derive(Debug, Clone)]
pub(super) struct PushSession {
    after: Spot,
    frames: u32,
    /// Frames that the server has acknowledged in this session.
    sent: u32,
    baton: Option<String>,
    repeated: bool,
}

/// What to send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Index of its first frame, and how many.
    pub(super) first: u32,
    pub(super) count: u32,
    /// The same as the server numbers them, end exclusive.
    pub(super) numbers: (u32, u32),
    pub(super) baton: Option<String>,
    /// It holds the commit frame.
    pub(super) is_last: bool,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Send the next part.
    More,
    /// Everything is there, according to the server up to this spot.
    Done(Spot),
    /// The server names a lower frame than was sent.
    Lower { expected: u32, found: u32 },
    /// The server names a higher frame than was sent.
    Higher { expected: u32, found: u32 },
    /// Something else stands there.
    Conflict,
}

impl PushSession {
    /// A push of `frames` frames after `after`.
    pub(super) fn new(after: Spot, frames: u32) -> Result<Self, LibsqlError> {
        after.after(frames).ok_or(LibsqlError::Exhausted(after))?;
        Ok(PushSession { after, frames, sent: 0, baton: None, repeated: false })
    }

    /// The next part.
    pub(super) fn next(&self) -> Part {
        let count = (self.frames - self.sent).min(BATCH_FRAMES);
        // Counted when the session began: all numbers fit.
        let start = self.after.frame + self.sent + 1;
        Part {
            first: self.sent,
            count,
            numbers: (start, start + count),
            baton: self.baton.clone(),
            is_last: self.sent + count == self.frames,
        }
    }

    /// What the answer to [`PushSession::next`] means.
    pub(super) fn answered(&mut self, answer: &PushAnswer) -> Result<Step, LibsqlError> {
        match answer.status.as_str() {
            "ok" => {}
            "conflict" => return Ok(Step::Conflict),
            other => {
                let shown = other.chars().filter(|c| !c.is_control()).take(80).collect();
                return Err(LibsqlError::PushStatus(shown));
            }
        }
        let part = self.next();
        let (expected, found) = (part.numbers.1 - 1, answer.newest);
        if found < expected {
            return Ok(Step::Lower { expected, found });
        }
        if found > expected {
            return Ok(Step::Higher { expected, found });
        }
        self.sent += part.count;
        self.baton.clone_from(&answer.baton);
        if self.sent < self.frames {
            return Ok(Step::More);
        }
        Ok(Step::Done(Spot { generation: answer.generation, frame: found }))
    }

    /// Sends again from the frame with index `first` on; false if that was done once already.
    pub(super) fn repeat_from(&mut self, first: u32) -> bool {
        let again = !self.repeated && first < self.frames;
        self.repeated = true;
        self.sent = first.min(self.frames.saturating_sub(1));
        self.baton = None;
        again
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(frames: u32) -> PushSession {
        PushSession::new(Spot { generation: 1, frame: 10 }, frames).unwrap()
    }

    fn answer(status: &str, newest: u32) -> PushAnswer {
        PushAnswer { status: status.into(), generation: 1, newest, baton: Some("b".into()) }
    }

    #[test]
    fn a_large_transaction_goes_in_parts_that_carry_the_baton() {
        let mut push = session(300);
        let mut parts = Vec::new();
        loop {
            let part = push.next();
            parts.push((part.first, part.count, part.numbers, part.baton.clone(), part.is_last));
            match push.answered(&answer("ok", part.numbers.1 - 1)).unwrap() {
                Step::More => {}
                Step::Done(at) => {
                    assert_eq!(at, Spot { generation: 1, frame: 310 });
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let baton = Some("b".to_owned());
        assert_eq!(
            parts,
            [
                (0, 128, (11, 139), None, false),
                (128, 128, (139, 267), baton.clone(), false),
                (256, 44, (267, 311), baton, true),
            ]
        );
    }

    #[test]
    fn other_numbers_and_words_are_told_apart() {
        let mut push = session(5);
        assert_eq!(
            push.answered(&answer("ok", 14)).unwrap(),
            Step::Lower { expected: 15, found: 14 }
        );
        assert_eq!(
            push.answered(&answer("ok", 16)).unwrap(),
            Step::Higher { expected: 15, found: 16 }
        );
        assert_eq!(push.answered(&answer("conflict", 15)).unwrap(), Step::Conflict);
        let odd = push.answered(&answer("\x1bmaybe", 15));
        assert!(matches!(odd, Err(LibsqlError::PushStatus(word)) if word == "maybe"));
        assert!(push.repeat_from(2));
        assert_eq!(push.next().numbers, (13, 16));
        assert!(!push.repeat_from(2), "once");
        assert!(PushSession::new(Spot { generation: 1, frame: u32::MAX - 5 }, 5).is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_server_answers_the_parts_stay_within_the_push(
            frames in 1u32..1000,
            answers in proptest::collection::vec((any::<bool>(), -3i64..3, 0u32..1000), 0..50),
        ) {
            let mut push = session(frames);
            for (ok, off, again) in answers {
                let part = push.next();
                prop_assert!(part.count >= 1 && part.count <= BATCH_FRAMES);
                prop_assert!(part.first + part.count <= frames);
                prop_assert_eq!(part.is_last, part.first + part.count == frames);
                let newest = u32::try_from(i64::from(part.numbers.1) - 1 + off).unwrap();
                match push.answered(&answer(if ok { "ok" } else { "conflict" }, newest)).unwrap() {
                    Step::Done(_) => { prop_assert!(part.is_last); break; }
                    Step::More => {}
                    _ => { push.repeat_from(again); }
                }
            }
        }
    }
}
