//! Long lists that become known item by item: kept aside until the last has come, so that a command that
//! fails on the way prints no half of a document. Beyond a bound they lie in a temporary file.

use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::Serialize;
use tempfile::SpooledTempFile;

use crate::failure::Failure;
use crate::human::Paint;
use crate::output::{Human, Outcome, Report, Style};

/// So much is kept in memory.
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// A list under way.
pub(crate) struct Listing {
    style: Style,
    /// What the list is called in JSON.
    name: &'static str,
    text: SpooledTempFile,
    items: u64,
}

impl Listing {
    pub(crate) fn new(name: &'static str, style: Style) -> Self {
        Listing { style, name, text: SpooledTempFile::new(MEMORY_BYTES_MAX), items: 0 }
    }

    /// Adds an item.
    pub(crate) fn item(&mut self, item: &(impl Human + Serialize)) -> io::Result<()> {
        if self.style.json {
            let before = match self.items {
                0 => format!("{{\n  \"{}\": [\n    ", self.name),
                _ => ",\n    ".to_owned(),
            };
            self.text.write_all(before.as_bytes())?;
            serde_json::to_writer(&mut self.text, item)?;
        } else {
            item.human(&mut self.text, self.style.paint)?;
        }
        self.items += 1;
        Ok(())
    }

    /// Ends the list; `nothing` is said in its place if nothing came.
    pub(crate) fn end(mut self, nothing: &str) -> Result<Outcome, Failure> {
        let end = match (self.style.json, self.items) {
            (true, 0) => format!("{{\n  \"{}\": []\n}}\n", self.name),
            (true, _) => "\n  ]\n}\n".to_owned(),
            (false, 0) => format!("{nothing}\n"),
            (false, _) => String::new(),
        };
        self.text.write_all(end.as_bytes()).map_err(Failure::Output)?;
        Ok(Outcome::done_with(Box::new(Ended(RefCell::new(self.text)))))
    }
}

/// A list that is complete, in the form that was wanted.
struct Ended(RefCell<SpooledTempFile>);

impl Ended {
    fn copy(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut text = self.0.borrow_mut();
        text.seek(SeekFrom::Start(0))?;
        let mut block = vec![0; 64 << 10];
        loop {
            let read = text.read(&mut block)?;
            if read == 0 {
                return Ok(());
            }
            out.write_all(&block[..read])?;
        }
    }
}

impl Human for Ended {
    fn human(&self, out: &mut dyn Write, _: Paint) -> io::Result<()> {
        self.copy(out)
    }

    fn is_answer(&self) -> bool {
        true
    }
}

impl Report for Ended {
    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        self.copy(out)
    }
}
