//! The whole forward pass of the GPU, every kernel of it run on the CPU by the emulator: every fixture in `f32`, and some
//! in every precision and by every kernel of attention.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "../../crates/deberta-cuda/tests/emulated/emulator/mod.rs"]
#[allow(dead_code, reason = "the tests of the kernels use more of it")]
mod emulator;

use std::collections::BTreeSet;

use deberta_cuda::{Module, Precision, ops::Rung};
use deberta_testkit::fixtures;
use deberta_tests::attention::Given;
use deberta_tests::parity::{self, Finding, subjects};
use deberta_tests::speed;
use emulator::EmulatedDevice;

/// Cases that between them have every part: buckets, separate and shared projections, convolution with groups, narrow
/// embeddings, padding on either side and inside, the enhanced mask decoder, every kind of head.
const SOME: [&str; 11] = [
    "hf/base-v3/left",
    "hf/base-v3/inside",
    "hf/base-v3/masked-row",
    "hf/base-conv5-groups/golden",
    "hf/base-everything/golden",
    "hf/base-even-heads/golden",
    "hf/base-even-heads/no-mask",
    "hf/masked-lm-legacy-narrow/no-labels",
    "hf/question-answering/golden",
    "microsoft/emd/golden",
    "microsoft/rtd/golden",
];

/// Runs the suite and fails with every finding that is beyond its bound.
fn check(precision: Precision, rung: Option<Rung>, wanted: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut all = Vec::new();
    for subject in subjects(&fixtures("."), wanted).unwrap() {
        let found = subject.check(EmulatedDevice::new(0), precision, rung);
        all.extend(found.unwrap_or_else(|error| panic!("{}: {error}", subject.name)));
    }
    let bad: Vec<String> = (all.iter().filter(|finding| !finding.is_fine()))
        .map(|f| format!("{}: {} is {:e} from f64, {:e} allowed", f.case, f.output, f.max_abs, f.bound))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let worst = all.iter().max_by(|a, b| (a.max_abs / a.bound).total_cmp(&(b.max_abs / b.bound))).unwrap();
    println!(
        "{}, {}: {} outputs; the worst, {} of {}, at {:.2} of its bound",
        precision.name(),
        rung.map_or("the best kernel", Rung::name),
        all.len(),
        worst.output,
        worst.case,
        worst.max_abs / worst.bound
    );
    all
}

#[test]
fn every_fixture_of_transformers_5_in_f32() {
    assert!(check(Precision::F32, None, |name| name.starts_with("hf/")).len() > 500);
}

#[test]
fn every_fixture_of_transformers_4_and_microsoft_in_f32() {
    assert!(check(Precision::F32, None, |name| !name.starts_with("hf/")).len() > 300);
}

#[test]
fn every_precision() {
    for precision in Precision::ALL.into_iter().filter(|&p| p != Precision::F32) {
        check(precision, None, |name| SOME.contains(&name));
    }
}

#[test]
fn the_tiled_kernel_on_padded_rows() {
    // Elsewhere it computes existing rows alone: probabilities, which are kept where all rows are, are the plain kernel's.
    check(Precision::F32, Some(Rung::Tiled), |name| SOME.contains(&name));
}

#[test]
fn every_kernel_of_attention_on_tensor_cores() {
    for (rung, precision) in
        [(Rung::Mma, Precision::F16), (Rung::Window, Precision::Bf16), (Rung::Slots, Precision::Tf32)]
    {
        let found = check(precision, Some(rung), |name| name.starts_with("hf/base-even-heads/"));
        // Four states each: all rows where there is no mask, and the existing rows of both cases.
        assert_eq!(found.len(), 12, "{}", rung.name());
    }
}

#[test]
fn the_cases_under_the_sanitizer_call_every_kernel() {
    let script = include_str!("../../tools/gpu_check");
    let line = script.lines().find_map(|line| line.strip_prefix("sanitized=")).unwrap();
    let parts: Vec<&str> = line.split(',').collect();
    let subjects = subjects(&fixtures("."), |name| parts.iter().any(|part| name.contains(part))).unwrap();
    for part in parts {
        assert!(subjects.iter().any(|subject| subject.name.contains(part)), "no case has {part} in its name");
    }
    let device = EmulatedDevice::new(0);
    for subject in subjects {
        for rung in Rung::ALL {
            subject.check(&device, Precision::F16, Some(rung)).unwrap();
        }
    }
    let ran: BTreeSet<&str> = device.ran.take().into_iter().collect();
    let texts: Vec<String> = Module::all().map(|module| module.text()).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let kernels: BTreeSet<&str> = lines.filter_map(kernel).collect();
    assert!(kernels.len() > 15, "{kernels:?}");
    // The emulator has products of its own; under the sanitizer they are those of `gemm`. `to_f32` serves traces alone.
    let missed: Vec<_> = kernels.difference(&ran).filter(|kernel| !["gemm", "to_f32"].contains(kernel)).collect();
    assert!(missed.is_empty(), "not called: {missed:?}");
}

/// The name of the kernel that a line declares.
fn kernel(line: &str) -> Option<&str> {
    let (plain, resident) = (line.strip_prefix("KERNEL("), line.strip_prefix("RESIDENT_KERNEL("));
    plain.and_then(|rest| rest.split(", ").nth(1)).or_else(|| resident?.split(", ").nth(2))
}

/// The buckets and heads of the released models, which no fixture has: `gpu_check` does it on longer sequences.
#[test]
fn attention_alone_is_the_equation() {
    let operands = speed::operands(&speed::attention(1, 64), &[65, 130]);
    for (precision, rung) in [
        (Precision::F32, Rung::Tiled),
        (Precision::Tf32, Rung::Mma),
        (Precision::F16, Rung::Window),
        (Precision::Bf16, Rung::Slots),
    ] {
        let device = EmulatedDevice::new(0);
        let (_, context) = Given::upload(&device, precision, &operands).unwrap().time(&device, rung, 1).unwrap();
        let (apart, bound) = parity::apart(&operands.exact(precision), &context, precision);
        assert!(apart <= bound, "{}: {apart:e} from f64, {bound:e} allowed", rung.name());
    }
}

/// Not how fast: that what measures it measures what it says.
#[test]
fn measuring_runs() {
    let config = speed::config(serde_json::json!({
        "vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
        "relative_attention": true, "pos_att_type": "c2p|p2c", "position_biased_input": false,
    }));
    let model = speed::random_model(EmulatedDevice::new(0), Precision::Bf16, &config).unwrap();
    let measured = speed::measure(&model, 2, 5, 3).unwrap();
    assert!(measured.fastest > 0.0 && measured.fastest <= measured.median);
    // By hand: 2 layers, 10 tokens, each 2·(4·12² + 2·12·20) + 4·5·12.
    assert_eq!(measured.operations, f64::from(2 * 10 * (2 * (4 * 144 + 480) + 240)));
    assert!(speed::product_rate(&EmulatedDevice::new(0), Precision::F32, 32).unwrap() > 0.0);
    let ladder = speed::ladder(&EmulatedDevice::new(0), Precision::F32, &speed::attention(1, 16), 1, 5).unwrap();
    let served: Vec<Rung> = ladder.iter().filter(|(_, s)| s.is_some_and(|s| s > 0.0)).map(|(rung, _)| *rung).collect();
    assert_eq!(served, [Rung::Plain, Rung::Tiled]);
}
