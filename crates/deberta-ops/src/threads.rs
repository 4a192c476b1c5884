//! Threads: how many an operation may use, and a loop over independent jobs that uses them.
//!
//! One pool serves the process. A loop is put up for whoever is free; the caller works on it too, closes it when no job is
//! left to begin, and waits for those that were begun. A worker that the system has not yet woken is not waited for.
//! Workers look out for the next loop for a while before they sleep, because the loops of a forward pass follow one
//! another within microseconds.
//!
//! A loop inside a loop, or beside one of another thread, runs on its caller alone: there are never more threads at work
//! than were asked for.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// Sets the number of threads that operations use from now on, the caller's among them; 0 stands for as many as the
/// machine runs at once, which is also where it begins.
pub fn set_threads(count: usize) {
    let count = if count == 0 { available() } else { count };
    blas_threads(count);
    let pool = Arc::new(Pool::new(count));
    // Where this is the first pool, no other is made to be thrown away.
    let current = CURRENT.get_or_init(|| RwLock::new(Arc::clone(&pool)));
    *current.write().unwrap_or_else(PoisonError::into_inner) = pool;
}

/// The number of threads that operations use, at least 1.
pub fn threads() -> usize {
    pool().threads
}

/// Calls `job` once for each number below `count`, on as many threads as there are, in no order.
pub fn for_each(count: usize, job: impl Fn(usize) + Sync) {
    let pool = pool();
    if count > 1 && pool.threads > 1 {
        pool.run(count, &job);
    } else {
        (0..count).for_each(job);
    }
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The pool of the process, once somebody has used or chosen it.
static CURRENT: OnceLock<RwLock<Arc<Pool>>> = OnceLock::new();

fn pool() -> Arc<Pool> {
    let current = CURRENT.get_or_init(|| RwLock::new(Arc::new(Pool::new(available()))));
    current.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// OpenBLAS keeps threads of its own, for the products that the reference attention leaves to it.
#[cfg(feature = "openblas")]
fn blas_threads(count: usize) {
    unsafe extern "C" {
        fn openblas_set_num_threads(count: std::ffi::c_int);
    }
    let count = count.try_into().unwrap_or(std::ffi::c_int::MAX);
    // SAFETY: a function of the library that `openblas-src` links, which takes any number above 0.
    unsafe { openblas_set_num_threads(count) }
}

#[cfg(not(feature = "openblas"))]
fn blas_threads(_: usize) {}

struct Pool {
    threads: usize,
    board: Arc<Board>,
    /// Held by whoever has put up a loop.
    caller: Mutex<()>,
}

/// Where a loop is put up.
struct Board {
    /// How often a loop was put up or taken down (the high half; odd while one is up), and how many workers are at it (the
    /// low half).
    state: AtomicU64,
    work: Mutex<Work>,
    sleepers: AtomicUsize,
    awake: Condvar,
    quit: AtomicBool,
    /// What a worker's job panicked with.
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

/// A loop, as long as it is up: the address of a closure on the caller's stack.
#[derive(Clone, Copy)]
struct Work(Option<*const (dyn Fn() + Sync)>);

// SAFETY: what it points to is `Sync`, and `Board` lets it be used only while it lives; see `Pool::run`.
unsafe impl Send for Work {}

/// One in the high half of the state.
const TURN: u64 = 1 << 32;
/// How long a worker looks out before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);

impl Pool {
    fn new(threads: usize) -> Self {
        let board = Arc::new(Board {
            state: AtomicU64::new(0),
            work: Mutex::new(Work(None)),
            sleepers: AtomicUsize::new(0),
            awake: Condvar::new(),
            quit: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // Where the system grants fewer threads, fewer help.
        let helpers = (1..threads).map_while(|i| {
            let board = Arc::clone(&board);
            std::thread::Builder::new().name(format!("deberta-{i}")).spawn(move || board.help()).ok()
        });
        Self { threads: 1 + helpers.count(), board, caller: Mutex::new(()) }
    }

    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let _mine: MutexGuard<'_, ()> = match self.caller.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..count).for_each(job),
        };
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return;
                }
                job(i);
            }
        };
        self.board.put_up(&work);
        let mine = catch_unwind(AssertUnwindSafe(work));
        // Whatever happened, nobody may use `work` once this function has returned.
        next.store(count, Ordering::Relaxed);
        self.board.take_down();
        let theirs = lock(&self.board.panic).take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.quit.store(true, Ordering::SeqCst);
        drop(lock(&self.board.work));
        self.board.awake.notify_all();
    }
}

impl Board {
    fn put_up(&self, work: &(dyn Fn() + Sync)) {
        // SAFETY: only the lifetime is dropped; `take_down` returns before `work` ends, and afterwards nobody holds it.
        let work: *const (dyn Fn() + Sync + 'static) = unsafe { std::mem::transmute(work) };
        lock(&self.work).0 = Some(work);
        self.state.fetch_add(TURN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taken once, so that a worker between its last look and its sleep is not missed.
            drop(lock(&self.work));
            self.awake.notify_all();
        }
    }

    fn take_down(&self) {
        self.state.fetch_add(TURN, Ordering::SeqCst);
        while self.state.load(Ordering::Acquire) as u32 > 0 {
            std::hint::spin_loop();
        }
        lock(&self.work).0 = None;
    }

    /// The life of a worker.
    fn help(&self) {
        let mut seen = 0;
        while let Some(turn) = self.wait_for_turn_after(seen) {
            seen = turn;
            let Some(work) = self.join(turn) else { continue };
            // SAFETY: the caller waits in `take_down` until this worker has left.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*work)() }));
            if let Err(panic) = done {
                lock(&self.panic).get_or_insert(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the loop that was put up as `turn`, unless it is down already.
    fn join(&self, turn: u64) -> Option<*const (dyn Fn() + Sync)> {
        let mut state = self.state.load(Ordering::Acquire);
        while state / TURN == turn {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return lock(&self.work).0,
                Err(now) => state = now,
            }
        }
        None
    }

    /// The turn of the next loop; `None` when the pool is given up.
    fn wait_for_turn_after(&self, seen: u64) -> Option<u64> {
        let news = || {
            let turn = self.state.load(Ordering::SeqCst) / TURN;
            (turn != seen && turn % 2 == 1).then_some(turn)
        };
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            for _ in 0..64 {
                if let Some(turn) = news() {
                    return Some(turn);
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = lock(&self.work);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let turn = loop {
            if self.quit.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(turn) = news() {
                break Some(turn);
            }
            guard = self.awake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        turn
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(count: usize) -> usize {
        let total = AtomicUsize::new(0);
        for_each(count, |i| {
            total.fetch_add(i + 1, Ordering::Relaxed);
        });
        total.into_inner()
    }

    #[test]
    fn every_job_is_done_once_under_any_number_of_threads() {
        for threads in [1, 2, 3, 7, 0] {
            set_threads(threads);
            for count in (0..40).chain([1000]) {
                assert_eq!(sum(count), count * (count + 1) / 2, "{count} jobs on {threads} threads");
            }
            // After a sleep, too.
            std::thread::sleep(PATIENCE * 3);
            assert_eq!(sum(100), 5050);
        }
    }

    #[test]
    fn loops_nest_and_stand_beside_one_another() {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let total = AtomicUsize::new(0);
                    for_each(10, |_| {
                        total.fetch_add(sum(10), Ordering::Relaxed);
                    });
                    assert_eq!(total.into_inner(), 550);
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_whole() {
        let caught = catch_unwind(|| for_each(8, |i| assert_ne!(i, 5, "five"))).unwrap_err();
        assert!(caught.downcast_ref::<String>().unwrap().contains("five"));
        assert_eq!(sum(10), 55);
    }
}
