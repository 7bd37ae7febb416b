//! Many rows in one call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coreml_format::model_types::Body;
use coreml_format::task;
use indexmap::IndexMap;

use super::{CoreMLModel, FeatureValue};
use crate::error::{Error, Result};

/// Inputs of one prediction by name.
pub type FeatureRow = Vec<(String, FeatureValue)>;
/// Outputs of one prediction by name.
pub type RowOutputs = IndexMap<String, FeatureValue>;

/// Rows that a thread takes at a time.
const CHUNK: usize = 16;

/// Rows that a thread takes at a time where several are predicted at once.
const BLOCK: usize = 256;

/// Time between two questions whether other threads are to go on.
const PERIOD: Duration = Duration::from_millis(20);

/// Rows of one request to Core ML.
const REQUEST: usize = 256;

impl CoreMLModel {
    /// [`predict_values`](Self::predict_values) for many rows; results in their order, the same as one by one.
    ///
    /// Rows of classic models (trees, linear models, support vectors, feature engineering and pipelines of these) are
    /// predicted on all cores. Networks and programs use all cores for each row, one after the other. Core ML takes many
    /// rows in one request, and may run them in parallel.
    ///
    /// # Errors
    /// [`Error::Row`] with the first row that fails and why; a model with states, whose rows would depend on each other.
    pub fn predict_batch(&self, rows: &[FeatureRow]) -> Result<Vec<RowOutputs>> {
        self.predict_batch_with(rows, &|_| {})
    }

    /// [`predict_batch`](Self::predict_batch) that reports how many rows are done, from any thread.
    ///
    /// # Errors
    /// Same as [`predict_batch`](Self::predict_batch).
    pub fn predict_batch_with(&self, rows: &[FeatureRow], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<RowOutputs>> {
        self.predict_batch_while(rows, done, &|| true)
    }

    /// [`predict_batch_with`](Self::predict_batch_with) that can be stopped: `go_on` is asked on the caller's thread, before
    /// every operation of a row, between requests to Core ML, and every now and then while other threads predict.
    ///
    /// # Errors
    /// Same as [`predict_batch`](Self::predict_batch); [`Error::Cancelled`] if `go_on` answered `false`.
    pub fn predict_batch_while(
        &self,
        rows: &[FeatureRow],
        done: &(dyn Fn(usize) + Sync),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<RowOutputs>> {
        if self.is_stateful() {
            return Err(Error::Request("a model with states predicts its rows one by one".to_owned()));
        }
        if !self.backend().takes_batches() {
            return self.predict_rows(rows, done, go_on);
        }
        let mut outputs = Vec::with_capacity(rows.len());
        for request in rows.chunks(REQUEST) {
            if !go_on() || task::is_cancelled() {
                return Err(Error::Cancelled);
            }
            outputs.extend(self.request(outputs.len(), request)?);
            done(outputs.len());
            task::report("rows", outputs.len() as u64, rows.len() as u64);
        }
        Ok(outputs)
    }

    /// Outputs of rows in one request of the engine; `first` is the index of the first row.
    fn request(&self, first: usize, rows: &[FeatureRow]) -> Result<Vec<RowOutputs>> {
        let rows: Vec<Vec<(&str, FeatureValue)>> = rows.iter().map(borrowed).collect();
        let of_row = |i: usize| move |e| Error::Row { row: first + i, source: Box::new(e) };
        for (i, row) in rows.iter().enumerate() {
            self.check_inputs(row).map_err(of_row(i))?;
        }
        let mut outputs = self.backend().predict_batch(&rows)?;
        for (i, (outputs, inputs)) in outputs.iter_mut().zip(&rows).enumerate() {
            self.finish_outputs(outputs, inputs).map_err(of_row(i))?;
        }
        Ok(outputs)
    }

    /// Outputs of rows that are predicted one by one, those of classic models on all cores.
    fn predict_rows(
        &self,
        rows: &[FeatureRow],
        done: &(dyn Fn(usize) + Sync),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<RowOutputs>> {
        let cores = coreml_engine::threads();
        let threads = if self.is_classic() { cores.min(rows.len().div_ceil(CHUNK)) } else { 1 };
        let blocks = self.is_classic() && self.backend().takes_rows();
        let chunk_rows = if blocks { rows.len().div_ceil(4 * threads.max(1)).clamp(CHUNK, BLOCK) } else { CHUNK };
        let (next, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slots: Vec<Mutex<Vec<RowOutputs>>> = rows.chunks(chunk_rows).map(|_| Mutex::default()).collect();
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = |predict: &dyn Fn(&FeatureRow) -> Result<RowOutputs>| {
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = slots.get(chunk) else { return };
                let first = chunk * chunk_rows;
                let all = &rows[first..rows.len().min(first + chunk_rows)];
                let block = if blocks { self.predict_block(all) } else { None };
                let alone = if block.is_some() { &[] } else { all };
                let mut found = block.unwrap_or_else(|| Vec::with_capacity(all.len()));
                for (i, row) in alone.iter().enumerate() {
                    match predict(row) {
                        Ok(outputs) => found.push(outputs),
                        Err(e) => {
                            let mut failed = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|(row, _)| first + i < *row) {
                                *failed = Some((first + i, e));
                            }
                            // Chunks are taken in order, so that the earliest failure is among those begun.
                            next.store(slots.len(), Ordering::Relaxed);
                            return;
                        }
                    }
                }
                let all = count.fetch_add(found.len(), Ordering::Relaxed) + found.len();
                done(all);
                task::report("rows", all as u64, rows.len() as u64);
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = found;
            }
        };
        let mut stopped = false;
        if threads <= 1 {
            work(&|row| self.predict_values_while(&borrowed(row), None, go_on));
        } else {
            std::thread::scope(|scope| {
                // Every thread has a sender: without any left, all have ended.
                let (busy, ended) = mpsc::channel::<()>();
                for _ in 0..threads {
                    let (busy, work, tasks) = (busy.clone(), &work, task::current());
                    scope.spawn(move || {
                        let _busy = busy;
                        tasks.run(|| work(&|row| self.predict_values(&borrowed(row), None)));
                    });
                }
                drop(busy);
                loop {
                    stopped = stopped || !go_on() || task::is_cancelled();
                    if stopped {
                        next.store(slots.len(), Ordering::Relaxed);
                    }
                    if ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Disconnected) {
                        break;
                    }
                }
            });
        }
        if stopped {
            return Err(Error::Cancelled);
        }
        if let Some((row, source)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(match source {
                Error::Cancelled => Error::Cancelled,
                source => Error::Row { row, source: Box::new(source) },
            });
        }
        Ok(slots.into_iter().flat_map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Outputs of rows that are predicted at once; `None` if one of them fails, or they do not have the same inputs.
    fn predict_block(&self, rows: &[FeatureRow]) -> Option<Vec<RowOutputs>> {
        // All rows have the names of the first: the engine sees to it.
        self.check_names(rows.first()?.iter().map(|(name, _)| name.as_str())).ok()?;
        for (name, value) in rows.iter().flatten() {
            self.check_tensor(name, value).ok()?;
        }
        let mut outputs = self.backend().predict_rows(rows)?;
        for (outputs, inputs) in outputs.iter_mut().zip(rows) {
            self.finish_outputs(outputs, inputs).ok()?;
        }
        Some(outputs)
    }

    /// True if no part of the model is a program or a network, whose kernels use all cores.
    fn is_classic(&self) -> bool {
        fn classic(body: &Body, parts: &[coreml_format::spec::Specification]) -> bool {
            let heavy = matches!(body, Body::Program(_)) || body.is_network();
            !heavy && parts.iter().all(|part| classic(&part.body, &part.parts))
        }
        classic(&self.package().body, &self.package().parts)
    }
}

/// Inputs with borrowed names; tensors share their memory.
fn borrowed(row: &FeatureRow) -> Vec<(&str, FeatureValue)> {
    row.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::engine::EngineChoice;

    fn load(path: &str) -> CoreMLModel {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        CoreMLModel::builder(path).engine(EngineChoice::Portable).load().expect("it loads")
    }

    fn intent() -> (CoreMLModel, FeatureRow) {
        let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu).expect("ids");
        let mask = ids.ones_like().expect("a mask");
        let row = vec![("input_ids".to_owned(), ids.into()), ("attention_mask".to_owned(), mask.into())];
        (load("models/tiny-intent/intent.mlpackage"), row)
    }

    #[test]
    fn a_prediction_is_asked_at_every_operation_and_stops_when_told() {
        let (model, row) = intent();
        let asked = Cell::new(0);
        let until = |most| {
            asked.set(0);
            model.predict_values_while(&borrowed(&row), None, &|| {
                asked.set(asked.get() + 1);
                asked.get() < most
            })
        };
        let logits = |out: &RowOutputs| {
            let tensor = out["logits"].tensor().expect("a tensor");
            tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("floats")
        };
        let whole = until(usize::MAX).expect("outputs");
        let operations = asked.get();
        assert!(operations > 10, "{operations}");
        assert_eq!(logits(&whole), logits(&model.predict_values(&borrowed(&row), None).expect("outputs")));
        for most in [1, operations / 2, operations] {
            assert!(matches!(until(most), Err(Error::Cancelled)), "after {most} of {operations}");
            assert_eq!(asked.get(), most);
        }
        assert!(until(usize::MAX).is_ok(), "a stopped prediction leaves nothing behind");
    }

    #[test]
    fn batches_stop_when_told_on_one_thread_and_on_all() {
        let (program, row) = intent();
        let rows = vec![row; 40];
        let asked = Cell::new(0);
        let some = || {
            asked.set(asked.get() + 1);
            asked.get() < 100
        };
        let (none, done) = (|_| {}, AtomicUsize::new(0));
        assert!(matches!(program.predict_batch_while(&rows, &none, &some), Err(Error::Cancelled)));
        let forest = load("conformance/classic/random_forest.mlmodel");
        let x = Tensor::zeros(4, candle_core::DType::F64, &Device::Cpu).expect("zeros");
        let rows = vec![vec![("input".to_owned(), FeatureValue::Tensor(x))]; 4000];
        assert!(matches!(forest.predict_batch_while(&rows, &none, &|| false), Err(Error::Cancelled)));
        let count = |n| {
            done.fetch_max(n, Ordering::Relaxed);
        };
        let outputs = forest.predict_batch_while(&rows, &count, &|| true).expect("outputs");
        assert_eq!((outputs.len(), done.into_inner()), (4000, 4000));
    }
}
