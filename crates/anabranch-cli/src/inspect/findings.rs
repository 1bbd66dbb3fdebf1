//! What `inspect` found, and how it is shown.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::human::{Paint, bytes, count};
use crate::output::Human;

/// One thing that was found: a name, a value for programs, a text for people.
struct Fact {
    name: &'static str,
    value: Value,
    shown: String,
}

/// A frame as it is listed: page number, and the size after it in a commit frame (0 in others).
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) pgno: u32,
    pub(super) commit_size: u32,
}

/// A chunk as it is listed.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Chunk {
    /// Number, from 0.
    pub(super) chunk: u64,
    /// Where it begins in the object.
    pub(super) offset: u64,
    /// Compressed length.
    pub(super) bytes: u64,
    /// Unpacked length.
    pub(super) unpacked: u64,
}

/// Collects what is found.
pub(super) struct Findings {
    pub(super) kind: &'static str,
    list: bool,
    facts: Vec<Fact>,
    frames: Vec<Frame>,
    chunks: Vec<Chunk>,
    notes: Vec<String>,
    damage: Option<String>,
}

impl Findings {
    pub(super) fn new(list: bool) -> Self {
        Findings {
            kind: "unknown",
            list,
            facts: Vec::new(),
            frames: Vec::new(),
            chunks: Vec::new(),
            notes: Vec::new(),
            damage: None,
        }
    }

    /// Nothing found yet, for another look at the same file.
    pub(super) fn anew(&self) -> Self {
        Findings::new(self.list)
    }

    /// Adds a fact that reads the same for programs and people.
    pub(super) fn fact(&mut self, name: &'static str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let shown = match &value {
            Value::String(text) => text.clone(),
            Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), count),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            other => other.to_string(),
        };
        self.facts.push(Fact { name, value, shown });
    }

    /// Adds a fact that people read otherwise.
    pub(super) fn fact_as(&mut self, name: &'static str, value: impl Serialize, shown: String) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.facts.push(Fact { name, value, shown });
    }

    /// Remembers a frame, if they are to be listed.
    pub(super) fn frame(&mut self, frame: Frame) {
        if self.list {
            self.frames.push(frame);
        }
    }

    /// Remembers a chunk, if they are to be listed.
    pub(super) fn chunk(&mut self, chunk: Chunk) {
        if self.list {
            self.chunks.push(chunk);
        }
    }

    /// Adds a line that explains something.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Says what is damaged; the first one counts.
    pub(super) fn damage(&mut self, what: impl Into<String>) {
        if self.damage.is_none() {
            self.damage = Some(what.into());
        }
    }
}

/// The findings on one file.
pub(super) struct Explained {
    pub(super) path: String,
    bytes: u64,
    findings: Findings,
}

impl Explained {
    pub(super) fn new(path: &Path, bytes: u64, findings: Findings) -> Self {
        Explained { path: path.display().to_string(), bytes, findings }
    }

    /// What is damaged, if anything is.
    pub(super) fn damage(&self) -> Option<&str> {
        self.findings.damage.as_deref()
    }
}

impl Human for Explained {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let found = &self.findings;
        let size = match self.bytes {
            n @ 0..1000 => bytes(n),
            n => format!("{} ({} bytes)", bytes(n), count(n)),
        };
        writeln!(out, "{}: {}, {size}", self.path, paint.strong(found.kind))?;
        let width = found.facts.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
        for Fact { name, shown, .. } in &found.facts {
            writeln!(out, "  {:<width$}  {shown}", name.replace('_', " "))?;
        }
        self.list(out, paint)?;
        for note in &found.notes {
            writeln!(out, "{} {note}", paint.warn("note:"))?;
        }
        match &found.damage {
            Some(damage) => writeln!(out, "{} {damage}", paint.bad("damaged:")),
            None => writeln!(out, "{}", paint.good("every checksum is right")),
        }
    }

    fn is_answer(&self) -> bool {
        true
    }
}

impl Explained {
    fn list(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let (frames, chunks) = (&self.findings.frames, &self.findings.chunks);
        if !frames.is_empty() {
            writeln!(out, "{}", paint.faint(&format!("{:>10} {:>10}  commit", "frame", "page")))?;
        }
        for (i, frame) in frames.iter().enumerate() {
            write!(out, "{:>10} {:>10}", i + 1, frame.pgno)?;
            match frame.commit_size {
                0 => writeln!(out)?,
                size => writeln!(out, "  {} pages", count(size.into()))?,
            }
        }
        if !chunks.is_empty() {
            let head =
                format!("{:>10} {:>14} {:>10} {:>10}", "chunk", "offset", "bytes", "unpacked");
            writeln!(out, "{}", paint.faint(&head))?;
        }
        for Chunk { chunk, offset, bytes, unpacked } in chunks {
            writeln!(out, "{chunk:>10} {offset:>14} {bytes:>10} {unpacked:>10}")?;
        }
        Ok(())
    }
}

impl Serialize for Explained {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let found = &self.findings;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", &self.path)?;
        map.serialize_entry("kind", found.kind)?;
        map.serialize_entry("bytes", &self.bytes)?;
        for Fact { name, value, .. } in &found.facts {
            map.serialize_entry(name, value)?;
        }
        if !found.frames.is_empty() {
            map.serialize_entry("frame_list", &Frames(&found.frames))?;
        }
        if !found.chunks.is_empty() {
            map.serialize_entry("chunk_list", &found.chunks)?;
        }
        if !found.notes.is_empty() {
            map.serialize_entry("notes", &found.notes)?;
        }
        map.serialize_entry("damage", &found.damage)?;
        map.end()
    }
}

struct Frames<'a>(&'a [Frame]);

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Listed {
            frame: usize,
            page: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            commit: Option<u32>,
        }
        let listed = self.0.iter().enumerate().map(|(i, frame)| Listed {
            frame: i + 1,
            page: frame.pgno,
            commit: (frame.commit_size > 0).then_some(frame.commit_size),
        });
        serializer.collect_seq(listed)
    }
}
