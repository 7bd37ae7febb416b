//! Progress and cancellation of a load, whose first run on a system takes minutes for a large model.
//!
//! Core ML itself can't be interrupted. A cancelled load returns at once; what the framework had begun ends on its own
//! thread, and a model compiled by then is in the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::completion::{Completion, pair};

/// What a load is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LoadStage {
    /// Reading the source, to find its compiled form in the cache.
    Hashing,
    /// Waiting while another process compiles the same model.
    Waiting,
    /// Copying a source that has symbolic links.
    Copying,
    /// Compiling. Once per source and system.
    Compiling,
    /// Loading the compiled model; the first time, Core ML prepares it for the processors.
    Loading,
}

impl LoadStage {
    /// Name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hashing => "hashing",
            Self::Waiting => "waiting for another process",
            Self::Copying => "copying",
            Self::Compiling => "compiling",
            Self::Loading => "loading",
        }
    }
}

impl std::fmt::Display for LoadStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The load was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("loading was cancelled")]
pub struct Cancelled;

/// Ends loads. Clones are one switch.
#[derive(Debug, Clone, Default)]
pub struct CancelLoad(Arc<AtomicBool>);

impl CancelLoad {
    /// Ends the loads that have this switch, now and later.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns true once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Receives the stages of a load.
type Observer = Arc<dyn Fn(LoadStage) + Send + Sync>;

/// Observer and switch of a load; by default neither.
#[derive(Clone, Default)]
pub struct Watch {
    observer: Option<Observer>,
    switch: Option<CancelLoad>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("observed", &self.observer.is_some()).field("switch", &self.switch).finish()
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        let observers = match (&self.observer, &other.observer) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let switches = match (&self.switch, &other.switch) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0),
            (a, b) => a.is_none() && b.is_none(),
        };
        observers && switches
    }
}

impl Eq for Watch {}

/// Interval at which a cancellable load looks at its switch.
const POLL: Duration = Duration::from_millis(20);

impl Watch {
    /// Calls `observer` at the beginning of each stage, on the thread that loads.
    #[must_use]
    pub fn observer(mut self, observer: impl Fn(LoadStage) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Ends the load when the switch is used.
    #[must_use]
    pub fn switch(mut self, switch: CancelLoad) -> Self {
        self.switch = Some(switch);
        self
    }

    /// Returns true if the load was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.switch.as_ref().is_some_and(CancelLoad::is_cancelled)
    }

    /// Begins a stage.
    ///
    /// # Errors
    /// [`Cancelled`], instead of calling the observer.
    pub fn begin(&self, stage: LoadStage) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            return Err(Cancelled);
        }
        tracing::debug!(%stage, "load");
        if let Some(observer) = &self.observer {
            observer(stage);
        }
        Ok(())
    }

    /// Runs `work`; with a switch on a thread of its own, which a cancelled load leaves behind.
    ///
    /// # Errors
    /// [`Cancelled`], and if the thread ends without a result.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Cancelled> {
        if self.switch.is_none() {
            return Ok(work());
        }
        let (completer, mut completion): (_, Completion<T>) = pair();
        let thread = std::thread::Builder::new().name("coreml-load".to_owned());
        let spawned = thread.spawn(move || completer.complete(work()));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a cancellable load");
            return Err(Cancelled);
        }
        loop {
            match completion.wait_for(POLL) {
                Ok(result) => return result.map_err(|_| Cancelled),
                Err(_) if self.is_cancelled() => return Err(Cancelled),
                Err(pending) => completion = pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    #[test]
    fn stages_arrive_in_order_until_the_load_is_cancelled() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let switch = CancelLoad::default();
        let watch = Watch::default().switch(switch.clone()).observer({
            let seen = seen.clone();
            move |stage| seen.lock().expect("a lock").push(stage)
        });
        assert_eq!(watch.begin(LoadStage::Hashing), Ok(()));
        assert_eq!(watch.begin(LoadStage::Compiling), Ok(()));
        switch.cancel();
        assert_eq!(watch.begin(LoadStage::Loading), Err(Cancelled));
        assert_eq!(*seen.lock().expect("a lock"), [LoadStage::Hashing, LoadStage::Compiling]);
        assert_eq!((watch.clone() == watch, watch == Watch::default()), (true, false));
        assert_ne!(Watch::default().switch(CancelLoad::default()), Watch::default().switch(CancelLoad::default()));
    }

    #[test]
    fn a_cancelled_load_returns_while_its_work_goes_on() {
        let (go, waits) = channel::<()>();
        let (done, finished) = channel();
        let switch = CancelLoad::default();
        let watch = Watch::default().switch(switch.clone());
        let cancels = std::thread::spawn(move || switch.cancel());
        let work = move || {
            waits.recv().expect("told to go on");
            done.send(7).expect("somebody listens");
        };
        assert_eq!(watch.run(work), Err(Cancelled));
        cancels.join().expect("cancelled");
        go.send(()).expect("the work still runs");
        assert_eq!(finished.recv(), Ok(7));
    }

    #[test]
    fn work_that_ends_is_returned_and_work_that_panics_is_no_hang() {
        let watch = Watch::default().switch(CancelLoad::default());
        assert_eq!(watch.run(|| 3), Ok(3));
        assert_eq!(Watch::default().run(|| 4), Ok(4));
        assert_eq!(watch.run(|| -> u32 { panic!("on purpose") }), Err(Cancelled));
    }
}
