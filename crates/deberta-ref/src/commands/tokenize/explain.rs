//! `deberta-ref tokenize --explain`: a text under all profiles side by side.

use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::bail;
use deberta_tokenizer::{Explanation, Profile, TokenKind, Tokenizer, TokenizerFiles, View, explain};
use serde_json::{Map, Value, json};

use super::Args;

const NAME: Style = Style::new().bold();
const SAME: Style = AnsiColor::Green.on_default();
const DIFFERENT: Style = AnsiColor::Red.on_default().bold();
const BYTE: Style = AnsiColor::Yellow.on_default();
const UNKNOWN: Style = AnsiColor::Magenta.on_default().bold();
const ADDED: Style = AnsiColor::Cyan.on_default();
const FAINT: Style = Style::new().dimmed();

/// What was found in a file.
#[derive(Default)]
struct Summary {
    lines: usize,
    differing: usize,
    /// For each pair of profiles, the lines whose ids differ between the two.
    by_pair: Vec<((Profile, Profile), usize)>,
    /// The number of each, and the line.
    first: Vec<(usize, Explanation)>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files = TokenizerFiles::read(&args.model)?;
    let profiles: Vec<Profile> =
        Profile::ALL.into_iter().filter(|p| files.has_spm_model() || *p != Profile::Slow).collect();
    let load = |profile: &Profile| Tokenizer::from_files(files.clone(), Some(*profile));
    let tokenizers = profiles.iter().map(load).collect::<Result<Vec<Tokenizer>, _>>()?;
    let mut lines = args.lines()?;
    let mut summary = Summary { by_pair: pairs(&profiles), ..Summary::default() };
    let mut only = None;
    loop {
        let records = lines.chunk(1, usize::MAX)?;
        let Some(record) = records.first() else { break };
        let explanation = explain(&tokenizers, record.first())?;
        summary.lines += 1;
        summary.count(&explanation, args.show);
        only = Some(explanation).filter(|_| summary.lines == 1);
    }
    let mut out = anstream::stdout().lock();
    match (only, args.json) {
        (Some(explanation), true) => writeln!(out, "{}", to_json(&explanation))?,
        (Some(explanation), false) => print(&mut out, &explanation)?,
        (None, _) if summary.lines == 0 => bail!("there is no line to explain"),
        (None, true) => writeln!(out, "{}", summary.to_json())?,
        (None, false) => summary.print(&mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pairs(profiles: &[Profile]) -> Vec<((Profile, Profile), usize)> {
    let later = |i: usize| profiles[i + 1..].iter().map(move |b| ((profiles[i], *b), 0));
    (0..profiles.len()).flat_map(later).collect()
}

impl Summary {
    fn count(&mut self, explanation: &Explanation, show: usize) {
        if explanation.differences.is_empty() {
            return;
        }
        self.differing += 1;
        let ids = |profile| {
            let view = explanation.views.iter().find(|v| v.profile == profile);
            view.map(|v| v.tokens.iter().map(|t| t.id).collect::<Vec<u32>>())
        };
        for ((a, b), count) in &mut self.by_pair {
            *count += usize::from(ids(*a) != ids(*b));
        }
        if self.first.len() < show {
            self.first.push((self.lines, explanation.clone()));
        }
    }

    fn share(&self) -> f64 {
        self.differing as f64 / self.lines as f64
    }

    fn to_json(&self) -> Value {
        let by_pair = self.by_pair.iter().map(|((a, b), n)| json!({"profiles": [a.name(), b.name()], "differing": n}));
        let first = self.first.iter().map(|(line, e)| {
            let mut object = Map::from_iter([("line".to_owned(), json!(line))]);
            object.extend(to_json(e).as_object().cloned().unwrap_or_default());
            Value::Object(object)
        });
        json!({
            "lines": self.lines,
            "differing": self.differing,
            "share": self.share(),
            "by_pair": by_pair.collect::<Vec<_>>(),
            "first": first.collect::<Vec<_>>(),
        })
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self { lines, differing, .. } = self;
        writeln!(out, "{NAME}{differing} of {lines} lines differ{NAME:#} ({:.2} %)", 100.0 * self.share())?;
        for ((a, b), count) in &self.by_pair {
            writeln!(out, "  {a} and {b}: {count}")?;
        }
        for (line, explanation) in &self.first {
            writeln!(out, "\n{NAME}line {line}{NAME:#}")?;
            print_differences(out, explanation)?;
        }
        Ok(())
    }
}

fn to_json(explanation: &Explanation) -> Value {
    let view = |v: &View| {
        let token = |t: &deberta_tokenizer::ExplainedToken| json!({"id": t.id, "token": t.token, "offsets": t.offsets, "kind": t.kind.name()});
        let tokens: Vec<Value> = v.tokens.iter().map(token).collect();
        (v.profile.name().to_owned(), json!({"normalized": v.normalized, "tokens": tokens}))
    };
    let difference = |d: &deberta_tokenizer::Difference| {
        let tokens =
            explanation.views.iter().zip(&d.tokens).map(|(v, range)| (v.profile.name().to_owned(), json!(range)));
        json!({"chars": d.chars, "text": d.text, "tokens": Map::from_iter(tokens)})
    };
    json!({
        "text": explanation.text,
        "same": explanation.differences.is_empty(),
        "profiles": Map::from_iter(explanation.views.iter().map(view)),
        "differences": explanation.differences.iter().map(difference).collect::<Vec<_>>(),
    })
}

fn print(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    writeln!(out, "{NAME}text{NAME:#}        {:?}", explanation.text)?;
    for (v, view) in explanation.views.iter().enumerate() {
        writeln!(out, "\n{NAME}{}{NAME:#}  {FAINT}{}{FAINT:#}", view.profile, view.profile.description())?;
        writeln!(out, "  normalized  {:?}", view.normalized)?;
        let differs = |i: usize| explanation.differences.iter().any(|d| (d.tokens[v].0..d.tokens[v].1).contains(&i));
        write!(out, "  tokens     ")?;
        for (i, token) in view.tokens.iter().enumerate() {
            write_token(out, token, differs(i))?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    print_differences(out, explanation)
}

fn print_differences(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    if explanation.differences.is_empty() {
        return writeln!(out, "{SAME}the ids are the same under all profiles{SAME:#}");
    }
    for difference in &explanation.differences {
        let (start, end) = difference.chars;
        let stretch = &difference.text;
        writeln!(out, "{DIFFERENT}they part{DIFFERENT:#} at characters {start} to {end}, {stretch:?}")?;
        for (view, (from, to)) in explanation.views.iter().zip(&difference.tokens) {
            write!(out, "  {:<10}", view.profile.name())?;
            for token in &view.tokens[*from..*to] {
                write_token(out, token, true)?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

fn write_token(out: &mut impl Write, token: &deberta_tokenizer::ExplainedToken, differs: bool) -> std::io::Result<()> {
    let style = match token.kind {
        TokenKind::Byte => BYTE,
        TokenKind::Unknown => UNKNOWN,
        TokenKind::Added => ADDED,
        TokenKind::Piece if differs => DIFFERENT,
        TokenKind::Piece => Style::new(),
    };
    let unknown = if token.kind == TokenKind::Unknown { "?" } else { "" };
    let reads = token.token.escape_debug();
    write!(out, " {style}{unknown}{reads}{style:#}{FAINT}:{}{FAINT:#}", token.id)
}
