//! Which reference implementation to be identical to.

use std::fmt;
use std::str::FromStr;

/// A reference tokenizer. The same `spm.model` gives different ids under each; see `docs/tokenizer.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// SentencePiece itself, as Microsoft's code and the slow `DebertaV2Tokenizer` of transformers 4 use it.
    Slow,
    /// `DebertaV2TokenizerFast` of transformers 4 (4.57).
    Hf4Fast,
    /// `DebertaV2Tokenizer` of transformers 5 (5.23).
    Hf5,
}

impl Profile {
    /// All of them, in the order in which they are shown side by side.
    pub const ALL: [Self; 3] = [Self::Slow, Self::Hf4Fast, Self::Hf5];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Hf4Fast => "hf-4-fast",
            Self::Hf5 => "hf-5",
        }
    }

    /// What the name stands for.
    pub fn description(self) -> &'static str {
        match self {
            Self::Slow => "SentencePiece exactly, as transformers 4's slow tokenizer and Microsoft's code",
            Self::Hf4Fast => "transformers 4's fast tokenizer",
            Self::Hf5 => "transformers 5's tokenizer",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no profile's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no tokenizer profile is called {name:?}: there are slow, hf-4-fast and hf-5")]
pub struct UnknownProfile {
    /// The name.
    pub name: String,
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }
}
