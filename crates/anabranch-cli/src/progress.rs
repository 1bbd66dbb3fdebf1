//! Progress bars for whatever takes more than a second.
//!
//! Owns the one line at the foot of the terminal. Shown only if standard error is a terminal and
//! neither `--quiet` nor `--json` was given; always gone before anything else is printed. Where a
//! step does not count its bytes, the line at least says that work goes on, and for how long.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch::{Progress, ProgressEvent, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::human;

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether something takes long.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// At most this many redraws a second.
const DRAWS_PER_SECOND: u8 = 10;

/// Shows the progress of one command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars {
    line: Option<Arc<Mutex<Line>>>,
}

#[derive(Debug)]
struct Line {
    /// The step that was heard of last, and since when.
    step: Option<Step>,
    since: Instant,
    bar: Option<ProgressBar>,
    /// Whether the bar belongs to no step.
    waiting: bool,
    /// Nothing is shown any more.
    ended: bool,
}

impl Bars {
    /// Bars, if anybody can see them.
    pub(crate) fn new(wanted: bool) -> Self {
        let seen = wanted && std::io::stderr().is_terminal();
        let line = seen.then(|| Arc::new(Mutex::new(Line::new(Instant::now()))));
        if let Some(line) = &line {
            let line = Arc::clone(line);
            // Without this thread there is less to see, and nothing else is lost.
            let _ = std::thread::Builder::new().name("progress".into()).spawn(move || {
                while lock(&line).look(Instant::now()) {
                    std::thread::sleep(LOOK_EVERY);
                }
            });
        }
        Bars { line }
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
            lock(line).clear(Instant::now());
        }
    }

    /// Takes the bar away for good.
    pub(crate) fn end(&self) {
        if let Some(line) = &self.line {
            lock(line).end();
        }
    }
}

fn lock(line: &Mutex<Line>) -> std::sync::MutexGuard<'_, Line> {
    // A bar that somebody panicked over is still a bar.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn new(now: Instant) -> Self {
        Line { step: None, since: now, bar: None, waiting: false, ended: false }
    }

    fn show(&mut self, event: ProgressEvent, now: Instant) {
        if self.ended {
            return;
        }
        if self.step != Some(event.step) {
            self.clear(now);
            self.step = Some(event.step);
        }
        let elapsed = now.duration_since(self.since);
        if self.waiting || self.bar.is_none() {
            if elapsed < PATIENCE {
                return;
            }
            self.take();
            self.bar = Some(new_bar(event.step, event.total, elapsed));
        }
        if let Some(bar) = &self.bar {
            if let Some(total) = event.total {
                bar.set_length(total);
            }
            bar.set_position(event.done);
        }
    }

    /// Shows that work goes on, if nothing else does; answers whether to look again.
    fn look(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.since);
        if self.bar.is_none() && elapsed >= PATIENCE && !self.ended {
            self.bar = Some(waiting_bar(elapsed));
            self.waiting = true;
        }
        if let Some(bar) = &self.bar {
            bar.tick();
        }
        !self.ended
    }

    fn take(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.waiting = false;
    }

    fn clear(&mut self, now: Instant) {
        self.take();
        self.since = now;
        self.step = None;
    }

    fn end(&mut self) {
        self.take();
        self.ended = true;
    }
}

fn waiting_bar(elapsed: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("working, {elapsed} {spinner}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    ProgressBar::with_draw_target(None, target).with_style(style).with_elapsed(elapsed)
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

    /// A line, and the moment it began at.
    struct Watched(Line, Instant);

    impl Watched {
        fn new() -> Self {
            let start = Instant::now();
            Watched(Line::new(start), start)
        }

        /// Tells of a step after so many milliseconds; answers whether its bar is there.
        fn tell(&mut self, step: Step, ms: u64) -> bool {
            let event = ProgressEvent { step, done: 1, total: Some(10) };
            self.0.show(event, self.1 + Duration::from_millis(ms));
            self.0.bar.is_some() && !self.0.waiting
        }

        /// Looks after so many milliseconds; answers whether it says that work goes on.
        fn look(&mut self, ms: u64) -> bool {
            self.0.look(self.1 + Duration::from_millis(ms));
            self.0.waiting
        }
    }

    #[test]
    fn a_bar_appears_after_a_second_of_the_same_step_only() {
        let mut line = Watched::new();
        assert!(!line.tell(Step::Scanning, 0));
        assert!(!line.tell(Step::Scanning, 900));
        assert!(!line.tell(Step::Uploading, 1100), "another step");
        assert!(line.tell(Step::Uploading, 2200));
        line.0.end();
        assert!(!line.tell(Step::Uploading, 9000), "after the end");
    }

    #[test]
    fn what_counts_no_bytes_shows_that_work_goes_on() {
        let mut line = Watched::new();
        assert!(!line.look(900));
        assert!(line.look(1100));
        assert!(!line.tell(Step::Applying, 1200));
        assert!(!line.look(2100), "the step has its own second");
        assert!(line.tell(Step::Applying, 2300));
        assert!(!line.look(2400), "a bar with bytes stays");
        line.0.end();
        assert!(!line.look(9000));
    }
}
