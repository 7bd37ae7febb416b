//! Machine description: processor, instruction sets, memory.

use candle_coreml::isa;
use serde::Serialize;
use sysinfo::System;

use crate::format;

/// The machine, as far as the system reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Machine {
    pub(super) system: String,
    pub(super) processor: String,
    pub(super) architecture: &'static str,
    /// Instruction sets available to kernels, widest first.
    pub(super) instructions: Vec<&'static str>,
    /// Threads available to this process.
    pub(super) threads: usize,
    pub(super) memory_bytes: u64,
    pub(super) available_bytes: u64,
}

impl Machine {
    pub(super) fn here() -> Self {
        let (mut processor, mut memory) = (String::new(), (0, 0));
        if let Ok(mut system) = System::new() {
            system.refresh_memory();
            system.refresh_cpu_all();
            processor = system.cpus().first().map_or_else(String::new, |c| c.brand().trim().to_owned());
            memory = (system.total_memory(), system.available_memory());
        }
        Self {
            system: std::env::consts::OS.to_owned(),
            processor: if processor.is_empty() { "unknown".to_owned() } else { processor },
            architecture: std::env::consts::ARCH,
            instructions: instructions(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.0,
            available_bytes: memory.1,
        }
    }

    /// Human-readable names and values.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut sets = self.instructions.join(", ");
        if let Ok(Some(set)) = isa::requested() {
            sets = format!("{sets} ({}={})", isa::VARIABLE, set.name());
        }
        vec![
            ("system", format!("{} on {}", self.system, self.architecture)),
            ("processor", format!("{}, {} threads", self.processor, self.threads)),
            ("instructions", sets),
            ("memory", format!("{}, {} free", format::bytes(self.memory_bytes), format::bytes(self.available_bytes))),
        ]
    }
}

fn instructions() -> Vec<&'static str> {
    isa::ALL.iter().filter(|(set, _)| set.enabled()).map(|(_, name)| *name).collect()
}
