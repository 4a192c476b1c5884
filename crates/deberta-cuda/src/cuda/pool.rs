//! Device memory that is asked for again and again: what is given back is kept for the next who asks.
//!
//! A pass asks for the same sizes in the same order as the pass before, so after the first nothing is allocated. Kernels
//! run in the order in which they are launched, on one stream, so memory may change hands as soon as its last user has
//! been launched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, DriverError, result};

use crate::device::Memory;
use crate::error::CudaError;

/// Sizes are rounded up to this many bytes, which is also their alignment.
const GRAIN: usize = 512;

/// A block that is at most this many times as large as what was asked for is handed out for it.
const SLACK: usize = 2;

pub(super) struct Pool {
    context: Arc<CudaContext>,
    /// Blocks that nobody holds, by size.
    free: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// Bytes taken from the driver, held by somebody or free.
    taken: AtomicUsize,
}

/// Blocks that are kept out of their pool, as a recording goes on using them; they go back when dropped.
pub struct Kept {
    pool: Arc<Pool>,
    blocks: BTreeMap<usize, Vec<u64>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut free = self.pool.free();
        for (bytes, mut addresses) in std::mem::take(&mut self.blocks) {
            free.entry(bytes).or_default().append(&mut addresses);
        }
    }
}

/// Memory on the GPU; it goes back to its pool when dropped.
pub struct CudaMemory {
    pool: Arc<Pool>,
    address: u64,
    bytes: usize,
}

impl Memory for CudaMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        self.pool.free().entry(self.bytes).or_default().push(self.address);
    }
}

impl Pool {
    pub(super) fn new(context: Arc<CudaContext>) -> Arc<Self> {
        Arc::new(Self { context, free: Mutex::default(), taken: AtomicUsize::new(0) })
    }

    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<CudaMemory, CudaError> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let memory = |(bytes, address)| CudaMemory { pool: Arc::clone(self), address, bytes };
        if let Some(found) = self.take(bytes) {
            return Ok(memory(found));
        }
        self.context.bind_to_thread().map_err(|error| failed(bytes, error))?;
        // SAFETY: the context is bound. What is allocated is freed by this pool alone, when it is dropped or trimmed.
        let address = unsafe { result::malloc_sync(bytes) }.or_else(|_| {
            self.trim();
            // SAFETY: as above.
            unsafe { result::malloc_sync(bytes) }
        });
        let address = address.map_err(|error| failed(bytes, error))?;
        self.taken.fetch_add(bytes, Relaxed);
        Ok(memory((bytes, address)))
    }

    /// Runs `body` with blocks of its own: none that is free now, and those that are free at its end are kept.
    pub(super) fn apart<T>(self: &Arc<Self>, body: impl FnOnce() -> T) -> (Kept, T) {
        let others = std::mem::take(&mut *self.free());
        let made = body();
        let blocks = std::mem::replace(&mut *self.free(), others);
        (Kept { pool: Arc::clone(self), blocks }, made)
    }

    /// The smallest free block that will do.
    fn take(&self, bytes: usize) -> Option<(usize, u64)> {
        let mut free = self.free();
        let (&size, blocks) =
            free.range_mut(bytes..=bytes.saturating_mul(SLACK)).find(|(_, blocks)| !blocks.is_empty())?;
        blocks.pop().map(|address| (size, address))
    }

    /// Bytes taken from the driver, held by somebody or free.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Frees what nobody holds.
    pub(super) fn trim(&self) {
        let free = std::mem::take(&mut *self.free());
        for (bytes, address) in free.into_iter().flat_map(|(bytes, all)| all.into_iter().map(move |at| (bytes, at))) {
            self.taken.fetch_sub(bytes, Relaxed);
            // SAFETY: allocated by this pool and held by nobody. The driver waits for kernels that use it. What cannot be
            // freed is left.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<u64>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            self.trim();
        }
    }
}

pub(super) fn failed(bytes: usize, error: DriverError) -> CudaError {
    CudaError::Memory { bytes, reason: super::said(error) }
}
