//! Passes of a shape that was met before are replayed: their launches were recorded, and go to the device as one.
//!
//! A pass of a small batch is some hundred launches of a few microseconds each, which the host cannot keep up with. Of two
//! passes of one [`Shape`] nothing differs but the contents of what was uploaded, so the second is recorded, and from then on
//! contents are overwritten in place. A recording keeps all the memory between its kernels; the shapes that were met longest
//! ago are forgotten.

use crate::device::Device;
use crate::encoder::Encoded;
use crate::staged::{Shape, Staged};
use crate::tensors::Rows;

/// What a pass leaves on the device.
pub(crate) struct Computed<M> {
    pub(crate) encoded: Encoded<M>,
    pub(crate) logits: Option<Rows<M>>,
}

/// A recorded pass, its inputs and its outputs.
pub(crate) struct Recorded<D: Device> {
    pub(crate) recording: D::Recording,
    pub(crate) staged: Staged<D::Memory>,
    pub(crate) computed: Computed<D::Memory>,
}

/// The shapes that were met, the latest last, and the recordings of those that were met twice.
pub(crate) struct Replays<D: Device> {
    most: usize,
    met: Vec<(Shape, Option<Recorded<D>>)>,
}

impl<D: Device> Replays<D> {
    /// Remembers `most` shapes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, met: Vec::new() }
    }

    /// How many shapes are remembered.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// The place of a shape that was met before, recorded or not; now it was.
    pub(crate) fn met(&mut self, shape: Shape) -> Option<&mut Option<Recorded<D>>> {
        let known = self.met.iter().position(|(met, _)| *met == shape);
        let entry = known.map_or((shape, None), |at| self.met.remove(at));
        if self.met.len() >= self.most.max(1) {
            self.met.remove(0);
        }
        if self.most > 0 {
            self.met.push(entry);
        }
        self.met.last_mut().filter(|_| known.is_some()).map(|(_, recorded)| recorded)
    }

    /// How many recordings there are.
    pub(crate) fn count(&self) -> usize {
        self.met.iter().filter(|(_, recorded)| recorded.is_some()).count()
    }
}
