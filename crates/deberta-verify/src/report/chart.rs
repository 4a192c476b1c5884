//! The error of every tensor along the depth of the network, as a drawing: dots over a shaded area, the budget.
//!
//! Both are absolute, max |actual − expected| and the largest value of it that would have passed, on a logarithmic
//! scale: a tensor is beyond its budget where its mark stands above the shade. A mark is a ring within, a filled
//! diamond beyond, a cross where there is no number: nothing is told by hue alone. The drawing is made twice, for a
//! wide and for a narrow page, since letters do not shrink.

use std::fmt::Write;

use super::html::escape;
use super::{Part, figure, verdict_word};
use crate::compare::{Comparison, Row};

/// A size to draw at.
struct Canvas {
    class: &'static str,
    width: f64,
    height: f64,
    /// The room for the numbers at the left.
    left: f64,
    letter: f64,
}

const WIDE: Canvas = Canvas { class: "wide", width: 1000.0, height: 340.0, left: 56.0, letter: 13.0 };
const NARROW: Canvas = Canvas { class: "narrow", width: 340.0, height: 280.0, left: 42.0, letter: 12.0 };

const TOP: f64 = 26.0;
const BOTTOM: f64 = 40.0;
const RIGHT: f64 = 8.0;

/// Both drawings.
pub(super) fn depth_chart(comparison: &Comparison, page: &mut String) {
    page.push_str(
        "<section id=\"depth\">\n<h2>Error along the depth</h2>\n<p class=\"note\">Largest error of each tensor, in the order of computation, on a logarithmic scale. \
         <span class=\"key\"><svg viewBox=\"0 0 12 12\"><circle class=\"good\" cx=\"6\" cy=\"6\" r=\"4\"/></svg> within</span> \
         <span class=\"key\"><svg viewBox=\"0 0 12 12\"><path class=\"bad\" d=\"M6 .5 11.5 6 6 11.5.5 6z\"/></svg> beyond</span> \
         <span class=\"key\"><svg viewBox=\"0 0 12 12\"><rect class=\"budget\" width=\"12\" height=\"12\"/></svg> its budget</span></p>\n",
    );
    for canvas in [WIDE, NARROW] {
        Chart::new(canvas, &comparison.rows).draw(page);
    }
    page.push_str("</section>\n");
}

struct Chart<'a> {
    canvas: Canvas,
    rows: &'a [Row],
    /// Powers of ten at the bottom and at the top.
    low: f64,
    high: f64,
}

impl<'a> Chart<'a> {
    fn new(canvas: Canvas, rows: &'a [Row]) -> Self {
        let powers = || rows.iter().flat_map(|r| [r.max_abs, r.budget]).filter(|v| *v > 0.0 && v.is_finite());
        let low = powers().fold(f64::INFINITY, f64::min).log10().floor().clamp(-20.0, 0.0);
        let high = powers().fold(0.0, f64::max).log10().ceil().clamp(low + 2.0, 40.0);
        Self { canvas, rows, low, high }
    }

    fn x(&self, i: f64) -> f64 {
        let room = self.canvas.width - self.canvas.left - RIGHT;
        self.canvas.left + room * i / self.rows.len().max(1) as f64
    }

    /// The height of a value; of what is no number, the top.
    fn y(&self, value: f64) -> f64 {
        let power = if value.is_nan() { self.high } else { value.log10().clamp(self.low, self.high) };
        TOP + self.floor_height() * (self.high - power) / (self.high - self.low)
    }

    fn floor_height(&self) -> f64 {
        self.canvas.height - TOP - BOTTOM
    }

    fn floor(&self) -> f64 {
        self.canvas.height - BOTTOM
    }

    fn draw(&self, page: &mut String) {
        let Canvas { class, width, height, .. } = self.canvas;
        let _ = writeln!(
            page,
            "<svg class=\"chart {class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"largest error of each tensor beside its budget\">"
        );
        self.scale(page);
        self.parts(page);
        self.budgets(page);
        for (i, row) in self.rows.iter().enumerate() {
            self.mark(i, row, page);
        }
        self.first(page);
        page.push_str("</svg>\n");
    }

    fn scale(&self, page: &mut String) {
        let step = ((self.high - self.low) / 7.0).ceil().max(1.0);
        let mut power = self.low;
        while power <= self.high {
            let at = self.y(10f64.powf(power));
            let label = if power == 0.0 { "1".to_owned() } else { format!("1e{power:.0}") };
            let _ = writeln!(
                page,
                "<path class=\"grid\" d=\"M{} {at:.1}H{}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                self.canvas.left,
                self.canvas.width - RIGHT,
                self.canvas.left - 6.0,
                at + 4.0
            );
            power += step;
        }
    }

    /// Lines between layers, and below them their numbers as far as there is room.
    fn parts(&self, page: &mut String) {
        let parts: Vec<Part> = self.rows.iter().map(|r| Part::of(&r.name)).collect();
        let (mut start, mut free) = (0, self.canvas.left - 8.0);
        for i in 1..=parts.len() {
            if i < parts.len() && parts[i] == parts[start] {
                continue;
            }
            let mark = parts[start].mark();
            let middle = self.x((start + i) as f64 / 2.0);
            let half = 0.3 * self.canvas.letter * mark.len() as f64;
            if middle - half > free && middle + half < self.canvas.width {
                let _ = writeln!(
                    page,
                    "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mark}</text>",
                    self.floor() + 17.0
                );
                free = middle + half + 5.0;
            }
            if i < parts.len() {
                let _ =
                    writeln!(page, "<path class=\"grid\" d=\"M{:.1} {TOP}V{:.1}\"/>", self.x(i as f64), self.floor());
            }
            start = i;
        }
        let _ = writeln!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">layer</text>",
            f64::midpoint(self.canvas.left, self.canvas.width),
            self.canvas.height - 5.0
        );
    }

    /// One step for each tensor, filled down to the axis.
    fn budgets(&self, page: &mut String) {
        let mut path = format!("M{} {:.1}", self.canvas.left, self.floor());
        for (i, row) in self.rows.iter().enumerate() {
            let y = if row.budget.is_nan() { self.floor() } else { self.y(row.budget) };
            let _ = write!(path, "V{y:.1}H{:.1}", self.x((i + 1) as f64));
        }
        let _ = writeln!(page, "<path class=\"budget\" d=\"{path}V{:.1}z\"/>", self.floor());
    }

    fn mark(&self, i: usize, row: &Row, page: &mut String) {
        let (x, y) = (self.x(i as f64 + 0.5), self.y(row.max_abs));
        let r = (self.canvas.width * 0.3 / self.rows.len().max(1) as f64).clamp(1.5, 4.5);
        let _ = write!(page, "<a href=\"#t{i}\">");
        let _ = match (row.within, row.max_abs.is_nan()) {
            (true, _) => write!(page, "<circle class=\"good\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\"/>"),
            (false, false) => {
                let r = 1.5 * r;
                write!(
                    page,
                    "<path class=\"bad\" d=\"M{x:.1} {:.1}l{r:.1} {r:.1} {:.1} {r:.1} {:.1} {:.1}z\"/>",
                    y - r,
                    -r,
                    -r,
                    -r
                )
            }
            (false, true) => write!(
                page,
                "<path class=\"none\" d=\"M{:.1} {:.1}l{d:.1} {d:.1}m0 {e:.1}l{e:.1} {d:.1}\"/>",
                x - r,
                y - r,
                d = 2.0 * r,
                e = -2.0 * r
            ),
        };
        let _ = writeln!(
            page,
            "<title>{}: {}, budget {}, {}</title></a>",
            escape(&row.name),
            figure(row.max_abs),
            figure(row.budget),
            verdict_word(row)
        );
    }

    fn first(&self, page: &mut String) {
        let Some(first) = self.rows.iter().position(|r| !r.within) else { return };
        let x = self.x(first as f64 + 0.5);
        let (anchor, dx) = if x > self.canvas.width / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
        let _ = writeln!(
            page,
            "<path class=\"first\" d=\"M{x:.1} {:.1}V{:.1}\"/><text class=\"first\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">first divergent</text>",
            TOP - 20.0,
            self.floor(),
            x + dx,
            TOP - 9.0
        );
    }
}
