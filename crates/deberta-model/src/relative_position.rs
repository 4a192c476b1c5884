//! Relative positions: from the distance of two tokens to a row of the relative embeddings.
//!
//! δ(i, j) = bucket(i − j), i the query and j the key, and the row is clamp(δ + S, 0, 2S − 1), S the `att_span`
//! (section 3.1 of the paper; `build_relative_position` and `make_log_bucket_position` in the references).
//!
//! Without buckets, bucket(x) = x. With b buckets and a maximum distance m, mid = ⌊b/2⌋:
//!
//! ```text
//! bucket(x) = x                                                          where |x| ≤ mid
//!           = sign(x) · (⌈ln(|x|/mid) / ln((m − 1)/mid) · (mid − 1)⌉ + mid)   elsewhere
//! ```
//!
//! so that near distances are told apart one by one, and far ones by their logarithm. The row depends on the distance
//! alone, so a table over distances is all that is kept.

use crate::config::DebertaV2Config;
use crate::profile::{BucketLog, Profile};

/// bucket(x): a distance, after the logarithm has taken its share.
///
/// `buckets` is at least 2; `max` − 1 differs from ⌊`buckets` / 2⌋ (a configuration is refused otherwise).
pub fn log_bucket(distance: i64, buckets: usize, max: usize, log: BucketLog) -> i64 {
    let mid = buckets / 2;
    if distance.unsigned_abs() as usize <= mid {
        return distance;
    }
    let ratio = distance.unsigned_abs() as f64 / mid as f64;
    let range = (max as f64 - 1.0) / mid as f64;
    let steps = mid as f64 - 1.0;
    let bucket = match log {
        BucketLog::F64 => (ratio.ln() / range.ln() * steps).ceil(),
        BucketLog::F32 => f64::from((ln_f32(ratio) / ln_f32(range) * steps as f32).ceil()),
        BucketLog::F32OverF64 => f64::from((ln_f32(ratio) / range.ln() as f32 * steps as f32).ceil()),
    };
    distance.signum() * (bucket as i64 + mid as i64)
}

/// The `f32` logarithm of a quotient that is itself rounded to `f32` first.
fn ln_f32(quotient: f64) -> f32 {
    f64::from(quotient as f32).ln() as f32
}

/// The rows of the relative embeddings for every distance between `queries` and `keys` tokens.
#[derive(Clone, Debug)]
pub struct RelativePositions {
    /// The row of distance x at index x + keys − 1, x from −(keys − 1) to queries − 1.
    rows: Vec<usize>,
    queries: usize,
    keys: usize,
}

impl RelativePositions {
    /// The table for one pair of lengths, each at least 1.
    pub fn new(config: &DebertaV2Config, profile: &Profile, queries: usize, keys: usize) -> Self {
        let span = config.att_span() as i64;
        let max = config.max_distance();
        let row = |distance: i64| {
            let bucket = match config.buckets() {
                None => distance,
                Some(buckets) => {
                    let limit = max as i64 - 1;
                    let held = if profile.clamps_distance { distance.clamp(-limit, limit) } else { distance };
                    log_bucket(held, buckets, max, profile.bucket_log)
                }
            };
            bucket.saturating_add(span).clamp(0, 2 * span - 1) as usize
        };
        let rows = (0..queries + keys - 1).map(|at| row(at as i64 - (keys as i64 - 1))).collect();
        Self { rows, queries, keys }
    }

    /// The number of queries and of keys.
    pub fn lengths(&self) -> (usize, usize) {
        (self.queries, self.keys)
    }

    /// The row for query i and key j.
    #[inline]
    pub fn row(&self, query: usize, key: usize) -> usize {
        self.rows[query + self.keys - 1 - key]
    }

    /// All rows.
    ///
    /// # Shapes
    /// Returns [Q, K].
    pub fn table(&self) -> ndarray::Array2<usize> {
        ndarray::Array2::from_shape_fn((self.queries, self.keys), |(i, j)| self.row(i, j))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(buckets: i64, max: i64) -> DebertaV2Config {
        DebertaV2Config::from_value(serde_json::json!({
            "relative_attention": true, "position_buckets": buckets, "max_relative_positions": max,
        }))
        .unwrap()
    }

    #[test]
    fn published_values_of_the_released_models() {
        // 256 buckets, 512 positions: linear to 128, and the last distance inside the range is the last bucket.
        for log in [BucketLog::F32, BucketLog::F32OverF64, BucketLog::F64] {
            assert_eq!(log_bucket(128, 256, 512, log), 128);
            assert_eq!(log_bucket(129, 256, 512, log), 129);
            assert_eq!(log_bucket(511, 256, 512, log), 255);
            assert_eq!(log_bucket(-511, 256, 512, log), -255);
            assert_eq!(log_bucket(512, 256, 512, log), 256);
        }
    }

    #[test]
    fn hugging_faces_own_tables() {
        let golden = deberta_testkit::TensorFile::read(&deberta_testkit::fixtures("hf/buckets.safetensors"));
        let mut pairs = 0;
        for name in golden.names() {
            let parts: Vec<&str> = name.split('.').collect();
            let number = |at: usize| parts[at].parse::<i64>().unwrap();
            if parts[0] == "log_bucket" {
                let expected = golden.int(name);
                let reach = expected.len() as i64 / 2;
                let ours =
                    (-reach..=reach).map(|x| log_bucket(x, number(1) as usize, number(2) as usize, BucketLog::F32));
                assert!(ours.eq(expected.iter().copied()), "{name}");
                pairs += 1;
            }
        }
        assert!(pairs > 20, "only {pairs} pairs of buckets and maximum");
    }

    #[test]
    fn rows_depend_on_the_distance_alone_and_are_clamped() {
        let positions = RelativePositions::new(&config(-1, 3), &Profile::HF_5, 4, 6);
        let table = positions.table();
        assert_eq!(table.row(0).to_vec(), [3, 2, 1, 0, 0, 0]);
        assert_eq!(table.row(3).to_vec(), [5, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn beyond_the_range_only_microsofts_newest_code_stops_one_short() {
        let row = |p: &Profile, key| RelativePositions::new(&config(256, 512), p, 1, 2048).row(0, key);
        for profile in Profile::ALL {
            assert_eq!(row(&profile, 511), 1, "{profile}");
            assert_eq!(row(&profile, 2047), usize::from(profile == Profile::MICROSOFT), "{profile}");
        }
    }
}
