//! Comparisons of synthetic dumps, in which every error is put there on purpose.

use deberta_verify::{Comparison, Dtype, Dump, Finding, Options, Positions, Tensor, Verdict, compare, report};
use ndarray::{ArrayD, IxDyn};

/// Numbers that look normal, and are the same in every run.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn array(shape: &[usize], mut f: impl FnMut() -> f64) -> ArrayD<f64> {
    ArrayD::from_shape_fn(IxDyn(shape), |_| f())
}

const SHAPES: &[(&str, &[usize])] = &[
    ("deberta.embeddings", &[2, 13, 24]),
    ("hidden_states.0", &[2, 13, 24]),
    ("deberta.encoder.layer.0.attention.self.query_proj", &[2, 13, 24]),
    ("deberta.encoder.layer.0.attention.self.key_proj", &[2, 13, 24]),
    ("deberta.encoder.layer.0.attention.self.c2c", &[2, 3, 13, 13]),
    ("deberta.encoder.layer.0.attention.self.scores", &[2, 3, 13, 13]),
    ("hidden_states.1", &[2, 13, 24]),
    ("logits", &[2, 5]),
    ("loss", &[]),
];

/// An f64 dump and an f32 one that differs from it by noise of `noise` units of f32's roundoff.
fn pair(noise: f64) -> (Dump, Dump) {
    let mut random = Noise(7);
    let (mut expected, mut actual) = (Dump::new("expected"), Dump::new("actual"));
    for (name, shape) in SHAPES {
        let x = array(shape, || random.normal());
        let y = x.mapv(|v| (v + noise * Dtype::F32.unit_roundoff() * random.normal()) as f32);
        expected.insert(*name, Tensor::from_f64(&x));
        actual.insert(*name, Tensor::from_f32(&y));
    }
    let mask = ArrayD::from_shape_fn(IxDyn(&[2, 13]), |i| i64::from(i[0] == 0 || i[1] < 9));
    expected.insert("attention_mask", Tensor::from_i64(&mask));
    (expected, actual)
}

fn change(dump: &mut Dump, name: &str, f: impl FnOnce(&mut ArrayD<f64>)) {
    let mut array = dump.get(name).expect("the tensor exists").to_f64();
    f(&mut array);
    dump.insert(name, Tensor::from_f32(&array.mapv(|x| x as f32)));
}

fn outcome(expected: &Dump, actual: &Dump) -> Comparison {
    compare(expected, actual, &Options::default()).expect("the dumps have tensors in common")
}

#[test]
fn noise_is_within_budget() {
    for noise in [0.0, 1.0, 5.0] {
        let (expected, actual) = pair(noise);
        let comparison = outcome(&expected, &actual);
        assert_eq!(comparison.verdict(), Verdict::Within, "{}", report::summary(&comparison));
        assert_eq!(comparison.rows.len(), SHAPES.len());
        assert_eq!(comparison.last_good().map(|r| r.name.as_str()), Some("loss"));
    }
}

#[test]
fn tensors_stand_in_the_order_of_computation() {
    let (expected, actual) = pair(1.0);
    let comparison = outcome(&expected, &actual);
    let names: Vec<&str> = comparison.rows.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, SHAPES.iter().map(|s| s.0).collect::<Vec<_>>());
}

#[test]
fn one_element_of_one_head_at_ten_times_the_noise_fails() {
    let name = "deberta.encoder.layer.0.attention.self.scores";
    for (b, h, i, j) in [(0, 0, 0, 0), (0, 2, 7, 11), (1, 1, 12, 3)] {
        let (expected, mut actual) = pair(3.0);
        let exact = expected.get(name).expect("the tensor exists").to_f64();
        let noise = exact
            .iter()
            .zip(actual.get(name).expect("the tensor exists").values())
            .map(|(x, y)| (x - y).abs())
            .fold(0.0, f64::max);
        change(&mut actual, name, |a| a[[b, h, i, j]] = exact[[b, h, i, j]] + 10.0 * noise);
        let comparison = outcome(&expected, &actual);
        let row = comparison.first_divergent().expect("the element is found");
        assert_eq!(row.name, name);
        assert_eq!(row.worst.as_ref().map(|w| w.index.clone()), Some(vec![b, h, i, j]));
        assert_eq!(row.beyond, 1);
        assert!(row.max_abs > row.budget);
    }
}

#[test]
fn a_small_error_everywhere_is_seen_by_its_level() {
    let name = "deberta.encoder.layer.0.attention.self.c2c";
    let (expected, mut actual) = pair(1.0);
    change(&mut actual, name, |a| a.mapv_inplace(|x| x * (1.0 + 3e-4)));
    let comparison = outcome(&expected, &actual);
    let row = comparison.first_divergent().expect("the error is found");
    assert_eq!((row.name.as_str(), row.finding), (name, Finding::Level));
    assert!(row.max_abs > row.budget);
    assert_eq!(
        comparison.last_good().map(|r| r.name.as_str()),
        Some("deberta.encoder.layer.0.attention.self.key_proj")
    );
}

#[test]
fn shape_comes_first() {
    let (expected, mut actual) = pair(1.0);
    actual.insert("hidden_states.0", Tensor::from_f64(&ArrayD::zeros(IxDyn(&[2, 24, 13]))));
    let comparison = outcome(&expected, &actual);
    let row = comparison.first_divergent().expect("the shape is found");
    assert_eq!(row.finding, Finding::Shape);
    assert!(row.max_abs.is_nan());
    assert!(report::render_json(&comparison).contains("\"max_abs\": null"));
}

#[test]
fn nan_must_meet_nan() {
    let nan = |dump: &mut Dump| change(dump, "logits", |a| a[[1, 3]] = f64::NAN);
    let (mut expected, mut actual) = pair(1.0);
    nan(&mut actual);
    let comparison = outcome(&expected, &actual);
    let row = comparison.first_divergent().expect("the NaN is found");
    assert_eq!((row.name.as_str(), row.finding), ("logits", Finding::NonFinite));
    assert_eq!(row.worst.as_ref().map(|w| w.index.clone()), Some(vec![1, 3]));
    nan(&mut expected);
    assert_eq!(outcome(&expected, &actual).verdict(), Verdict::Within);
}

#[test]
fn infinities_must_have_one_sign() {
    let set = |dump: &mut Dump, v: f64| change(dump, "logits", |a| a[[0, 0]] = v);
    let (mut expected, mut actual) = pair(1.0);
    set(&mut expected, f64::INFINITY);
    set(&mut actual, f64::INFINITY);
    assert_eq!(outcome(&expected, &actual).verdict(), Verdict::Within);
    set(&mut actual, f64::NEG_INFINITY);
    assert_eq!(outcome(&expected, &actual).verdict(), Verdict::Beyond);
}

#[test]
fn a_masked_score_is_masked_whatever_it_is_filled_with() {
    let name = "deberta.encoder.layer.0.attention.self.scores";
    let set = |dump: &mut Dump, v: f64| change(dump, name, |a| a[[0, 0, 0, 0]] = v);
    let (mut expected, mut actual) = pair(1.0);
    set(&mut expected, f64::from(f32::MIN));
    for fill in [-65504.0, -1e9, f64::NEG_INFINITY] {
        set(&mut actual, fill);
        assert_eq!(outcome(&expected, &actual).verdict(), Verdict::Within, "{fill}");
    }
    set(&mut actual, -10000.0);
    assert_eq!(outcome(&expected, &actual).first_divergent().map(|r| r.finding), Some(Finding::NonFinite));
}

#[test]
fn positions_are_told_apart() {
    let cases = [((1, 10), Positions::Padded), ((1, 2), Positions::Valid)];
    for ((b, i), positions) in cases {
        let (expected, mut actual) = pair(1.0);
        change(&mut actual, "hidden_states.1", |a| a[[b, i, 4]] += 1.0);
        let comparison = outcome(&expected, &actual);
        assert_eq!(comparison.first_divergent().and_then(|r| r.positions), Some(positions));
        let ignoring = Options { ignore_padding: true, ..Options::default() };
        let comparison = compare(&expected, &actual, &ignoring).expect("the dumps have tensors in common");
        let wanted = if positions == Positions::Padded { Verdict::Within } else { Verdict::Beyond };
        assert_eq!(comparison.verdict(), wanted);
    }
}

#[test]
fn tolerances_replace_budgets() {
    let (expected, mut actual) = pair(1.0);
    change(&mut actual, "logits", |a| a.mapv_inplace(|x| x + 0.01));
    assert_eq!(outcome(&expected, &actual).verdict(), Verdict::Beyond);
    for (atol, verdict) in [(0.02, Verdict::Within), (0.005, Verdict::Beyond)] {
        let options = Options { atol: Some(atol), ..Options::default() };
        let comparison = compare(&expected, &actual, &options).expect("the dumps have tensors in common");
        assert_eq!(comparison.verdict(), verdict);
    }
}

#[test]
fn the_reference_s_own_distance_is_a_budget() {
    let (expected, actual) = pair(20.0);
    let (_, near) = pair(10.0);
    let (_, far) = pair(2.0);
    for (reference, verdict) in [(&near, Verdict::Within), (&far, Verdict::Beyond)] {
        // Rounding of what is computed is allowed in any case, so the distances must be well above it.
        let options = Options { reference: Some(reference), ..Options::default() };
        let comparison = compare(&expected, &actual, &options).expect("the dumps have tensors in common");
        let row = comparison.rows.iter().find(|r| r.name == "hidden_states.0").expect("the tensor is compared");
        assert_eq!(row.within, verdict == Verdict::Within, "{row:?}");
    }
}

#[test]
fn spellings_are_aligned_and_partial_dumps_compare() {
    let (expected, actual) = pair(1.0);
    let mut partial = Dump::new("partial");
    let name = "deberta.encoder.layer.0.attention.self.c2c";
    let tensor = actual.get(name).expect("the tensor exists").clone();
    partial.insert("DebertaV2Model.encoder.layer.0.attention.self.c2c", tensor);
    let comparison = outcome(&expected, &partial);
    assert_eq!(comparison.verdict(), Verdict::Within);
    assert_eq!(comparison.rows.len(), 1);
    assert_eq!(comparison.only_expected.len(), SHAPES.len() - 1);
}

#[test]
fn nothing_in_common_is_an_error_that_shows_names() {
    let (expected, _) = pair(1.0);
    let mut other = Dump::new("other");
    other.insert("block.0", Tensor::from_f64(&ArrayD::zeros(IxDyn(&[2]))));
    let error = compare(&expected, &other, &Options::default()).expect_err("nothing is in common").to_string();
    assert!(error.contains("block.0") && error.contains("deberta.embeddings"), "{error}");
}

const HEADS: usize = 3;

/// One head after another, [L, D] each, of every sequence of [B, L, E]: with the index of both.
fn heads(x: &ArrayD<f64>) -> Vec<([usize; 2], ndarray::ArrayView2<'_, f64>)> {
    let size = x.shape()[2] / HEADS;
    let of_sequence = |b: usize| {
        let rows =
            x.index_axis(ndarray::Axis(0), b).into_dimensionality::<ndarray::Ix2>().expect("tokens and features");
        (0..HEADS).map(move |h| ([b, h], rows.slice_move(ndarray::s![.., h * size..(h + 1) * size])))
    };
    (0..x.shape()[0]).flat_map(of_sequence).collect()
}

/// Attention by content alone, every step of it.
fn attention(query: &ArrayD<f64>, key: &ArrayD<f64>, value: &ArrayD<f64>) -> Vec<(&'static str, ArrayD<f64>)> {
    let (length, width) = (query.shape()[1], query.shape()[2]);
    let mut scores = ArrayD::zeros(IxDyn(&[query.shape()[0], HEADS, length, length]));
    let mut context = ArrayD::zeros(query.raw_dim());
    let size = width / HEADS;
    let mut probs = scores.clone();
    for ((([b, h], q), (_, k)), (_, v)) in heads(query).into_iter().zip(heads(key)).zip(heads(value)) {
        let score = q.dot(&k.t()) / (size as f64).sqrt();
        let powers = score.mapv(f64::exp);
        let p = &powers / &powers.sum_axis(ndarray::Axis(1)).insert_axis(ndarray::Axis(1));
        context.slice_mut(ndarray::s![b, .., h * size..(h + 1) * size]).assign(&p.dot(&v));
        scores.slice_mut(ndarray::s![b, h, .., ..]).assign(&score);
        probs.slice_mut(ndarray::s![b, h, .., ..]).assign(&p);
    }
    vec![
        ("query_proj", query.clone()),
        ("key_proj", key.clone()),
        ("value_proj", value.clone()),
        ("c2c", scores.clone()),
        ("scores", scores),
        ("probs", probs),
        ("", context),
    ]
}

const SELF: &str = "deberta.encoder.layer.0.attention.self";

fn full_name(step: &str) -> String {
    if step.is_empty() { SELF.to_owned() } else { format!("{SELF}.{step}") }
}

/// The exact steps, and those in f32 of inputs that carry noise, as deep in a network; `moved` has a last word on these inputs.
fn attention_pair(sequences: usize, moved: impl Fn(&mut [ArrayD<f64>; 3])) -> (Dump, Dump) {
    let mut random = Noise(11);
    let exact = [(); 3].map(|()| array(&[sequences, 40, 24], || random.normal()));
    let mut noisy = exact.each_ref().map(|x| x.mapv(|v| v + 20.0 * Dtype::F32.unit_roundoff() * random.normal()));
    noisy.iter_mut().for_each(|x| x.mapv_inplace(|v| f64::from(v as f32)));
    moved(&mut noisy);
    let config =
        r#"{"num_attention_heads": 3, "num_hidden_layers": 1, "relative_attention": false, "pos_att_type": []}"#;
    let (mut expected, mut actual) = (Dump::new("expected"), Dump::new("actual"));
    expected.set_metadata("config", config);
    for (name, x) in attention(&exact[0], &exact[1], &exact[2]) {
        expected.insert(full_name(name), Tensor::from_f64(&x));
    }
    for (name, x) in attention(&noisy[0], &noisy[1], &noisy[2]) {
        actual.insert(full_name(name), Tensor::from_f32(&x.mapv(|v| v as f32)));
    }
    (expected, actual)
}

#[test]
fn an_element_that_is_not_what_was_read_of_it_is_seen_below_the_noise() {
    let clean = attention_pair(1, |_| ());
    let comparison = outcome(&clean.0, &clean.1);
    assert_eq!(comparison.verdict(), Verdict::Within, "{}", report::summary(&comparison));
    // Three times the noise of the inputs: as large as errors of some other elements.
    let size = 60.0 * Dtype::F32.unit_roundoff();
    for (step, at) in [
        ("query_proj", [0, 17, 13].as_slice()),
        ("key_proj", &[0, 3, 2]),
        ("value_proj", &[0, 39, 23]),
        ("probs", &[0, 2, 30, 7]),
    ] {
        let (expected, mut actual) = attention_pair(1, |_| ());
        let name = full_name(step);
        let exact = expected.get(&name).expect("it was dumped").to_f64();
        change(&mut actual, &name, |x| x[at] = exact[at] * (1.0 + size) + size * f64::from(u8::from(step != "probs")));
        let comparison = outcome(&expected, &actual);
        let first = comparison.first_divergent().unwrap_or_else(|| panic!("{step} passes"));
        assert_eq!((first.name.as_str(), first.finding), (name.as_str(), Finding::Outlier));
        assert_eq!(first.worst.as_ref().map(|w| w.index.as_slice()), Some(at), "{step}");
        assert_eq!(first.beyond, 1, "{step}");
        let said = format!("{name} at {at:?}: what reads it was computed from another number");
        assert!(comparison.notes.iter().any(|note| note.starts_with(&said)), "{:?}", comparison.notes);
    }
    // The same where it was read: noise like any other.
    let (expected, actual) = attention_pair(1, |[query, ..]| query[[0, 17, 13].as_slice()] += size);
    let comparison = outcome(&expected, &actual);
    assert_eq!(comparison.verdict(), Verdict::Within, "{}", report::summary(&comparison));
}

/// An element of a term looks as if a query or a key had been another number when it was read; there is always one whose error
/// happens to be of that size.
#[test]
fn an_element_of_a_reader_is_not_laid_to_what_it_read() {
    let name = full_name("c2c");
    let size = 200.0 * Dtype::F32.unit_roundoff();
    for at in (0..12).map(|n| [0, n % HEADS, 3 * n, 37 - 2 * n]) {
        let (expected, mut actual) = attention_pair(1, |_| ());
        let exact = expected.get(&name).expect("it was dumped").to_f64();
        change(&mut actual, &name, |x| x[at.as_slice()] = exact[at.as_slice()] + size);
        let comparison = outcome(&expected, &actual);
        let first = comparison.first_divergent().unwrap_or_else(|| panic!("passes in {at:?}"));
        assert_eq!((first.name.as_str(), first.beyond), (name.as_str(), 1), "{at:?}");
    }
}

/// Each sequence is read for itself: that one shows nothing does not excuse another.
#[test]
fn a_term_that_is_not_what_was_read_is_seen_in_any_sequence_of_the_batch() {
    for at in [[0, 1, 30, 7], [1, 1, 30, 7], [2, 1, 30, 7]] {
        let (mut expected, mut actual) = attention_pair(3, |_| ());
        // So that the term is not computed again itself.
        for name in ["query_proj", "key_proj"].map(full_name) {
            expected.remove(&name);
            actual.remove(&name);
        }
        // As if it had been added to others.
        let mut random = Noise(5);
        let unit = Dtype::F32.unit_roundoff();
        change(&mut actual, &full_name("scores"), |x| x.mapv_inplace(|v| v * (1.0 + unit / 2.0 * random.normal())));
        let name = full_name("c2c");
        let exact = expected.get(&name).expect("it was dumped").to_f64();
        let size = 60.0 * unit;
        change(&mut actual, &name, |x| x[at.as_slice()] = exact[at.as_slice()] + size);
        let comparison = outcome(&expected, &actual);
        let first = comparison.first_divergent().unwrap_or_else(|| panic!("passes in {at:?}"));
        assert_eq!((first.name.as_str(), first.finding, first.beyond), (name.as_str(), Finding::Outlier, 1));
        assert_eq!(first.worst.as_ref().map(|w| w.index.as_slice()), Some(at.as_slice()));
    }
}

/// A projection of 40 tokens of which 17 are distinct: every token is off by noise of its own, and every place by `of_place` units
/// of roundoff besides.
fn text_of_few_words(of_place: f64) -> (Dump, Dump) {
    let mut random = Noise(13);
    let unit = Dtype::F32.unit_roundoff();
    let words = array(&[17, 24], || random.normal());
    let noise = array(&[17, 24], || 4.0 * unit * random.normal());
    let of = |table: &ArrayD<f64>| ArrayD::from_shape_fn(IxDyn(&[1, 40, 24]), |at| table[[at[1] * 5 % 17, at[2]]]);
    let (mut expected, mut actual) = (Dump::new("expected"), Dump::new("actual"));
    expected.insert(full_name("value_proj"), Tensor::from_f64(&of(&words)));
    let found = of(&(&words + &noise)).mapv(|x| x + of_place * unit * random.normal());
    actual.insert(full_name("value_proj"), Tensor::from_f32(&found.mapv(|x| x as f32)));
    (expected, actual)
}

#[test]
fn what_is_computed_twice_from_the_same_numbers_is_the_same_twice() {
    let name = full_name("value_proj");
    let at = [0, 22, 5];
    // Five times the noise: as large as errors of some other elements.
    let moved = |of_place: f64| {
        let (expected, mut actual) = text_of_few_words(of_place);
        change(&mut actual, &name, |x| x[at.as_slice()] += 20.0 * Dtype::F32.unit_roundoff());
        outcome(&expected, &actual)
    };
    for of_place in [0.0, 4.0] {
        let (expected, actual) = text_of_few_words(of_place);
        let comparison = outcome(&expected, &actual);
        assert_eq!(comparison.verdict(), Verdict::Within, "{}", report::summary(&comparison));
    }
    let comparison = moved(0.0);
    let first = comparison.first_divergent().expect("it is not what its twins are");
    assert_eq!((first.finding, first.beyond), (Finding::Outlier, 1));
    assert_eq!(first.worst.as_ref().map(|w| w.index.as_slice()), Some(at.as_slice()));
    let said = format!("{name} at {at:?} should be what it is at [0, 39, 5]");
    assert!(comparison.notes.iter().any(|note| note.starts_with(&said)), "{:?}", comparison.notes);
    // Where others differ as much, that is how they are computed.
    let comparison = moved(4.0);
    assert_eq!(comparison.verdict(), Verdict::Within, "{}", report::summary(&comparison));
}
