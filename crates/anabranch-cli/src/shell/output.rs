//! Where a shell writes: standard output, or a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use super::clean::Cleaned;
use super::error::ShellError;

/// Where results go.
pub(super) struct Output(Box<dyn Write>);

impl Output {
    /// Standard output. A terminal gets nothing that it would obey.
    pub(super) fn standard() -> Self {
        let out = BufWriter::new(io::stdout());
        if io::stdout().is_terminal() {
            Output(Box::new(Cleaned::new(out)))
        } else {
            Output(Box::new(out))
        }
    }

    /// A new file.
    pub(super) fn file(path: &Path) -> Result<Self, ShellError> {
        let made = File::create(path);
        let file = made.map_err(|source| ShellError::File {
            what: "creating",
            path: path.to_owned(),
            source,
        })?;
        Ok(Output(Box::new(BufWriter::new(file))))
    }

    #[cfg(test)]
    pub(super) fn to(out: impl Write + 'static) -> Self {
        Output(Box::new(out))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
