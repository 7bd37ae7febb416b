//! Work without the interpreter lock that Ctrl-C ends.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use candle_coreml::Error;
use pyo3::prelude::*;

use crate::error;

/// Time between two looks at signals.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// Looks at signals every now and then, which only the main thread of Python handles.
struct Interrupt {
    next: Cell<Instant>,
    caught: RefCell<Option<PyErr>>,
}

impl Interrupt {
    fn go_on(&self) -> bool {
        let now = Instant::now();
        if now < self.next.get() {
            return true;
        }
        self.next.set(now + PERIOD);
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => true,
            Err(e) => {
                self.caught.replace(Some(e));
                false
            }
        }
    }
}

/// Works while other threads of Python run; `work` stops when the function that it is given answers `false`.
///
/// # Errors
/// What a signal's handler raised, such as `KeyboardInterrupt`; the exception of the library's error.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let (done, caught) = py.detach(|| {
        let interrupt = Interrupt { next: Cell::new(Instant::now() + PERIOD), caught: RefCell::new(None) };
        let done = work(&|| interrupt.go_on());
        (done, interrupt.caught.into_inner())
    });
    match caught {
        Some(raised) => Err(raised),
        None => done.map_err(|e| error::exception(py, &e)),
    }
}
