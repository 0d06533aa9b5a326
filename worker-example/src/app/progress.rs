//! What is shown while the work goes on: redrawn on a terminal, a line now and then otherwise. On standard error.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::pool::View;

const LINE_EVERY: Duration = Duration::from_secs(2);
/// A pool that runs for ever says something only when something has changed, and not more often than this.
const POOL_LINE_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);

/// The display of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    line_every: Duration,
    shown: Option<(Instant, View)>,
}

impl Progress {
    /// Of a known number of photos.
    pub(crate) fn of_photos(count: u64) -> Self {
        Self::new(
            "{spinner} [{elapsed_precise}] {bar:40.cyan/blue} {pos}/{len} photos\n  {msg}",
            Some(count),
            LINE_EVERY,
        )
    }

    /// Of a pool that runs until it is stopped.
    pub(crate) fn of_pool() -> Self {
        Self::new("{spinner} [{elapsed_precise}] {msg}", None, POOL_LINE_EVERY)
    }

    fn new(template: &str, count: Option<u64>, line_every: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(count, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template(template).expect("the template is well formed"));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, began: Instant::now(), line_every, shown: None }
    }

    /// Shows what a step saw.
    pub(crate) fn show(&mut self, view: &View) {
        if let Some(bar) = &self.bar {
            bar.set_position(view.settled());
            bar.set_message(text(view));
            return;
        }
        let now = Instant::now();
        let due = match &self.shown {
            None => true,
            Some((at, before)) => {
                let (workers, changed) = (before.workers != view.workers, View { rate: 0.0, ..*before });
                let changed = changed != View { rate: 0.0, ..*view };
                workers || (changed && now - *at >= self.line_every)
            }
        };
        if due {
            self.say(&format!("{}/{} settled, {}", view.settled(), view.submitted, text(view)));
            self.shown = Some((now, *view));
        }
    }

    /// Says something above what is redrawn.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{:6.1} s  {line}", self.began.elapsed().as_secs_f64()),
        }
    }

    /// Leaves the screen as it is.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn text(view: &View) -> String {
    let View { ready, leased, delayed, dead, backlog, rate, workers, draining, .. } = view;
    let mut text = format!("backlog {backlog} (ready {ready}, leased {leased}");
    if *delayed > 0 {
        text += &format!(", delayed {delayed}");
    }
    text += &format!("), workers {workers}");
    if *draining > 0 {
        text += &format!(" +{draining} draining");
    }
    text += &format!(", {rate:.1}/s");
    if *dead > 0 {
        text += &format!(", {dead} dead");
    }
    if !view.fresh {
        text += " (the broker does not answer)";
    }
    text
}

/// A bar for something with a known number of steps; nothing where there is no terminal.
pub(crate) fn counting(what: &str, count: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} {bar:40.cyan/blue} {pos}/{len}");
    bar.with_style(style.expect("the template is well formed")).with_message(what.to_owned())
}
