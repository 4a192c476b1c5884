//! Numbers for benchmarks, the same on every machine: SplitMix64, a counter through a mixing function.

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A whole number below `bound`, which is at least 1. The bias of the remainder is below 2⁻³² for any vocabulary.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.bits() % bound).expect("it is below a usize")
    }

    /// A number of mean 0 and variance 1, nearly normal: the sum of four uniform ones, from sixteen bits each.
    pub(crate) fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: f32 = (0..4).map(|k| f32::from((bits >> (16 * k) & 0xffff) as u16)).sum();
        // Each uniform number has the variance 1/12, four of them 1/3.
        (sum / 65_536.0 - (2.0 - 2.0 / 65_536.0)) * 3_f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_published_generator() {
        // The first numbers of splitmix64 from the state 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!([random.bits(), random.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let mut random = Random::new(1);
        let drawn: Vec<f64> = (0..200_000).map(|_| f64::from(random.normal())).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / drawn.len() as f64;
        // Five standard deviations of each estimate.
        assert!(mean.abs() < 5.0 / 447.0, "mean {mean}");
        assert!((variance - 1.0).abs() < 5.0 * 1.2 / 447.0, "variance {variance}");
    }
}
