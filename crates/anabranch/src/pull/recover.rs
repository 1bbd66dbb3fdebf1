//! Pulls that were cut short: decided from the file.

use anabranch_sqlite::{ApplyIntent, Verdict};

use crate::entropy;
use crate::error::Error;
use crate::session::{Act, Session};
use crate::state::{Base, Intent};

/// Decides a pull that an earlier operation left undecided, from the file. Answers a line about it.
pub(crate) fn recover(session: &mut Session) -> Result<Option<String>, Error> {
    let found = session.sidecar.intents()?.into_iter().find_map(|(id, intent)| {
        Some((
            id,
            match intent {
                Intent::Pull(pull) => {
                    Undecided { base: pull.base_after(), apply: pull.apply, act: Act::Plain(id) }
                }
                Intent::Rebase(rebase) => Undecided {
                    base: rebase.base_after(),
                    apply: rebase.apply,
                    act: Act::Rebase(id),
                },
                Intent::Push(_) => return None,
            },
        ))
    });
    let Some((id, pull)) = found else { return Ok(None) };
    let to = pull.base.lsn();
    let (verdict, counter) = verdict_on(session, &pull.apply)?;
    match verdict {
        Verdict::Applied => {
            session.forget_tables();
            session.settle_earlier(pull.act, pull.base, None, counter, entropy::now())?;
            Ok(Some(format!("an interrupted pull had been applied, up to position {to}")))
        }
        Verdict::NotApplied => {
            session.forget(&[id])?;
            Ok(Some("an interrupted pull had not been applied; it starts over".to_owned()))
        }
        Verdict::Undecided => {
            session.forget_undecided(id)?;
            Ok(Some(
                "whether an interrupted pull had been applied cannot be told; it starts over, and \
                 rows that are as the remote has them count as the remote's"
                    .to_owned(),
            ))
        }
    }
}

/// A pull that may or may not be in the file.
struct Undecided {
    act: Act,
    /// The base, if it is.
    base: Base,
    apply: ApplyIntent,
}

/// Whether the pull is in the file; and the file's change counter.
fn verdict_on(session: &Session, apply: &ApplyIntent) -> Result<(Verdict, u32), Error> {
    let mut question = apply.clone();
    if !session.same_boot()? {
        question.mark_before = None;
    }
    let mut live = session.live()?;
    let view = live.begin()?;
    let verdict = view.was_applied(&question, &session.base_map())?;
    if verdict == Verdict::Applied {
        // It may have been cut short before the disk had it.
        view.sync_wal()?;
    }
    Ok((verdict, view.page_one().change_counter))
}
