//! `demo`: the whole job once, for real, on a folder as the remote.
//!
//! Three replicas of one database meet at a folder: one writes while the folder is out of reach,
//! all catch up, another writes, and the state from before is restored into a file of its own.
//! Every step runs the very function that the command runs, on what the steps before left; each is
//! shown as the command to type, with its real output, and its outcome is checked. A step that ends
//! otherwise than it must ends the demo with an error.

mod notes;
mod stage;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch::Micros;
use jiff::Timestamp;
use serde::Serialize;

use self::stage::{Stage, Step};
use crate::args;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::human::{self, Paint};
use crate::output::{Human, Outcome};

/// The remote, and where it goes while it is out of reach.
const REMOTE: &str = "river";
const AWAY: &str = "river-out-of-reach";
const REPLICAS: [&str; 3] = ["laptop.db", "phone.db", "desk.db"];
const RESTORED: &str = "before-the-trip.db";

const WRITE_OFFLINE: &str = "\
INSERT INTO note(notebook, title, body, changed)
  VALUES (2, 'On the train', 'Written without a network.', '2026-11-23');
UPDATE note SET body = 'Corrected on the way.' WHERE id = 7;
DELETE FROM note WHERE id IN (11, 12)";

const WRITE_ON_THE_PHONE: &str = "\
CREATE TABLE reminder(id INTEGER PRIMARY KEY, note INTEGER REFERENCES note(id), due TEXT);
INSERT INTO reminder(note, due) SELECT id, '2026-12-01' FROM note WHERE title = 'On the train';
INSERT INTO tag SELECT id, 'travel' FROM note WHERE title = 'On the train'";

/// What the demo has to say at its end.
#[derive(Serialize)]
struct Summary {
    directory: String,
    kept: bool,
    /// Database checksum that all replicas have.
    checksum: String,
    seconds: f64,
    #[serde(skip)]
    elapsed: Duration,
    steps: Vec<Step>,
}

impl Human for Summary {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(
            out,
            "\n{} in {}: {} are equal page by page (checksum {}), and {RESTORED} is what they \
             were before.",
            paint.good("Done"),
            human::duration(self.elapsed),
            REPLICAS.join(", "),
            self.checksum,
        )?;
        match self.kept {
            true => writeln!(out, "The files are in {}", self.directory),
            false => writeln!(
                out,
                "The files were in {} and are removed; `anabranch demo DIR` keeps them.",
                self.directory
            ),
        }
    }
}

/// The folder the demo works in, made the current one until it is dropped.
struct Place {
    before: PathBuf,
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn enter(dir: Option<&Path>) -> Result<Self, Failure> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Failure::File { what, path, source }
        };
        let here = Path::new(".");
        let before = std::env::current_dir().map_err(failed("entering", here))?;
        let (dir, temporary) = match dir {
            Some(dir) => (new_or_empty(dir)?, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("anabranch-demo-").tempdir();
                let parent = std::env::temp_dir();
                let temporary = temporary.map_err(failed("making a folder in", &parent))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let dir = fs::canonicalize(&dir).map_err(failed("entering", &dir))?;
        std::env::set_current_dir(&dir).map_err(failed("entering", &dir))?;
        Ok(Place { before, dir, temporary })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Some systems do not remove a folder that a program stands in.
        let _ = std::env::set_current_dir(&self.before);
    }
}

/// Makes `dir` unless it is an empty folder already.
fn new_or_empty(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |what| move |source| Failure::File { what, path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed("making"))?;
    if fs::read_dir(dir).map_err(failed("listing"))?.next().is_some() {
        let dir = dir.display();
        return Err(Failure::Usage(format!(
            "{dir} is not empty: the demo works in an empty folder, or one it makes"
        )));
    }
    Ok(dir.to_owned())
}

pub(crate) async fn demo(args: args::Demo, ctx: &Context) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let mut place = Place::enter(args.dir.as_deref())?;
    let mut stage = Stage::new(ctx);
    stage.say(&format!("Working in {}", place.dir.display()))?;
    match play(&mut stage).await {
        Ok(checksum) => {
            let elapsed = started.elapsed();
            Ok(Outcome::done(Summary {
                directory: place.dir.display().to_string(),
                kept: place.temporary.is_none(),
                checksum,
                seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
                elapsed,
                steps: stage.into_steps(),
            }))
        }
        Err(failure) => {
            // What went wrong can be looked at.
            if let Some(temporary) = place.temporary.take() {
                let kept = temporary.keep();
                stage.say(&format!("The files are kept in {}", kept.display()))?;
            }
            Err(failure)
        }
    }
}

/// The story; answers the checksum that all replicas have at its end.
async fn play(stage: &mut Stage<'_>) -> Result<String, Failure> {
    let [laptop, phone, desk] = REPLICAS;
    publish_and_clone(stage).await?;
    let before = stage.checksum(laptop)?;
    let then = moment();

    write_while_offline(stage).await?;

    stage.say("Back home: everyone catches up")?;
    stage.rename(AWAY, REMOTE)?;
    let status = stage.anabranch(&["status", laptop, "--tables"]).await?;
    let changes = status.find("tables", "table", "note")?;
    changes.equals("/inserted", 1)?;
    changes.equals("/updated", 1)?;
    changes.equals("/deleted", 2)?;
    stage.anabranch(&["sync", laptop]).await?.has("pushed")?;
    for replica in [phone, desk] {
        stage.anabranch(&["sync", replica]).await?.has("pulled")?;
    }
    let search = "SELECT title FROM note_text WHERE note_text MATCH 'network'";
    stage.sqlite(phone, search)?.is("On the train")?;

    stage.say("The phone writes too: rows, and a new table")?;
    stage.sqlite(phone, WRITE_ON_THE_PHONE)?.is("")?;
    stage.anabranch(&["sync", phone]).await?.has("pushed")?;
    for replica in [laptop, desk] {
        stage.anabranch(&["sync", replica]).await?.has("pulled")?;
    }
    stage.sqlite(laptop, "SELECT due FROM reminder")?.is("2026-12-01")?;

    stage.say("What happened, newest first")?;
    stage.anabranch(&["log", REMOTE]).await?.counts("entries", 3)?;
    restore(stage, &then, &before).await?;
    verify(stage).await
}

async fn publish_and_clone(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let [laptop, phone, desk] = REPLICAS;
    stage.say("A database as an application makes it: notes, tags, full-text search")?;
    stage.sqlite_script(laptop, "notes.sql", &notes::script())?;
    stage.sqlite(laptop, "SELECT count(*) FROM note")?.is(&notes::NOTES.to_string())?;
    stage.say("Publish it in a folder, and take two copies")?;
    stage.anabranch(&["init", laptop, "--remote", REMOTE]).await?.has("published")?;
    stage.anabranch(&["clone", REMOTE, phone]).await?.has("pages")?;
    stage.anabranch(&["clone", REMOTE, desk]).await?.has("pages")?;
    Ok(())
}

async fn write_while_offline(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let [laptop, ..] = REPLICAS;
    stage.say("On the way: the folder is out of reach, the laptop writes all the same")?;
    stage.rename(REMOTE, AWAY)?;
    stage.sqlite(laptop, WRITE_OFFLINE)?.is("")?;
    let status = stage.anabranch(&["status", laptop]).await?;
    status.equals("/remote_status/state", "offline")?;
    stage.anabranch_ending(&["sync", laptop], Exit::Offline).await?.has("offline")?;
    Ok(())
}

async fn restore(stage: &mut Stage<'_>, then: &str, before: &str) -> Result<(), Failure> {
    stage.say("The state from before the trip, in a file of its own")?;
    stage.anabranch(&["restore", REMOTE, RESTORED, "--at", then]).await?.has("position")?;
    stage.sqlite(RESTORED, "SELECT count(*) FROM note")?.is(&notes::NOTES.to_string())?;
    stage.sqlite(RESTORED, "PRAGMA integrity_check")?.is("ok")?;
    stage.same(RESTORED, &stage.checksum(RESTORED)?, before)
}

async fn verify(stage: &mut Stage<'_>) -> Result<String, Failure> {
    stage.say("Every page of every replica, compared with the remote's")?;
    for replica in REPLICAS {
        let report = stage.anabranch(&["verify", replica]).await?;
        report.counts("damaged", 0)?;
        report.counts("local", 0)?;
        stage.sqlite(replica, "PRAGMA integrity_check")?.is("ok")?;
    }
    let [first, ..] = REPLICAS;
    let checksum = stage.checksum(first)?;
    for replica in REPLICAS {
        stage.same(replica, &stage.checksum(replica)?, &checksum)?;
    }
    Ok(checksum)
}

/// This moment, as `--at` takes it.
fn moment() -> String {
    human::rfc3339(Micros(Timestamp::now().as_microsecond())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        assert_eq!(new_or_empty(&new).unwrap(), new);
        assert_eq!(new_or_empty(&new).unwrap(), new);
        fs::write(new.join("x"), "").unwrap();
        assert_eq!(new_or_empty(&new).unwrap_err().exit(), Exit::Usage);
        assert_eq!(new_or_empty(&new.join("x")).unwrap_err().exit(), Exit::Failed);
    }
}
