//! Whether a mistake in a kernel would be noticed: each file is changed in one place at a time, and the tests that CI runs are
//! run on it, in a process of their own, as a mistake may crash it. `tools/cuda_mutants` asks for it; CI does not.
//!
//! Mistakes of four kinds, wherever one is possible: a barrier or a wait left out, an index one too large, a factor turned into a
//! divisor or a divisor into a factor, and, once a line, a sum into a difference or the reverse. `device.cuh` is left alone: the
//! emulator has another in its place.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use deberta_cuda::{File, Module, Precision};

use crate::emulator::library::{MUTATION_FROM, MUTATION_TO};

/// The files that are wanted, separated by commas; absent: all.
const WANTED: &str = "CUDA_MUTANTS";

/// How long a test may take on one mistake; one that takes longer hangs, which is noticed too.
const PATIENCE: Duration = Duration::from_secs(300);

/// Mistakes that change nothing that could be noticed: the file, the place as it is then, and why.
const HARMLESS: [(&str, &str, &str); 7] = [
    ("common.cuh", "    x = warp_max(x);\n    ", "in every kernel so far this is the first use of its shared memory"),
    (
        "attention_window.cuh",
        "    multiply_band<0>(band, rows.query, shared.pos_key, base + TILE + row);",
        "the window is a ring of two tiles: a tile back and a tile on are the same row",
    ),
    (
        "attention_window.cuh",
        "    const int most = min(first_query + TILE + 1, length - 1) - first_key;",
        "a tile of one slot is taken for one of several, and computed the longer way",
    ),
    (
        "attention_window.cuh",
        "    return runs[at] >= most + max_length + 1 ? slots[at] : -1;",
        "a tile of one slot is taken for one of several, and computed the longer way",
    ),
    (
        "attention_window.cuh",
        "        const u32 a[4] = {position.at[k][0], position.at[(k) + 1][0], position.at[k][1], position.at[k][1]};",
        "the lower eight rows of a product of which the first is read",
    ),
    (
        "attention_window.cuh",
        "        const u32 a[4] = {position.at[k][0], position.at[k][0], position.at[k][1], position.at[(k) + 1][1]};",
        "the lower eight rows of a product of which the first is read",
    ),
    (
        "attention_mma.cuh",
        "    return rows / chunks % MMA_THREADS == 0 || row < rows;",
        "a comparison is made that is always true",
    ),
];

/// The tests of a file, the ones that notice most first.
fn tests(file: &str) -> &'static [&'static str] {
    match file {
        "gemm.cu" => &["gemm::equals_the_definition"],
        "layer_norm.cu" | "row.cuh" => &["layer_norm::equals_the_definition"],
        "embeddings.cu" => &["elementwise::embeddings_are_summed_and_normalized"],
        "activation.cu" | "activation.cuh" => &["elementwise::activations_are_those_of_the_processor"],
        "conv1d.cu" => &["elementwise::convolution_stays_within_its_sequence"],
        "rows.cu" => &["elementwise::rows_are_moved_and_widened"],
        "pooler.cu" => &["elementwise::pooling_by_attention_weighs_by_similarity"],
        "common.cuh" => &[
            "layer_norm::equals_the_definition",
            "elementwise::pooling_by_attention_weighs_by_similarity",
            "attention::plain_is_the_equation",
        ],
        "attention.cuh" | "attention_plain.cu" => &["attention::plain_is_the_equation"],
        "attention_tiled.cu" | "position_scores.cu" => &["attention::tiled_is_the_equation"],
        "attention_mma.cu" => &["attention::mma_is_the_equation"],
        "attention_mma.cuh" => &["attention::mma_is_the_equation", "attention::slots_is_the_equation"],
        "attention_window.cu" => &["attention::window_is_the_equation"],
        "attention_slots.cu" | "attention_window.cuh" => {
            &["attention::slots_is_the_equation", "attention::window_is_the_equation"]
        }
        other => panic!("which tests are those of {other}?"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Barrier,
    Index,
    Factor,
    Sum,
}

/// A change of one line of a file. `from` and `to` reach so far before it that the place is the only one.
struct Mutant {
    file: String,
    kind: Kind,
    from: String,
    to: String,
}

/// What a line may become by one mistake of each kind.
fn mistakes(line: &str) -> Vec<(Kind, String)> {
    let code = line.split("//").next().unwrap_or_default();
    let mut all = Vec::new();
    if code.trim_start().starts_with('#') {
        return all;
    }
    for call in ["__syncthreads()", "__syncwarp()", "copy_async_commit()", "copy_async_wait<"] {
        if let Some(at) = code.find(call) {
            let end = at + code[at..].find(';').expect("a statement ends");
            all.push((Kind::Barrier, format!("{}{}", &line[..at], &line[end + 1..])));
        }
    }
    // Innermost brackets that hold a variable: others declare an array.
    for (close, _) in code.match_indices(']') {
        let open = code[..close].rfind('[').expect("brackets close within their line");
        let index = &code[open + 1..close];
        if !index.contains(']') && index.contains(|c: char| c.is_ascii_lowercase()) {
            all.push((Kind::Index, format!("{}[({index}) + 1]{}", &line[..open], &line[close + 1..])));
        }
    }
    let mut turn = |kind, from: &str, to: &str, most| {
        for (at, _) in code.match_indices(from).take(most) {
            all.push((kind, format!("{}{to}{}", &line[..at], &line[at + from.len()..])));
        }
    };
    turn(Kind::Factor, " * ", " / ", usize::MAX);
    turn(Kind::Factor, " / ", " * ", usize::MAX);
    turn(Kind::Sum, " + ", " - ", 1);
    turn(Kind::Sum, " - ", " + ", 1);
    all
}

/// Every mistake in a file whose text is `source`, in modules of these texts.
fn mutants(file: &str, source: &str, modules: &[String]) -> Vec<Mutant> {
    let lines: Vec<&str> = source.lines().collect();
    let only = |from: &str| modules.iter().all(|text| text.matches(from).count() <= 1);
    let places = lines.iter().enumerate().flat_map(|(at, line)| mistakes(line).into_iter().map(move |m| (at, m)));
    places
        .map(|(at, (kind, line))| {
            let first = (0..=at).rev().find(|&first| only(&lines[first..=at].join("\n"))).expect("a file stands once");
            let before = lines[first..at].iter().map(|line| format!("{line}\n")).collect::<String>();
            let (from, to) = (format!("{before}{}", lines[at]), format!("{before}{line}"));
            Mutant { file: file.to_owned(), kind, from, to }
        })
        .collect()
}

/// Whether a test of the file fails, crashes or hangs; `None` where the change does not compile, and so is no mistake.
fn is_noticed(mutant: &Mutant) -> Option<bool> {
    for test in tests(&mutant.file) {
        // A file, as a pipe holds up whoever says too much.
        let mut said = tempfile::tempfile().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--test-threads=1"])
            .env(MUTATION_FROM, &mutant.from)
            .env(MUTATION_TO, &mutant.to)
            .stdout(said.try_clone().unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let passed = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status.success(),
                None if begin.elapsed() > PATIENCE => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break false;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut bytes = Vec::new();
        said.rewind().unwrap();
        said.read_to_end(&mut bytes).unwrap();
        let said = String::from_utf8_lossy(&bytes);
        assert!(!said.contains("a mutation is of one place"), "{}: {}: {said}", mutant.file, mutant.to);
        if said.contains("do not compile") {
            return None;
        }
        if !passed {
            return Some(true);
        }
        assert!(said.contains("1 passed"), "there is no test {test}");
    }
    Some(false)
}

#[test]
#[ignore = "takes half an hour; tools/cuda_mutants asks for it"]
fn every_mistake_is_noticed() {
    let wanted = std::env::var(WANTED).ok();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| name.contains(".cu") && name != "device.cuh")
        .filter(|name| wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|one| one == name)))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{WANTED} names no kernel file");
    let modules = File::ALL.map(|file| Module { file, precision: Precision::F16, head_size: 64 }.text());
    let all: Vec<Mutant> = (names.iter())
        .flat_map(|name| mutants(name, &std::fs::read_to_string(folder.join(name)).unwrap(), &modules))
        .collect();
    let outcomes = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(mutant) = all.get(next.fetch_add(1, Relaxed)) {
                    let noticed = is_noticed(mutant);
                    if noticed == Some(false) {
                        println!("{}: nothing notices {:?}, which was {:?}", mutant.file, mutant.to, mutant.from);
                    }
                    outcomes.lock().unwrap().push((mutant, noticed));
                }
            });
        }
    });
    judge(&outcomes.into_inner().unwrap(), wanted.is_none());
}

/// Prints a table, and fails where a mistake was not noticed that is not known to be harmless, or the reverse.
fn judge(outcomes: &[(&Mutant, Option<bool>)], whole: bool) {
    let mut table: BTreeMap<(&str, Kind), [usize; 2]> = BTreeMap::new();
    for (mutant, noticed) in outcomes.iter().filter_map(|(mutant, noticed)| Some((mutant, (*noticed)?))) {
        let counts = table.entry((&mutant.file, mutant.kind)).or_default();
        counts[0] += 1;
        counts[1] += usize::from(noticed);
    }
    for ((file, kind), [made, noticed]) in &table {
        println!("{file:<22} {:<8} {made:>4} made {noticed:>4} noticed", format!("{kind:?}").to_lowercase());
    }
    let sum = |at: usize| table.values().map(|counts| counts[at]).sum::<usize>();
    println!("{} made, {} noticed, {} known to be harmless", sum(0), sum(1), HARMLESS.len());
    let missed: Vec<(&str, &str)> = (outcomes.iter().filter(|(_, noticed)| *noticed == Some(false)))
        .map(|(mutant, _)| (mutant.file.as_str(), mutant.to.as_str()))
        .collect();
    let harmless = |place: &(&str, &str)| HARMLESS.iter().any(|(file, to, _)| (*file, *to) == *place);
    let new: Vec<_> = missed.iter().filter(|place| !harmless(place)).collect();
    let gone: Vec<_> = HARMLESS.iter().filter(|(file, to, _)| whole && !missed.contains(&(file, to))).collect();
    assert!(new.is_empty(), "not noticed: {new:#?}");
    assert!(gone.is_empty(), "noticed after all, take them off the list: {gone:#?}");
}
