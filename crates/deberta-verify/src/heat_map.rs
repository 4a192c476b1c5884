//! The error of a tensor as a small picture: rows and columns of its last two axes, heads side by side.

/// Cells of max |actual − expected|, at most [`HeatMap::LIMIT`] each way; larger tensors are reduced by taking the
/// largest error of a block, so that a single wrong element stays in sight.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// Pictures side by side: one for each group of the leading axes, as far as there is room.
    pub panels: Vec<Panel>,
    /// How many there would be besides, with smaller errors.
    pub omitted: usize,
    /// The largest error in any panel.
    pub max: f64,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The multi-index of the leading axes.
    pub index: Vec<usize>,
    /// The number of cells down.
    pub height: usize,
    /// The number of cells across.
    pub width: usize,
    /// The cells, row by row. NaN where one of the two is no number.
    pub cells: Vec<f64>,
}

impl HeatMap {
    /// The most cells a panel has in either direction.
    pub const LIMIT: usize = 48;
    /// The most panels.
    pub const PANELS: usize = 6;

    /// From pairs of expected and actual values in row-major order. The panels with the largest errors are kept.
    pub fn new(shape: &[usize], values: impl Iterator<Item = (f64, f64)>) -> Self {
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let rows = if shape.len() < 2 { 1 } else { shape[shape.len() - 2] }.max(1);
        let leading = &shape[..shape.len().saturating_sub(2)];
        let (height, width) = (rows.min(Self::LIMIT), columns.min(Self::LIMIT));
        let mut panels: Vec<Panel> = Vec::new();
        for (k, (x, y)) in values.enumerate() {
            let (panel, r, c) = (k / (rows * columns), k / columns % rows, k % columns);
            if panels.len() == panel {
                let index = crate::measure::multi_index(leading, panel);
                panels.push(Panel { index, height, width, cells: vec![0.0; height * width] });
            }
            let cell = &mut panels[panel].cells[r * height / rows * width + c * width / columns];
            let error = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (y - x).abs() };
            *cell = if error.is_nan() || cell.is_nan() { f64::NAN } else { cell.max(error) };
        }
        let peak = |p: &Panel| {
            p.cells.iter().copied().fold(0.0, |m: f64, c| if c.is_nan() { f64::INFINITY } else { m.max(c) })
        };
        let max = panels.iter().flat_map(|p| &p.cells).copied().filter(|c| c.is_finite()).fold(0.0, f64::max);
        panels.sort_by(|a, b| peak(b).total_cmp(&peak(a)));
        let omitted = panels.len().saturating_sub(Self::PANELS);
        panels.truncate(Self::PANELS);
        panels.sort_by(|a, b| a.index.cmp(&b.index));
        Self { panels, omitted, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_wrong_element_of_a_large_tensor_stays_in_sight() {
        let shape = [2, 3, 100, 90];
        let wrong = 100 * 90 * 4 + 90 * 57 + 31;
        let values = (0..shape.iter().product()).map(|k| (1.0, if k == wrong { 1.5 } else { 1.0 }));
        let map = HeatMap::new(&shape, values);
        let panel = map.panels.iter().find(|p| p.index == [1, 1]).expect("the panel with the error is kept");
        assert_eq!(panel.cells[57 * 48 / 100 * 48 + 31 * 48 / 90], 0.5);
        assert_eq!(panel.cells.iter().filter(|c| **c > 0.0).count(), 1);
    }
}
