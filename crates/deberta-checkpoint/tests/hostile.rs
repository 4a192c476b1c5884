//! Files that are damaged, hostile or strange: each is read or refused in a sentence; none panics, hangs, runs anything, or
//! takes more than 64 MB beyond its own size.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::files_below;
use deberta_checkpoint::Checkpoint;
use deberta_checkpoint::inspect::inspect;
use deberta_testkit::{fixtures, third_party};

/// The system's allocator, which counts.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing else.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are of the process: one measurement at a time.
static ONE: Mutex<()> = Mutex::new(());

const ALLOWED: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads all of a file, or is refused; the sentence of the refusal.
fn read_all(path: &Path) -> Result<usize, String> {
    let sentence = |e: deberta_checkpoint::Error| {
        let text = e.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{}: {text:?}", path.display());
        text
    };
    let checkpoint = Checkpoint::open(path).map_err(sentence)?;
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.bytes(&tensor.name).map_err(sentence)?;
        assert_eq!(bytes.len(), tensor.byte_len());
    }
    Ok(checkpoint.tensors().len())
}

/// Reads and inspects a file within the bounds.
fn bounded(path: &Path) -> Result<usize, String> {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let size = std::fs::metadata(path).map_or(0, |m| m.len() as usize);
    let start = Instant::now();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let outcome = read_all(path);
    // What it says of itself must hold as well; only the system's own errors are errors here.
    let _ = inspect(path);
    let taken = PEAK.load(Ordering::Relaxed) - before;
    assert!(taken <= ALLOWED + size, "{}: {taken} bytes for a file of {size}", path.display());
    assert!(start.elapsed() < PATIENCE, "{}: {:?}", path.display(), start.elapsed());
    outcome
}

/// A file with that content, kept as long as the folder.
fn file(folder: &Path, name: &str, content: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn third_party_files_stay_within_bounds() {
    for folder in ["torch", "tf", "hdf5", "zip", "pickle", "safetensors", "malicious"] {
        let Some(folder) = third_party("third_party_files_stay_within_bounds", folder) else { return };
        for path in files_below(&folder) {
            let _ = bounded(&path);
        }
    }
}

#[test]
fn no_malicious_pickle_is_read() {
    let Some(folder) = third_party("no_malicious_pickle_is_read", "malicious/picklescan/data") else { return };
    let mut refused = 0;
    for path in files_below(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let outcome = bounded(&path);
        match name.as_str() {
            // Real checkpoints, harmless.
            "pytorch_model.bin" | "new_pytorch_model.bin" => assert!(outcome.is_ok_and(|n| n > 0), "{name}"),
            _ => {
                assert!(outcome.is_err(), "{name} was read");
                refused += 1;
            }
        }
    }
    assert!(refused > 35, "{refused}");
}

/// A generator of numbers that is the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One random damage: a bit, a byte, a cut, a doubled or removed stretch, a number made huge.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let len = random.below(64).min(bytes.len() - at);
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..at + len)),
        4 => {
            let part = bytes[at..at + len].to_vec();
            bytes.splice(at..at, part);
        }
        5 => bytes[at..at + len.min(8)].fill(0xff),
        _ => bytes[at..at + len.min(8)].fill(0),
    }
}

/// A number from the environment: `DEBERTA_FUZZ_ROUNDS` and `DEBERTA_FUZZ_SEED` ask for more, or for other, damage.
fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn damaged_fixtures_stay_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(asked("DEBERTA_FUZZ_SEED", 1));
    for path in files_below(&fixtures("checkpoints")).into_iter().chain(files_below(&fixtures("dumps/numpy"))) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".json") || name.ends_with(".pb") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        // Whatever belongs to it lies beside it, so that the reader gets to the damage.
        let beside = tempfile::tempdir_in(folder.path()).unwrap();
        for other in std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().filter(|e| e.path().is_file()) {
            if name.contains(".index") || name.contains(".data-") {
                std::fs::copy(other.path(), beside.path().join(other.file_name())).unwrap();
            }
        }
        for _ in 0..asked("DEBERTA_FUZZ_ROUNDS", 40) {
            let mut damaged = bytes.clone();
            // Near the head and the tail there is more structure than data.
            for _ in 0..=random.below(3) {
                damage(&mut damaged, &mut random);
            }
            let _ = bounded(&file(beside.path(), &name, &damaged));
        }
    }
}

#[test]
fn damaged_heads_stay_within_bounds() {
    // The same where only the first kilobyte, which is nearly all structure, is damaged.
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(asked("DEBERTA_FUZZ_SEED", 2));
    for name in [
        "checkpoints/torch/nested.legacy.2.bin",
        "checkpoints/torch/nested.zip.4.bin",
        "checkpoints/tf/numbers.h5",
        "checkpoints/models/tf-h5/tf_model.h5",
        "dumps/numpy/version-1.npy",
        "dumps/numpy/version-3.npy",
        "dumps/numpy/stored.npz",
        "dumps/numpy/deflated.npz",
    ] {
        let bytes = std::fs::read(fixtures(name)).unwrap();
        for _ in 0..asked("DEBERTA_FUZZ_ROUNDS", 300) {
            let split = bytes.len().min(4096);
            let (mut head, tail) = (bytes[..split].to_vec(), &bytes[split..]);
            damage(&mut head, &mut random);
            head.extend_from_slice(tail);
            let _ = bounded(&file(folder.path(), "damaged", &head));
        }
    }
}

/// The five pickles of a legacy file around an object.
fn legacy(object: &[u8], keys: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(keys);
    bytes.extend_from_slice(data);
    bytes
}

/// A tensor of f32 whose storage has `count` elements under key 0, of the given shape and strides (as pickled tuples).
fn tensor(count: u32, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut object = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ".to_vec();
    object.extend(count.to_le_bytes());
    object.extend(b"NtQK\0");
    object.extend_from_slice(shape);
    object.extend_from_slice(strides);
    object.extend(b"\x89}tR.");
    object
}

const KEYS: &[u8] = b"\x80\x02]X\x01\0\0\x000a.";

#[test]
fn pickles_that_grow_are_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let deep_tuples = [b"\x80\x02N".to_vec(), vec![0x85; 1 << 20], b".".to_vec()].concat();
    let deep_lists = [b"\x80\x02".to_vec(), vec![b']'; 1 << 20], vec![b'a'; (1 << 20) - 1], b".".to_vec()].concat();
    let marks = [b"\x80\x02".to_vec(), vec![b'('; 8 << 20], b".".to_vec()].concat();
    let copies = [b"\x80\x02N".to_vec(), vec![b'2'; 8 << 20], b".".to_vec()].concat();
    let empties = [b"\x80\x02".to_vec(), vec![b'}'; 8 << 20], b".".to_vec()].concat();
    let memos = [b"\x80\x04N".to_vec(), vec![0x94; 8 << 20], b".".to_vec()].concat();
    // A dictionary that holds the one before under two names, thirty times over: 2^30 names for one tensor.
    let mut laughs = b"\x80\x02".to_vec();
    laughs.extend(&tensor(1, b")", b")")[2..]);
    laughs.pop();
    for _ in 0..30 {
        laughs.extend(b"q\0}(X\x01\0\0\0ah\0X\x01\0\0\0bh\0u");
    }
    laughs.push(b'.');
    // A dictionary that holds itself.
    let circle = b"\x80\x02}q\0X\x01\0\0\0ah\0s.".to_vec();
    for (name, object) in [
        ("deep tuples", deep_tuples),
        ("deep lists", deep_lists),
        ("marks", marks),
        ("copies", copies),
        ("empties", empties),
        ("memos", memos),
        ("laughs", laughs),
        ("circle", circle),
    ] {
        let _ = bounded(&file(folder.path(), name, &object));
        let data = [1u64.to_le_bytes().to_vec(), vec![0; 4]].concat();
        let outcome = bounded(&file(folder.path(), name, &legacy(&object, KEYS, &data)));
        assert!(outcome.as_ref().map_or(true, |n| *n == 0), "{name}: {outcome:?}");
    }
}

#[test]
fn shapes_and_strides_that_reach_beyond_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = [4u64.to_le_bytes().to_vec(), vec![0; 16]].concat();
    let read = |name: &str, shape: &[u8], strides: &[u8]| {
        bounded(&file(folder.path(), name, &legacy(&tensor(4, shape, strides), KEYS, &data)))
    };
    assert_eq!(read("fits", b"K\x04\x85", b"K\x01\x85"), Ok(1));
    for (name, shape, strides) in [
        ("too long", &b"K\x05\x85"[..], &b"K\x01\x85"[..]),
        ("too wide", b"K\x02\x85", b"K\x04\x85"),
        ("negative", b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        ("negative stride", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
        ("huge", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"K\0\x85"),
        ("product", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", b"K\0K\0K\0\x87"),
        ("repeated a billion times", b"J\0\0\0\x40\x85", b"K\0\x85"),
        ("ranks differ", b"K\x04\x85", b")"),
    ] {
        let outcome = read(name, shape, strides);
        assert!(outcome.is_err(), "{name}: {outcome:?}");
    }
}

#[test]
fn archives_that_grow_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.bin");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let count = 64u32 << 20;
    zip.start_file("a/data.pkl", deflated).unwrap();
    zip.write_all(&tensor(count, b"J\0\0\0\x04\x85", b"K\x01\x85")).unwrap();
    zip.start_file("a/data/0", deflated).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        zip.write_all(&zeros).unwrap();
    }
    zip.finish().unwrap();
    drop(zeros);
    let error = bounded(&path).unwrap_err();
    assert!(error.contains("justifies"), "{error}");
}

#[test]
fn an_index_may_not_name_files_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ""] {
        let index = serde_json::json!({"weight_map": {"x": name}}).to_string();
        let error = bounded(&file(folder.path(), "model.safetensors.index.json", index.as_bytes())).unwrap_err();
        assert!(error.contains("not a name beside the index"), "{name}: {error}");
    }
}
