//! The program over dumps in the forms that people have them in: NumPy's, the debugger's, foreign names and layouts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deberta_testkit::fixtures;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deberta-ref")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `--json` prints, and the exit code.
fn json(arguments: &[&str]) -> (Value, i32) {
    let output = program(&[arguments, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (value, output.status.code().unwrap())
}

/// The one sentence of a refusal.
fn refused(arguments: &[&str]) -> String {
    let output = program(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

fn notes(outcome: &Value) -> String {
    outcome["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

fn row<'v>(outcome: &'v Value, name: &str) -> Option<&'v Value> {
    outcome["tensors"].as_array().unwrap().iter().find(|r| r["name"] == name)
}

/// A tensor to be written in any form.
#[derive(Clone)]
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> BTreeMap<String, Array> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let array = |v: TensorView<'_>| Array { dtype: v.dtype(), shape: v.shape().to_vec(), bytes: v.data().to_vec() };
    tensors.iter().map(|(name, view)| (name.to_owned(), array(view))).collect()
}

fn save(path: &Path, arrays: &BTreeMap<String, Array>) {
    let views: Vec<(&str, TensorView<'_>)> = arrays
        .iter()
        .map(|(name, a)| (name.as_str(), TensorView::new(a.dtype, a.shape.clone(), &a.bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// The bytes of a `.npy`.
fn npy(array: &Array) -> Vec<u8> {
    let descr = match array.dtype {
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::I64 => "<i8",
        other => panic!("{other} is not written here"),
    };
    let sizes: String = array.shape.iter().map(|s| format!("{s}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    header += &" ".repeat(64 - (header.len() + 11) % 64);
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &u16::try_from(header.len()).unwrap().to_le_bytes()[..], header.as_bytes(), &array.bytes]
        .concat()
}

fn save_npz(path: &Path, arrays: &BTreeMap<String, Array>) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (i, (name, array)) in arrays.iter().enumerate() {
        let method = if i % 2 == 0 { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(&npy(array)).unwrap();
    }
    archive.finish().unwrap();
}

fn save_folder(folder: &Path, arrays: &BTreeMap<String, Array>) {
    for (name, array) in arrays {
        // Every other name nested, the rest flat.
        let path = if name.len() % 2 == 0 { name.replace('.', "/") } else { name.clone() };
        let path = folder.join(path + ".npy");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, npy(array)).unwrap();
    }
}

const MODEL: &str = "hf/base-everything";

/// A folder with full traces of the model: `f64.safetensors`, which is expected, and `f32.safetensors`, which is given other
/// forms. Both hold the inputs.
struct Bench {
    folder: TempDir,
    model: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap(), model: text(&fixtures(MODEL)).to_owned() };
        let inputs = fixtures(&format!("{MODEL}/golden.f32.safetensors"));
        for precision in ["f32", "f64"] {
            let path = bench.path(&format!("{precision}.safetensors"));
            let run =
                ["run", "--model", &bench.model, "--inputs", text(&inputs), "--outputs", text(&path), "--trace", "*"];
            assert!(program(&[&run[..], &["--precision", precision, "--hidden-states"]].concat()).status.success());
            let mut all = read(&path);
            all.extend(read(&inputs).into_iter().filter(|(_, array)| array.dtype == Dtype::I64));
            save(&path, &all);
        }
        bench
    }

    fn expected(&self) -> PathBuf {
        self.path("f64.safetensors")
    }

    fn actual(&self) -> BTreeMap<String, Array> {
        read(&self.path("f32.safetensors"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is not expected, under foreign names.
    fn foreign(&self, arrays: BTreeMap<String, Array>) -> PathBuf {
        let path = self.path("foreign.safetensors");
        save(&path, &arrays.into_iter().map(|(name, array)| (foreign(&name), array)).collect());
        path
    }
}

#[test]
fn numpy_s_forms_are_dumps_and_inputs() {
    let bench = Bench::new();
    let arrays = bench.actual();
    save_npz(&bench.path("golden.npz"), &arrays);
    save_folder(&bench.path("golden"), &arrays);
    let mut outcomes = Vec::new();
    for path in [bench.path("f32.safetensors"), bench.path("golden.npz"), bench.path("golden")] {
        let (mut outcome, code) = json(&["verify", "--model", &bench.model, "--golden", text(&path)]);
        assert_eq!(code, 0, "{}: {outcome}", path.display());
        outcome.as_object_mut().unwrap().remove("actual");
        outcomes.push(outcome);
        let outputs = bench.path("out.safetensors");
        // The golden has padded rows, which the fused attention leaves out.
        let files = ["--inputs", text(&path), "--outputs", text(&outputs)];
        let run = [&["run", "--model", &bench.model, "--attention", "reference"], &files[..]].concat();
        assert!(program(&run).status.success());
        let (outcome, code) = json(&["compare", text(&path), text(&outputs)]);
        assert_eq!((code, &outcome["verdict"]), (0, &Value::from("within")));
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "the forms say the same");
    assert!(outcomes[0]["tensors"].as_array().unwrap().len() > 10);
}

#[test]
fn the_debugger_s_files_are_a_dump() {
    let folder = fixtures("dumps/debugger-files");
    let model = fixtures("hf/base-v2-xlarge");
    let tree = folder.join("DebertaV2Model_debug_tree_FULL_TENSORS.json");
    for golden in [&folder, &tree] {
        let (outcome, code) = json(&["verify", "--model", text(&model), "--golden", text(golden)]);
        assert_eq!(code, 0, "{outcome}");
        let at = "deberta.encoder.layer.1.attention.self";
        for name in [
            &format!("{at}.pos_key_proj"),
            &format!("{at}.dropout"),
            at,
            "deberta.encoder.conv.conv",
            "hidden_states.2",
        ] {
            assert!(row(&outcome, name).is_some(), "{name} is not compared");
        }
        // Called twice in a layer, and kept once.
        assert!(row(&outcome, &format!("{at}.key_proj")).is_none());
        assert!(notes(&outcome).contains("4 tensors are lost"), "{}", notes(&outcome));
    }
    // What the tree says is what the model computed, not something else of the same shape.
    let expected = folder.join("expected.safetensors");
    let (outcome, code) = json(&["compare", text(&expected), text(&folder)]);
    assert_eq!((code, outcome["tensors"].as_array().unwrap().len()), (0, 3));
    assert!(outcome["tensors"].as_array().unwrap().iter().all(|t| t["max_abs"].as_f64() == Some(0.0)));
}

#[test]
fn what_the_debugger_printed_is_a_dump_as_far_as_it_goes() {
    let folder = fixtures("dumps/debugger-printed");
    let model = fixtures("hf/masked-lm-new");
    let (outcome, code) = json(&["verify", "--model", text(&model), "--golden", text(&folder)]);
    assert_eq!(code, 0, "{outcome}");
    assert!(row(&outcome, "deberta.encoder.layer.0.output.LayerNorm").is_some());
    assert!(notes(&outcome).contains("printed, to five digits"), "{}", notes(&outcome));
    let said = refused(&[
        "verify",
        "--model",
        text(&model),
        "--golden",
        text(&folder.join("DebertaV2ForMaskedLM_debug_tree_SUMMARY.json")),
    ]);
    assert!(said.contains("sums tensors up") && said.contains("use_repr=False"), "{said}");
}

#[test]
fn damaged_trees_are_refused_in_a_sentence() {
    let bench = Bench::new();
    let source = fixtures("dumps/debugger-files");
    let name = "DebertaV2Model_debug_tree_FULL_TENSORS.json";
    let tree = fs::read_to_string(source.join(name)).unwrap();
    let other = text(&source.join("expected.safetensors")).to_owned();
    let compare = |text_of_tree: &str| {
        fs::write(bench.path(name), text_of_tree).unwrap();
        refused(&["compare", &other, text(&bench.path(name))])
    };
    for (spoiled, part) in [
        ("{".to_owned(), "not JSON"),
        ("{\"a\": 1}".to_owned(), "module_path"),
        (format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).replacen('[', "{\"module_path\":[", 1), "not JSON"),
        (tree.replace("./DebertaV2Model", "../DebertaV2Model"), "not a name beside the tree"),
        (tree.replace("torch.Size([2, 7, 21])", "torch.Size([2, x])"), "shape"),
        // No file is there.
        (tree.clone(), "no tensor whose value is there"),
    ] {
        let said = compare(&spoiled);
        assert!(said.contains(part), "{said}");
    }
    for entry in fs::read_dir(&source).unwrap().flatten() {
        fs::copy(entry.path(), bench.path(&entry.file_name().to_string_lossy())).unwrap();
    }
    let said = compare(&tree.replace("torch.Size([16, 21])", "torch.Size([16, 20])"));
    assert!(said.contains("where the tree says [16, 20]"), "{said}");
}

#[test]
fn damaged_dumps_are_read_or_refused_in_a_sentence() {
    let bench = Bench::new();
    let source = fixtures("dumps/debugger-files");
    for entry in fs::read_dir(&source).unwrap().flatten() {
        fs::copy(entry.path(), bench.path(&entry.file_name().to_string_lossy())).unwrap();
    }
    let printed = fixtures("dumps/debugger-printed/DebertaV2ForMaskedLM_debug_tree_FULL_TENSORS.json");
    let numpy = fixtures("dumps/numpy");
    let mut rng = deberta_testkit::oracle::Rng::new(11);
    for original in [
        source.join("DebertaV2Model_debug_tree_FULL_TENSORS.json"),
        printed,
        numpy.join("stored.npz"),
        numpy.join("deflated.npz"),
        numpy.join("version-2.npy"),
    ] {
        let bytes = fs::read(&original).unwrap();
        let path = bench.path(&original.file_name().unwrap().to_string_lossy());
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.below(damaged.len());
                match rng.below(3) {
                    0 => damaged[at] = rng.next_u64() as u8,
                    1 => damaged.truncate(at + 1),
                    _ => drop(damaged.drain(at..(at + 9).min(damaged.len() - 1).max(at))),
                }
            }
            fs::write(&path, &damaged).unwrap();
            match deberta_ref::open_dump(&path) {
                Ok(dump) => assert!(dump.iter().map(|(_, t)| t.values().count()).sum::<usize>() < 1 << 20),
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
    }
}

/// A port that calls everything otherwise, and numbers its layers from 1.
fn foreign(name: &str) -> String {
    let layer = name.strip_prefix("deberta.encoder.layer.").and_then(|rest| rest.split_once('.'));
    match layer {
        _ if name.ends_with("_ids") || name == "attention_mask" => name.to_owned(),
        Some((i, rest)) => {
            let i: usize = i.parse().unwrap();
            format!("blk_{}/{}", i + 1, rest.replace('.', "/").replace("query_proj", "wq").replace("attention", "attn"))
        }
        None => format!(
            "x.{}",
            name.replace("deberta", "d").replace("encoder", "enc").replace("embeddings", "emb").replace("hidden", "h")
        ),
    }
}

#[test]
fn foreign_names_are_guessed_and_said_to_be() {
    let bench = Bench::new();
    let expected = bench.expected();
    let actual = bench.foreign(bench.actual());
    let rules = bench.path("rules.txt");
    let (outcome, code) = json(&["compare", text(&expected), text(&actual), "--write-rename", text(&rules)]);
    assert_eq!(code, 0, "{outcome}");
    let tensors = outcome["tensors"].as_array().unwrap();
    assert!(tensors.len() > 80, "{} of {}", tensors.len(), bench.actual().len());
    for row in tensors {
        let (name, actual) = (row["name"].as_str().unwrap(), row["actual_name"].as_str());
        assert!(row["guessed"].as_f64().is_some_and(|cosine| cosine > 0.97), "{row}");
        assert!(actual.is_some_and(|a| a != name), "{row}");
    }
    assert!(notes(&outcome).contains("which is a guess"), "{}", notes(&outcome));
    let table = program(&["compare", text(&expected), text(&actual), "--all"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("(guess)"));

    // What was proposed is a rename file, and with it nothing is guessed.
    let proposed = fs::read_to_string(&rules).unwrap();
    assert!(proposed.contains("blk_*/"), "folded by layer: {proposed}");
    let (renamed, code) = json(&["compare", text(&expected), text(&actual), "--rename", text(&rules), "--no-guess"]);
    assert_eq!(code, 0, "{renamed}");
    assert_eq!(renamed["tensors"].as_array().unwrap().len(), tensors.len());
    assert!(renamed["tensors"].as_array().unwrap().iter().all(|row| row.get("guessed").is_none()));
    let said = refused(&["compare", text(&expected), text(&actual), "--write-rename", text(&rules)]);
    assert!(said.contains("replaces no file"), "{said}");

    // Without guesses there is nothing.
    let said = refused(&["compare", text(&expected), text(&actual), "--no-guess"]);
    assert!(said.contains("no tensor stands in both") && said.contains("blk_1"), "{said}");
    // The same against a run of our own.
    let (outcome, code) = json(&["verify", "--model", &bench.model, "--golden", text(&actual)]);
    assert_eq!(code, 0, "{outcome}");
    assert!(outcome["tensors"].as_array().unwrap().len() > 80);
}

#[test]
fn behind_an_error_names_follow_their_siblings() {
    let bench = Bench::new();
    let expected = bench.expected();
    let mut arrays = bench.actual();
    let wrong = "deberta.encoder.layer.2.attention.self.query_proj";
    // The last layer's queries are of other weights.
    let array = arrays.get_mut(wrong).unwrap();
    for (i, value) in array.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *value = (f32::from_le_bytes(*value) * if i % 3 == 0 { -1.0 } else { 0.5 }).to_le_bytes();
    }
    let actual = bench.foreign(arrays);
    let (outcome, code) = json(&["compare", text(&expected), text(&actual)]);
    assert_eq!(code, 1, "{outcome}");
    assert_eq!(outcome["first_divergent"], wrong);
    assert_eq!(row(&outcome, wrong).unwrap()["actual_name"], foreign(wrong));
}

#[test]
fn foreign_layouts_are_read_and_said_to_be() {
    let bench = Bench::new();
    let expected = bench.expected();
    let mut arrays = bench.actual();
    for array in arrays.values_mut().filter(|a| a.dtype == Dtype::F32 && a.shape.len() == 3) {
        let &[b, l, e] = array.shape.as_slice() else { continue };
        let rows: Vec<&[u8]> = array.bytes.chunks(e * 4).collect();
        array.bytes = (0..l).flat_map(|i| (0..b).map(move |j| j * l + i)).flat_map(|r| rows[r].to_vec()).collect();
        array.shape = vec![l, b, e];
    }
    let actual = bench.path("sequence-first.safetensors");
    save(&actual, &arrays);
    let (outcome, code) = json(&["compare", text(&expected), text(&actual)]);
    assert_eq!(code, 0, "{outcome}");
    assert!(notes(&outcome).contains("read in another layout"), "{}", notes(&outcome));
}

#[test]
fn nothing_and_nonsense_are_refused() {
    let bench = Bench::new();
    let expected = bench.expected();
    fs::create_dir(bench.path("empty")).unwrap();
    fs::write(bench.path("noise"), [7u8; 100]).unwrap();
    fs::write(bench.path("rules"), "no rule\n").unwrap();
    for (name, part) in [("empty", "empty"), ("noise", "noise"), ("absent", "absent")] {
        let said = refused(&["compare", text(&expected), text(&bench.path(name))]);
        assert!(said.contains(part), "{said}");
    }
    let said = refused(&["compare", text(&expected), text(&expected), "--rename", text(&bench.path("rules"))]);
    assert!(said.contains("rules:1"), "{said}");
}
