//! The states that attention reads, its terms and scores; the states of the enhanced mask decoder.

use super::*;

impl Replay<'_, '_> {
    pub(super) fn states_into(&mut self, at: usize) -> Option<Shared> {
        match at.checked_sub(1) {
            None => self.at(Kind::Embeddings, 0),
            Some(before) => self.at(Kind::Hidden, before),
        }
    }

    pub(super) fn query_states(&mut self, at: usize) -> Option<Shared> {
        match at.checked_sub(Node::DECODER) {
            None => self.states_into(at),
            Some(0) => self.at(Kind::DecoderStates, 0),
            Some(pass) => self.at(Kind::Layer, Node::DECODER + pass - 1),
        }
    }

    pub(super) fn key_states(&mut self, at: usize) -> Option<Shared> {
        if at < Node::DECODER {
            return self.states_into(at);
        }
        match self.mistake {
            Some(Mistake::Decoder(Decoding::KeysFromQueries)) => self.query_states(at),
            _ => self.before_decoder(),
        }
    }

    /// What the enhanced mask decoder reads: the states before the last layer.
    pub(super) fn before_decoder(&mut self) -> Option<Shared> {
        let last = self.setting.layers.checked_sub(1)?;
        match self.mistake {
            Some(Mistake::Decoder(Decoding::LastLayer)) => self.at(Kind::Hidden, last),
            _ => self.states_into(last),
        }
    }

    pub(super) fn decoder_states(&mut self) -> Option<ArrayD<f64>> {
        let mut states = (*self.before_decoder()?).clone();
        if self.mistake != Some(&Mistake::Decoder(Decoding::NoPositions)) {
            let rows = self.at(Kind::Position, 0)?;
            states = added(states, &rows)?;
        }
        if self.mistake == Some(&Mistake::Decoder(Decoding::NormedStates)) {
            return self.norm(Node::new(Kind::EmbeddingNorm, 0), &states);
        }
        Some(states)
    }

    pub(super) fn term(&mut self, kind: Kind, at: usize, product: Product) -> Option<ArrayD<f64>> {
        let (queries, keys) = (self.at(Kind::Query, at)?, self.at(Kind::Key, at)?);
        let other = matches!(
            (kind, self.mistake),
            (Kind::C2p, Some(Mistake::C2p(Gather::RowsOfTheOther)))
                | (Kind::P2c, Some(Mistake::P2c(Gather::RowsOfTheOther)))
        );
        let rows = match (kind, other) {
            (Kind::C2c, _) => None,
            (Kind::C2p, false) | (Kind::P2c, true) => Some(self.at(Kind::PositionKey, at)?),
            _ => Some(self.at(Kind::PositionQuery, at)?),
        };
        let sides = Sides { queries: &queries, keys: &keys, rows: rows.as_deref() };
        let mut term = attention::term(self.setting, kind, &sides, product, self.mistake)?;
        if let Some(Mistake::Terms(of)) = self.mistake
            && [Kind::C2c, Kind::C2p, Kind::P2c].iter().zip(of).any(|(k, weight)| *k == kind && *weight == 0.0)
        {
            term.fill(0.0);
        }
        Some(term)
    }

    pub(super) fn scores(&mut self, at: usize) -> Option<ArrayD<f64>> {
        let weights = if let Some(Mistake::Terms(weights)) = self.mistake { *weights } else { [1.0; 3] };
        let setting = self.setting;
        let terms = [(Kind::C2c, true), (Kind::C2p, setting.c2p), (Kind::P2c, setting.p2c)];
        let mut sum: Option<ArrayD<f64>> = None;
        for ((kind, _), weight) in terms.into_iter().zip(weights).filter(|((_, on), _)| *on) {
            let term = self.at(kind, at)?;
            sum = Some(match sum {
                None => &*term * weight,
                Some(mut sum) => {
                    let term = term.broadcast(sum.raw_dim())?;
                    sum.zip_mut_with(&term, |sum, term| *sum += term * weight);
                    sum
                }
            });
        }
        sum
    }
}
