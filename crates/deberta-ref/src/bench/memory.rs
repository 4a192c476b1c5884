//! The most memory that this process has held, mapped weights included, as Linux counts it (`VmHWM` in
//! /proc/self/status). Elsewhere it is not known.

use std::fs;

/// The peak of resident memory in bytes since the process began, or since [`reset_peak_memory`].
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Lets the peak begin anew from what is resident now. Returns whether it did: where it cannot, peaks include what came
/// before.
pub fn reset_peak_memory() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}
