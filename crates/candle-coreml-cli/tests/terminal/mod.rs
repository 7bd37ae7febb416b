//! The command on a pseudo-terminal, with a terminal emulator that tracks the screen.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// Timeout of a wait. Passing tests never reach it.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Terminal {
    screen: Arc<Mutex<vt100::Parser>>,
    /// All output.
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
    /// Starts the command with this home and no user settings.
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
            // On Linux, EOF on a pseudo-terminal is an error.
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

    /// All output ever written, whatever is on the screen now.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().expect("not poisoned")).into_owned()
    }

    pub fn is_full_screen(&self) -> bool {
        self.screen.lock().expect("not poisoned").screen().alternate_screen()
    }

    /// Returns true if the terminal's line editing and echo are as they were at the start.
    pub fn is_restored(&self) -> bool {
        !self.is_full_screen() && modes(self.master.as_ref()) == self.modes
    }

    /// Waits until `ready` returns true; `what` describes it on timeout.
    pub fn wait(&self, what: &str, ready: impl Fn() -> bool) {
        let started = Instant::now();
        while !ready() {
            assert!(started.elapsed() < PATIENCE, "waited for {what}; on the screen:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the screen shows a text.
    pub fn see(&self, text: &str) {
        self.wait(text, || self.screen().contains(text));
    }

    /// Waits until the screen shows a line, ignoring remnants of older ones after it.
    pub fn see_line(&self, line: &str) {
        self.wait(line, || self.screen().lines().any(|l| l.trim_end() == line));
    }

    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).and_then(|()| self.keyboard.flush()).expect("typed");
    }

    /// Resizes and clears the terminal, so that the screen shows only what is drawn afterwards. The emulator stays
    /// locked meanwhile, so that nothing drawn for the new size meets the old one.
    pub fn resize(&self, rows: u16, columns: u16) {
        let mut parser = self.screen.lock().expect("not poisoned");
        parser.screen_mut().set_size(rows, columns);
        parser.process(b"\x1b[2J");
        self.master.resize(size(rows, columns)).expect("resized");
    }

    /// Waits for the exit; returns the exit code.
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
        // Still running only after a failure.
        let _ = self.child.kill();
    }
}

fn modes(master: &dyn MasterPty) -> String {
    let termios = master.get_termios().expect("modes");
    format!("{:?} {:?} {:?}", termios.local_flags, termios.input_flags, termios.output_flags)
}
