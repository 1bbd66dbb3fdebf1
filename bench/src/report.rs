//! What was measured, as rows of one table.

use std::io::Write as _;
use std::time::Duration;

use crate::Result;

/// A measured figure.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) figure: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    /// The peer or limit, measured in the same run or given.
    pub(crate) peer: String,
    /// Measured to peer or limit.
    pub(crate) ratio: Option<f64>,
    /// Whether the target is met; `None` where there is none.
    pub(crate) met: Option<bool>,
}

/// All rows so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Takes up a row, and shows it at once: a run takes minutes.
    pub(crate) fn row(&mut self, row: Row) -> Result<()> {
        say(&line(&row))?;
        self.rows.push(row);
        Ok(())
    }

    /// The whole table, in Markdown.
    pub(crate) fn table(&self) -> Result<()> {
        say("")?;
        say("| workload | figure | target | measured | peer or limit | ratio | verdict |")?;
        say("|---|---|---|---|---|---|---|")?;
        for row in &self.rows {
            say(&line(row))?;
        }
        Ok(())
    }

    /// How many targets were missed.
    pub(crate) fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.met == Some(false)).count()
    }
}

fn line(row: &Row) -> String {
    let verdict = match row.met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "",
    };
    let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let Row { workload, figure, target, measured, peer, .. } = row;
    format!("| {workload} | {figure} | {target} | {measured} | {peer} | {ratio} | {verdict} |")
}

/// Prints a line.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// A series of measurements.
#[derive(Debug, Clone)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    /// Measures `count` times.
    pub(crate) fn of(
        count: usize,
        mut once: impl FnMut(usize) -> Result<Duration>,
    ) -> Result<Self> {
        (0..count).map(&mut once).collect::<Result<Vec<_>>>().map(Self::from)
    }

    pub(crate) fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// Median, and the range in brackets.
    pub(crate) fn show(&self) -> String {
        let least = self.0.iter().min().copied().unwrap_or_default();
        let most = self.0.iter().max().copied().unwrap_or_default();
        format!("{} ({} … {})", ms(self.median()), ms(least), ms(most))
    }
}

impl From<Vec<Duration>> for Series {
    fn from(all: Vec<Duration>) -> Self {
        Series(all)
    }
}

/// A duration for people.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        _ if ms >= 1000.0 => format!("{:.2} s", ms / 1e3),
        _ if ms >= 100.0 => format!("{ms:.0} ms"),
        _ if ms >= 10.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.2} ms"),
    }
}

/// Bytes for people, decimal.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// One amount in terms of another.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn ratio(measured: u64, peer: u64) -> f64 {
    measured as f64 / peer.max(1) as f64
}

/// One time in terms of another.
pub(crate) fn time_ratio(measured: Duration, peer: Duration) -> f64 {
    measured.as_secs_f64() / peer.as_secs_f64().max(1e-9)
}
