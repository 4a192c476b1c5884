//! The outcome as one page of HTML that needs nothing else: no font, no picture, no network.
//!
//! The verdict stands first, in one sentence with its cause and evidence; then what is known of the first divergent
//! tensor, the error along the depth of the network, pictures of the worst tensors, and the whole table. Light and dark
//! follow the reader's system, a phone gets one column, paper gets no controls.
//!
//! What a file says is escaped wherever it stands. Besides, the page forbids itself (by a Content-Security-Policy) to
//! load anything, and to run any script but the one below, which searches the table: it is known by its hash. Without
//! scripts all is there but the search.

use std::fmt::Write;

use super::{chart, count, details, figure, leaf, likely, percent, pictures, score_terms, shape, surety, verdict_word};
use crate::compare::{Comparison, Positions, Row, Verdict};
use crate::order::some_names;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// SHA-256 of [`SCRIPT`] in base 64.
const SCRIPT_HASH: &str = "hU2UBFTBasGNx65OveHLu5fi3nVNjDxfD4Y+rDbY80c=";

/// The page.
pub fn render_html(comparison: &Comparison) -> String {
    let mut page = String::new();
    let verdict = match comparison.verdict() {
        Verdict::Within => "Within budget",
        Verdict::Beyond => "Beyond budget",
        Verdict::Incomparable => "Nothing to compare",
    };
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; form-action 'none'\">\n\
         <title>{verdict} – deberta-ref</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    opening(comparison, verdict, &mut page);
    terms(comparison, &mut page);
    facts(comparison, &mut page);
    chart::depth_chart(comparison, &mut page);
    pictures::heat_maps(comparison, &mut page);
    table(comparison, &mut page);
    let _ = write!(page, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

/// The verdict, and the sentence that says it.
fn opening(comparison: &Comparison, verdict: &str, page: &mut String) {
    let (class, mark) = match comparison.verdict() {
        Verdict::Within => ("good", "M5 13l5 5L20 6"),
        _ => ("bad", "M6 6l12 12M18 6L6 18"),
    };
    let _ = write!(
        page,
        "<header class=\"{class}\">\n<p class=\"verdict\"><svg viewBox=\"0 0 24 24\" aria-hidden=\"true\"><path d=\"{mark}\"/></svg>{verdict}</p>\n<h1>{}</h1>\n",
        sentence(comparison)
    );
    if let Some(cause) = &comparison.cause {
        let _ = writeln!(page, "<p class=\"evidence\">{}</p>", breakable(&cause.evidence));
    }
    page.push_str("</header>\n");
}

fn sentence(comparison: &Comparison) -> String {
    let count = comparison.rows.len();
    let Some(first) = comparison.first_divergent() else {
        return match count {
            0 => "No tensor stands in both dumps.".to_owned(),
            1 => "The one tensor compared agrees as well as rounding allows.".to_owned(),
            _ => format!("All {count} tensors compared agree as well as rounding allows."),
        };
    };
    let beyond = comparison.rows.iter().filter(|r| !r.within).count();
    let name = format!("<code>{}</code>", breakable(&first.name));
    let others = if beyond == 1 {
        format!("is the one tensor of {count} beyond its budget")
    } else {
        format!("is the first of {beyond} tensors, of {count}, beyond their budget")
    };
    match &comparison.cause {
        Some(cause) => format!(
            "{name} {others}, {} <strong>{}</strong> <span class=\"soft\">({})</span>.",
            likely(cause),
            breakable(&cause.name),
            percent(cause.confidence)
        ),
        None => format!("{name} {others}; no known mistake fits."),
    }
}

/// Where no cause is known: the terms of the score, each with its own error.
fn terms(comparison: &Comparison, page: &mut String) {
    let terms = score_terms(comparison);
    if terms.is_empty() {
        return;
    }
    page.push_str("<section id=\"terms\">\n<h2>The terms of the score in that layer</h2>\n<ul class=\"terms\">\n");
    for row in terms {
        let class = if row.within { "good" } else { "bad" };
        let _ = writeln!(
            page,
            "<li class=\"{class}\"><code>{}</code> <b>{}</b><br>max error {}<br>budget {}</li>",
            escape(leaf(&row.name)),
            verdict_word(row),
            figure(row.max_abs),
            figure(row.budget)
        );
    }
    page.push_str("</ul>\n</section>\n");
}

fn facts(comparison: &Comparison, page: &mut String) {
    let mut list = details(comparison);
    list.retain(|(label, _)| !matches!(*label, "likely cause" | "evidence"));
    list.push(("expected", format!("{} (computed in {})", comparison.expected, comparison.computed_in.0)));
    list.push(("actual", format!("{} (computed in {})", comparison.actual, comparison.computed_in.1)));
    for (label, names) in [("only expected", &comparison.only_expected), ("only actual", &comparison.only_actual)] {
        if !names.is_empty() {
            list.push((label, format!("{}: {}", names.len(), some_names(names.iter().map(String::as_str)))));
        }
    }
    list.extend(comparison.notes.iter().map(|note| ("note", note.clone())));
    page.push_str("<dl>\n");
    for (label, text) in list {
        let _ = writeln!(page, "<dt>{label}</dt><dd>{}</dd>", breakable(&text));
    }
    page.push_str("</dl>\n");
}

const COLUMNS: [&str; 8] = ["shape", "max error", "budget", "relative", "ulp", "noise", "cosine", "where"];

fn table(comparison: &Comparison, page: &mut String) {
    let beyond = comparison.rows.iter().filter(|r| !r.within).count();
    let _ = write!(
        page,
        "<section id=\"tensors\">\n<h2>All tensors</h2>\n\
         <form id=\"filter\" hidden><label class=\"search\"><span>Search</span><input id=\"search\" type=\"search\" autocomplete=\"off\" placeholder=\"layer.0 proj\"></label>\
         <label><input id=\"only\" type=\"checkbox\"> beyond budget alone ({beyond})</label><output id=\"shown\"></output></form>\n\
         <table>\n<thead><tr><th>tensor</th>"
    );
    for column in COLUMNS {
        let class = if matches!(column, "shape" | "where") { "" } else { " class=\"n\"" };
        let _ = write!(page, "<th{class}>{column}</th>");
    }
    page.push_str("<th>verdict</th></tr></thead>\n<tbody>\n");
    for (i, row) in comparison.rows.iter().enumerate() {
        table_row(i, row, page);
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

fn table_row(i: usize, row: &Row, page: &mut String) {
    let class = if row.within { "good" } else { "bad" };
    let known = !row.max_abs.is_nan();
    let cells = [
        shape(&row.shape),
        figure(row.max_abs),
        figure(row.budget),
        figure(row.max_rel),
        if known { count(row.max_ulp) } else { "–".to_owned() },
        figure(row.noise),
        row.cosine.map_or_else(|| "–".to_owned(), |c| format!("{c:.6}")),
        match row.positions {
            None => "",
            Some(Positions::Valid) => "valid",
            Some(Positions::Padded) => "padded",
            Some(Positions::Both) => "both",
        }
        .to_owned(),
    ];
    let _ = write!(page, "<tr id=\"t{i}\" class=\"{class}\"><td>{}", breakable(&row.name));
    if let Some(actual) = &row.actual_name {
        let _ = write!(page, "<br><span class=\"soft\">there {}{}</span>", breakable(actual), surety(row));
    }
    page.push_str("</td>");
    for (label, cell) in COLUMNS.iter().zip(&cells) {
        let class = if matches!(*label, "shape" | "where") { "" } else { " class=\"n\"" };
        let _ = write!(page, "<td{class} data-label=\"{label}\">{cell}</td>");
    }
    let _ = writeln!(page, "<td class=\"word\">{}</td></tr>", verdict_word(row));
}

/// A text of anybody's as text of the page: what would be markup, and what would be invisible, is spelled out.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(super::printable(c)),
        }
    }
    out
}

/// Escaped, and allowed to break within paths (before a letter that follows a dot, slash or underscore), so that they
/// fit a phone; numbers stay whole.
pub(super) fn breakable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push_str(&escape(c.encode_utf8(&mut [0; 4])));
        if matches!(c, '.' | '/' | '_') && chars.peek().is_some_and(|next| next.is_alphabetic()) {
            out.push_str("<wbr>");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                out.push(if i > chunk.len() { '=' } else { char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]) });
            }
        }
        out
    }

    #[test]
    fn the_policy_allows_the_script_that_the_page_has() {
        assert_eq!(SCRIPT_HASH, base64(&Sha256::digest(SCRIPT)));
        assert!(!SCRIPT.contains("</"), "the script ends where it should");
    }

    #[test]
    fn what_a_file_says_is_text() {
        let text = "<img src=x onerror='a()'>&\"\u{202e}\0";
        assert_eq!(escape(text), "&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;\u{fffd}\u{fffd}");
        assert_eq!(breakable("a.b/<_c"), "a.<wbr>b/&lt;_<wbr>c");
    }
}
