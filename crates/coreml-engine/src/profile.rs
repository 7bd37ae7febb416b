//! Optional time and bytes per operation of a prediction.

use std::time::Duration;

use crate::error::OpLocation;
use crate::value::Value;

/// Cost of one step of the plan, summed over predictions.
#[derive(Debug, Clone, Default)]
pub struct StepCost {
    /// Number of executions (each loop round counts).
    pub calls: u64,
    /// Time spent, including nested blocks.
    pub time: Duration,
    /// Bytes of results produced.
    pub output_bytes: u64,
}

/// Costs by step.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    steps: Vec<StepCost>,
}

impl Profile {
    pub(crate) fn record(&mut self, place: u32, time: Duration, values: &[Value]) {
        let index = place as usize;
        if self.steps.len() <= index {
            self.steps.resize(index + 1, StepCost::default());
        }
        let step = &mut self.steps[index];
        step.calls += 1;
        step.time += time;
        step.output_bytes += values.iter().map(bytes).sum::<u64>();
    }

    /// Adds the costs of another profile of the same function.
    pub fn merge(&mut self, other: &Profile) {
        if self.steps.len() < other.steps.len() {
            self.steps.resize(other.steps.len(), StepCost::default());
        }
        for (own, more) in self.steps.iter_mut().zip(&other.steps) {
            own.calls += more.calls;
            own.time += more.time;
            own.output_bytes += more.output_bytes;
        }
    }

    /// Cost of each step, in plan order; steps after the last executed one may be missing.
    pub fn costs(&self) -> &[StepCost] {
        &self.steps
    }

    /// Executed steps with their location in the program.
    pub fn steps<'a>(&'a self, places: &'a [OpLocation]) -> impl Iterator<Item = (&'a OpLocation, &'a StepCost)> {
        places.iter().zip(&self.steps).filter(|(_, cost)| cost.calls > 0)
    }
}

fn bytes(value: &Value) -> u64 {
    match value {
        Value::Array(a) => a.bytes() as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_add_up_whichever_is_longer() {
        let of = |places: &[u32]| {
            let mut profile = Profile::default();
            places.iter().for_each(|p| profile.record(*p, Duration::from_millis(2), &[]));
            profile
        };
        let mut sum = of(&[0]);
        sum.merge(&of(&[0, 2]));
        sum.merge(&Profile::default());
        assert_eq!(sum.costs().iter().map(|c| c.calls).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(sum.costs()[0].time, Duration::from_millis(4));
    }
}
