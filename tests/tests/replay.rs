//! Recorded passes on the emulator: what they launch, when they are made anew, and that they compute what a plain pass does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "../../crates/deberta-cuda/tests/emulated/emulator/mod.rs"]
#[allow(dead_code, reason = "the tests of the kernels use more of it")]
mod emulator;

use deberta_cuda::{Model, Precision};
use deberta_ref::{Inputs, Keep, Trace};
use deberta_testkit::fixtures;
use deberta_tests::parity::subjects;
use deberta_tests::speed;
use emulator::EmulatedDevice;
use ndarray::{ArrayD, IxDyn};

fn model(device: &EmulatedDevice) -> Model<&EmulatedDevice> {
    let config = speed::config(serde_json::json!({
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
        "relative_attention": true, "pos_att_type": "c2p|p2c", "position_biased_input": false, "conv_kernel_size": 3,
    }));
    speed::random_model(device, Precision::F16, &config).unwrap()
}

/// Sequences of these lengths, of words that differ with the seed.
fn inputs(lengths: &[usize], seed: usize) -> Inputs<f32> {
    let shape = IxDyn(&[lengths.len(), 9]);
    let ids = ArrayD::from_shape_fn(shape.clone(), |at| ((at[0] * 17 + at[1] * 29 + seed * 13) % 50) as i64);
    let mask = ArrayD::from_shape_fn(shape, |at| i64::from(at[1] < lengths[at[0]]));
    Inputs { input_ids: Some(ids), attention_mask: Some(mask), ..Inputs::default() }
}

/// The states of a pass, and the kernels it ran.
fn states(model: &Model<&EmulatedDevice>, inputs: &Inputs<f32>) -> (ArrayD<f32>, Vec<&'static str>) {
    model.device().ran.take();
    let outputs = model.forward(inputs, Keep::default(), &mut Trace::off()).unwrap();
    (outputs.last_hidden_state.into_dyn(), model.device().ran.take())
}

#[test]
fn a_replay_launches_and_computes_what_a_plain_pass_does() {
    let (device, other) = (EmulatedDevice::new(0), EmulatedDevice::new(0));
    let (mut replaying, plain) = (model(&device), model(&other));
    replaying.replay_shapes(2);
    // One shape: as many rows, and the longest as long, but sequences begin elsewhere.
    for (turn, lengths) in [[9, 4, 6], [9, 4, 6], [4, 9, 6], [6, 4, 9]].iter().enumerate() {
        let given = inputs(lengths, turn);
        let (expected, launched) = states(&plain, &given);
        let (found, replayed) = states(&replaying, &given);
        assert_eq!(found, expected, "turn {turn}");
        assert_eq!(replaying.recordings(), usize::from(turn > 0), "the second pass of a shape is recorded");
        // Recording runs the pass once as well.
        let twice = [launched.clone(), launched.clone()].concat();
        assert_eq!(replayed, if turn == 1 { twice } else { launched }, "turn {turn}");
    }
}

#[test]
fn another_shape_is_recorded_anew_and_the_oldest_is_forgotten() {
    let (device, other) = (EmulatedDevice::new(0), EmulatedDevice::new(0));
    let (mut replaying, plain) = (model(&device), model(&other));
    replaying.replay_shapes(2);
    let shapes: [&[usize]; 3] = [&[9, 4], &[9, 5], &[8, 5]];
    // Recordings after each turn: the third shape drives out the first, which then has to be met twice again.
    for (turn, (shape, recordings)) in
        [(0, 0), (0, 1), (1, 1), (1, 2), (0, 2), (2, 1), (2, 2), (1, 1), (1, 2)].into_iter().enumerate()
    {
        let given = inputs(shapes[shape], turn);
        assert_eq!(states(&replaying, &given).0, states(&plain, &given).0, "turn {turn}");
        assert_eq!(replaying.recordings(), recordings, "turn {turn}");
    }
}

#[test]
fn heads_and_masks_are_replayed_to_the_bit() {
    // Gathered words, pooled choices, a mask with holes, the enhanced mask decoder.
    let some = ["hf/masked-lm-new/golden", "hf/multiple-choice/golden", "hf/base-v3/inside", "microsoft/emd/golden"];
    let subjects = subjects(&fixtures("."), |name| some.contains(&name)).unwrap();
    assert_eq!(subjects.len(), some.len());
    for subject in subjects {
        assert!(subject.replays(EmulatedDevice::new(0), Precision::F32).unwrap(), "{}", subject.name);
    }
}

#[test]
fn nothing_is_replayed_where_somebody_watches_or_nobody_asked() {
    let device = EmulatedDevice::new(0);
    let mut model = model(&device);
    let given = inputs(&[5], 0);
    for _ in 0..3 {
        states(&model, &given);
    }
    assert_eq!(model.recordings(), 0);
    model.replay_shapes(1);
    struct Everything;
    impl deberta_ref::Observer<f32> for Everything {
        fn wants(&self, _: &str) -> bool {
            true
        }
        fn observe(&mut self, _: &str, _: ndarray::ArrayViewD<'_, f32>) {}
    }
    for _ in 0..3 {
        model.forward(&given, Keep::default(), &mut Trace::to(&mut Everything)).unwrap();
    }
    assert_eq!(model.recordings(), 0);
    assert!(model.time(&given, 2).unwrap().len() == 2, "a recording is timed, and not kept");
    assert_eq!(model.recordings(), 0);
}
