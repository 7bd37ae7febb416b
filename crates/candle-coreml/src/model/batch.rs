//! Many rows in one call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use coreml_format::model_types::Body;
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
        if self.is_stateful() {
            return Err(Error::Request("a model with states predicts its rows one by one".to_owned()));
        }
        if !self.backend().takes_batches() {
            return self.predict_rows(rows, done);
        }
        let mut outputs = Vec::with_capacity(rows.len());
        for request in rows.chunks(REQUEST) {
            outputs.extend(self.request(outputs.len(), request)?);
            done(outputs.len());
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
            self.finish_outputs(outputs, inputs.first().map(|(_, value)| value)).map_err(of_row(i))?;
        }
        Ok(outputs)
    }

    /// Outputs of rows that are predicted one by one, those of classic models on all cores.
    fn predict_rows(&self, rows: &[FeatureRow], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<RowOutputs>> {
        let cores = coreml_engine::threads();
        let threads = if self.is_classic() { cores.min(rows.len().div_ceil(CHUNK)) } else { 1 };
        let blocks = self.is_classic() && self.backend().takes_rows();
        let chunk_rows = if blocks { rows.len().div_ceil(4 * threads.max(1)).clamp(CHUNK, BLOCK) } else { CHUNK };
        let (next, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slots: Vec<Mutex<Vec<RowOutputs>>> = rows.chunks(chunk_rows).map(|_| Mutex::default()).collect();
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = slots.get(chunk) else { return };
                let first = chunk * chunk_rows;
                let all = &rows[first..rows.len().min(first + chunk_rows)];
                let block = if blocks { self.predict_block(all) } else { None };
                let alone = if block.is_some() { &[] } else { all };
                let mut found = block.unwrap_or_else(|| Vec::with_capacity(all.len()));
                for (i, row) in alone.iter().enumerate() {
                    match self.predict_values(&borrowed(row), None) {
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
                done(count.fetch_add(found.len(), Ordering::Relaxed) + found.len());
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = found;
            }
        };
        if threads <= 1 {
            work();
        } else {
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        }
        if let Some((row, source)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(Error::Row { row, source: Box::new(source) });
        }
        Ok(slots.into_iter().flat_map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Outputs of rows that are predicted at once; `None` if one of them fails, or they do not have the same inputs.
    fn predict_block(&self, rows: &[FeatureRow]) -> Option<Vec<RowOutputs>> {
        let known = self.backend().inputs();
        if rows.first()?.iter().any(|(name, _)| !known.contains(&name.as_str())) {
            return None;
        }
        for row in rows {
            self.check_shapes(row.iter().map(|(name, value)| (name.as_str(), value))).ok()?;
        }
        let mut outputs = self.backend().predict_rows(rows)?;
        for (outputs, inputs) in outputs.iter_mut().zip(rows) {
            self.finish_outputs(outputs, inputs.first().map(|(_, value)| value)).ok()?;
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
