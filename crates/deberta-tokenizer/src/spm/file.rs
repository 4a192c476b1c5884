//! A model file, read and checked as SentencePiece checks it (`model_interface.cc`, `InitializePieces`).

use prost::Message;

use super::char_map::CharMap;
use super::proto::{ModelProto, ModelType, NormalizerSpec, Piece, PieceType, TrainerSpec};
use super::unigram::{Candidate, Unigram};
use super::{Cutter, ModelError, broken_char_map, decode};

/// What a piece reads, its type, and the natural logarithm of its probability.
pub(crate) type Entry = (String, PieceType, f32);

/// A model file.
pub(crate) struct ModelFile {
    pub pieces: Pieces,
    pub unknown_id: u32,
    /// By byte, where the model falls back on bytes.
    pub byte_ids: Option<Box<[u32; 256]>>,
    pub trainer: TrainerSpec,
    pub normalizer: NormalizerSpec,
    pub denormalizer: Option<NormalizerSpec>,
}

impl ModelFile {
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        let proto = ModelProto::decode(bytes).map_err(|e| ModelError::NotAModel { reason: e.to_string() })?;
        let trainer = proto.trainer_spec.unwrap_or_default();
        let normalizer = proto.normalizer_spec.unwrap_or_default();
        if !normalizer.precompiled_charsmap().is_empty() {
            CharMap::read(normalizer.precompiled_charsmap()).map_err(broken_char_map)?;
        }
        let pieces = Vec::with_capacity(proto.pieces.len());
        let mut reader = Reader { byte_fallback: trainer.byte_fallback(), pieces, unknown: None, bytes: [None; 256] };
        for piece in proto.pieces {
            reader.read(piece)?;
        }
        let pieces = Pieces::new(reader.pieces)?;
        let unknown_id = reader.unknown.ok_or(ModelError::NoUnknown)?;
        let byte_ids = if trainer.byte_fallback() { Some(all_bytes(&reader.bytes)?) } else { None };
        let denormalizer = proto.denormalizer_spec;
        let file = Self { pieces, unknown_id, byte_ids, trainer, normalizer, denormalizer };
        file.model_type()?;
        Ok(file)
    }

    /// UNIGRAM or WORD; all others are refused.
    pub fn model_type(&self) -> Result<ModelType, ModelError> {
        let number = self.trainer.model_type.unwrap_or(ModelType::Unigram as i32);
        match ModelType::try_from(number) {
            Ok(kind @ (ModelType::Unigram | ModelType::Word)) => Ok(kind),
            Ok(other) => Err(ModelError::WrongType { found: format!("{other:?}").to_uppercase() }),
            Err(_) => Err(ModelError::WrongType { found: number.to_string() }),
        }
    }

    pub(super) fn cutter(&self) -> Result<Cutter, ModelError> {
        if self.model_type()? == ModelType::Word {
            return Ok(Cutter::Word {
                space_is_suffix: self.trainer.treat_whitespace_as_suffix(),
                allow_spaces_only: self.trainer.allow_whitespace_only_pieces(),
            });
        }
        let candidates: Vec<Candidate<'_>> = self
            .pieces
            .sorted()
            .filter(|(_, (_, kind, _))| is_of_text(*kind))
            .map(|(id, (piece, kind, score))| Candidate { id, piece, score: *score, kind: *kind })
            .collect();
        if candidates.is_empty() {
            return Err(ModelError::Empty);
        }
        let unigram = Unigram::new(self.pieces.entries.len(), self.unknown_id, &candidates).ok_or(ModelError::Empty)?;
        Ok(Cutter::Unigram(unigram))
    }
}

/// Whether pieces of this type can stand in text.
fn is_of_text(kind: PieceType) -> bool {
    matches!(kind, PieceType::Normal | PieceType::UserDefined | PieceType::Unused)
}

/// The pieces by id, and by what they read.
pub(crate) struct Pieces {
    pub entries: Vec<Entry>,
    /// The ids in the order of what they read: a list is made several times as fast as a hash table. Where a piece of
    /// text and another one read alike, the other one comes first.
    by_text: Vec<u32>,
    different: usize,
}

impl Pieces {
    fn new(entries: Vec<Entry>) -> Result<Self, ModelError> {
        let mut keys: Vec<(&str, bool, u32)> =
            (0..).zip(&entries).map(|(id, (piece, kind, _))| (piece.as_str(), is_of_text(*kind), id)).collect();
        keys.sort_unstable();
        let twice = keys.windows(2).find(|w| (w[0].0, w[0].1) == (w[1].0, w[1].1));
        if let Some([.., (piece, _, id)]) = twice {
            let (id, piece) = (*id as usize, (*piece).to_owned());
            return Err(ModelError::BadPiece { id, piece, reason: "it stands in the file twice" });
        }
        let alike = keys.windows(2).filter(|w| w[0].0 == w[1].0).count();
        let by_text = keys.iter().map(|(.., id)| *id).collect();
        Ok(Self { different: entries.len() - alike, by_text, entries })
    }

    /// The id of what reads so.
    pub fn id(&self, text: &str) -> Option<u32> {
        let reads = |id: u32| self.entries[id as usize].0.as_str();
        let place = self.by_text.partition_point(|id| reads(*id) < text);
        self.by_text.get(place).copied().filter(|id| reads(*id) == text)
    }

    /// The number of different texts among them.
    pub fn different(&self) -> usize {
        self.different
    }

    fn sorted(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.by_text.iter().map(|id| (*id, &self.entries[*id as usize]))
    }
}

/// The pieces so far.
struct Reader {
    byte_fallback: bool,
    pieces: Vec<Entry>,
    unknown: Option<u32>,
    bytes: [Option<u32>; 256],
}

impl Reader {
    fn read(&mut self, entry: Piece) -> Result<(), ModelError> {
        let id = self.pieces.len();
        let piece = entry.piece.unwrap_or_default();
        let score = entry.score.unwrap_or(0.0);
        let bad = |reason| ModelError::BadPiece { id, piece: piece.clone(), reason };
        let kind = PieceType::try_from(entry.r#type.unwrap_or(PieceType::Normal as i32))
            .map_err(|_| bad("its type is not one of SentencePiece's"))?;
        if piece.is_empty() {
            return Err(bad("it is empty"));
        }
        if piece.contains('\0') {
            return Err(bad("it holds a NUL"));
        }
        if score.is_nan() {
            return Err(bad("its score is not a number"));
        }
        match kind {
            PieceType::Unknown if self.unknown.replace(id as u32).is_some() => {
                return Err(bad("it is a second piece of type UNKNOWN"));
            }
            PieceType::Byte if !self.byte_fallback => {
                return Err(bad("it is a byte, but the model does not fall back on bytes"));
            }
            PieceType::Byte => {
                let byte = decode::byte_of(&piece);
                let byte = byte.ok_or_else(|| bad("it is of type BYTE, but not one of <0x00> to <0xFF>"))?;
                self.bytes[usize::from(byte)] = Some(id as u32);
            }
            _ => {}
        }
        self.pieces.push((piece, kind, score));
        Ok(())
    }
}

fn all_bytes(found: &[Option<u32>; 256]) -> Result<Box<[u32; 256]>, ModelError> {
    let mut ids = Box::new([0; 256]);
    for (byte, id) in (0..=255).zip(found) {
        ids[usize::from(byte)] = id.ok_or(ModelError::MissingByte { byte })?;
    }
    Ok(ids)
}
