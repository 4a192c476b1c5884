//! The commands, one module each: its arguments (`Args`) and what it does (`run`).

pub mod bench;
pub mod compare;
pub mod compare_profiles;
pub mod decode;
pub mod inspect;
pub mod lines;
mod naming;
pub mod profiles;
pub mod random_model;
pub mod run;
pub mod text;
pub mod tokenize;
pub mod verify;

/// Tells on standard error what a result does not say.
fn note(what: impl std::fmt::Display) {
    eprintln!("note: {what}");
}

/// Has freed memory kept for the next array. A comparison takes and frees arrays of one size all the time, and glibc gives each
/// back to the system, which clears every page when it is next wanted: a fifth of the time of a long trace.
fn reuse_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both numbers are of parameters that glibc documents; no other thread runs yet, and a refusal changes nothing.
    unsafe {
        // The most that glibc allows here: blocks up to this size are cut from the heap, …
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        // … of which this much may lie free at the end.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20);
        // A heap for all threads: those that glibc gives to others are smaller than that, and go back.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Leaves the processor to the comparison, which has threads of its own: OpenBLAS's would look out for work beside them, and wait
/// for each other where several ask for a product.
fn leave_threads_to_comparison() {
    deberta_ref::set_threads(1);
}
