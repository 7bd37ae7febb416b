//! The command on a pseudo-terminal, with an emulator that knows what stands on the screen.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// A test that waits longer has failed; no test gets slower or faster by it.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Terminal {
    screen: Arc<Mutex<vt100::Parser>>,
    /// Everything that was written.
    raw: Arc<Mutex<Vec<u8>>>,
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    reader: Option<JoinHandle<()>>,
    modes: String,
}

fn size(rows: u16, columns: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

impl Terminal {
    /// Starts the command with this home and nothing of the user's settings.
    pub fn start(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let pair = native_pty_system().openpty(size(24, 100)).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_candle-coreml"));
        command.env_clear();
        command.env("HOME", home);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TERM", "xterm-256color");
        command.env("HF_HUB_OFFLINE", "1");
        for (name, value) in variables {
            command.env(name, value);
        }
        command.args(arguments);
        command.cwd(home);
        let master = pair.master;
        let modes = modes(master.as_ref());
        let child = pair.slave.spawn_command(command).expect("the command starts");
        drop(pair.slave);
        let mut output = master.try_clone_reader().expect("a reader");
        let keyboard = master.take_writer().expect("a writer");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 100, 1000)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let (to_screen, to_raw) = (screen.clone(), raw.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a pseudo-terminal is an error on Linux.
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                to_raw.lock().expect("not poisoned").extend_from_slice(&bytes[..n]);
                to_screen.lock().expect("not poisoned").process(&bytes[..n]);
            }
        });
        Self { screen, raw, master, keyboard, child, reader: Some(reader), modes }
    }

    pub fn screen(&self) -> String {
        self.screen.lock().expect("not poisoned").screen().contents()
    }

    /// Everything that was ever written, whatever stands there now.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().expect("not poisoned")).into_owned()
    }

    pub fn is_full_screen(&self) -> bool {
        self.screen.lock().expect("not poisoned").screen().alternate_screen()
    }

    /// Whether lines are edited and echoed by the terminal as they were at the start.
    pub fn is_restored(&self) -> bool {
        !self.is_full_screen() && modes(self.master.as_ref()) == self.modes
    }

    /// Waits until something is so; `what` says it when it is never.
    pub fn wait(&self, what: &str, ready: impl Fn() -> bool) {
        let started = Instant::now();
        while !ready() {
            assert!(started.elapsed() < PATIENCE, "waited for {what}; on the screen:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a text stands on the screen.
    pub fn see(&self, text: &str) {
        self.wait(text, || self.screen().contains(text));
    }

    /// Waits until a line stands on the screen, without what is left of older ones behind it.
    pub fn see_line(&self, line: &str) {
        self.wait(line, || self.screen().lines().any(|l| l.trim_end() == line));
    }

    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).and_then(|()| self.keyboard.flush()).expect("typed");
    }

    /// Resizes the terminal and clears it: only what is drawn after that stands on the screen. The emulator is locked
    /// meanwhile, so that nothing drawn for the new size meets the old one.
    pub fn resize(&self, rows: u16, columns: u16) {
        let mut parser = self.screen.lock().expect("not poisoned");
        parser.screen_mut().set_size(rows, columns);
        parser.process(b"\x1b[2J");
        self.master.resize(size(rows, columns)).expect("resized");
    }

    /// Waits for the end; the exit code.
    pub fn end(&mut self) -> u32 {
        let code = self.child.wait().expect("it ends").exit_code();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("all was read");
        }
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Only after a failure it still runs.
        let _ = self.child.kill();
    }
}

fn modes(master: &dyn MasterPty) -> String {
    let termios = master.get_termios().expect("modes");
    format!("{:?} {:?} {:?}", termios.local_flags, termios.input_flags, termios.output_flags)
}
