//! What this machine is: processor, instruction sets, memory.

use serde::Serialize;
use sysinfo::System;

use crate::format;

/// The machine, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Machine {
    pub(super) system: String,
    pub(super) processor: String,
    pub(super) architecture: &'static str,
    /// Instruction sets that kernels are chosen by.
    pub(super) instructions: Vec<&'static str>,
    /// Threads that this process may use.
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

    /// Names and values, for people.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let sets = if self.instructions.is_empty() {
            "none that kernels use".to_owned()
        } else {
            self.instructions.join(", ")
        };
        vec![
            ("system", format!("{} on {}", self.system, self.architecture)),
            ("processor", format!("{}, {} threads", self.processor, self.threads)),
            ("instructions", sets),
            ("memory", format!("{}, {} free", format::bytes(self.memory_bytes), format::bytes(self.available_bytes))),
        ]
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<&'static str> {
    let all = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("AVX-512F", is_x86_feature_detected!("avx512f")),
        ("AVX-512BW", is_x86_feature_detected!("avx512bw")),
        ("AVX-512VBMI", is_x86_feature_detected!("avx512vbmi")),
    ];
    all.iter().filter(|s| s.1).map(|s| s.0).collect()
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> Vec<&'static str> {
    let all = [
        ("NEON", std::arch::is_aarch64_feature_detected!("neon")),
        ("FP16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("DotProd", std::arch::is_aarch64_feature_detected!("dotprod")),
    ];
    all.iter().filter(|s| s.1).map(|s| s.0).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instructions() -> Vec<&'static str> {
    Vec::new()
}
