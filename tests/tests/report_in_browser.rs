//! The HTML report in a real browser: it asks for nothing, its script runs under its own policy, it fits a phone, and the
//! verdict is in sight. Runs where Chromium is installed.
//!
//! The report stands in frames as wide as a phone and a desk; the page around them looks in and writes down what it sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deberta_testkit::{fixtures, program, skipped};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// Longer than a loaded machine needs to start a browser.
const PATIENCE: Duration = Duration::from_secs(120);
/// A phone and a desk, in CSS pixels.
const WIDTHS: [u32; 2] = [360, 1280];
/// Text against its ground, as the Web Content Accessibility Guidelines ask (AA for text).
const CONTRAST: f64 = 4.5;

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    BROWSERS.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name))).find(|p| p.is_file())
}

/// Two dumps with names that would break out of a careless page and call `address`; the second has a wrong term.
fn dumps(folder: &Path, address: &str) -> (PathBuf, PathBuf) {
    let golden = fs::read(fixtures("hf/base-v3").join("golden.f32.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let hostile = [
        format!("<img src=http://{address}/a>"),
        format!("\"><script>fetch('http://{address}/b')</script>"),
        format!("'onmouseover=fetch(`http://{address}/c`)//</title></svg><iframe src=http://{address}/d>"),
        "an.unbroken.name.".repeat(20),
    ];
    let term = "encoder.layer.0.attention.self.c2p";
    let write = |name: &str, wrong: bool| {
        let mut tensors: HashMap<String, TensorView<'_>> =
            golden.iter().map(|(name, view)| (name.to_owned(), view)).collect();
        let view = tensors[term].clone();
        let shifted: Vec<u8> = view.data()[4..].iter().chain(&view.data()[..4]).copied().collect();
        let actual = if wrong { shifted.as_slice() } else { view.data() };
        let changed = TensorView::new(view.dtype(), view.shape().to_vec(), actual).unwrap();
        for name in hostile.iter().map(String::as_str).chain([term]) {
            tensors.insert(name.to_owned(), changed.clone());
        }
        let path = folder.join(name);
        safetensors::serialize_to_file(&tensors, None, &path).unwrap();
        path
    };
    (write("expected.safetensors", false), write("actual.safetensors", true))
}

/// The report on two dumps, beside them.
fn report(folder: &Path, expected: &Path, actual: &Path) -> PathBuf {
    let page = folder.join("report.html");
    let run = Command::new(program("deberta-ref"))
        .arg("compare")
        .args([expected, actual])
        .arg("--html")
        .arg(&page)
        .output()
        .unwrap();
    assert!(page.exists(), "{}", String::from_utf8_lossy(&run.stderr));
    page
}

/// A page with the report in frames, which writes what it sees of each into its own `pre`.
fn spectator() -> String {
    let frames: String =
        WIDTHS.iter().map(|w| format!("<iframe width={w} height=800 src=report.html></iframe>")).collect();
    format!("<!doctype html><meta charset=utf-8><body>{frames}<pre id=seen></pre><script>{SPECTATOR}</script>")
}

const SPECTATOR: &str = r#"
onload = () => {
  const look = (frame) => {
    const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
    const box = (selector) => page.querySelector(selector).getBoundingClientRect();
    const style = (selector) => view.getComputedStyle(page.querySelector(selector));
    const visible = () => [...page.querySelectorAll("tbody tr")].filter((row) => row.getClientRects().length).length;
    const search = page.getElementById("search"), all = visible();
    search.value = "layer.1 query";
    search.dispatchEvent(new view.Event("input", { bubbles: true }));
    const found = visible(), counted = page.getElementById("shown").textContent;
    search.value = "";
    page.getElementById("only").click();
    const beyond = visible();
    page.getElementById("only").click();
    return {
      width: view.innerWidth, scroll: root.scrollWidth, client: root.clientWidth,
      verdict: page.querySelector(".verdict").textContent.trim(), top: box(".verdict").top, sentence: box("h1").bottom,
      all, found, counted, beyond, back: visible(),
      asked: view.performance.getEntriesByType("resource").map((entry) => entry.name),
      elements: ["img", "iframe", "link", "object", "embed"].map((n) => page.getElementsByTagName(n).length),
      scripts: page.scripts.length,
      charts: [...page.querySelectorAll(".chart")].filter((c) => c.getClientRects().length).map((c) => c.getAttribute("class")),
      maps: page.querySelectorAll(".map").length,
      letters: Math.min(...[...page.querySelectorAll(".chart")].filter((c) => c.getClientRects().length)
        .map((c) => parseFloat(view.getComputedStyle(c.querySelector("text")).fontSize) * c.getBoundingClientRect().width / c.viewBox.baseVal.width)),
      colors: { ground: style("body").backgroundColor, wash: style("header").backgroundColor, text: style("body").color,
        soft: style(".note").color, bad: style(".verdict").color, good: style("tr.good .word").color },
    };
  };
  document.getElementById("seen").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
};
"#;

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a page without a network; returns the document as it is after loading, and what the browser logged.
fn open(browser: &Path, folder: &Path, page: &Path, dark: bool) -> (String, String) {
    let (out, log) = (folder.join("dom.html"), folder.join("log.txt"));
    let profile = tempfile::tempdir_in(folder).unwrap();
    let child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        // The page around the report may look into its frames though all of them are files.
        .args(["--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1800,900", "--dump-dom"])
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::from(fs::File::create(&out).unwrap()))
        .stderr(Stdio::from(fs::File::create(&log).unwrap()))
        .spawn()
        .unwrap();
    let (mut child, start) = (Kill(child), Instant::now());
    while child.0.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < PATIENCE,
            "the browser does not come to an end: {}",
            fs::read_to_string(&log).unwrap()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    (fs::read_to_string(out).unwrap(), fs::read_to_string(log).unwrap())
}

/// Relative luminance of `rgb(r, g, b)`.
fn luminance(color: &str) -> f64 {
    let parts: Vec<f64> = color
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .trim_end_matches(')')
        .split(',')
        .take(3)
        .map(|p| p.trim().parse::<f64>().unwrap() / 255.0)
        .map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) })
        .collect();
    0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
}

fn contrast(a: &str, b: &str) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn check(seen: &Value, dark: bool) {
    let number = |key: &str| seen[key].as_f64().unwrap_or_else(|| panic!("{key}: {seen:#}"));
    assert_eq!(seen["verdict"], "Beyond budget");
    assert!(number("top") >= 0.0 && number("sentence") < 800.0, "the verdict is at the top: {seen:#}");
    assert!(number("scroll") <= number("client"), "no scrolling to the side: {seen:#}");
    assert_eq!(seen["asked"], serde_json::json!([]), "nothing is asked for");
    assert_eq!((&seen["elements"], number("scripts")), (&serde_json::json!([0, 0, 0, 0, 0]), 1.0));
    assert!(number("found") > 0.0 && number("found") < number("all"), "the search finds some: {seen:#}");
    assert_eq!(seen["counted"], format!("{} of {} tensors", seen["found"], seen["all"]));
    assert!(number("beyond") >= 5.0 && number("beyond") < number("all"), "{seen:#}");
    assert_eq!(seen["back"], seen["all"]);
    assert!(number("maps") > 0.0 && number("letters") > 9.0, "{seen:#}");
    let chart = if number("width") < 640.0 { "chart narrow" } else { "chart wide" };
    assert_eq!(seen["charts"], serde_json::json!([chart]));
    let color = |name: &str| seen["colors"][name].as_str().unwrap();
    assert_eq!(luminance(color("ground")) < 0.1, dark, "the colours follow the reader's system: {seen:#}");
    for (text, ground) in
        [("text", "ground"), ("soft", "ground"), ("good", "ground"), ("bad", "wash"), ("text", "wash")]
    {
        let ratio = contrast(color(text), color(ground));
        assert!(ratio >= CONTRAST, "{text} on {ground}: {ratio:.2}");
    }
}

#[test]
fn the_report_reads_well_and_asks_for_nothing() {
    let Some(browser) = browser() else {
        return skipped("report_in_browser", &format!("no browser: none of {} is installed", BROWSERS.join(", ")));
    };
    let folder = tempfile::tempdir().unwrap();
    // Whoever follows an address out of the report is heard here.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (expected, actual) = dumps(folder.path(), &listener.local_addr().unwrap().to_string());
    report(folder.path(), &expected, &actual);
    let page = folder.path().join("spectator.html");
    fs::write(&page, spectator()).unwrap();
    for dark in [false, true] {
        let (dom, log) = open(&browser, folder.path(), &page, dark);
        let seen =
            dom.split("<pre id=\"seen\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
        let seen = seen.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
        let seen: Vec<Value> = serde_json::from_str(&seen).unwrap_or_else(|e| panic!("{e}: {seen}\n{log}"));
        assert_eq!(seen.len(), WIDTHS.len());
        for (seen, width) in seen.iter().zip(WIDTHS) {
            assert_eq!(seen["width"], width);
            check(seen, dark);
        }
        let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    assert!(listener.accept().is_err(), "the report called the address in a tensor's name");
}
