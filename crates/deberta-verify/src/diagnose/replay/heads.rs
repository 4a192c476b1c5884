//! Heads of tasks.

use super::*;

impl Replay<'_, '_> {
    pub(super) fn last_hidden(&mut self) -> Option<Shared> {
        let last = self.setting.layers.checked_sub(1)?;
        self.at(Kind::Hidden, last)
    }

    pub(super) fn pooled_states(&mut self) -> Option<ArrayD<f64>> {
        let states = self.last_hidden()?;
        if states.ndim() != 3 {
            return None;
        }
        let wrong = if let Some(Mistake::Pooled(p)) = self.mistake { Some(*p) } else { None };
        Some(match wrong {
            None => states.index_axis(Axis(1), 0).to_owned(),
            Some(Pooling::Mean) => states.mean_axis(Axis(1))?,
            Some(Pooling::Last) => states.index_axis(Axis(1), states.shape()[1] - 1).to_owned(),
            Some(Pooling::Max) => states.fold_axis(Axis(1), f64::NEG_INFINITY, |m, x| m.max(*x)),
            Some(Pooling::MeanOfValid) => {
                let mut valid = (*states).clone();
                self.mask(&mut valid)?;
                let mut sums = valid.sum_axis(Axis(1));
                for (mut row, exists) in sums.axis_iter_mut(Axis(0)).zip(self.world.batch.exists.rows()) {
                    row /= exists.iter().filter(|e| **e).count().max(1) as f64;
                }
                sums
            }
        })
    }

    /// The parameters' prefix of the language-modelling head.
    pub(super) fn word_head(&self) -> &'static str {
        let legacy = "cls.predictions.transform";
        if self.world.weight(&format!("{legacy}.dense.weight")).is_some() { legacy } else { "lm_predictions.lm_head" }
    }

    pub(super) fn has_decoder(&self) -> bool {
        if self.setting.enhanced {
            return true;
        }
        let world = self.world;
        let passes = |store: &crate::diagnose::world::Store<'_>| {
            store.nodes().any(|n| n.at >= Node::DECODER || n.kind == Kind::DecoderStates)
        };
        passes(&world.expected) || passes(&world.actual)
    }

    pub(super) fn word_states(&mut self) -> Option<Shared> {
        let wrong = if let Some(Mistake::Decoder(d)) = self.mistake { Some(*d) } else { None };
        let passes = match wrong {
            _ if !self.has_decoder() => 0,
            Some(Decoding::NoDecoder) => 0,
            Some(Decoding::OnePass) => 1,
            Some(Decoding::ThreePasses) => 3,
            _ => 2,
        };
        let states = match passes {
            0 => self.last_hidden(),
            passes => self.at(Kind::Layer, Node::DECODER + passes - 1),
        }?;
        // Microsoft predicts the labelled words alone.
        match self.world.batch.labelled.as_ref().filter(|_| self.has_decoder() && states.ndim() == 3) {
            Some(labelled) => {
                let rows = flat(&states)?.select(Axis(0), labelled);
                Some(Rc::new(rows.insert_axis(Axis(0)).into_dyn()))
            }
            None => Some(states),
        }
    }

    pub(super) fn logits(&mut self) -> Option<ArrayD<f64>> {
        let world = self.world;
        let wrong = match self.mistake {
            Some(Mistake::Dense(wrong, Kind::Logits)) => Some(*wrong),
            _ => None,
        };
        let read = |name: &str| world.weight(name);
        let (states, weight, bias) = if let Some(weight) = read("mask_predictions.classifier.weight") {
            (self.at(Kind::ReplacedActivation, 0)?, weight, read("mask_predictions.classifier.bias"))
        } else if let Some(weight) = read("classifier.weight") {
            let pools = read("pooler.dense.weight").is_some();
            let states = if pools { self.at(Kind::Pooled, 0)? } else { self.last_hidden()? };
            (states, weight, read("classifier.bias"))
        } else {
            let states = self.at(Kind::WordNorm, 0)?;
            let width = *states.shape().last()?;
            let words = world.expected.shape(Node::new(Kind::Logits, 0)).and_then(|s| s.last().copied())?;
            if words.saturating_mul(width) > LARGEST_TABLE {
                return None;
            }
            let own = read("cls.predictions.decoder.weight");
            let bias = ["cls.predictions.bias", "lm_predictions.lm_head.bias"].into_iter().find_map(read);
            (states, own.or_else(|| read("deberta.embeddings.word_embeddings.weight"))?, bias)
        };
        let bias = bias.filter(|_| wrong != Some(Weighing::NoBias));
        if wrong == Some(Weighing::Transposed) {
            return None;
        }
        layers::linear(&states, &weight, bias.as_deref())
    }
}
