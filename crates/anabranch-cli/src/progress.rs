//! Progress bars for whatever takes more than a second.
//!
//! Owns the one line at the foot of the terminal. Shown only if standard error is a terminal and
//! neither `--quiet` nor `--json` was given; always gone before anything else is printed.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch::{Progress, ProgressEvent, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::human;

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// At most this many redraws a second.
const DRAWS_PER_SECOND: u8 = 10;

/// Shows the progress of one command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars {
    line: Option<Arc<Mutex<Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    step: Option<Step>,
    since: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Bars {
    /// Bars, if anybody can see them.
    pub(crate) fn new(wanted: bool) -> Self {
        let seen = wanted && std::io::stderr().is_terminal();
        Bars { line: seen.then(Arc::default) }
    }

    /// What the library tells its progress to.
    pub(crate) fn progress(&self) -> Progress {
        match &self.line {
            None => Progress::none(),
            Some(line) => {
                let line = Arc::clone(line);
                Progress::new(move |event| lock(&line).show(event, Instant::now()))
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line {
            lock(line).clear();
        }
    }
}

fn lock(line: &Mutex<Line>) -> std::sync::MutexGuard<'_, Line> {
    // A bar that somebody panicked over is still a bar.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn show(&mut self, event: ProgressEvent, now: Instant) {
        if self.step != Some(event.step) {
            self.clear();
            self.step = Some(event.step);
        }
        let since = *self.since.get_or_insert(now);
        if self.bar.is_none() {
            let elapsed = now.duration_since(since);
            if elapsed < PATIENCE {
                return;
            }
            self.bar = Some(new_bar(event.step, event.total, elapsed));
        }
        if let Some(bar) = &self.bar {
            if let Some(total) = event.total {
                bar.set_length(total);
            }
            bar.set_position(event.done);
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.since = None;
        self.step = None;
    }
}

fn template(total: Option<u64>) -> &'static str {
    match total {
        Some(_) => "{msg} [{wide_bar}] {moved}, {rate}, {left} left",
        None => "{msg} {moved}, {rate} {spinner}",
    }
}

/// Bytes per second on average over the step. The bar's own estimate starts when the bar appears,
/// and would count all that was done before as done at once.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rate(done: u64, elapsed: Duration) -> u64 {
    (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn moved(state: &ProgressState) -> String {
    match state.len() {
        Some(total) => format!("{} of {}", human::bytes(state.pos()), human::bytes(total)),
        None => human::bytes(state.pos()),
    }
}

fn left(state: &ProgressState) -> String {
    let rest = state.len().unwrap_or(0).saturating_sub(state.pos());
    match rate(state.pos(), state.elapsed()) {
        0 => "?".to_owned(),
        rate => match rest.div_ceil(rate) {
            seconds @ 0..60 => format!("{seconds} s"),
            seconds => human::duration(Duration::from_secs(seconds)),
        },
    }
}

fn style(total: Option<u64>) -> ProgressStyle {
    let write = |text: fn(&ProgressState) -> String| {
        move |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A line of progress that cannot be written is not missed.
            let _ = out.write_str(&text(state));
        }
    };
    ProgressStyle::with_template(template(total))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .with_key("moved", write(moved))
        .with_key("left", write(left))
        .with_key(
            "rate",
            write(|state| format!("{}/s", human::bytes(rate(state.pos(), state.elapsed())))),
        )
}

fn new_bar(step: Step, total: Option<u64>, elapsed: Duration) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    ProgressBar::with_draw_target(total, target)
        .with_style(style(total))
        .with_message(step.name())
        .with_elapsed(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_understood() {
        for total in [None, Some(10)] {
            assert!(ProgressStyle::with_template(template(total)).is_ok());
        }
    }

    #[test]
    fn the_rate_is_that_of_the_whole_step() {
        assert_eq!(rate(3_000_000, Duration::from_secs(2)), 1_500_000);
        assert!(rate(10, Duration::ZERO) > 0, "no division by zero");
    }

    #[test]
    fn a_bar_appears_after_a_second_of_the_same_step_only() {
        let start = Instant::now();
        let mut line = Line::default();
        let at = |line: &mut Line, step, ms| {
            let event = ProgressEvent { step, done: 1, total: Some(10) };
            line.show(event, start + Duration::from_millis(ms));
            line.bar.is_some()
        };
        assert!(!at(&mut line, Step::Scanning, 0));
        assert!(!at(&mut line, Step::Scanning, 900));
        assert!(!at(&mut line, Step::Uploading, 1100), "another step");
        assert!(at(&mut line, Step::Uploading, 2200));
        line.clear();
        assert!(line.bar.is_none());
    }
}
