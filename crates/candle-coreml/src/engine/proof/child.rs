//! The child process that tries a model, and what its end means.
//!
//! The child prints lines: first [`HELLO`], then `stage …` as it goes, at last `proved`, `refused REASON` or
//! `cannot REASON`. Other lines are Core ML's, and skipped. Whatever the child does, reading takes bounded memory and
//! ends at a limit.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub(super) const HELLO: &str = "candle-coreml proof 1";

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The model ran.
    Proved,
    /// Core ML refused it, or ended the process.
    Refused(String),
    /// The end says nothing about the model.
    Unclear(String),
    /// There was no trial.
    NotStarted(String),
}

/// Time for loading and one prediction: compiling for the Neural Engine takes minutes. In seconds by
/// `CANDLE_COREML_PROOF_SECONDS`.
pub(super) fn limit() -> Duration {
    let given = std::env::var("CANDLE_COREML_PROOF_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(900))
}

/// Longest line that is looked at.
const LINE: usize = 8192;

/// Bytes of standard error that are kept.
const TAIL: usize = 2048;

/// After the child's end, how long its output may take: a process of its own may hold the pipes.
const GRACE: Duration = Duration::from_secs(2);

/// What the child has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    hello: bool,
    stage: Option<String>,
    answer: Option<Ended>,
}

impl Said {
    fn line(&mut self, line: &str) {
        if !self.hello {
            self.hello = line == HELLO;
            return;
        }
        match line.split_once(' ').unwrap_or((line, "")) {
            ("stage", stage) => self.stage = Some(stage.to_owned()),
            ("proved", "") => self.answer = Some(Ended::Proved),
            ("refused", reason) => self.answer = Some(Ended::Refused(reason.to_owned())),
            ("cannot", reason) => self.answer = Some(Ended::NotStarted(reason.to_owned())),
            _ => {}
        }
    }
}

/// Reads lines, of which no more than [`LINE`] bytes are kept, until the end.
fn listen(mut from: impl Read, mut each: impl FnMut(&str)) {
    let (mut piece, mut line) = ([0; 4096], Vec::new());
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &piece[..n] {
            match byte {
                b'\n' => {
                    each(String::from_utf8_lossy(&line).trim_end());
                    line.clear();
                }
                _ if line.len() < LINE => line.push(byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        each(String::from_utf8_lossy(&line).trim_end());
    }
}

/// Reads on a thread; the receiver gets every new state.
fn listening(from: impl Read + Send + 'static) -> Receiver<Said> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut said = Said::default();
        listen(from, |line| {
            let before = said.clone();
            said.line(line);
            // Nobody may wait any more; the pipe is still drained.
            if said != before {
                let _ = sender.send(said.clone());
            }
        });
    });
    receiver
}

/// The last line of an output, read on a thread.
fn last_line(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut last = String::new();
        listen(from, |line| {
            if !line.trim().is_empty() {
                last = line.chars().take(TAIL).collect();
            }
        });
        let _ = sender.send(last);
    });
    receiver
}

/// Runs a child to its end, or to the limit, when it is killed.
pub(super) fn run(command: &mut Command, limit: Duration) -> Ended {
    let began = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(format!("{}: {error}", command.get_program().to_string_lossy())),
    };
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Ended::NotStarted("no pipes".to_owned());
    };
    let (heard, errors) = (listening(output), last_line(errors));
    let mut pause = Duration::from_millis(2);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if began.elapsed() >= limit => {
                // It may have ended by itself meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            Ok(None) => std::thread::sleep(pause),
            Err(error) => return Ended::Unclear(error.to_string()),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    };
    let (mut said, until) = (Said::default(), Instant::now() + GRACE);
    while let Ok(more) = heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
        said = more;
    }
    let complaint = errors.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or_default();
    judge(said, status, &complaint, limit)
}

/// What the end of a child means. `status` is `None` if it was killed at the limit.
fn judge(said: Said, status: Option<ExitStatus>, complaint: &str, limit: Duration) -> Ended {
    let while_doing = said.stage.as_ref().map(|stage| format!(" while {stage}")).unwrap_or_default();
    let complained = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
    let Some(status) = status else {
        let reason = format!("no answer within {} s{while_doing}", limit.as_secs_f64());
        return if said.hello { Ended::Refused(reason) } else { Ended::Unclear(reason) };
    };
    if let Some(signal) = signal(status) {
        let reason = format!("the process was ended by {}{while_doing}{complained}", name(signal));
        // Somebody asked it to stop, or it had not begun.
        let stopped = [1, 2, 15].contains(&signal);
        return if said.hello && !stopped { Ended::Refused(reason) } else { Ended::Unclear(reason) };
    }
    match said.answer {
        Some(Ended::Proved) if !status.success() => {
            Ended::Unclear(format!("an answer, but {status}{while_doing}{complained}"))
        }
        Some(answer) => answer,
        None if said.hello => Ended::Unclear(format!("no answer, {status}{while_doing}{complained}")),
        None => Ended::Unclear(format!("no answer, {status}{complained}")),
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

fn name(signal: i32) -> String {
    let known = [(4, "SIGILL"), (5, "SIGTRAP"), (6, "SIGABRT"), (8, "SIGFPE"), (9, "SIGKILL"), (11, "SIGSEGV")];
    let known = known.into_iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| name.to_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Ended {
        run(Command::new("/bin/sh").args(["-c", &script.replace("HELLO", &format!("echo '{HELLO}'"))]), limit)
    }

    fn refused(script: &str) -> String {
        match shell(script, MINUTE) {
            Ended::Refused(reason) => reason,
            other => panic!("{script}: {other:?}"),
        }
    }

    fn unclear(script: &str) -> String {
        match shell(script, MINUTE) {
            Ended::Unclear(reason) => reason,
            other => panic!("{script}: {other:?}"),
        }
    }

    #[test]
    fn children_that_answer_are_believed() {
        assert_eq!(shell("HELLO; echo stage loading; echo proved", MINUTE), Ended::Proved);
        assert_eq!(refused("HELLO; echo 'refused code 110: no'; exit 1"), "code 110: no");
        let cannot = shell("HELLO; echo 'cannot another variant'; exit 1", MINUTE);
        assert_eq!(cannot, Ended::NotStarted("another variant".to_owned()));
        // Core ML prints to standard output as it compiles.
        assert_eq!(shell("echo noise; HELLO; echo 'coremlc: version'; echo proved; echo bye", MINUTE), Ended::Proved);
        // The last line may lack its end.
        assert_eq!(shell("HELLO; printf proved", MINUTE), Ended::Proved);
    }

    #[test]
    fn children_that_die_are_refusals_with_the_place_and_the_last_words() {
        let reason = refused("HELLO; echo stage predicting; echo 'MLIR pass manager failed' >&2; kill -ABRT $$");
        assert!(reason.contains("SIGABRT while predicting: MLIR pass manager failed"), "{reason}");
        assert!(refused("HELLO; echo stage loading; kill -KILL $$").contains("SIGKILL while loading"));
        assert!(refused("HELLO; kill -SEGV $$").contains("SIGSEGV"));
        // Also after the answer: ending is part of it.
        assert!(refused("HELLO; echo proved; kill -ABRT $$").contains("SIGABRT"));
    }

    #[test]
    fn children_that_hang_are_killed_at_the_limit() {
        let began = Instant::now();
        let short = Duration::from_millis(300);
        let ended = shell("HELLO; echo stage predicting; exec sleep 600", short);
        assert_eq!(ended, Ended::Refused("no answer within 0.3 s while predicting".to_owned()));
        assert!(matches!(shell("exec sleep 600", short), Ended::Unclear(_)), "it never began");
        // A process that it leaves behind holds the pipes: nobody waits for that one.
        assert_eq!(shell("HELLO; echo proved; sleep 20 &", MINUTE), Ended::Proved);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }

    #[test]
    fn rubbish_is_no_answer() {
        assert!(unclear("echo proved").contains("no answer"), "without the greeting");
        assert!(unclear("true").contains("no answer"));
        assert!(unclear("HELLO; exit 101").contains("101"));
        assert!(unclear("HELLO; echo proven; echo prove; echo 'proved it'").contains("no answer"));
        assert!(unclear("HELLO; echo proved; exit 3").contains("an answer, but"));
        assert!(unclear("head -c 3000000 /dev/zero").contains("no answer"), "one line of zeros");
        assert!(unclear("HELLO; head -c 3000000 /dev/urandom; yes | head -c 3000000").contains("no answer"));
        assert!(unclear("HELLO; echo oops >&2; exit 2").contains("oops"));
    }

    #[test]
    fn a_user_who_stops_the_trial_says_nothing_about_the_model() {
        for signal in ["INT", "TERM", "HUP"] {
            unclear(&format!("HELLO; echo stage loading; kill -{signal} $$"));
        }
        let none = run(&mut Command::new("/no/such/program"), MINUTE);
        assert!(matches!(&none, Ended::NotStarted(reason) if reason.contains("/no/such/program")), "{none:?}");
    }
}
