//! Progress of long prompts, and warnings about stalled steps.
//!
//! [`Watch`] decides what to report from elapsed time and counters alone; [`Watching`] is the thread that samples both
//! and writes to the terminal.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_coreml::generation::Progress;

/// Sampling interval.
const LOOK: Duration = Duration::from_millis(100);

/// Reporting thresholds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Work that finishes sooner shows no status.
    pub(crate) quick: Duration,
    /// A step that takes longer is reported, again after twice as long, and so on.
    pub(crate) step: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { quick: Duration::from_millis(400), step: Duration::from_secs(10) }
    }
}

/// Snapshot of the counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) prompt: usize,
    pub(crate) prefilled: usize,
    pub(crate) generated: usize,
}

impl From<&Progress> for Seen {
    fn from(p: &Progress) -> Self {
        Self { prompt: p.prompt_tokens(), prefilled: p.prefilled_tokens(), generated: p.generated_tokens() }
    }
}

/// Output to show now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// A status line, replaced by the next one.
    pub(crate) status: Option<String>,
    /// A permanent line.
    pub(crate) warning: Option<String>,
}

/// Decides what to report. Times are relative to the start of the work.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    /// Activity shown before the counters move, such as `loading the model`.
    doing: String,
    /// Model and device.
    place: String,
    last: Seen,
    since: Duration,
    next: Duration,
}

impl Watch {
    pub(crate) fn new(limits: Limits, doing: &str, place: &str) -> Self {
        let (doing, place) = (doing.to_owned(), place.to_owned());
        Self { limits, doing, place, last: Seen::default(), since: Duration::ZERO, next: limits.step }
    }

    /// Text for the current step.
    fn step(&self, seen: Seen) -> String {
        match seen {
            Seen { prompt: 0, generated: 0, .. } => self.doing.clone(),
            Seen { prompt, prefilled, generated: 0 } if prefilled < prompt => {
                format!("reading the prompt, {prefilled} of {prompt} tokens")
            }
            Seen { generated, .. } => format!("token {} of the answer", generated + 1),
        }
    }

    /// Evaluates the counters at a point in time.
    pub(crate) fn look(&mut self, now: Duration, seen: Seen) -> Told {
        if seen != self.last {
            (self.last, self.since, self.next) = (seen, now, self.limits.step);
        }
        let (waited, step) = (now.saturating_sub(self.since), self.step(seen));
        let before_answer = seen.generated == 0;
        let status = (before_answer && now >= self.limits.quick).then(|| format!("{step}…"));
        let warning = (waited >= self.next).then(|| {
            self.next = self.next.saturating_mul(2);
            let place = if self.place.is_empty() { String::new() } else { format!(" on {}", self.place) };
            format!("still running after {} s: {step}{place}; press Ctrl-C to cancel", waited.as_secs())
        });
        Told { status, warning }
    }

    /// Excludes the time elapsed so far.
    pub(crate) fn skip(&mut self, now: Duration) {
        self.since = now;
    }
}

/// Suspends the watch while something else writes to the terminal.
#[derive(Debug, Default)]
pub(crate) struct Pause(AtomicUsize);

/// Guard: the watch is suspended while it lives.
pub(crate) struct Held<'p>(&'p Pause);

impl Pause {
    pub(crate) fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, SeqCst);
        Held(self)
    }

    fn is_held(&self) -> bool {
        self.0.load(SeqCst) > 0
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

/// State shared by watch and answer: whether a status is on the terminal, and whether one may be.
struct Screen<W> {
    out: W,
    terminal: bool,
    shown: bool,
    answering: bool,
}

impl<W: Write> Screen<W> {
    /// Ignores errors: if the terminal is gone, there is no reader.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.write("\r\x1b[K");
        }
    }

    fn tell(&mut self, told: Told) {
        if let Some(warning) = told.warning {
            self.clear();
            // In the middle of an answer, start on a new line.
            let start = if self.answering && self.terminal { "\n" } else { "" };
            self.write(&format!("{start}[{warning}]\n"));
        }
        if let Some(status) = told.status.filter(|_| self.terminal && !self.answering) {
            self.write(&format!("\r{status}\x1b[K"));
            self.shown = true;
        }
    }
}

/// A running watch; stops when dropped.
pub(crate) struct Watching {
    screen: Arc<Mutex<Screen<Box<dyn Write + Send>>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Starts watching counters; shows a status only if standard error is a terminal.
    pub(crate) fn begin(watch: Watch, progress: Arc<Progress>, pause: Arc<Pause>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::on(Box::new(std::io::stderr()), terminal, watch, progress, pause)
    }

    fn on(
        out: Box<dyn Write + Send>,
        terminal: bool,
        mut watch: Watch,
        progress: Arc<Progress>,
        pause: Arc<Pause>,
    ) -> Self {
        let screen = Arc::new(Mutex::new(Screen { out, terminal, shown: false, answering: false }));
        let (stop, stopped) = channel();
        let shared = screen.clone();
        let thread = std::thread::spawn(move || {
            let (mut now, mut last) = (Duration::ZERO, Instant::now());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                // Do not count time in which this thread was asleep or suspended as well.
                now += last.elapsed().min(10 * LOOK);
                last = Instant::now();
                let mut screen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if pause.is_held() {
                    watch.skip(now);
                    screen.clear();
                } else {
                    screen.tell(watch.look(now, Seen::from(progress.as_ref())));
                }
            }
        });
        Self { screen, stop: Some(stop), thread: Some(thread) }
    }

    /// The answer starts: no status from now on.
    pub(crate) fn answer(&self) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.clear();
        screen.answering = true;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A failed watch has nothing more to report.
            let _ = thread.join();
        }
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn watch() -> Watch {
        Watch::new(Limits { quick: S(1), step: S(10) }, "waiting for the model", "coreml (portable)")
    }

    fn seen(prompt: usize, prefilled: usize, generated: usize) -> Seen {
        Seen { prompt, prefilled, generated }
    }

    #[test]
    fn progress_is_shown_until_the_answer_begins_and_quick_work_never() {
        let mut w = watch();
        assert_eq!(w.look(S(0), seen(300, 0, 0)), Told::default());
        let told = w.look(S(2), seen(300, 64, 0));
        assert_eq!(told.status.as_deref(), Some("reading the prompt, 64 of 300 tokens…"));
        assert_eq!(w.look(S(3), seen(300, 300, 0)).status.as_deref(), Some("token 1 of the answer…"));
        assert_eq!(w.look(S(4), seen(300, 300, 1)), Told::default());
        assert_eq!(w.look(S(12), seen(300, 300, 2)), Told::default(), "every step is quick enough");
    }

    #[test]
    fn a_step_that_takes_long_is_reported_again_and_again_and_less_and_less_often() {
        let mut w = watch();
        w.look(S(5), seen(300, 64, 0));
        let warnings: Vec<(u64, String)> =
            (6..60).filter_map(|t| Some((t, w.look(S(t), seen(300, 64, 0)).warning?))).collect();
        assert_eq!(warnings.iter().map(|w| w.0).collect::<Vec<_>>(), [15, 25, 45]);
        assert_eq!(
            warnings[1].1,
            "still running after 20 s: reading the prompt, 64 of 300 tokens on coreml (portable); press Ctrl-C to cancel"
        );
        // Progress was made: the limits start over.
        assert_eq!(w.look(S(60), seen(300, 128, 0)).warning, None);
        assert_eq!(w.look(S(69), seen(300, 128, 0)).warning, None);
        assert!(w.look(S(70), seen(300, 128, 0)).warning.is_some());
        w.look(S(71), seen(300, 300, 3));
        let late = w.look(S(81), seen(300, 300, 3));
        assert!(late.warning.is_some_and(|t| t.contains("token 4 of the answer")) && late.status.is_none());
    }

    #[test]
    fn work_without_counters_has_a_name_and_pauses_do_not_count() {
        let mut w = Watch::new(Limits { quick: S(1), step: S(10) }, "loading the model", "");
        assert_eq!(w.look(S(2), Seen::default()).status.as_deref(), Some("loading the model…"));
        w.skip(S(100));
        assert_eq!(w.look(S(105), Seen::default()).warning, None);
        let told = w.look(S(110), Seen::default()).warning.expect("late");
        assert_eq!(told, "still running after 10 s: loading the model; press Ctrl-C to cancel");
    }

    /// Captured output, shared by the test and the thread.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8")
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_generator_that_hangs_is_reported_and_the_line_is_cleared_in_the_end() {
        let (paper, progress) = (Paper::default(), Arc::new(Progress::default()));
        progress.begin(40);
        let limits = Limits { quick: Duration::ZERO, step: Duration::from_millis(1) };
        let pause = Arc::new(Pause::default());
        let out = Box::new(paper.clone());
        let watching = Watching::on(out, true, Watch::new(limits, "waiting", "a fake"), progress.clone(), pause);
        // The report comes however slow the machine is.
        while !paper.text().contains("reading the prompt, 0 of 40 tokens on a fake; press Ctrl-C to cancel]\n") {
            std::thread::yield_now();
        }
        watching.answer();
        let before = paper.text();
        assert!(before.contains("\r\x1b[K"), "{before:?}");
        drop(watching);
        assert!(!paper.text()[before.len()..].contains('…'), "an answer is not disturbed by a status");
    }

    #[test]
    fn through_pipes_only_what_stays_is_written() {
        let paper = Paper::default();
        let mut screen = Screen { out: paper.clone(), terminal: false, shown: false, answering: false };
        screen.tell(Told { status: Some("a".to_owned()), warning: None });
        screen.tell(Told { status: Some("b".to_owned()), warning: Some("c".to_owned()) });
        screen.clear();
        assert_eq!(paper.text(), "[c]\n");
    }
}
