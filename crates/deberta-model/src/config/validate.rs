//! What a configuration must satisfy for a model to exist.

use std::fmt::Display;

use super::{ConfigError, DebertaV2Config};

/// Bounds on the sizes, far above any model, so that products of two of them cannot overflow and lists of layers stay
/// small whatever a file says.
const LARGEST_SIZE: usize = 1 << 31;
const MOST_LAYERS: usize = 4096;

fn unusable<T>(field: &'static str, found: impl Display, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Unusable { field, found: found.to_string(), reason: reason.into() })
}

impl DebertaV2Config {
    /// Checks that a model of this configuration exists.
    ///
    /// # Errors
    /// The first field that makes it impossible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_model_type()?;
        self.validate_sizes()?;
        self.validate_heads()?;
        self.validate_relative()?;
        self.validate_convolution()
    }

    fn validate_model_type(&self) -> Result<(), ConfigError> {
        match self.unknown.get("model_type").and_then(|v| v.as_str()) {
            None | Some("deberta-v2" | "deberta-v3") => Ok(()),
            Some(other) => unusable("model_type", other, "this is an implementation of deberta-v2 (and v3) only"),
        }
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("embedding_size", self.embedding_width()),
            ("num_labels", self.num_labels()),
        ];
        for (field, size) in positive {
            if size == 0 {
                return unusable(field, size, "it must be at least 1");
            }
        }
        for (field, size) in positive.into_iter().chain([
            ("type_vocab_size", self.type_vocab_size),
            ("max_relative_positions", self.max_distance()),
            ("position_buckets", self.att_span()),
            ("conv_kernel_size", self.conv_kernel_size),
        ]) {
            if size > LARGEST_SIZE {
                return unusable(field, size, format!("it is beyond {LARGEST_SIZE}, the largest size supported"));
            }
        }
        if self.num_hidden_layers > MOST_LAYERS {
            return unusable("num_hidden_layers", self.num_hidden_layers, format!("more than {MOST_LAYERS} layers"));
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps.is_finite()) {
            return unusable("layer_norm_eps", self.layer_norm_eps, "it must be zero or a positive number");
        }
        match self.pooler_hidden_size {
            Some(size) if size != self.hidden_size => unusable(
                "pooler_hidden_size",
                size,
                format!("the pooler reads hidden states, so it must equal `hidden_size`, {}", self.hidden_size),
            ),
            _ => Ok(()),
        }
    }

    fn validate_heads(&self) -> Result<(), ConfigError> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if !width.is_multiple_of(heads) {
            return unusable("hidden_size", width, format!("it is not a multiple of `num_attention_heads`, {heads}"));
        }
        match self.attention_head_size {
            Some(size) if size.checked_mul(heads) != Some(width) => unusable(
                "attention_head_size",
                size,
                format!("times `num_attention_heads`, {heads}, it must be `hidden_size`, {width}"),
            ),
            _ => Ok(()),
        }
    }

    fn validate_relative(&self) -> Result<(), ConfigError> {
        let Some(buckets) = self.buckets().filter(|_| self.relative_attention) else {
            return Ok(());
        };
        if buckets == 1 {
            return unusable("position_buckets", 1, "the middle of one bucket is zero, and distances divide by it");
        }
        if self.max_distance() - 1 == buckets / 2 {
            return unusable(
                "max_relative_positions",
                self.max_distance(),
                format!("less one it equals half of `position_buckets`, {buckets}, and the logarithm of 1 divides"),
            );
        }
        Ok(())
    }

    fn validate_convolution(&self) -> Result<(), ConfigError> {
        if self.conv_kernel_size == 0 {
            return Ok(());
        }
        if self.conv_kernel_size.is_multiple_of(2) {
            return unusable(
                "conv_kernel_size",
                self.conv_kernel_size,
                "an even kernel shortens the sequence, so its output cannot be added to the layer's; use an odd one",
            );
        }
        if self.conv_groups == 0 || !self.hidden_size.is_multiple_of(self.conv_groups) {
            return unusable(
                "conv_groups",
                self.conv_groups,
                format!("it must divide `hidden_size`, {}", self.hidden_size),
            );
        }
        Ok(())
    }
}
